"""Curves with bands over patients: ROC, precision-recall, net benefit, and the mean ROC of several folds.

- A curve is plain arrays; ``plots.curves`` and ``plots.calibration`` draw them.
- Bands are pointwise percentiles of a cluster bootstrap over patients: right at each place, not for the whole curve.

    band = roc_band(scores.where("test"))       # grid of false positive rates; value, low, high
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from medcore.errors import MedcoreError
from medcore.evaluation.resampling import group_index, resample_counts
from medcore.evaluation.scores import Scores

GRID = np.linspace(0, 1, 101)
THRESHOLDS = np.linspace(0.01, 0.99, 99)


class Curve(NamedTuple):
    """A curve through all operating points: ``x``, ``y`` and the threshold at each, all ``(T,)``.

    ROC: x = false positive rate, y = sensitivity. Precision-recall: x = recall, y = precision.
    """

    x: np.ndarray
    y: np.ndarray
    threshold: np.ndarray


class Band(NamedTuple):
    """A curve on a fixed grid with its pointwise interval, all ``(G,)``; low and high are None with one patient."""

    x: np.ndarray
    value: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


class DecisionCurve(NamedTuple):
    """Net benefit over threshold probabilities ``(T,)``: of the model, of treating everybody; band of the model."""

    threshold: np.ndarray
    model: np.ndarray
    treat_all: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def roc_curve(positive: np.ndarray, score: np.ndarray) -> Curve:
    """Sensitivity over false positive rate, from (0, 0) to (1, 1).

    Args:
        positive: Whether a case is positive. **Shape** ``(N,)``.
        score: Higher = more likely positive. **Shape** ``(N,)``.

    Raises:
        MedcoreError: Only one kind of case, or none.
    """
    hits, alarms, thresholds = _steps(positive, score, both=True)
    return Curve(alarms / alarms[-1], hits / hits[-1], thresholds)


def precision_recall_curve(positive: np.ndarray, score: np.ndarray) -> Curve:
    """Precision over recall, from the highest threshold to the lowest; its step-wise area is the average precision.

    Args:
        positive: Whether a case is positive. **Shape** ``(N,)``.
        score: Higher = more likely positive. **Shape** ``(N,)``.

    Raises:
        MedcoreError: There is no positive case.
    """
    hits, alarms, thresholds = _steps(positive, score, both=False)
    precision = hits[1:] / (hits[1:] + alarms[1:])
    return Curve(np.append(0.0, hits[1:] / hits[-1]), np.append(precision[0], precision), thresholds)


def roc_band(
    scores: Scores, *, grid: np.ndarray = GRID, level: float = 0.95, resamples: int = 400, seed: int = 0
) -> Band:
    """Sensitivity at fixed false positive rates with its interval.

    Args:
        scores: Two classes.
        grid: False positive rates. **Shape** ``(G,)``.
        level: Confidence level.
        resamples: Bootstrap resamples.
        seed: Of the bootstrap.

    Raises:
        MedcoreError: Only one class has cases.
    """
    _steps(scores.positive, scores.positive_score, both=True)
    return _band(scores, _sensitivity_at, grid, level, resamples, seed)


def precision_recall_band(
    scores: Scores, *, grid: np.ndarray = GRID[1:], level: float = 0.95, resamples: int = 400, seed: int = 0
) -> Band:
    """Precision at fixed recalls (the best at that recall or above) with its interval.

    Args:
        scores: Two classes.
        grid: Recalls, above 0. **Shape** ``(G,)``.
        level: Confidence level.
        resamples: Bootstrap resamples.
        seed: Of the bootstrap.

    Raises:
        MedcoreError: There is no positive case.
    """
    _steps(scores.positive, scores.positive_score, both=False)
    return _band(scores, _precision_at, grid, level, resamples, seed)


def mean_roc(folds: Sequence[Scores], *, grid: np.ndarray = GRID, level: float = 0.95) -> Band:
    """The ROC curves of several folds averaged at each false positive rate, with the spread between folds.

    The band is Student's interval over folds. Folds share training data, so it shows stability, not uncertainty about
    new patients: that is ``roc_band`` of all out-of-fold scores.

    Args:
        folds: Scores of each fold's held-out cases, two classes.
        grid: False positive rates. **Shape** ``(G,)``.
        level: Confidence level.

    Raises:
        MedcoreError: No fold, or a fold with one class only.

    **Reference** Fawcett 2006 (vertical averaging), doi:10.1016/j.patrec.2005.10.010.
    """
    if not folds:
        raise MedcoreError("mean_roc: there is no fold")
    curves = np.array([_sensitivity_of_fold(fold, grid) for fold in folds])
    value = curves.mean(axis=0)
    if len(folds) < 2:
        return Band(grid, value, None, None)
    half = student.ppf(0.5 + level / 2, len(folds) - 1) * curves.std(axis=0, ddof=1) / np.sqrt(len(folds))
    return Band(grid, value, np.clip(value - half, 0, 1), np.clip(value + half, 0, 1))


def decision_curve(
    scores: Scores,
    *,
    thresholds: np.ndarray = THRESHOLDS,
    level: float = 0.95,
    resamples: int = 400,
    seed: int = 0,
) -> DecisionCurve:
    """Is acting on the model better than treating everybody or nobody? Net benefit per case, with its band.

    Args:
        scores: Two classes; the score is a probability, 0 to 1.
        thresholds: Threshold probabilities, strictly between 0 and 1. **Shape** ``(T,)``.
        level: Confidence level.
        resamples: Bootstrap resamples over patients.
        seed: Of the bootstrap.

    Raises:
        MedcoreError: A score is no probability, or there are no cases.

    **Reference** Vickers & Elkin 2006, doi:10.1177/0272989X06295361.
    """
    probability, positive = scores.positive_score, scores.positive
    if not len(scores) or probability.min() < 0 or probability.max() > 1:
        seen = f"{probability.min():g} to {probability.max():g}" if len(scores) else "no cases"
        raise MedcoreError(f"decision_curve: scores must be probabilities between 0 and 1, got {seen}; calibrate first")
    odds = thresholds / (1 - thresholds)
    called = probability[:, None] >= thresholds
    benefit = called * np.where(positive[:, None], 1.0, -odds)
    group, patients = group_index(scores.patient)
    of_patient = np.stack([np.bincount(group, column, patients) for column in benefit.T], axis=1)
    sizes = np.bincount(group, minlength=patients).astype(float)
    treat_all = positive.mean() - (~positive).mean() * odds
    if patients < 2:
        return DecisionCurve(thresholds, benefit.mean(axis=0), treat_all, None, None)
    counts = resample_counts(patients, resamples, seed=seed)
    values = (counts @ of_patient) / (counts @ sizes)[:, None]
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return DecisionCurve(thresholds, benefit.mean(axis=0), treat_all, low, high)


def _steps(positive: np.ndarray, score: np.ndarray, *, both: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits and false alarms from the highest threshold to the lowest, starting at none. Each **Shape** ``(T,)``."""
    positive, score = np.asarray(positive, dtype=bool), np.asarray(score, dtype=float)
    if not positive.any() or (both and positive.all()):
        missing = "positive" if not positive.any() else "negative"
        raise MedcoreError(f"curve: there is no {missing} case among {len(positive)}, so there is no curve")
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    hits, alarms = positive[order].cumsum()[ends], (~positive[order]).cumsum()[ends]
    return np.append(0, hits), np.append(0, alarms), np.append(np.inf, score[order][ends])


OnGrid = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # hits, alarms (T,), grid (G,) -> (G,)


def _band(scores: Scores, on_grid: OnGrid, grid: np.ndarray, level: float, resamples: int, seed: int) -> Band:
    positive, score = scores.positive, scores.positive_score
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    group, patients = group_index(scores.patient)
    hit, owner = positive[order].astype(float), group[order]

    def curve(counts: np.ndarray) -> np.ndarray:
        weights = counts[owner]
        hits, alarms = (weights * hit).cumsum()[ends], (weights * (1 - hit)).cumsum()[ends]
        return on_grid(np.append(0, hits), np.append(0, alarms), grid)

    value = curve(np.ones(patients))
    if patients < 2:
        return Band(grid, value, None, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.array([curve(counts) for counts in resample_counts(patients, resamples, seed=seed)])
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    if len(drawn) < resamples / 2:
        return Band(grid, value, None, None)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return Band(grid, value, low, high)


def _sensitivity_at(hits: np.ndarray, alarms: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Linear between the points; at a vertical step the upper end."""
    return np.interp(grid, alarms / alarms[-1], hits / hits[-1])


def _precision_at(hits: np.ndarray, alarms: np.ndarray, grid: np.ndarray) -> np.ndarray:
    called = hits + alarms
    precision = np.where(called > 0, hits / np.maximum(called, 1e-300), 0.0)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return best[np.minimum(np.searchsorted(hits / hits[-1], grid - 1e-12), len(best) - 1)]


def _sensitivity_of_fold(fold: Scores, grid: np.ndarray) -> np.ndarray:
    hits, alarms, _ = _steps(fold.positive, fold.positive_score, both=True)
    return _sensitivity_at(hits, alarms, grid)
