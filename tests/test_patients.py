"""Which windows speak for a patient, what needs no model, which windows decided, and the ROC of folds."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from cohort_toys import toy_cohort, window_set

from medcore.errors import MedcoreError
from medcore.plots.curves import fold_roc_curves
from medcore.studies.diagnosis.choices import DiagnosisChoices
from medcore.studies.diagnosis.cohort import Cohort
from medcore.studies.diagnosis.methods import number_of_windows, trivial_rule
from medcore.studies.diagnosis.nested import diagnose_patients, diagnose_windows
from medcore.studies.diagnosis.results import (
    patients_to_show,
    possible_reason,
    suspicious_rows,
    window_table,
    wrong_patients,
)
from medcore.studies.diagnosis.windows import bystanders, diagnosis_windows, speaking_set

THREE = DiagnosisChoices(folds=3)
FOUR = DiagnosisChoices(folds=4)
BROWN = DiagnosisChoices(baseline_score="brown")


def helico(cropped_healthy: int, cropped_ill: int, annotated: int = 6, hold_out: int = 4) -> list[dict]:
    """Two windows for each patient of each kind of set."""
    rows = []
    for kind, count, diagnosis in (
        ("Cropped", cropped_healthy, "NEGATIVA"),
        ("Cropped", cropped_ill, "ALTA"),
        ("Annotated", annotated, "BAIXA"),
        ("HoldOut", hold_out, "NEGATIVA"),
    ):
        for number in range(count):
            name = f"{'H' if kind == 'HoldOut' else diagnosis[0]}{number:02d}"
            rows += [{"patient": name, "diagnosis": diagnosis, "set": kind}] * 2
    return rows


def test_annotated_windows_speak_where_only_infected_patients_are_cropped():
    patches = window_set(helico(0, 5))
    assert speaking_set(patches) == "Annotated"
    chosen = diagnosis_windows(patches)
    assert set(chosen.column("set")) == {"Annotated", "HoldOut"}
    assert chosen.column("counted").all()


def test_cropped_windows_speak_where_both_kinds_have_them_and_annotations_stay():
    rows = helico(12, 12)
    rows += [{"patient": "A00", "diagnosis": "ALTA", "set": "Annotated"}] * 2
    patches = window_set(rows, label=[-1] * (len(rows) - 2) + [1, -1])
    assert speaking_set(patches) == "Cropped"
    chosen = diagnosis_windows(patches)
    own = chosen.where(patient="A00")
    assert own.column("set").tolist() == ["Cropped", "Cropped", "Annotated"]
    assert own.column("counted").tolist() == [True, True, False]
    assert chosen.where(patient="B00").column("counted").all()  # no Cropped windows: the annotated ones speak


def test_bystanders_are_healthy_and_share_no_window_with_the_diagnosed():
    rows = helico(cropped_healthy=3, cropped_ill=2)
    copy_of = [""] * len(rows)
    copy_of[0] = f"w{len(rows) - 1}.png"  # a window of N00 is that of a HoldOut patient, who is diagnosed
    split = ["test" if row["set"] == "HoldOut" else "" for row in rows]
    patches = window_set(rows, copy_of=copy_of, split=split)
    found = bystanders(patches, diagnosis_windows(patches))
    assert sorted(set(found.patients)) == ["N01", "N02"]
    positive = window_set(rows, split=split, label=[1, -1] * (len(rows) // 2))
    assert (bystanders(positive, diagnosis_windows(positive.where(set=["Annotated", "HoldOut"]))).labels == -1).all()


def test_a_set_of_one_kind_is_taken_whole():
    patches = window_set([{"patient": "A", "diagnosis": "ALTA"}] * 3)
    assert speaking_set(patches) == "all"
    assert len(diagnosis_windows(patches)) == 3
    with pytest.raises(MedcoreError, match="no window of 'Annotated'"):
        diagnosis_windows(window_set(helico(0, 5, annotated=0, hold_out=0)))


def test_windows_that_do_not_count_make_no_score_but_teach():
    cohort = toy_cohort(40)
    other = np.random.default_rng(0).random(len(cohort.owner)) < 0.5
    other[np.unique(cohort.owner, return_index=True)[1]] = True
    shouted = cohort.score("brown") + 100 * ~other  # would decide everything if it counted
    half = replace(cohort, counted=other, label=np.where(other, cohort.label, -1), scores={"brown": shouted})
    quiet = replace(half, scores=cohort.scores)
    assert diagnose_windows(half, FOUR).table.equals(diagnose_windows(quiet, FOUR).table)
    assert half.windows_per_patient.sum() == other.sum()
    without = cohort.owner != 7
    with pytest.raises(MedcoreError, match="patient 'P007' without a window"):
        replace(cohort, counted=without)


def test_the_trivial_rule_is_the_mean_of_the_three_highest():
    cohort = toy_cohort(30)
    found = trivial_rule(cohort, BROWN)(np.zeros(30, dtype=bool))
    for patient in range(30):
        values = sorted(cohort.score("brown")[cohort.owner == patient])[-3:]
        assert found[patient] == pytest.approx(np.mean(values))
    assert number_of_windows(cohort)(np.zeros(30, dtype=bool)).tolist() == cohort.windows_per_patient.tolist()


@pytest.mark.parametrize("found", ["folds", "test"])
def test_the_windows_of_the_decisions(found):
    cohort = toy_cohort(60, hold_out=0.4 if found == "test" else 0)
    diagnoses = diagnose_windows(cohort, FOUR)
    assert diagnoses.split == found
    windows = window_table(diagnoses)
    counts = windows.groupby("patient").agg(windows=("row", "size"), positive=("positive", "sum"))
    table = diagnoses.table.set_index("patient")
    assert counts["windows"].equals(table["windows"].rename_axis("patient"))
    assert (counts["positive"] == table["positive_windows"]).all()
    first = windows.groupby("patient")["probability"].agg(["first", "max"])
    assert (first["first"] == first["max"]).all()


def test_the_wrong_ones_are_listed_surest_first():
    diagnoses = diagnose_windows(toy_cohort(60, gap=1.0), FOUR)
    wrong = wrong_patients(diagnoses, window_table(diagnoses))
    assert len(wrong) == (diagnoses.table["decision"] != diagnoses.table["truth"]).sum() > 0
    assert (wrong["probability"] - 0.5).abs().is_monotonic_decreasing
    marked, called = wrong["marked"], wrong["recognised"]
    assert ((called <= marked) & (marked <= wrong["annotated"])).all()
    assert (wrong["possible reason"] != "").all()


def windows_of(*rows: tuple[int, bool]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["label", "positive"])


@pytest.mark.parametrize(
    ("truth", "windows", "expected"),
    [
        (1, [(0, False)] * 2, "few windows, none annotated positive"),
        (1, [(0, False)] * 9, "none annotated positive"),
        (1, [(0, False)] * 8 + [(-1, False)], "none called positive"),
        (1, [(1, False), (0, True)], "bacteria not recognised"),
        (1, [(1, True), (0, False)], "recognised, in too few windows"),
        (1, [(-1, True), (-1, False)], "called positive, in too few windows"),
        (0, [(0, True), (0, True)], "other brown: annotated negative"),
        (0, [(-1, True), (0, True)], "other brown, or bacteria"),
        (0, [(0, False)], "no window called positive: the patient threshold is low"),
    ],
)
def test_possible_reasons_say_what_the_annotations_say(truth, windows, expected):
    assert possible_reason(truth, windows_of(*windows)) == expected


def test_the_roc_of_folds_is_drawn_from_the_folds_that_have_one():
    found = diagnose_windows(toy_cohort(40), FOUR)
    one_kind = found.table.assign(truth=np.where(found.table["fold"] == 0, 1, found.table["truth"]))
    folds = replace(found, table=one_kind).fold_scores()
    assert len(folds) == 3 and sum(map(len, folds)) == (found.table["fold"] > 0).sum()
    ax = fold_roc_curves(folds, estimate="AUROC 0.98")
    assert "mean of 3 folds" in ax.texts[0].get_text() and "AUROC 0.98" in ax.texts[0].get_text()
    assert len(ax.lines) == 1 + 3 + 1
    with pytest.raises(MedcoreError, match="no fold"):
        fold_roc_curves([])


def test_window_scores_of_the_decisions_are_those_of_the_annotated_windows():
    cohort = toy_cohort(40)
    scores = diagnose_windows(cohort, FOUR).window_scores("brown")
    order = np.argsort(scores.ids)
    known = cohort.label >= 0
    assert scores.score[order].tolist() == cohort.score("brown")[known].tolist()
    assert scores.truth[order].tolist() == cohort.label[known].tolist()


def test_what_is_shown_of_the_patients():
    found = diagnose_windows(toy_cohort(60, gap=1.5), FOUR)
    wrong = found.table["decision"] != found.table["truth"]
    shown = patients_to_show(found, most=int(wrong.sum()) + 6)
    assert len(shown) == wrong.sum() + 6
    assert shown["patient"].is_unique
    assert set(found.table.loc[wrong, "patient"]) <= set(shown["patient"])
    rows = suspicious_rows(window_table(found), ["P000", "P001"], k=30)
    assert (rows[0] >= 0).sum() == found.table["windows"][0]
    assert rows[0, -1] == -1


def test_direct_scores_have_no_windows():
    cohort = toy_cohort(20)
    assert diagnose_patients(cohort, trivial_rule(cohort, BROWN), THREE).parts == ()
    assert Cohort.select(cohort, np.ones(20, dtype=bool)).counted.all()
