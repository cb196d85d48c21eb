"""Thresholds: the rule does what it says, on validation cases only; from few cases it nears known optima."""

from dataclasses import replace

import numpy as np
import pytest
from cohort_toys import toy_cohort
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.metrics import roc_curve

from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.scores import Scores
from medcore.evaluation.thresholds import (
    RULES,
    choose_threshold,
    logistic_youden,
    operating_curve,
    parse_rule,
    smooth_youden,
)
from medcore.studies.diagnosis.rule import choose_patient_rule


def make(truth, score, split="val"):
    return Scores(truth, score, np.arange(len(truth)), np.full(len(truth), split), ("healthy", "ill"))


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    truth = (rng.random(300) < 0.3).astype(int)
    return make(truth, np.round(rng.normal(truth * 1.5, 1), 2))


def slow_best(scores, goodness):
    """Try every threshold one by one."""
    values = np.unique(scores.score)
    tries = np.concatenate([values, values + 1e-6])
    best = -np.inf
    for threshold in tries:
        called = scores.score >= threshold
        sensitivity, specificity = called[scores.positive].mean(), (~called)[~scores.positive].mean()
        best = max(best, goodness(sensitivity, specificity))
    return best


def test_youden_reaches_the_best_of_scikit_learn(scores):
    point = choose_threshold(scores, "youden")
    fpr, tpr, _ = roc_curve(scores.truth, scores.score, drop_intermediate=False)
    assert point.sensitivity + point.specificity - 1 == pytest.approx((tpr - fpr).max(), abs=1e-12)
    assert (point.chosen_on, point.n, point.rule) == ("val", 300, "youden")


@pytest.mark.parametrize("aim", [0.5, 0.9, 0.95, 1.0])
def test_fixed_sensitivity_and_specificity_give_the_most_of_the_other(scores, aim):
    point = choose_threshold(scores, f"sensitivity>={aim}")
    assert point.sensitivity >= aim
    assert point.specificity == pytest.approx(slow_best(scores, lambda se, sp: sp if se >= aim else -1))
    point = choose_threshold(scores, f"specificity >= {aim}")
    assert point.specificity >= aim
    assert point.sensitivity == pytest.approx(slow_best(scores, lambda se, sp: se if sp >= aim else -1))


@pytest.mark.parametrize("miss, alarm", [(5, 1), (1, 1), (1, 20)])
def test_cost_is_the_smallest_possible(scores, miss, alarm):
    point = choose_threshold(scores, f"cost {miss}:{alarm}")
    share = scores.positive.mean()
    cost = lambda se, sp: -(miss * share * (1 - se) + alarm * (1 - share) * (1 - sp))  # noqa: E731
    assert cost(point.sensitivity, point.specificity) == pytest.approx(slow_best(scores, cost))


@given(
    st.lists(st.tuples(st.booleans(), st.floats(-1e6, 1e6, width=32)), min_size=2, max_size=40), st.sampled_from(RULES)
)
def test_what_the_point_says_is_what_applying_it_gives(cases, rule):
    truth, score = np.array([case[0] for case in cases], dtype=int), np.array([case[1] for case in cases])
    if truth.min() == truth.max() or score.min() == score.max():
        return
    scores = make(truth, score)
    point = choose_threshold(scores, rule)
    called = point.apply(scores) == 1
    assert called[truth == 1].mean() == pytest.approx(point.sensitivity)
    assert (~called)[truth == 0].mean() == pytest.approx(point.specificity)


def test_neighbouring_floats_are_told_apart():
    low = 0.1
    curve = operating_curve(np.array([False, True]), np.array([low, np.nextafter(low, 1)]))
    assert (curve.sensitivity + curve.specificity).max() == 2
    assert np.array_equal(curve.thresholds, np.unique(curve.thresholds))


def test_a_threshold_between_separated_classes_lies_halfway():
    assert choose_threshold(make([0, 0, 1, 1], [0.0, 0.2, 0.6, 0.9])).threshold == pytest.approx(0.4)


@pytest.mark.parametrize("split", ["test", ""])
def test_test_and_unmarked_cases_are_refused(scores, split):
    marks = scores.split.copy()
    marks[7] = split
    refused = Scores(scores.truth, scores.score, scores.patient, marks, scores.classes)
    with pytest.raises(TestDataRefused, match="a threshold can only be chosen"):
        choose_threshold(refused)


@pytest.mark.parametrize(
    "truth, score, said",
    [
        ([], [], "there are no cases"),
        ([1, 1], [0.1, 0.2], "none is 'healthy'"),
        ([0, 0], [0.1, 0.2], "none is 'ill'"),
        ([0, 1], [0.5, 0.5], "all 2 scores are equal"),
    ],
)
def test_an_impossible_choice_is_explained(truth, score, said):
    with pytest.raises(MedcoreError, match="a threshold cannot be chosen: .*" + said):
        choose_threshold(make(truth, score))


@pytest.mark.parametrize("rule", ["yuden", "sensitivity>=1.5", "sensitivity>=0", "cost 0:1", "cost 1.2.3:1", "", None])
def test_a_wrong_rule_is_named(rule):
    with pytest.raises(MedcoreError, match="rule="):
        parse_rule(rule)


def test_a_point_that_decides_nothing_says_so():
    point = choose_threshold(make([0, 1, 0], [3.0, 1.0, 2.0]), "specificity>=0.9")
    assert point.sensitivity == 0 and "every case negative" in point.note
    assert "every case negative" in str(point)


def test_a_score_that_is_not_finite_gets_no_decision(scores):
    with pytest.raises(MedcoreError, match=r"scores\[1\] is nan"):
        choose_threshold(scores).apply(np.array([0.1, np.nan]))


HEALTHY, INFECTED = beta(1, 6), beta(4, 3)  # shares of positive windows
GRID = np.linspace(0, 1, 100_001)
OPTIMUM = float(GRID[np.argmax(HEALTHY.cdf(GRID) - INFECTED.cdf(GRID))])


def drawn(cases: int, seed: int = 0, prevalence: float = 0.5) -> Scores:
    """Patients whose scores follow the two distributions."""
    generator = np.random.default_rng(seed)
    truth = (np.arange(cases) < prevalence * cases).astype(np.int64)
    score = np.where(truth, INFECTED.rvs(cases, random_state=generator), HEALTHY.rvs(cases, random_state=generator))
    names = np.array([f"P{number}" for number in range(cases)])
    return Scores(truth, score, names, np.full(cases, "val"), ("negative", "positive"))


@pytest.mark.parametrize("prevalence", [0.1, 0.5, 0.8])
def test_the_logistic_threshold_finds_the_known_optimum_at_any_prevalence(prevalence):
    assert 0.2 < OPTIMUM < 0.5
    assert logistic_youden(drawn(20_000, prevalence=prevalence)) == pytest.approx(OPTIMUM, abs=0.02)


def test_of_few_patients_the_logistic_threshold_is_nearer_than_the_bare_one():
    both = [(logistic_youden(one), choose_threshold(one).threshold) for one in (drawn(48, seed) for seed in range(60))]
    logistic, bare = np.sqrt(np.mean(np.square(np.array(both) - OPTIMUM), axis=0))
    assert logistic < 0.75 * bare


def test_the_unit_of_a_score_does_not_matter():
    scores = drawn(200)
    moved = replace(scores, score=7 + 300 * scores.score)
    assert logistic_youden(moved) == pytest.approx(7 + 300 * logistic_youden(scores), rel=1e-6)


def test_a_score_that_falls_leaves_the_decision_to_the_bare_curve():
    scores = drawn(200)
    fallen = replace(scores, score=-scores.score)
    assert logistic_youden(fallen) == choose_threshold(fallen).threshold


@pytest.mark.parametrize("threshold", [smooth_youden, logistic_youden])
def test_steady_thresholds_refuse_what_any_threshold_refuses(threshold):
    scores = drawn(40)
    with pytest.raises(MedcoreError, match="scores are equal"):
        threshold(replace(scores, score=np.ones(len(scores))))
    with pytest.raises(TestDataRefused):
        threshold(replace(scores, split=np.full(len(scores), "test")))
    two = replace(scores, score=scores.truth.astype(float))
    assert 0 < threshold(two) < 1


def test_smoothing_halves_the_error_of_the_threshold():
    smooth, bare = [], []
    for seed in range(30):
        cohort = toy_cohort(40, seed=seed)
        scores = cohort.with_scores({"brown": cohort.score("brown") / 4}).window_scores("brown")
        smooth.append(smooth_youden(scores) - 0.5)
        bare.append(choose_threshold(scores).threshold - 0.5)
    assert np.sqrt(np.mean(np.square(smooth))) < 0.7 * np.sqrt(np.mean(np.square(bare)))


def test_a_patient_rule_tells_what_its_threshold_does_on_its_patients():
    cohort = toy_cohort(60)
    score = np.clip(0.3 * cohort.truth + np.random.default_rng(0).random(60) * 0.6, 0, 1)
    point = choose_patient_rule(cohort, score).point
    assert point.threshold == logistic_youden(cohort.patient_scores(score))
    found = score >= point.threshold
    assert point.sensitivity == pytest.approx(found[cohort.truth == 1].mean())
    assert point.specificity == pytest.approx(1 - found[cohort.truth == 0].mean())
    other = choose_patient_rule(cohort, score, rule="specificity>=0.90").point
    assert other == choose_threshold(cohort.patient_scores(score), "specificity>=0.90")
