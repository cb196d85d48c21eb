"""Calibration: parts add up, temperature is the optimum and never sees test cases."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax
from sklearn.linear_model import LogisticRegression
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
    found = mc.squared_calibration_error(probability, outcome, bins=2)
    assert found.plain == pytest.approx(((0.5 / 3) ** 2 + (0.7 / 3) ** 2) / 2)
    both = (np.var([-0.1, 0.9, -0.3]) + np.var([0.1, 0.1, -0.9])) / 3 * 6 / 5  # squared standard errors of the gaps
    assert found.chance == pytest.approx(both / 2)


def test_the_squared_error_is_free_of_chance():
    """Over many small samples of a calibrated model its mean is 0, of one 0.2 too sure 0.04; the plain one is above."""
    rng, found = np.random.default_rng(0), []
    for _ in range(1500):
        probability = rng.uniform(0.3, 0.7, 60)
        for off in (0.0, 0.2):
            error = mc.squared_calibration_error(probability, rng.random(60) < probability - off, bins=5)
            found.append((error.plain - error.chance, error.plain))
    calibrated, wrong = np.array(found)[::2].mean(0), np.array(found)[1::2].mean(0)
    assert abs(calibrated[0]) < 0.0015 < 0.015 < calibrated[1]
    assert wrong[0] == pytest.approx(0.04, abs=0.003)


def test_slope_and_intercept_are_those_of_a_logistic_regression():
    rng = np.random.default_rng(2)
    said = rng.normal(0, 2, 800)
    outcome, group = rng.random(800) < expit(0.6 * said - 0.3), np.arange(800) % 40
    line = mc.calibration_line(expit(said), outcome, group, slope=True)
    known = LogisticRegression(C=np.inf, tol=1e-10).fit(said[:, None], outcome)
    assert line.value == pytest.approx([known.intercept_[0], known.coef_[0, 0]], abs=1e-4)
    kept = group != 7
    without = LogisticRegression(C=np.inf, tol=1e-10).fit(said[kept, None], outcome[kept])
    assert line.left_out[7] == pytest.approx([without.intercept_[0], without.coef_[0, 0]], abs=5e-3)
    at_one = mc.calibration_line(expit(said), outcome, group, slope=False).value[0]
    best = minimize_scalar(lambda a: log_loss(outcome, expit(said + a)), bounds=(-3, 3), method="bounded")
    assert at_one == pytest.approx(best.x, abs=1e-4)


def calibrated_cohort(rng, slope=1.0, patients=25):
    patient = np.repeat(np.arange(patients), rng.integers(1, 25, patients))
    said = rng.normal(0, 1.5, len(patient)) + rng.normal(0, 1, patients)[patient]
    truth = (rng.random(len(patient)) < expit(said)).astype(int)
    return Scores(truth, expit(slope * said), patient, ["test"] * len(patient), ("n", "p"))


def test_intervals_of_a_calibrated_model_hold_the_truth():
    """120 cohorts: outside these bands a true coverage of 0.95 falls once in 10,000 runs (binomial)."""
    rng, hits = np.random.default_rng(5), np.zeros(3)
    for _ in range(120):
        found = cal.calibration_estimates(calibrated_cohort(rng))[1:]
        hits += [one.low <= truth <= one.high for one, truth in zip(found, (0, 1, 0), strict=True)]
    assert (hits / 120 >= 0.86).all()


def test_a_recalibration_is_judged_by_a_paired_difference():
    rng = np.random.default_rng(1)
    bold = calibrated_cohort(rng, slope=3.0, patients=80)
    mended = replace(bold, score=expit(np.log(bold.score / (1 - bold.score)) / 3))
    helps, same = cal.brier_change(bold, mended), cal.brier_change(mended, mended)
    assert helps.low < helps.value < helps.high < 0
    assert same.value == 0 and same.low is None
    assert cal.brier_change(mended, bold).low == pytest.approx(-helps.high)


def test_bars_of_patients_are_longer_than_bars_of_cases():
    rng, patient = np.random.default_rng(3), np.repeat(np.arange(30), 20)
    share = np.repeat(rng.choice([0.1, 0.9], 30), 20)
    probability, outcome = np.full(600, 0.5), rng.random(600) < share
    by_case = cal.reliability(probability, outcome, bins=1)
    by_patient = cal.reliability(probability, outcome, patient, bins=1)
    assert by_patient.high[0] - by_patient.low[0] > 2.5 * (by_case.high[0] - by_case.low[0])


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 12))
def test_bins_hold_every_case_once(cases, bins):
    probability, outcome = np.array([c[0] for c in cases]), np.array([c[1] for c in cases])
    table = cal.reliability(probability, outcome, bins=bins)
    assert table.n.sum() == len(cases) and (table.n > 0).all() and len(table.n) <= bins
    assert 0 <= mc.calibration_error(probability, outcome, bins=bins) <= 1


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
    assert [one.name for one in found] == list(cal.CALIBRATION)
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
