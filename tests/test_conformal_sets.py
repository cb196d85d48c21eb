"""Conformal sets over patients: the promise holds on simulated cohorts; one image each gives plain split conformal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.scores import Scores
from medcore.evaluation.selective import (
    ConformalRule,
    coverage_table,
    cross_conformal,
    fit_conformal,
    nonconformity,
    weighted_limit,
)


def cohort(rng: np.random.Generator, patients: int, split: str, *, first: int = 0, classes: int = 4) -> Scores:
    """Patients with one class each; those with many images are easy, so pooled images promise too much."""
    difficulty = rng.normal(0, 1.0, patients)
    images = np.where(difficulty > 0.8, 2, np.where(difficulty < -0.3, 60, 10))
    truth = np.repeat(rng.integers(0, classes, patients), images)
    ease = np.repeat(2.0 - 1.2 * difficulty, images)
    logits = rng.normal(0, 1, (len(truth), classes))
    logits[np.arange(len(truth)), truth] += ease
    owner = np.repeat(np.arange(first, first + patients), images).astype(str)
    return Scores(truth, softmax(logits, axis=1), owner, [split] * len(truth), tuple("abcd"[:classes]))


def covered(sets: np.ndarray, scores: Scores) -> float:
    """Mean over patients of the share of their images whose truth is in the set."""
    held = sets[np.arange(len(scores)), scores.truth]
    return float(np.mean([held[scores.patient == name].mean() for name in np.unique(scores.patient)]))


def test_the_promise_holds_over_patients_where_pooled_images_break_it():
    rng = np.random.default_rng(5)
    ours, naive = [], []
    for _ in range(500):
        validation, test = cohort(rng, 60, "val"), cohort(rng, 60, "test", first=60)
        ours.append(covered(fit_conformal(validation, coverage=0.95).sets(test.score), test))
        miss = np.sort(nonconformity(validation))
        limit = miss[min(int(np.ceil(0.95 * (len(miss) + 1))) - 1, len(miss) - 1)]
        naive.append(covered(1 - test.score <= limit, test))
    assert 0.93 <= np.mean(ours) <= 0.97
    assert np.mean(naive) < 0.92


def test_with_one_image_a_patient_the_limit_is_the_order_statistic_of_split_conformal():
    rng = np.random.default_rng(0)
    for count, coverage in ((20, 0.9), (99, 0.95), (137, 0.8)):
        miss = rng.random(count)
        expected = np.sort(miss)[int(np.ceil(coverage * (count + 1))) - 1]
        assert weighted_limit(miss, np.arange(count).astype(str), coverage) == expected
    assert weighted_limit(rng.random(10), np.arange(10).astype(str), 0.95) == 1.0  # ten patients cannot promise 95 %


def test_each_class_keeps_the_promise_when_asked_and_a_class_of_few_patients_is_never_excluded():
    rng = np.random.default_rng(2)
    shares: dict[int, list[float]] = {kind: [] for kind in range(3)}
    for _ in range(200):
        validation, test = (cohort(rng, 120, side, first=k * 120, classes=3) for k, side in enumerate(("val", "test")))
        sets = fit_conformal(validation, coverage=0.9, by_class=True).sets(test.score)
        for kind in shares:
            rows = test.truth == kind
            shares[kind].append(covered(sets[rows], test.select(rows)))
    assert all(0.88 <= np.mean(values) <= 0.94 for values in shares.values())
    few = cohort(rng, 60, "val", classes=3)
    few = few.select((few.truth != 2) | np.isin(few.patient, np.unique(few.patient[few.truth == 2])[:3]))
    rule = fit_conformal(few, coverage=0.95, by_class=True)
    assert rule.limits[2] == 1.0 and rule.patients[2] == 3
    assert rule.sets(few.score)[:, 2].all()


def folded(rng: np.random.Generator, patients: int = 40, new: int = 200) -> tuple[Scores, np.ndarray, list, Scores]:
    """Patients in four folds and new ones; each fold's network knows the class means of the other folds' patients."""
    owner = np.repeat(np.arange(patients + new), rng.choice([1, 3, 12], patients + new))
    truth = rng.integers(0, 3, patients + new)[owner]
    seen = 2 * np.eye(3)[truth] + rng.normal(0, 1, (patients + new, 3))[owner] + rng.normal(0, 0.7, (len(owner), 3))
    fold = rng.permutation(np.arange(patients + new) % 4)[owner]
    known, score, said = owner < patients, np.zeros((len(owner), 3)), []
    for number in range(4):
        learnt = known & (fold != number)
        means = np.array([seen[learnt & (truth == kind)].mean(axis=0) for kind in range(3)])
        stated = softmax(-((seen[:, None] - means) ** 2).sum(axis=2), axis=1)
        score[known & (fold == number)] = stated[known & (fold == number)]
        said.append(stated[~known])
    names = owner.astype(str)
    held_out = Scores(truth[known], score[known], names[known], ["train"] * known.sum(), ("a", "b", "c"))
    later = Scores(truth[~known], said[0], names[~known], ["test"] * (~known).sum(), ("a", "b", "c"))
    return held_out, fold[known], said, later


def test_sets_from_folds_hold_the_truth_of_new_patients_about_as_often_as_asked():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(150):
        held_out, fold, said, later = folded(rng)
        found.append(covered(cross_conformal(held_out, fold, said, coverage=0.9), later))
    assert 0.88 <= np.mean(found) <= 0.95


@pytest.mark.parametrize("by_class", [False, True])
def test_sets_from_folds_equal_their_definition_and_split_sets_where_all_folds_say_the_same(by_class: bool):
    held_out, fold, said, later = folded(np.random.default_rng(7), patients=60, new=12)
    sets = cross_conformal(held_out, fold, said, coverage=0.8, by_class=by_class)
    for row, kind in np.ndindex(sets.shape):
        rows = np.flatnonzero(held_out.truth == kind) if by_class else np.arange(len(held_out))
        shares = []
        for name in np.unique(held_out.patient[rows]):
            own = rows[held_out.patient[rows] == name]
            shares.append(np.mean([held_out.score[n, held_out.truth[n]] > said[fold[n]][row, kind] for n in own]))
        assert sets[row, kind] == (sum(shares) / (len(shares) + 1) < 0.8)
    assert 0 < sets.mean() < 1
    alike = cross_conformal(held_out, fold, [later.score] * 4, coverage=0.8, by_class=by_class)
    assert (alike == fit_conformal(held_out, coverage=0.8, by_class=by_class).sets(later.score)).all()


def test_sets_from_folds_refuse_what_does_not_fit():
    held_out, fold, said, later = folded(np.random.default_rng(7))
    with pytest.raises(TestDataRefused):
        cross_conformal(later, np.arange(len(later)), said)
    with pytest.raises(MedcoreError, match="3 networks"):
        cross_conformal(held_out, fold, said[1:])
    with pytest.raises(MedcoreError, match="one a patient"):
        cross_conformal(held_out, np.arange(len(held_out)) % 4, said)  # patients in several folds
    with pytest.raises(MedcoreError, match="between 0 and 1"):
        cross_conformal(held_out, fold, said, coverage=95)


def test_the_table_counts_what_the_sets_hold():
    scores = Scores([0, 0, 1, 1], np.eye(2)[[0, 0, 1, 1]], ["p", "p", "q", "r"], ["test"] * 4, ("a", "b"))
    sets = np.array([[1, 0], [0, 0], [1, 1], [0, 1]], bool)
    table = coverage_table(sets, scores)
    assert table.loc["all", "coverage"].value == pytest.approx((0.5 + 1 + 1) / 3)
    assert table.loc["all", ["single", "empty", "full", "mean size"]].tolist() == [0.5, 0.25, 0.25, 1.0]
    assert table.loc["b", "coverage"].value == 1.0


def test_rules_travel_and_refuse_what_does_not_fit():
    scores = cohort(np.random.default_rng(1), 40, "val")
    rule = fit_conformal(scores)
    assert ConformalRule.from_dict(rule.as_dict()) == rule
    with pytest.raises(TestDataRefused):
        fit_conformal(cohort(np.random.default_rng(1), 40, "test"))
    with pytest.raises(MedcoreError, match="softmax"):
        fit_conformal(Scores([0, 1], [[3.0, -1], [0, 2]], ["p", "q"], ["val"] * 2, ("a", "b")))
    with pytest.raises(MedcoreError, match="between 0 and 1"):
        fit_conformal(scores, coverage=95)
    with pytest.raises(MedcoreError, match="4 classes"):
        rule.sets(np.ones((3, 2)) / 2)
