"""Calibration: parts add up, temperature is the optimum and never sees test cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax
from sklearn.metrics import log_loss

from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation import calibration as cal
from medcore.evaluation.proportions import wilson_limits
from medcore.evaluation.scores import Scores
from medcore.metrics import calibration as mc


def make(score, truth, split="val", classes=("n", "p"), patients=20):
    return Scores(truth, score, np.arange(len(truth)) % patients, [split] * len(truth), classes)


@pytest.fixture
def honest():
    rng = np.random.default_rng(0)
    probability = rng.random(4000)
    return probability, rng.random(4000) < probability


def test_a_calibrated_model_lies_on_the_diagonal(honest):
    table = cal.reliability(*honest)
    assert table.n.tolist() == [400] * 10
    assert (np.abs(table.stated - table.observed) < 0.07).all()
    assert ((table.low <= table.stated) & (table.stated <= table.high)).mean() >= 0.7
    assert mc.calibration_error(*honest) < 0.03
    assert mc.calibration_error(honest[0], ~honest[1]) > 0.3


def test_bins_by_hand():
    probability, outcome = np.array([0.1, 0.1, 0.3, 0.9, 0.9, 0.9]), np.array([0, 1, 0, 1, 1, 0])
    table = cal.reliability(probability, outcome, bins=2)
    assert table.n.tolist() == [3, 3]
    assert table.stated == pytest.approx([0.5 / 3, 0.9]) and table.observed == pytest.approx([1 / 3, 2 / 3])
    assert (table.low[0], table.high[0]) == wilson_limits(1, 3)
    assert mc.calibration_error(probability, outcome, bins=2) == pytest.approx((0.5 / 3 + 0.7 / 3) / 2)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 12))
def test_bins_hold_every_case_once(cases, bins):
    probability, outcome = np.array([c[0] for c in cases]), np.array([c[1] for c in cases])
    table = cal.reliability(probability, outcome, bins=bins)
    assert table.n.sum() == len(cases) and (table.n > 0).all() and len(table.n) <= bins
    assert 0 <= mc.calibration_error(probability, outcome, bins=bins) <= 1


def test_weights_repeat_cases(honest):
    probability, outcome = honest[0][:50], honest[1][:50]
    whole = mc.calibration_error(probability, outcome, bins=1)
    doubled = mc.calibration_error(probability, outcome, bins=1, weights=np.full(50, 2.0))
    assert doubled == pytest.approx(whole)
    only = mc.calibration_error(probability, outcome, bins=1, weights=np.arange(50) == 3)
    assert only == pytest.approx(abs(probability[3] - outcome[3]))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 3.0])
def test_temperature_is_recovered_and_optimal(classes, true_temperature):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (4000, classes))
    probability = np.exp(log_softmax(logits, axis=1))
    truth = (probability.cumsum(1) > rng.random((4000, 1))).argmax(1)
    scores = make(logits * true_temperature, truth, classes=tuple("abcde"[:classes]))
    found = cal.fit_temperature(scores)
    assert found.value == pytest.approx(true_temperature, rel=0.1)
    best = minimize_scalar(
        lambda t: log_loss(truth, np.exp(log_softmax(scores.score / t, axis=1))), bounds=(0.05, 20), method="bounded"
    )
    assert found.value == pytest.approx(best.x, rel=1e-3) and found.after == pytest.approx(best.fun, abs=1e-7)
    assert found.after <= found.before and (found.chosen_on, found.n) == ("val", 4000)
    assert np.array_equal(found.apply(scores.score).argmax(1), scores.predicted)
    assert found.apply(scores.score).sum(1) == pytest.approx(np.ones(4000))


def test_one_logit_is_the_second_of_two():
    rng = np.random.default_rng(2)
    logit = rng.normal(0, 3, 500)
    truth = (rng.random(500) < expit(logit / 2)).astype(int)
    one = cal.fit_temperature(make(logit, truth))
    two = cal.fit_temperature(make(np.stack([np.zeros(500), logit], 1), truth))
    assert one.value == pytest.approx(two.value, rel=1e-6)
    assert one.apply(logit) == pytest.approx(two.apply(np.stack([np.zeros(500), logit], 1))[:, 1], abs=1e-6)


def test_separated_classes_give_a_finite_temperature():
    found = cal.fit_temperature(make(np.array([-5.0, -4.0, 4.0, 6.0]), [0, 0, 1, 1]))
    assert 1 / cal.HOTTEST <= found.value < 0.5 and found.after < 1e-4 < found.before


def test_a_logistic_curve_turns_any_score_into_a_probability():
    rng = np.random.default_rng(3)
    score = rng.normal(1e4, 50, 3000)
    probability = expit(0.04 * (score - 1e4) - 1)
    truth = (rng.random(3000) < probability).astype(int)
    found = cal.fit_logistic(make(score, truth))
    assert found.slope == pytest.approx(0.04, rel=0.1)
    assert np.abs(found.apply(score) - probability).max() < 0.06
    separated = cal.fit_logistic(make(np.array([0.0, 1, 2, 3]), [0, 0, 1, 1])).apply(np.array([0.0, 3.0]))
    assert 0.02 < separated[0] and separated[1] < 0.98  # four cases prove nothing with certainty


def test_a_calibration_never_turns_the_order() -> None:
    """A score that is lower for positives must not become a good probability."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 40)
    found = cal.fit_logistic(make(rng.normal(size=80) - 2 * truth, truth))
    assert found.slope == 0
    assert found.apply(np.array([-9.0, 9.0])) == pytest.approx([0.5, 0.5], abs=1e-3)


@pytest.mark.parametrize("fit", [cal.fit_temperature, cal.fit_logistic])
def test_choosers_refuse_what_they_must_not_or_cannot_use(fit):
    with pytest.raises(TestDataRefused, match="can only be chosen"):
        fit(make([0.1, 0.9], [0, 1], split="test"))
    with pytest.raises(MedcoreError, match="cannot be chosen: all 2 cases are 'p'"):
        fit(make([0.1, 0.9], [1, 1]))
    with pytest.raises(MedcoreError, match="cannot be chosen: there are no cases"):
        fit(make([], []))


def test_equal_scores_fit_no_curve():
    with pytest.raises(MedcoreError, match="all 3 scores are equal"):
        cal.fit_logistic(make([2.0, 2.0, 2.0], [0, 1, 1]))


@pytest.mark.parametrize("many", [False, True])
def test_estimates_have_intervals_over_patients(many):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3 if many else 2, 400)
    logits = np.eye(3 if many else 2)[truth] + rng.normal(size=(400, 3 if many else 2))
    probability = np.exp(log_softmax(logits, axis=1))
    scores = make(probability, truth, "test", tuple("abc" if many else "ab"))
    found = cal.calibration_estimates(scores)
    assert [one.name for one in found] == ["brier", "calibration_error"]
    assert all(one.low <= one.value <= one.high and "20 patients" in one.method for one in found)
    one_hot = np.eye(3 if many else 2)[truth]
    assert found[0].value == pytest.approx(((probability - one_hot) ** 2).sum(1).mean() / (1 if many else 2))
    nothing = cal.calibration_estimates(scores.where("train"))
    assert all(one.value is None and one.note for one in nothing)


@pytest.mark.parametrize("score", [[1.5, 0.2], [[0.2, 0.2], [0.5, 0.5]], [[-2.0, 3.0], [0.0, 1.0]]])
def test_logits_are_not_taken_for_probabilities(score):
    with pytest.raises(MedcoreError, match="no probabilities"):
        cal.calibration_estimates(make(score, [0, 1]))


@pytest.mark.parametrize("probability", [[0.5, 1.2], [-0.1, 0.5], [0.5, np.nan], [0.5]])
def test_impossible_probabilities_are_named(probability):
    with pytest.raises(MedcoreError, match=r"probability"):
        cal.reliability(np.array(probability), np.array([0, 1]))
