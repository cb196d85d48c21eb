"""Wilson and McNemar against scipy; limits of clustered decisions against textbook cases."""

import numpy as np
import pytest
from scipy.stats import binomtest

from medcore.errors import MedcoreError
from medcore.evaluation.proportions import (
    clustered_difference,
    clustered_limits,
    effective_cases,
    extreme_limits,
    mcnemar,
    wilson_limits,
)
from medcore.metrics.confusion import accuracy, sensitivity


@pytest.mark.parametrize("successes, n", [(0, 1), (0, 20), (20, 20), (1, 1), (7, 30), (299, 300)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_equals_scipy(successes, n, level):
    expected = binomtest(successes, n).proportion_ci(level, method="wilson")
    assert wilson_limits(successes, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_impossible_counts_are_named():
    with pytest.raises(MedcoreError, match="3 successes of n = 2"):
        wilson_limits(3, 2)


def test_mcnemar_is_the_exact_binomial_of_the_disagreements():
    first = np.array([1] * 9 + [0] * 2 + [1] * 30 + [0] * 5, bool)
    second = np.array([0] * 9 + [1] * 2 + [1] * 30 + [0] * 5, bool)
    found = mcnemar(first, second)
    assert found[:2] == (9, 2) and found.p == pytest.approx(2 * (55 + 11 + 1) / 2**11)  # C(11,9)+C(11,10)+C(11,11)
    assert mcnemar(first, first).p == 1
    with pytest.raises(MedcoreError, match="shape"):
        mcnemar(first, second[:3])


def sensitivity_tables(hits, cases):
    """Patients of positives only."""
    tables = np.zeros((len(hits), 2, 2))
    tables[:, 1, 1], tables[:, 1, 0] = hits, np.asarray(cases) - hits
    return tables


def test_one_case_per_patient_is_wilson():
    limits = clustered_limits(sensitivity_tables(np.arange(40) >= 6, np.ones(40)), sensitivity)
    assert limits == pytest.approx(wilson_limits(34, 40), abs=0.02)


def test_effective_cases_follow_the_design_effect_of_the_survey_textbook():
    """Kish: 1 + (m - 1) · correlation, for 400 patients with 10 cases each whose rates scatter like a beta."""
    rng, correlation = np.random.default_rng(0), 0.3
    rates = rng.beta(0.8 * (1 - correlation) / correlation, 0.2 * (1 - correlation) / correlation, 400)
    found = effective_cases(sensitivity_tables(rng.binomial(10, rates), np.full(400, 10)), sensitivity)
    assert found.n == pytest.approx(4000 / (1 + 9 * correlation), rel=0.2)


@pytest.mark.parametrize("patients", [10, 20, 40])
def test_one_miss_does_not_drop_the_bound(patients):
    cases = np.full(patients, 57 // patients) + (np.arange(patients) < 57 % patients)
    lows = [clustered_limits(sensitivity_tables(cases - (np.arange(patients) < m), cases), sensitivity)[0]
            for m in (0, 1, 2)]  # fmt: skip
    assert 0.8 < min(lows) and max(lows) - min(lows) < 0.07
    assert max(lows) < wilson_limits(57, 57)[0]


def test_differences_mirror_and_agree_with_the_jackknife_of_many_patients():
    rng = np.random.default_rng(1)
    group, truth = np.repeat(np.arange(300), 5), rng.integers(0, 2, 1500)
    calls = [np.where(rng.random(1500) < share, truth, 1 - truth) for share in (0.9, 0.8)]
    low, high = clustered_difference(*calls, truth, group, accuracy)
    assert clustered_difference(*calls[::-1], truth, group, accuracy) == pytest.approx((-high, -low), abs=1e-9)
    gap = np.bincount(group, (calls[0] == truth) * 1.0 - (calls[1] == truth)) / 5
    assert (high - low) / 2 == pytest.approx(1.97 * gap.std(ddof=1) / np.sqrt(300), rel=0.1)


def test_limits_at_the_lower_bound_are_rescaled():
    assert extreme_limits(-1.0, 20, (-1.0, 1.0)) == pytest.approx(tuple(2 * x - 1 for x in wilson_limits(0, 20)))
