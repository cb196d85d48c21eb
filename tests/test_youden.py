"""Youden's threshold from few cases, against optima that distributions of known form give."""

from dataclasses import replace

import numpy as np
import pytest
from cohort_toys import toy_cohort
from scipy.stats import beta

from medcore.errors import MedcoreError
from medcore.evaluation.scores import Scores, TestDataRefused
from medcore.evaluation.thresholds import choose_threshold, logistic_youden, smooth_youden
from medcore.studies.diagnosis.rule import choose_patient_rule

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
