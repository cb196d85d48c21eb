"""From windows to patients: what fits, and what is refused by name."""

from dataclasses import replace

import numpy as np
import pytest
from cohort_toys import toy_cohort, window_set
from hypothesis import given, settings
from hypothesis import strategies as st

from medcore.errors import MedcoreError
from medcore.studies.diagnosis.cohort import Cohort, check_both, contradictions, is_repeat

ROWS = [
    {"patient": "B", "diagnosis": "ALTA"},
    {"patient": "A", "diagnosis": "NEGATIVA"},
    {"patient": "B", "diagnosis": "ALTA"},
    {"patient": "C", "diagnosis": "BAIXA"},
]


def test_windows_join_their_patients():
    patches = window_set(ROWS, split=["", "", "", "test"])
    cohort = Cohort.from_set(patches, {"s": np.arange(4.0)})
    assert cohort.names.tolist() == ["A", "B", "C"]
    assert cohort.names[cohort.owner].tolist() == ["B", "A", "B", "C"]
    assert cohort.level.tolist() == [0, 2, 1]
    assert cohort.truth.tolist() == [0, 1, 1]
    assert cohort.split.tolist() == ["val", "val", "test"]
    assert cohort.windows_per_patient.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("diagnoses", "match"),
    [
        ({"A": "NEGATIVA", "B": "ALTA", "C": "BAIXA", "D": "ALTA"}, "patient 'D' without a window"),
        ({"A": "NEGATIVA", "B": "ALTA"}, "1 windows belong to patient 'C' without a row"),
        ({"A": "NEGATIVA", "B": "ALTA", "C": "MITJANA"}, "patient 'C' has diagnosis 'MITJANA'"),
    ],
)
def test_patients_and_windows_that_do_not_fit_are_named(diagnoses, match):
    with pytest.raises(MedcoreError, match=match):
        Cohort.from_set(window_set(ROWS), {"s": np.zeros(4)}, diagnoses=diagnoses)


def test_contradictory_diagnoses_are_named():
    patches = window_set([*ROWS, {"patient": "B", "diagnosis": "NEGATIVA"}])
    with pytest.raises(MedcoreError, match="patient 'B' has contradictory diagnoses ALTA, NEGATIVA"):
        Cohort.from_set(patches, {"s": np.zeros(5)})


def test_scores_that_do_not_fit_are_named():
    patches = window_set(ROWS)
    with pytest.raises(MedcoreError, match="'s' has 3 entries for 4 windows"):
        Cohort.from_set(patches, {"s": np.zeros(3)})
    with pytest.raises(MedcoreError, match="1 not finite"):
        Cohort.from_set(patches, {"s": np.array([0, 1, np.nan, 2])})
    with pytest.raises(MedcoreError, match="no score was given"):
        Cohort.from_set(patches, {})
    with pytest.raises(MedcoreError, match="no score 't'; there are s"):
        Cohort.from_set(patches, {"s": np.zeros(4)}).score("t")
    with pytest.raises(MedcoreError, match="no column 'diagnosis'"):
        Cohort.from_set(window_set([{"patient": "A"}]), {"s": np.zeros(1)})


def test_one_class_only_is_named():
    cohort = toy_cohort(8)
    healthy = cohort.select(cohort.truth == 0)
    with pytest.raises(MedcoreError, match="all 4 patients are healthy"):
        check_both(healthy)
    with pytest.raises(MedcoreError, match="all 4 patients are healthy"):
        healthy.folds(2)


def test_a_fold_without_positives_is_named():
    cohort = toy_cohort(40)
    few = cohort.select((cohort.truth == 0) | (np.arange(40) < 6))
    with pytest.raises(MedcoreError, match="k=5, but there are 20 healthy and 3 infected patients"):
        few.folds(5)
    with pytest.raises(MedcoreError, match="k=1"):
        cohort.folds(1)


def test_windows_without_annotations_of_both_kinds_are_named():
    cohort = toy_cohort(8)
    with pytest.raises(MedcoreError, match="is annotated positive"):
        replace(cohort, label=np.minimum(cohort.label, 0)).window_scores("brown")


def test_a_healthy_patient_with_a_positive_window_is_listed():
    cohort = toy_cohort(8)
    assert contradictions(cohort) == []
    label = cohort.label.copy()
    label[np.flatnonzero(cohort.owner == 2)[0]] = 1
    assert contradictions(replace(cohort, label=label)) == ["P002"]


def test_a_window_and_its_copies_count_once():
    rows = [{"patient": "A", "diagnosis": "ALTA"}] * 3 + [{"patient": "B", "diagnosis": "NEGATIVA"}] * 3
    patches = window_set(rows, copy_of=["", "w0.png", "", "gone.png", "gone.png", ""])
    assert is_repeat(patches).tolist() == [False, True, False, False, True, False]
    cohort = Cohort.from_set(patches, {"s": np.arange(6.0)})
    assert cohort.rows.tolist() == [0, 2, 3, 5]


def test_patients_that_share_a_window_stay_together():
    rows = [{"patient": f"P{number:02d}", "diagnosis": ("NEGATIVA", "ALTA")[number % 2]} for number in range(20)] * 2
    copy_of = [""] * 40
    copy_of[24], copy_of[29] = "w0.png", "w4.png"  # P04 = P00, and P09 = P04
    cohort = Cohort.from_set(window_set(rows, copy_of=copy_of), {"s": np.zeros(40)})
    assert len(np.unique(cohort.group)) == 18
    for seed in range(10):
        folds = cohort.folds(4, seed=seed)
        assert folds[0] == folds[4] == folds[9]


@settings(deadline=None, max_examples=40)
@given(st.integers(12, 60), st.integers(2, 5), st.integers(0, 10_000))
def test_folds_hold_every_patient_once_and_both_kinds(patients, k, seed):
    cohort = toy_cohort(patients)
    folds = cohort.folds(k, seed=seed)
    assert folds.shape == (patients,)
    assert sorted(np.unique(folds)) == list(range(k))
    for fold in range(k):
        assert set(cohort.truth[folds == fold]) == {0, 1}
    assert folds.tolist() == cohort.folds(k, seed=seed).tolist()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**20 - 2))
def test_a_selection_keeps_patients_and_windows_together(bits):
    cohort = toy_cohort(20)
    kept = np.array([(bits >> number) & 1 == 0 for number in range(20)])
    part = cohort.select(kept)
    assert part.names.tolist() == cohort.names[kept].tolist()
    windows = kept[cohort.owner]
    assert part.names[part.owner].tolist() == cohort.names[cohort.owner][windows].tolist()
    assert part.score("brown").tolist() == cohort.score("brown")[windows].tolist()
    assert part.rows.tolist() == cohort.rows[windows].tolist()
