"""Curves with bands over patients: ROC, net benefit, and the mean ROC of several folds.

- A curve is plain arrays; ``plots.curves`` and ``plots.calibration`` draw them.
- Bands are pointwise percentiles of a cluster bootstrap over patients: right at each place, not for the whole curve.

    band = roc_band(scores.where("test"))       # grid of false positive rates; value, low, high
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from medcore.errors import MedcoreError
from medcore.evaluation.resampling import group_index, resample_counts
from medcore.evaluation.scores import Scores

GRID = np.linspace(0, 1, 101)
THRESHOLDS = np.linspace(0.01, 0.99, 99)


class Curve(NamedTuple):
    """A curve through all operating points: ``x``, ``y`` and the threshold at each, all ``(T,)``.

    x is the false positive rate, y the sensitivity.
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
    hits, alarms, thresholds = _steps(positive, score)
    return Curve(alarms / alarms[-1], hits / hits[-1], thresholds)


def roc_band(
    scores: Scores, *, grid: np.ndarray = GRID, level: float = 0.95, resamples: int = 400, seed: int = 0
) -> Band:
    """Sensitivity at fixed false positive rates with its interval.

    Args:
        grid: False positive rates. **Shape** ``(G,)``.

    Raises:
        MedcoreError: Only one class has cases.
    """
    _steps(scores.positive, scores.positive_score)
    return _band(scores, grid, level, resamples, seed)


def mean_roc(folds: Sequence[Scores], *, grid: np.ndarray = GRID, level: float = 0.95) -> Band:
    """The ROC curves of several folds averaged at each false positive rate, with the spread between folds.

    The band is Student's interval over folds. Folds share training data, so it shows stability, not uncertainty about
    new patients: that is ``roc_band`` of all out-of-fold scores.

    Args:
        folds: Scores of each fold's held-out cases, two classes.
        grid: False positive rates. **Shape** ``(G,)``.

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
    half = stdtrit(len(folds) - 1, 0.5 + level / 2) * curves.std(axis=0, ddof=1) / np.sqrt(len(folds))
    return Band(grid, value, np.clip(value - half, 0, 1), np.clip(value + half, 0, 1))


def decision_curve(
    scores: Scores,
    *,
    level: float = 0.95,
    resamples: int = 400,
    seed: int = 0,
) -> DecisionCurve:
    """Is acting on the model better than treating everybody or nobody? Net benefit per case, with its band.

    Args:
        scores: Two classes; the score is a probability, 0 to 1.

    Raises:
        MedcoreError: A score is no probability, or there are no cases.

    **Reference** Vickers & Elkin 2006, doi:10.1177/0272989X06295361.
    """
    probability, positive = scores.positive_score, scores.positive
    if not len(scores) or probability.min() < 0 or probability.max() > 1:
        seen = f"{probability.min():g} to {probability.max():g}" if len(scores) else "no cases"
        raise MedcoreError(f"decision_curve: scores must be probabilities between 0 and 1, got {seen}; calibrate first")
    odds = THRESHOLDS / (1 - THRESHOLDS)
    called = probability[:, None] >= THRESHOLDS
    benefit = called * np.where(positive[:, None], 1.0, -odds)
    group, patients = group_index(scores.patient)
    of_patient = np.stack([np.bincount(group, column, patients) for column in benefit.T], axis=1)
    sizes = np.bincount(group, minlength=patients).astype(float)
    treat_all = positive.mean() - (~positive).mean() * odds
    if patients < 2:
        return DecisionCurve(THRESHOLDS, benefit.mean(axis=0), treat_all, None, None)
    counts = resample_counts(patients, resamples, seed=seed)
    values = (counts @ of_patient) / (counts @ sizes)[:, None]
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return DecisionCurve(THRESHOLDS, benefit.mean(axis=0), treat_all, low, high)


def _steps(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits and false alarms from the highest threshold to the lowest, starting at none. Each **Shape** ``(T,)``."""
    positive, score = np.asarray(positive, dtype=bool), np.asarray(score, dtype=float)
    if not positive.any() or positive.all():
        missing = "positive" if not positive.any() else "negative"
        raise MedcoreError(f"curve: there is no {missing} case among {len(positive)}, so there is no curve")
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    hits, alarms = positive[order].cumsum()[ends], (~positive[order]).cumsum()[ends]
    return np.append(0, hits), np.append(0, alarms), np.append(np.inf, score[order][ends])


def _band(scores: Scores, grid: np.ndarray, level: float, resamples: int, seed: int) -> Band:
    positive, score = scores.positive, scores.positive_score
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    group, patients = group_index(scores.patient)
    hit, owner = positive[order].astype(float), group[order]

    def curve(counts: np.ndarray) -> np.ndarray:
        weights = counts[owner]
        hits, alarms = (weights * hit).cumsum()[ends], (weights * (1 - hit)).cumsum()[ends]
        return _sensitivity_at(np.append(0, hits), np.append(0, alarms), grid)

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


def _sensitivity_of_fold(fold: Scores, grid: np.ndarray) -> np.ndarray:
    hits, alarms, _ = _steps(fold.positive, fold.positive_score)
    return _sensitivity_at(hits, alarms, grid)
