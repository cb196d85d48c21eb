"""Tables of a diagnosis say what was computed, and HoldOut is looked at for the headline only."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from cohort_toys import toy_cohort, window_set
from sklearn.metrics import roc_auc_score

from medcore.data.phantoms import make_helico
from medcore.metrics.stain_scores import brown_map
from medcore.studies.diagnosis import study as room
from medcore.studies.diagnosis.choices import PEAK, RED, DiagnosisChoices
from medcore.studies.diagnosis.learner import ERRORS
from medcore.studies.diagnosis.methods import ATTENTION, BAGS, COUNT, OURS, PROBE, RULE, number_of_windows
from medcore.studies.diagnosis.nested import diagnose_patients, diagnose_windows
from medcore.studies.diagnosis.reader import (
    best_auroc,
    count_table,
    is_silent,
    read_windows,
    reader_auroc,
    reader_table,
)
from medcore.studies.diagnosis.results import chosen_rules, patient_auroc, repeats_table, threshold_regret
from medcore.studies.diagnosis.study import DiagnosisStudy
from medcore.studies.diagnosis.windows import limit_patients, spread_over_patients, window_inventory

FOUR = DiagnosisChoices(folds=4)
SMALL = DiagnosisChoices(folds=3, size=16, epochs=1, bottleneck=4, most_windows=60, attention_epochs=2)


def noisy(cohort):
    """The cohort with a score that says nothing before the one that does."""
    noise = np.random.default_rng(0).normal(size=len(cohort.owner))
    return cohort.with_scores({"noise": noise, "brown": cohort.score("brown")})


def test_what_was_chosen_is_listed_for_every_fold():
    table = chosen_rules(diagnose_windows(toy_cohort(60), FOUR))
    assert table.index.tolist() == ["fold 0", "fold 1", "fold 2", "fold 3"]
    assert (table["patients"] == 45).all()
    single = chosen_rules(diagnose_windows(toy_cohort(60, hold_out=0.5), FOUR))
    assert single.index.tolist() == ["for HoldOut"]


def test_what_the_thresholds_give_away():
    cohort = toy_cohort(60, gap=6.0)  # windows are told apart nearly perfectly
    positive = cohort.score("brown") > 3
    found = diagnose_windows(replace(cohort, label=positive.astype(int)), FOUR)
    table = threshold_regret(found, positive)
    assert 0 <= table.loc["windows", "youden lost"] < 0.02 and 0 <= table.loc["patients", "youden lost"] < 0.1
    worse = replace(found, table=found.table.assign(margin=found.table["margin"] - 1))  # everybody called healthy
    healthy = threshold_regret(worse, positive).loc["patients"]
    assert healthy["youden lost"] > 0.7 and 0.3 < healthy["decided otherwise"] < 0.6  # all infected ones, about half


def test_the_number_of_windows_by_itself():
    cohort = toy_cohort(60)
    ours, bare = diagnose_windows(cohort, FOUR), diagnose_patients(cohort, number_of_windows(cohort), FOUR)
    table = count_table({OURS: ours, COUNT: bare}, ours, COUNT, seed=0, draws=4)
    assert table["value"].iloc[0] == str(patient_auroc(bare))
    assert count_table({OURS: ours}, ours, COUNT, seed=0, draws=4)["value"].iloc[0] == "all have as many"


def test_silent_patients_are_counted():
    cohort = toy_cohort(40)
    cohort = replace(cohort, label=np.where(np.isin(cohort.owner, [1, 5]), 0, cohort.label))
    found = diagnose_windows(cohort, FOUR)
    seen = np.bincount(cohort.owner, weights=cohort.label == 1, minlength=40) == 0
    silent = int(((cohort.truth == 1) & seen).sum())
    table = reader_table(found, found)["value"]
    assert silent >= 2 and table["of these, without a window annotated positive"] == str(silent)
    blind = replace(found, parts=tuple(replace(part, label=np.full(len(part.label), -1)) for part in found.parts))
    assert reader_table(blind, blind)["value"].iloc[3] == "not annotated"


def test_the_reader_of_hold_out_learns_from_the_others():
    cohort = toy_cohort(80, hold_out=0.5)
    free = cohort.select(cohort.split != "test")
    final, in_folds = diagnose_windows(cohort, FOUR), diagnose_windows(free, FOUR)
    read, taught = read_windows(final), read_windows(in_folds)
    reached = reader_auroc(read, taught)
    assert len(read) == 40 and reached > 0.8
    turned = reader_auroc(read, taught.assign(truth=1 - taught["truth"]))  # a reader taught the opposite
    assert turned == pytest.approx(1 - reached, abs=0.05)
    assert "40 patients, test" in str(reader_table(final, in_folds).index.name)


def test_the_ceiling_counts_infected_patients_who_show_nothing():
    cohort = toy_cohort(40, gap=8.0)
    score = np.where(np.isin(cohort.owner, [1, 3, 5, 7]), -9.0, cohort.score("brown"))  # four infected show nothing
    blank = replace(cohort, label=np.where(score < -8, 0, cohort.label), scores={"brown": score})
    found = diagnose_windows(cohort, FOUR)
    parts = tuple(blank.select(np.isin(blank.names, part.names)) for part in found.parts)
    read = read_windows(replace(found, parts=parts))
    hidden = int(is_silent(read).sum())
    assert hidden >= 4 and best_auroc(read, by_number=False) == pytest.approx(1 - hidden / 40)
    assert 1 - hidden / 20 <= best_auroc(read) <= 1


def test_every_repeat_has_its_auroc():
    parts = [diagnose_windows(toy_cohort(40, gap=1.0), DiagnosisChoices(folds=3, seed=seed)) for seed in range(3)]
    found = replace(parts[0], others=tuple(parts[1:]))
    table = repeats_table({OURS: found, ATTENTION: parts[0]})
    assert table[OURS].tolist() == pytest.approx([patient_auroc(one).value for one in parts], abs=1e-3)
    assert table[ATTENTION].notna().tolist() == [True, False, False]
    assert patient_auroc(found).value == pytest.approx(table[OURS].mean(), abs=1e-3)


def test_the_first_windows_are_of_different_patients():
    patients = np.repeat(["a", "b", "c"], 4)
    rows = spread_over_patients(np.arange(100, 112), patients, 4)
    assert rows.tolist() == [100, 104, 108, 101]


# --- the study ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patches():
    return make_helico(patients=36, windows_per_patient=4, size=32)


@pytest.fixture(scope="module")
def study(patches, tmp_path_factory):
    """One for all tests: what it trained and diagnosed is not made again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCORE_DATA", str(tmp_path_factory.mktemp("data")))
        yield DiagnosisStudy(patches, SMALL)


def test_the_choices_are_a_table_with_a_meaning_each():
    table = SMALL.table()
    assert table.loc["fewest_cropped", "value"] == 10 and (table["meaning"].str.len() > 10).all()
    given = type("Parameters", (), {"folds": 7, "rule": "youden", "epochs": None})
    assert DiagnosisChoices.from_parameters(given, device="cpu").folds == 7
    assert DiagnosisChoices.from_parameters(given).epochs == DiagnosisChoices().epochs


def test_the_material_is_counted(study):
    table, held_out = study.material(), study.cohort.split == "test"
    assert table.loc["patients"].tolist() == [(~held_out).sum(), held_out.sum()]
    assert table.loc["infected"].sum() == study.cohort.truth.sum()
    assert table.loc["windows"].sum() == study.cohort.counted.sum()


def test_abmil_stands_beside_the_rule_with_a_paired_difference(study):
    compared = study.comparison
    assert compared.reference == RULE and {RULE, ATTENTION} <= set(compared.differences)
    for name, (gap,) in compared.differences.items():
        aurocs = [patient_auroc(study.final[one]).value for one in (OURS, name)]
        assert gap.value == pytest.approx(aurocs[0] - aurocs[1], abs=1e-9)
    assert compared.metrics[0].split == "test" and compared.metrics[0].unit == "patient"


def test_an_encoder_adds_two_methods_on_the_same_patients_with_paired_differences(patches, tmp_data):
    torch.manual_seed(0)
    choices = replace(SMALL, encoder="small_cnn", encoder_weights="random", encoder_sides=(32, 32))
    compared = DiagnosisStudy(patches, choices).comparison
    assert list(compared.rivals) == [ATTENTION, BAGS, PROBE] and {BAGS, PROBE} <= set(compared.differences)
    assert {found[0].n for found in compared.rivals.values()} == {compared.metrics[0].n}


def test_window_scores_are_compared_on_the_patients_of_the_headline(study, monkeypatch):
    compared = study.windows()
    held_out = study.final[OURS].window_scores(RED)
    annotated = len(held_out) and len(np.unique(held_out.truth)) == 2
    expected = held_out if annotated else study.in_folds[OURS].window_scores(RED)
    assert compared.metrics[0].unit == "window" and compared.metrics[0].n == len(expected)
    assert compared.metrics[0].split == ("test" if annotated else "folds")
    if RED in compared.baselines:
        assert compared.baselines[RED][0].value == pytest.approx(roc_auc_score(expected.truth, expected.score))


def test_operating_points_are_tried_without_hold_out(study, monkeypatch):
    seen = []

    def watched(cohort, choices, *, learn):
        seen.append(cohort.split)
        return diagnose_windows(cohort, choices, learn=learn)

    monkeypatch.setattr(room, "diagnose_windows", watched)
    table = study.operating_points(("youden", "cost 5:1"))
    assert table.index.tolist() == ["youden", "cost 5:1"]
    assert seen and not any((split == "test").any() for split in seen)
    assert {one.split for one in table["sensitivity"]} == {"folds"}


def test_a_search_is_offered_a_value_that_hold_out_cannot_change(patches, study):
    hidden = patches.splits == "test"
    turned = np.where(hidden, np.where(patches.column("diagnosis") == "NEGATIVA", "ALTA", "NEGATIVA"),
                      patches.column("diagnosis"))  # fmt: skip
    other = DiagnosisStudy(patches.with_columns(diagnosis=turned), SMALL)
    assert 0 <= study.validation_auroc() == other.validation_auroc() <= 1
    for name, found in study.final.items():  # the notebook's own cells: test_patient_study.py, among the slow ones
        again, unknown = other.final[name], ["diagnosis", "true_level", "truth"]
        assert not found.table["truth"].equals(again.table["truth"]) and found.rules == again.rules, name
        assert found.table.drop(columns=unknown).equals(again.table.drop(columns=unknown)), name
    assert study.chosen().equals(other.chosen())


def test_the_maps_are_those_of_the_score_that_decides(study, monkeypatch):
    rows = study.cohort.rows[:3]
    nobody = np.zeros(len(study.cohort), dtype=bool)
    nobody[study.cohort.split == "test"] = True
    np.testing.assert_allclose(study.deciding_maps(rows, nobody, PEAK), brown_map(study.patches.take(rows)).clip(0))
    asked = []
    monkeypatch.setattr(type(study.tester), "error_maps", lambda self, rows, excluded, kind: asked.append(kind))
    study.deciding_maps(rows, nobody, ERRORS["dab"])
    assert asked == ["dab"]
    assert study.deciding_maps(rows, nobody, RED).shape == (3, 32, 32)


def test_pictures_and_maps_of_the_listed_patients(study, monkeypatch):
    asked = []

    def maps(rows, excluded, score):
        asked.append((study.patches.patients[rows], study.cohort.names[excluded], score))
        return np.ones((len(rows), 8, 8), np.float32)

    monkeypatch.setattr(study, "deciding_maps", maps)
    shown = study.gallery(most=6, count=40, side=16)
    assert shown["windows"].shape == shown["maps"].shape == (len(shown["patient"]), 40, 16, 16, 3)
    assert all(set(names) <= set(excluded) for names, excluded, _ in asked)
    assert {score for *_, score in asked} == {rule.window.score for rule in study.ours.rules}
    counts = study.ours.table.set_index("patient").loc[shown["patient"], "windows"].to_numpy()
    there = np.arange(40) < counts[:, None]
    assert (shown["windows"][~there] == 255).all() and (shown["maps"][~there] == 255).all()
    assert (shown["maps"][there] < 255).any()


def test_what_decides_is_named():
    found = diagnose_windows(noisy(toy_cohort(60)), DiagnosisChoices(folds=3))
    assert {rule.window.score for rule in found.rules} == {"brown"}
    assert isinstance(chosen_rules(found), pd.DataFrame)


def test_the_inventory_counts_kinds_and_diagnoses():
    rows = [{"patient": p, "diagnosis": d, "set": s} for p, d, s in
            (("A", "ALTA", "Annotated"), ("A", "ALTA", "Annotated"), ("B", "NEGATIVA", "Annotated"))]  # fmt: skip
    table = window_inventory(window_set(rows, label=[1, -1, 0]))
    assert table.loc[("Annotated", "ALTA")].tolist() == [1, 2, 1, 1]
    assert window_inventory(window_set([{"patient": "A"}]))["windows"].tolist() == [1]


def test_a_limit_takes_patients_of_every_diagnosis_and_side():
    kinds = [(diagnosis, part) for diagnosis in ("ALTA", "NEGATIVA") for part in ("Annotated", "HoldOut")]
    rows = [{"patient": f"{d}{s}{n}", "diagnosis": d, "set": s} for d, s in kinds for n in range(6) for _ in range(2)]
    patches = window_set(rows, split=["test" if row["set"] == "HoldOut" else "" for row in rows])
    few = limit_patients(patches, 2)
    assert few.table.groupby(["diagnosis", "set"])["patient"].nunique().tolist() == [2, 2, 2, 2]
    assert (few.table.groupby("patient").size() == 2).all()
    assert limit_patients(patches, None) is patches
    assert limit_patients(patches, 2).patients.tolist() == few.patients.tolist()


def test_the_diagnoses_of_hold_out_patients_decide_nothing_about_the_others_drawn():
    def drawn(diagnose_windows: str) -> list[str]:
        kinds = [("ALTA", ""), ("NEGATIVA", ""), (diagnose_windows, "test"), ("NEGATIVA", "test")]
        rows = [{"patient": f"{number}-{n}", "diagnosis": d} for number, (d, _) in enumerate(kinds) for n in range(9)]
        patches = limit_patients(window_set(rows, split=[split for _, split in kinds for _ in range(9)]), 3)
        return sorted(set(patches.patients[patches.splits != "test"]))

    assert drawn("ALTA") == drawn("BAIXA") == drawn("NEGATIVA")
    assert len(drawn("ALTA")) == 6
