"""Tables, sentences and pictures of a diagnosis say what was computed."""

import re
from dataclasses import replace

import numpy as np
import pytest
from cohort_toys import toy_cohort, window_set
from sklearn.metrics import roc_auc_score

from medcore.evaluation.estimate import Estimate
from medcore.studies.diagnosis import story
from medcore.studies.diagnosis.mistakes import window_table, wrong_patients
from medcore.studies.diagnosis.nested import hold_out_diagnosis, nested_diagnosis, nested_patients
from medcore.studies.diagnosis.results import patient_auroc
from medcore.studies.diagnosis.study import COUNT, OURS, number_of_windows
from medcore.studies.diagnosis.windows import limit_patients, window_inventory


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate("auroc", value, low, high, 20, "patient", "folds")


def test_the_material_is_counted():
    cohort = toy_cohort(40, hold_out=0.25)
    text = story.material(cohort, "Annotated")
    assert "**40 patients** (20 infected)" in text and "10 of them are HoldOut" in text
    assert f"{len(cohort.owner):,} windows" in text
    assert "no HoldOut" in story.material(cohort.select(cohort.split != "test"), "all")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.02, 0.2, "does better than"), (-0.2, -0.1, "does worse than"), (-0.1, 0.2, "is not shown to differ from")],
)
def test_the_summary_claims_no_more_than_the_interval(low, high, expected):
    found = nested_diagnosis(toy_cohort(20), folds=3)
    middle = (low + high) / 2
    text = story.summary(found, estimate(0.9, 0.8, 0.95), estimate(0.8, 0.7, 0.9), estimate(middle, low, high))
    assert expected in text and "20 unseen patients in nested folds" in text


def test_what_was_chosen_is_listed_for_every_fold():
    found = nested_diagnosis(toy_cohort(60), folds=4)
    table = story.choices(found)
    assert table.index.tolist() == ["fold 0", "fold 1", "fold 2", "fold 3"]
    assert (table["training patients"] == 45).all()
    single = story.choices(hold_out_diagnosis(toy_cohort(60, hold_out=0.5), folds=3))
    assert single.index.tolist() == ["for HoldOut"]


def test_what_the_thresholds_give_away_is_measured_on_phantoms():
    cohort = toy_cohort(60, gap=6.0)  # windows are told apart nearly perfectly
    label = (cohort.score("brown") > 3).astype(int)
    found = nested_diagnosis(replace(cohort, label=label), folds=4)
    rows = [
        {"patient": str(name), "bacteria": int(one)}
        for name, one in zip(cohort.names[cohort.owner], label, strict=True)
    ]
    text = story.optimum_sentence(found, window_set(rows))
    window, patient = (float(word) for word in re.findall(r"loses (0\.\d+)", text))
    assert 0 <= window < 0.02 and 0 <= patient < 0.1
    assert float(re.search(r"lies (0\.\d+) from", text)[1]) < 1  # on a scale of standard deviations, gap 6
    worse = replace(found, table=found.table.assign(margin=found.table["margin"] - 1))  # everybody called healthy
    healthy = story.optimum_sentence(worse, window_set(rows))
    assert float(re.findall(r"loses (0\.\d+)", healthy)[1]) > 0.7
    assert 30 < float(re.search(r"([0-9.]+) % of the patients", healthy)[1]) < 60  # all infected ones, about half
    assert float(re.search(r"([0-9.]+) % of which", text)[1]) < 1
    assert "not known here" in story.optimum_sentence(found, window_set([{"patient": "A"}]))


def test_the_number_of_windows_is_put_into_words():
    cohort = toy_cohort(60)
    ours = nested_diagnosis(cohort, folds=4)
    text = story.count_sentence({OURS: ours, COUNT: nested_patients(cohort, number_of_windows(cohort), folds=4)})
    assert "AUROC" in text and "Spearman correlation" in text
    assert "all have equally many" in story.count_sentence({OURS: ours})


def test_silent_patients_are_counted():
    cohort = toy_cohort(40)
    quiet = np.isin(cohort.owner, [1, 5])
    cohort = replace(cohort, label=np.where(quiet, 0, cohort.label))
    text = story.reader_sentence(nested_diagnosis(cohort, folds=4))
    silent = int(
        ((cohort.truth == 1) & (np.bincount(cohort.owner, weights=cohort.label == 1, minlength=40) == 0)).sum()
    )
    assert silent >= 2 and f"**{silent} have none that is annotated positive**" in text
    found = nested_diagnosis(cohort, folds=4)
    blind = replace(found, parts=tuple(replace(part, label=np.full(len(part.label), -1)) for part in found.parts))
    assert "not annotated" in story.reader_sentence(blind)


def test_the_ceiling_counts_infected_patients_who_show_nothing():
    cohort = toy_cohort(40, gap=8.0)
    score = np.where(np.isin(cohort.owner, [1, 3, 5, 7]), -9.0, cohort.score("brown"))  # four infected show nothing
    blank = replace(cohort, label=np.where(score < -8, 0, cohort.label), scores={"brown": score})
    rule = nested_diagnosis(cohort, folds=4)
    parts = tuple(blank.select(np.isin(blank.names, part.names)) for part in rule.parts)
    text = story.ceiling_sentence(replace(rule, parts=parts))
    hidden = int(re.match(r"(\d+) of 20", text)[1])
    assert hidden >= 4 and f"**{1 - hidden / 40:.2f}**" in text
    by_number = float(re.findall(r"\*\*(\d\.\d+)\*\*", text)[1])
    assert 1 - hidden / 20 <= by_number <= 1
    loud = replace(rule, parts=tuple(replace(part, label=np.ones_like(part.label)) for part in rule.parts))
    assert story.ceiling_sentence(loud).startswith("Every infected patient has")


def test_the_cuts_are_told():
    cuts = [nested_diagnosis(toy_cohort(40, gap=1.0), folds=3, seed=seed) for seed in range(3)]
    values = [patient_auroc(one).value for one in cuts]
    text = story.cuts_sentence(replace(cuts[0], others=tuple(cuts[1:])))
    assert f"mean of 3 cuts of the patients into folds: {min(values):.3f} to {max(values):.3f}" in text
    assert f"{values[0]:.3f} in the first" in text and "do without" not in text
    assert "ABMIL is judged on it alone" in text
    assert story.cuts_sentence(cuts[0]) == ""


def test_the_wrong_ones_are_put_into_words():
    found = nested_diagnosis(toy_cohort(60, gap=1.0), folds=3)
    wrong = wrong_patients(found, window_table(found))
    table = story.wrong_table(wrong)
    assert len(table) and table.index.tolist() == wrong["patient"].tolist()
    assert [word == "infected" for word in table["decision"]] == wrong["decision"].astype(bool).tolist()
    assert np.allclose(table["probability"], wrong["probability"], atol=0.005)


def test_what_decides_is_named():
    cohort = toy_cohort(60)
    noise = np.random.default_rng(0).normal(size=len(cohort.owner))
    found = nested_diagnosis(cohort.with_scores({"noise": noise, "brown": cohort.score("brown")}), folds=3)
    assert story.decision_maker(found) == "brown of a window, evidence of a patient (3 of 3 folds)"


def test_the_placebo_is_put_into_words(monkeypatch):
    found = nested_diagnosis(toy_cohort(60), folds=3)
    assert "tells it nothing." in story.placebo_sentence(found, draws=8)
    monkeypatch.setattr(results, "placebo_aurocs", lambda *_, **__: np.array([0.9, 0.8, 0.85]))
    text = story.placebo_sentence(found, draws=3)
    assert "**0.85**" in text and "the number of windows speaks" in text


def test_the_chosen_window_score_stands_beside_the_trivial_one():
    cohort = toy_cohort(60)
    noise = np.random.default_rng(0).normal(size=len(cohort.owner))
    found = nested_diagnosis(cohort.with_scores({"noise": noise, "brown": cohort.score("brown")}), folds=3)
    text = story.window_sentence(found, trivial="noise")
    known = cohort.label >= 0
    first, second = (roc_auc_score(cohort.label[known], values[known]) for values in (cohort.score("brown"), noise))
    assert "*brown* (chosen in 3 of 3 folds)" in text
    assert f"the difference on the same windows is {first - second:.2f} (" in text
    assert "No window score is shown to be better" in story.window_sentence(found, trivial="brown")


def test_examples_come_from_different_patients():
    patches = window_set([{"patient": f"P{row // 5}"} for row in range(30)], label=[0, 0, 0, 0, 1] * 6)
    rows = story.example_windows(patches, per_kind=4)
    assert patches.labels[rows].tolist() == [0] * 4 + [1] * 4
    assert len(set(patches.patients[rows[:4]])) == len(set(patches.patients[rows[4:]])) == 4


def test_the_brownest_windows_one_of_each_patient_first():
    cohort = toy_cohort(20)
    rows = story.brownest(cohort, np.arange(20) < 3, "brown", count=4)
    owner = cohort.owner[rows]
    assert sorted(owner[:3]) == [0, 1, 2]
    for patient, row in zip(owner[:3], rows[:3], strict=True):
        assert cohort.score("brown")[row] == cohort.score("brown")[cohort.owner == patient].max()


def test_pictures_and_errors_of_listed_patients():
    cohort = toy_cohort(24)
    found = nested_diagnosis(cohort, folds=3)
    patches = window_set([{"patient": str(name)} for name in cohort.names[cohort.owner]])
    asked = []

    class Painter:
        def __init__(self):
            self.cohort = cohort

        def error_maps(self, rows, excluded, kind):
            asked.append((cohort.names[cohort.owner[rows]], cohort.names[excluded]))
            return np.ones((len(rows), 8, 8), np.float32)

    listed = cohort.names[[3, 0, 17]]
    windows = window_table(found)
    pictures, errors = story.windows_and_errors(listed, windows, patches, found, Painter(), count=40, side=16)
    assert pictures.shape == errors.shape == (3, 40, 16, 16, 3)
    assert all(set(names) <= set(excluded) for names, excluded in asked)
    there = np.arange(40) < cohort.windows_per_patient[[3, 0, 17]][:, None]
    assert (pictures[~there] == 255).all() and (errors[~there] == 255).all()
    assert (pictures[there] == 0).all() and (errors[there] < 255).any()


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
    def drawn(hold_out_diagnosis: str) -> list[str]:
        kinds = [("ALTA", ""), ("NEGATIVA", ""), (hold_out_diagnosis, "test"), ("NEGATIVA", "test")]
        rows = [{"patient": f"{number}-{n}", "diagnosis": d} for number, (d, _) in enumerate(kinds) for n in range(9)]
        patches = limit_patients(window_set(rows, split=[split for _, split in kinds for _ in range(9)]), 3)
        return sorted(set(patches.patients[patches.splits != "test"]))

    assert drawn("ALTA") == drawn("BAIXA") == drawn("NEGATIVA")
    assert len(drawn("ALTA")) == 6
