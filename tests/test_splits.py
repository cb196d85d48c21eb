"""Splits and folds: a patient is never on two sides, a published split is honoured, bad input is explained."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.splits import (
    assign_splits,
    check_enough,
    group_names,
    patient_folds,
    split_cases,
    split_groups,
    split_table,
)
from medcore.errors import MedcoreError


def make_set(labels, patients, *, split=None, known=True, **columns) -> PatchSet:
    labels = np.asarray(labels)
    table = {"label": labels, "patient": np.asarray(patients, dtype=str), **columns}
    table.setdefault("source", np.array([f"img/{n}.png" for n in range(len(labels))]))
    if split is not None:
        table["split"] = np.asarray(split, dtype=str)
    classes = [f"class {n}" for n in range(max(int(labels.max()) + 1, 1))]
    card = Card(name="toy", classes=classes, patients_known=known)
    return PatchSet.from_arrays(np.zeros((len(labels), 4, 4, 3), np.uint8), pd.DataFrame(table), card)


def cohort(patients: int = 40, classes: int = 3, seed: int = 0) -> PatchSet:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, patients)
    names = np.repeat([f"P{n}" for n in range(patients)], sizes)
    return make_set(rng.integers(0, classes, len(names)), names)


def sides_per_group(sides: np.ndarray, groups: np.ndarray) -> int:
    return int(pd.Series(sides).groupby(groups).nunique().max())


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=3, max_size=25),
    classes=st.integers(1, 5),
    fractions=st.sampled_from([(0.6, 0.2, 0.2), (0.7, 0.3, 0.0), (0.7, 0.0, 0.3), (0.34, 0.33, 0.33), (1, 0, 0)]),
    seed=st.integers(0, 2**31 - 1),
)
def test_no_group_is_ever_on_two_sides_and_every_side_has_images(sizes, classes, fractions, seed):
    groups = np.repeat(np.arange(len(sizes)).astype(str), sizes)
    labels = np.random.default_rng(seed).integers(-1, classes, len(groups))
    sides = split_groups(labels, groups, fractions=fractions, seed=seed)
    assert sides_per_group(sides, groups) == 1
    wanted = {name for name, share in zip(("train", "val", "test"), fractions, strict=True) if share > 0}
    assert set(sides) == wanted
    assert (split_groups(labels, groups, fractions=fractions, seed=seed) == sides).all()


def test_shares_and_class_balance_are_close_to_what_was_asked_for():
    ps = assign_splits(cohort(patients=120), fractions=(0.5, 0.2, 0.3), seed=3)
    for side, share in (("train", 0.5), ("val", 0.2), ("test", 0.3)):
        for number in range(3):
            rows = ps.labels == number
            assert (ps.splits[rows] == side).mean() == pytest.approx(share, abs=0.08)


def test_a_rare_class_reaches_every_side_when_patients_allow_it():
    names = np.repeat([f"P{n}" for n in range(30)], 4)
    labels = np.repeat(np.where(np.arange(30) < 4, 1, 0), 4)  # four patients of thirty carry the rare class
    for seed in range(3):
        ps = assign_splits(make_set(labels, names), seed=seed)
        assert {"train", "val", "test"} == set(ps.splits[ps.labels == 1])


def test_seed_decides_and_nothing_else():
    ps = cohort()
    assert (assign_splits(ps, seed=1).splits == assign_splits(ps, seed=1).splits).all()
    assert (assign_splits(ps, seed=1).splits != assign_splits(ps, seed=2).splits).any()


def test_published_test_part_is_kept_and_validation_comes_out_of_train_by_patient():
    first = assign_splits(cohort(), fractions=(0.7, 0.0, 0.3), seed=0)
    ps = assign_splits(first, seed=5)
    assert ((ps.splits == "test") == (first.splits == "test")).all()
    assert (ps.splits == "val").any()
    assert sides_per_group(ps.splits, ps.patients) == 1
    assert "train, test as given; val taken from train" in ps.card.recipe["split"]["how"]


def test_published_train_and_val_get_a_test_part_and_keep_val():
    first = assign_splits(cohort(), fractions=(0.7, 0.3, 0.0), seed=0)
    ps = assign_splits(first, seed=5)
    assert ((ps.splits == "val") == (first.splits == "val")).all()
    assert (ps.splits == "test").any() and sides_per_group(ps.splits, ps.patients) == 1


def test_complete_split_is_returned_as_given_but_not_with_honour_off():
    first = assign_splits(cohort(), seed=0)
    assert (assign_splits(first, seed=9).splits == first.splits).all()
    assert (assign_splits(first, seed=9, honour=False).splits != first.splits).any()


def test_patient_on_two_published_sides_is_kept_but_said_and_never_taken_for_validation():
    ps = cohort()
    split = np.where(np.arange(len(ps)) % 2, "train", "test")
    split[ps.patients == "P3"] = "train"
    for name in ("P4", "P5", "P6", "P7"):
        split[ps.patients == name] = "train"
    result = assign_splits(ps.with_split(split))
    assert ((result.splits == "test") == (split == "test")).all()
    assert any("more than one side" in note and "--fix" in note for note in result.card.warnings)
    for patient in set(result.patients[result.splits == "val"]):
        assert set(result.splits[result.patients == patient]) == {"val"}


def test_only_test_rows_are_split_anew_with_a_warning():
    ps = cohort().with_split(["test"] * len(cohort()))
    result = assign_splits(ps)
    assert set(result.splits) == {"train", "val", "test"}
    assert any("no train part" in note for note in result.card.warnings)


def test_rows_without_a_side_follow_their_patient():
    ps = assign_splits(cohort(), seed=0)
    split = ps.splits.copy()
    split[::7] = ""
    assert (assign_splits(ps.with_split(split)).splits == ps.splits).all()


def test_unknown_patients_make_each_source_image_a_group_and_warn():
    source = np.repeat([f"slide{n}.png" for n in range(20)], 5)
    ps = make_set(np.arange(100) % 2, [""] * 100, known=False, source=source)
    result = assign_splits(ps)
    assert sides_per_group(result.splits, source) == 1
    assert any("No patients are known" in note for note in result.card.warnings)


def test_one_array_file_without_patients_makes_each_row_a_group():
    ps = make_set(np.arange(50) % 2, [""] * 50, known=False, source=np.array(["a.npz"] * 50))
    assert len(set(group_names(ps))) == 50


def test_empty_patient_cells_do_not_form_one_giant_patient():
    ps = make_set(np.arange(40) % 2, ["A", "B"] * 5 + [""] * 30)
    assert len(set(group_names(ps))) == 32


def test_too_few_patients_are_refused_with_both_numbers():
    ps = make_set([0, 1, 0, 1], ["A", "A", "B", "B"])
    with pytest.raises(MedcoreError, match="at least 3 patients, but the set has 2"):
        assign_splits(ps)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.6, 0.3, 0.3), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_senseless_fractions_are_refused(fractions):
    with pytest.raises(MedcoreError, match="fractions"):
        assign_splits(cohort(), fractions=fractions)


def test_few_patients_and_missing_classes_are_said():
    labels = np.repeat([0, 0, 0, 0, 1], 3)
    result = assign_splits(make_set(labels, np.repeat(list("ABCDE"), 3)))
    assert any("Only 1 patient in test" in note for note in result.card.warnings)
    assert any("No image of class 1" in note for note in result.card.warnings)


@settings(max_examples=25, deadline=None)
@given(k=st.integers(2, 6), patients=st.integers(6, 30), seed=st.integers(0, 1000))
def test_folds_partition_the_rows_and_keep_patients_whole(k, patients, seed):
    ps = cohort(patients=patients, seed=seed)
    folds = patient_folds(ps, k, seed=seed)
    assert len(folds) == k
    assert sorted(np.concatenate([fold.validation for fold in folds])) == list(range(len(ps)))
    for fold in folds:
        assert len(fold.train) + len(fold.validation) == len(ps)
        assert not set(ps.patients[fold.train]) & set(ps.patients[fold.validation])


@pytest.mark.parametrize("k", [1, 41])
def test_impossible_folds_are_refused(k):
    with pytest.raises(MedcoreError, match="number of patients, 40"):
        patient_folds(cohort(), k)


def test_split_table_counts_by_hand():
    ps = make_set([0, 1, 1, 0, 1], list("AABCC"), split=["train", "train", "train", "test", "test"])
    table = split_table(ps)
    assert table.loc["train"].tolist() == [3, 2, 1, 2]
    assert table.loc["test"].tolist() == [2, 1, 1, 1]
    assert table.loc["all"].tolist() == [5, 3, 2, 3]
    assert list(table.columns) == ["images", "patients", "class 0", "class 1"]


@pytest.mark.parametrize("make", [assign_splits, split_cases])
@pytest.mark.parametrize("marks", [("train", "test"), ("", "test"), ("train", "val"), ("", "val"), ("", "train")])
def test_sides_that_are_given_stay_and_the_rest_comes_out_of_train(make, marks):
    """A set with train and test but no val, or with a hold-out and nothing else marked, keeps its test."""
    ps = cohort(seed=4)
    held = np.isin(ps.patients, [f"P{n}" for n in range(0, 40, 4)])
    given = ps.with_split(np.where(held, marks[1], marks[0]))
    made = make(given, seed=7)
    assert set(made.splits) == {"train", "val", "test"} and sides_per_group(made.splits, made.patients) == 1
    if marks[1] != "train":
        assert np.array_equal(made.splits == marks[1], held)
    assert (make(given, seed=8).splits != made.splits).any()


def test_unlabelled_hold_out_rows_stay_test_too():
    ps = cohort(seed=4)
    held = ps.patients == "P3"
    labels = np.where(held, -1, ps.labels)
    made = assign_splits(ps.with_columns(label=labels, split=np.where(held, "test", "")))
    assert np.array_equal(made.splits == "test", held)


@pytest.mark.parametrize("carriers", [1, 2, 3, 4])
@pytest.mark.parametrize("images", [1, 3])
def test_training_has_every_class_before_the_other_sides(carriers, images):
    labels = np.repeat([1] * carriers + [0] * 60, images)
    names = np.repeat([f"P{n}" for n in range(60 + carriers)], images)
    for seed in range(10):
        ps = assign_splits(make_set(labels, names), seed=seed)
        assert (ps.labels[ps.splits == "train"] == 1).any()
        assert {"train", "val", "test"} == set(ps.splits)
        notes = check_enough(ps.select(ps.splits != "")) if carriers > 2 else None
        assert notes in (None, []) or carriers == 3


def test_a_set_that_cannot_be_judged_is_refused_and_names_class_and_counts():
    one_each = assign_splits(make_set(np.arange(5), list("ABCDE")))
    with pytest.raises(MedcoreError, match=r"class \d: \d in train, \d in val, \d in test"):
        check_enough(one_each)
    untrained = make_set([0, 0, 0, 1, 1], list("ABCDE"), split=["train", "val", "test", "val", "test"])
    with pytest.raises(MedcoreError, match="no patient of class 1 is in train"):
        check_enough(untrained)
    rare = make_set([0, 1, 2, 0, 1, 0, 1], list("ABCDEFG"), split=["train"] * 3 + ["val"] * 2 + ["test"] * 2)
    assert len(check_enough(rare)) == 1 and "class 2 has 1 in train, 0 in val, 0 in test" in check_enough(rare)[0]
    assert check_enough(rare.where(label=[0, 1])) == []
