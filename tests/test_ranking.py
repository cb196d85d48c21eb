"""DeLong and the AUROC within folds against their definitions, pair by pair."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from medcore.errors import MedcoreError
from medcore.metrics.ranking import auroc_within_folds, delong, delong_limits, delong_test


def by_definition(positive, scores):
    """Every pair compared, in float64: the 1988 paper word by word."""
    kernel = [
        (s[positive][:, None] > s[~positive][None]) + 0.5 * (s[positive][:, None] == s[~positive][None]) for s in scores
    ]
    m, n = positive.sum(), (~positive).sum()
    v10, v01 = np.array([k.mean(1) for k in kernel]), np.array([k.mean(0) for k in kernel])
    aurocs = np.array([k.mean() for k in kernel])
    s10 = (v10 - aurocs[:, None]) @ (v10 - aurocs[:, None]).T / (m - 1)
    s01 = (v01 - aurocs[:, None]) @ (v01 - aurocs[:, None]).T / (n - 1)
    return aurocs, s10 / m + s01 / n


@pytest.mark.parametrize("decimals", [8, 1, 0])
def test_equal_to_the_definition(decimals):
    rng = np.random.default_rng(decimals)
    positive = rng.random(200) < 0.3
    scores = np.round(rng.normal(positive * 1.2, 1, (3, 200)), decimals)
    auroc, covariance = delong(positive, scores)
    expected = by_definition(positive, scores)
    assert np.abs(auroc - expected[0]).max() < 1e-12 and np.abs(covariance - expected[1]).max() < 1e-12
    assert auroc == pytest.approx([roc_auc_score(positive, s) for s in scores], abs=1e-12)


def test_paired_test_equals_the_definition_and_is_antisymmetric():
    rng = np.random.default_rng(0)
    positive = rng.random(150) < 0.5
    first, second = rng.normal(positive * 1.0, 1, 150), rng.normal(positive * 0.6, 1, 150)
    aurocs, covariance = by_definition(positive, np.stack([first, second]))
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found, reverse = delong_test(positive, first, second), delong_test(positive, second, first)
    assert found.error == pytest.approx(error, abs=1e-12)
    assert found.p == pytest.approx(2 * norm.sf(abs(aurocs[0] - aurocs[1]) / error), abs=1e-12)
    assert reverse.value == -found.value and reverse.p == found.p


def test_the_same_order_is_no_difference():
    positive, score = np.array([True, False, True, False]), np.array([3.0, 1.0, 2.0, 2.5])
    assert delong_test(positive, score, 2 * score + 1) == (0.0, 0.0, 1.0)


def test_limits_stay_inside_and_widen_with_the_level():
    low, high = delong_limits(0.98, 0.0009)
    assert 0 < low < 0.98 < high < 1
    wider = delong_limits(0.98, 0.0009, 0.99)
    assert wider[0] < low and wider[1] > high


def test_too_few_cases_are_named():
    with pytest.raises(MedcoreError, match="got 1 and 2"):
        delong(np.array([True, False, False]), np.zeros(3))


@pytest.mark.parametrize("repeats", [1, 3])
def test_within_folds_only_pairs_of_a_fold_count(repeats):
    """Every pair of one fold compared, one by one; patients may be left out by their weight."""
    rng = np.random.default_rng(repeats)
    positive, group = rng.random(40) < 0.4, np.arange(40) // 2
    scores, folds = np.round(rng.normal(size=(repeats, 40)), 1), rng.integers(0, 4, (repeats, 40))
    weights = np.stack([np.ones(20), rng.integers(0, 3, 20)]).astype(float)
    found = auroc_within_folds(positive, scores, folds, group, 20)(weights)
    for row, weight in enumerate(weights[:, group]):
        each = []
        for score, fold in zip(scores, folds, strict=True):
            pairs = [(i, j) for i in np.flatnonzero(positive) for j in np.flatnonzero(~positive) if fold[i] == fold[j]]
            won = [weight[i] * weight[j] * ((score[i] > score[j]) + 0.5 * (score[i] == score[j])) for i, j in pairs]
            each.append(sum(won) / sum(weight[i] * weight[j] for i, j in pairs))
        assert found[row] == pytest.approx(np.mean(each), abs=1e-12)
