"""How well a score orders cases: AUROC and average precision, exact, for resamples and from histograms; DeLong.

- A ``Statistic`` sorts once and then takes thousands of patient weights, in numpy or torch: for the bootstrap (counts),
  the jackknife (one patient at 0) and the value itself (all ones). Ties count one half in the AUROC, and form one step
  of the average precision.
- DeLong's variance, single and paired, holds for independent cases (one per patient).

**Reference** DeLong et al. 1988, doi:10.2307/2531595; Sun & Xu 2014 (the fast form), doi:10.1109/LSP.2014.2337313.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medcore.errors import MedcoreError
from medcore.metrics.confusion import Array

if TYPE_CHECKING:
    from torch import Tensor

Statistic = Callable[[Array], Array]
"""Patient weights ``(R, P)``, not negative, to values ``(R,)``; NaN where a resample has no value."""
SCORE_BINS = 1000  # of probabilities: the AUROC of an epoch is then right to about 0.0005


def auroc_statistic(positive: np.ndarray, score: np.ndarray, group: np.ndarray, patients: int) -> Statistic:
    """Area under the ROC curve; ties count one half.

    Args:
        positive: Whether a case is positive. **Shape** ``(N,)`` bool.
        score: Higher = more likely positive. **Shape** ``(N,)``.
        group: Patient index of each case. **Shape** ``(N,)``.
    """
    positive = np.asarray(positive, dtype=bool)
    if patients**2 <= 4 * len(positive):
        return _auroc_by_pairs(positive, score, group, patients)
    order = np.argsort(score[~positive], kind="stable")
    negative_scores, of_negative = score[~positive][order], group[~positive][order]
    below = np.searchsorted(negative_scores, score[positive], "left")
    upto = np.searchsorted(negative_scores, score[positive], "right")
    of_positive = group[positive]
    tied = bool((below != upto).any())

    def auroc(weights: Array) -> Array:
        mass = _cumulated(columns(weights, of_negative))
        own = columns(weights, of_positive)
        beaten = (columns(mass, below) + columns(mass, upto)) / 2 if tied else columns(mass, below)
        return (own * beaten).sum(1) / (own.sum(1) * mass[:, -1])

    return auroc


def auroc_within_folds(
    positive: np.ndarray, scores: np.ndarray, folds: np.ndarray, group: np.ndarray, patients: int
) -> Statistic:
    """Share of (positive, negative) pairs of one fold in the right order, a mean over repeats of the folds.

    Scores of different folds come from different models, so that only cases of one fold can be ranked.

    Args:
        positive: Whether a case is positive. **Shape** ``(N,)`` bool.
        scores: What each repeat said, comparable within a fold. **Shape** ``(R, N)``.
        folds: Fold of each case in each repeat. **Shape** ``(R, N)``.
        group: Patient index of each case. **Shape** ``(N,)``.

    **Reference** Forman & Scholz 2010, doi:10.1145/1882471.1882479.
    """
    repeats = []
    for score, fold in zip(scores, folds, strict=True):
        inside = [fold == k for k in np.unique(fold)]
        parts = [_pairs(positive[own], score[own], group[own], patients) for own in inside]
        repeats.append([np.sum(of, axis=0) for of in zip(*parts, strict=True)])

    def auroc(weights: Array) -> Array:
        each = [_weighted(weights, wins) / _weighted(weights, pairs) for wins, pairs in repeats]
        return sum(each) / len(each)

    return auroc


def within_fold_auroc(
    positive: np.ndarray, score: np.ndarray, fold: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """``auroc_within_folds`` of one repeat of independent cases; NaN where no fold has both kinds.

    Args:
        positive: Whether a case is positive. **Shape** ``(N,)``.
        score: Higher = more likely positive; comparable within a fold only. **Shape** ``(N,)``.
        fold: **Shape** ``(N,)``.
        weight: Of each case, 1 by default. **Shape** ``(N,)``.
    """
    count = len(score)
    statistic = auroc_within_folds(np.asarray(positive) == 1, score[None], fold[None], np.arange(count), count)
    with np.errstate(invalid="ignore"):
        return float(statistic(np.ones((1, count)) if weight is None else np.asarray(weight, dtype=float)[None])[0])


def _auroc_by_pairs(positive: np.ndarray, score: np.ndarray, group: np.ndarray, patients: int) -> Statistic:
    """With few patients, count once how often a positive of patient i beats a negative of patient j."""
    wins, pairs = _pairs(positive, score, group, patients)
    return lambda weights: _weighted(weights, wins) / _weighted(weights, pairs)


def _pairs(positive: np.ndarray, score: np.ndarray, group: np.ndarray, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """How often positives of patient i beat negatives of patient j, of how many pairs. Each **Shape** ``(P, P)``."""
    wins = np.zeros((patients, patients))
    ranked, owner = score[positive], group[positive]
    for j in np.unique(group[~positive]):
        negatives = np.sort(score[~positive & (group == j)])
        beaten = np.searchsorted(negatives, ranked, "left") + np.searchsorted(negatives, ranked, "right")
        wins[:, j] = np.bincount(owner, beaten / 2, patients)
    counts = [np.bincount(of, minlength=patients).astype(float) for of in (owner, group[~positive])]
    return wins, np.outer(*counts)


def _weighted(weights: Array, table: np.ndarray) -> Array:
    return ((weights @ like(table, weights)) * weights).sum(1)


def average_precision_statistic(positive: np.ndarray, score: np.ndarray, group: np.ndarray) -> Statistic:
    """Average precision (step-wise area under the precision-recall curve); tied scores form one step.

    Args:
        positive: Whether a case is positive. **Shape** ``(N,)`` bool.
        score: Higher = more likely positive. **Shape** ``(N,)``.
        group: Patient index of each case. **Shape** ``(N,)``.
    """
    order = np.argsort(-np.asarray(score), kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    owner, hit = group[order], np.asarray(positive)[order].astype(float)

    def average_precision(weights: Array) -> Array:
        expanded = columns(weights, owner)
        called = columns(_cumulated(expanded), ends + 1)
        found = columns(_cumulated(expanded * like(hit, weights)), np.append(0, ends + 1))
        precision = found[:, 1:] / (called + (called == 0))
        return ((found[:, 1:] - found[:, :-1]) * precision).sum(1) / found[:, -1]

    return average_precision


def like(values: np.ndarray, other: Array) -> Array:
    """``values`` as the same kind of array as ``other``, on its device."""
    return values if isinstance(other, np.ndarray) else other.new_tensor(values)


def columns(values: Array, chosen: np.ndarray) -> Array:
    """Some columns; ``take`` is twice as fast as indexing in numpy."""
    return values.take(chosen, 1) if isinstance(values, np.ndarray) else values[:, chosen]


def _cumulated(weights: Array) -> Array:
    """Running sums that start at 0. **Shape** ``(R, N)`` to ``(R, N + 1)``."""
    if isinstance(weights, np.ndarray):
        total = np.zeros((weights.shape[0], weights.shape[1] + 1))
        np.cumsum(weights, axis=1, out=total[:, 1:])
        return total
    import torch  # a tensor came in, so it is loaded already

    return torch.cat([weights.new_zeros((weights.shape[0], 1)), weights.cumsum(1)], 1)


def score_histogram(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Histograms of each class's probability: others, members. **Shape** ``(B, K), (B,) -> (K, 2, bins)``.

    Labels of **Shape** ``(B, K)`` say of each class 1 (member), 0 (other) or less (unknown: not counted).
    """
    import torch  # the numpy path needs none

    classes = probabilities.shape[1]
    bins = (probabilities * SCORE_BINS).long().clamp_(0, SCORE_BINS - 1)
    classes_row = torch.arange(classes, device=labels.device)
    member = (labels[:, None] == classes_row).long() if labels.ndim == 1 else (labels == 1).long()  # (B, K)
    known = torch.ones_like(member) if labels.ndim == 1 else (labels >= 0).long()
    cells = (classes_row * 2 + member) * SCORE_BINS + bins
    counts = torch.zeros(classes * 2 * SCORE_BINS, dtype=torch.int64, device=labels.device)
    counts.scatter_add_(0, cells.flatten(), known.flatten())
    return counts.reshape(classes, 2, SCORE_BINS)


def auroc_from_histogram(histogram: np.ndarray) -> float:
    """Mean one-versus-rest AUROC, NaN when no class has both sides. **Shape** ``(K, 2, bins)``.

    Equal bins count as ties, half each, as in the Mann–Whitney statistic.
    """
    others, members = histogram[:, 0], histogram[:, 1]
    below = np.cumsum(others, 1) - others
    wins = ((below + others / 2) * members).sum(1)
    pairs = others.sum(1) * members.sum(1)
    known = pairs > 0
    return float(np.mean(wins[known] / pairs[known])) if known.any() else float("nan")


class DeLong(NamedTuple):
    """AUROCs of M scores on the same cases: ``auroc (M,)`` and their ``covariance (M, M)``."""

    auroc: np.ndarray
    covariance: np.ndarray


class Difference(NamedTuple):
    """Two AUROCs compared: ``value`` (first minus second), its standard ``error``, two-sided ``p``."""

    value: float
    error: float
    p: float


def delong(positive: np.ndarray, scores: np.ndarray) -> DeLong:
    """AUROC and DeLong covariance of one or several scores.

    Args:
        positive: Whether a case is positive; at least two are and two are not. **Shape** ``(N,)``.
        scores: Higher = more likely positive. **Shape** ``(N,)`` or ``(M, N)``.

    Raises:
        MedcoreError: Fewer than two positive or two negative cases.
    """
    from scipy.stats import rankdata

    positive, scores = np.asarray(positive, dtype=bool), np.atleast_2d(np.asarray(scores, dtype=float))
    m, n = int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        raise MedcoreError(f"delong: needs two positive and two negative cases, got {m} and {n}")
    ranks = rankdata(scores, axis=1)
    beaten = (ranks[:, positive] - rankdata(scores[:, positive], axis=1)) / n  # of each positive
    beating = 1 - (ranks[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / m  # of each negative
    covariance = np.atleast_2d(np.cov(beaten)) / m + np.atleast_2d(np.cov(beating)) / n
    return DeLong(beaten.mean(axis=1), covariance)


def delong_limits(auroc: float, variance: float, level: float = 0.95) -> tuple[float, float]:
    """The interval on the logit scale, so that it stays between 0 and 1.

    Args:
        auroc: Strictly between 0 and 1.

    **Reference** Qin & Hotilovac 2008, doi:10.1177/0962280207087173.
    """
    from scipy.special import expit, logit, ndtri

    half = ndtri(0.5 + level / 2) * np.sqrt(variance) / (auroc * (1 - auroc))
    return float(expit(logit(auroc) - half)), float(expit(logit(auroc) + half))


def delong_test(positive: np.ndarray, first: np.ndarray, second: np.ndarray) -> Difference:
    """Do two scores of the same independent cases differ in AUROC?

    Args:
        positive: Whether a case is positive. **Shape** ``(N,)``.
        first: One score. **Shape** ``(N,)``.
        second: The other. **Shape** ``(N,)``.

    Returns:
        The difference, its standard error and the two-sided p (1 when the scores order the cases alike).
    """
    from scipy.special import ndtr

    auroc, covariance = delong(positive, np.stack([first, second]))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    value, error = float(auroc[0] - auroc[1]), float(np.sqrt(max(0.0, variance)))
    return Difference(value, error, float(2 * ndtr(-abs(value) / error)) if error > 1e-15 else float(value == 0))
