"""Wilson, McNemar and multinomial resampling against scipy and hand cases."""

import numpy as np
import pytest
from scipy.stats import binomtest

from medcore.errors import MedcoreError
from medcore.evaluation.proportions import extreme_limits, mcnemar, multinomial_interval, wilson_limits


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


def test_multinomial_accuracy_agrees_with_the_binomial():
    estimate = multinomial_interval(np.array([[40, 10], [5, 45]]), "accuracy")
    low, high = np.array([binomtest(85, 100).proportion_ci(0.95, method="wilson")]).ravel()
    assert (
        estimate.value == 0.85
        and estimate.low == pytest.approx(low, abs=0.02)
        and estimate.high == pytest.approx(high, abs=0.02)
    )


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "kappa", "mcc", "f1"])
def test_multinomial_brackets_the_value(metric):
    estimate = multinomial_interval(np.array([[40, 10], [5, 45]]), metric)
    assert estimate.low < estimate.value < estimate.high
    assert estimate == multinomial_interval(np.array([[40, 10], [5, 45]]), metric)


@pytest.mark.parametrize("metric", ["accuracy", "kappa"])
def test_multinomial_at_the_limit_is_not_a_point(metric):
    estimate = multinomial_interval(np.diag([10, 10]), metric)
    assert estimate.value == estimate.high == 1 and estimate.low < 0.9


@pytest.mark.parametrize("matrix", [np.zeros((2, 2)), np.array([[5, 0], [0, 0]])])
def test_multinomial_without_value_is_explained(matrix):
    estimate = multinomial_interval(matrix, "kappa")
    assert estimate.value is None and "0/0" in estimate.note


@pytest.mark.parametrize("matrix", [np.ones((2, 3)), -np.eye(2), np.eye(2) / 2])
def test_multinomial_refuses_what_is_no_matrix_of_counts(matrix):
    with pytest.raises(MedcoreError, match="square matrix of counts"):
        multinomial_interval(matrix)


def test_limits_at_the_lower_bound_are_rescaled():
    assert extreme_limits(-1.0, 20, (-1.0, 1.0)) == pytest.approx(tuple(2 * x - 1 for x in wilson_limits(0, 20)))
