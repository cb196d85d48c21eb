"""Counts: Wilson's interval, McNemar's exact test, and multinomial resampling of a confusion matrix."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, norm

from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate, not_estimable
from medcore.metrics.confusion import FROM_MINUS_ONE, metric_function


class McNemar(NamedTuple):
    """``first_only`` and ``second_only`` count the cases that only one of the two got right; ``p`` is two-sided."""

    first_only: int
    second_only: int
    p: float


def wilson_limits(
    successes: float, n: float, level: float = 0.95, *, quantile: float | None = None
) -> tuple[float, float]:
    """Wilson's score interval of a proportion; honest at 0 and 1.

    Args:
        successes: 0 to n; may be fractional when n is an effective number.
        n: Above 0.
        level: Confidence level.
        quantile: Replaces the normal quantile, for instance by one of Student's t.

    Raises:
        MedcoreError: The counts are impossible.

    **Reference** Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    if not (n > 0 and 0 <= successes <= n):
        raise MedcoreError(f"wilson: {successes} successes of n = {n} are impossible")
    z = norm.ppf(0.5 + level / 2) if quantile is None else quantile
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return float(low), float(high)


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
    """Exact McNemar test: do two methods differ in how often they are right on the same independent cases?

    Args:
        first_right: Whether the first was right. **Shape** ``(N,)``.
        second_right: Whether the second was right. **Shape** ``(N,)``.

    Raises:
        MedcoreError: The lengths differ.

    **Reference** McNemar 1947, doi:10.1007/BF02295996.
    """
    first, second = np.asarray(first_right, dtype=bool), np.asarray(second_right, dtype=bool)
    if first.shape != second.shape:
        raise MedcoreError(f"mcnemar: first_right has shape {first.shape}, second_right {second.shape}")
    only, other = int((first & ~second).sum()), int((~first & second).sum())
    return McNemar(only, other, float(binomtest(only, only + other, 0.5).pvalue) if only + other else 1.0)


def multinomial_interval(
    confusion: np.ndarray,
    metric: str = "balanced_accuracy",
    *,
    positive: int = 1,
    unit: str = "patch",
    split: str = "test",
    level: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Estimate:
    """Interval of any confusion-matrix metric when only the matrix is known, by drawing matrices like it.

    It takes every case as independent; with several cases per patient use ``intervals.interval``.

    Args:
        confusion: Counts, rows = truth. **Shape** ``(K, K)``.
        metric: Such as ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``kappa``, ``mcc``.
        positive: The class that one-class metrics (``f1``, ``ppv``, ...) speak of.
        unit: What was counted.
        split: Which side.
        level: Confidence level.
        resamples: Matrices drawn.
        seed: Of the draw.

    Raises:
        MedcoreError: The matrix is not square or holds something else than counts.
    """
    matrix = np.asarray(confusion)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or (matrix < 0).any() or (matrix % 1 != 0).any():
        raise MedcoreError(f"multinomial_interval: confusion must be a square matrix of counts, got {matrix.tolist()}")
    n, function = int(matrix.sum()), metric_function(metric, positive)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(function(matrix.astype(float))) if n else np.nan
        if not np.isfinite(value):
            return not_estimable(metric, f"{metric} has no value here (0/0)", n=n, unit=unit, split=split, level=level)
        drawn = np.random.default_rng(seed).multinomial(n, matrix.ravel() / n, resamples)
        values = function(drawn.reshape(-1, *matrix.shape).astype(float))
    values = values[np.isfinite(values)]
    if value in (1.0, -1.0 if metric in FROM_MINUS_ONE else 0.0):
        low, high = extreme_limits(value, n, (-1.0, 1.0) if metric in FROM_MINUS_ONE else (0.0, 1.0), level)
        return Estimate(metric, value, low, high, n, unit, split, level, "Wilson, each case once (at the limit)")
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(metric, value, low, high, n, unit, split, level, f"multinomial, {resamples} matrices")


def extreme_limits(value: float, n: float, bounds: tuple[float, float], level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a value at (or without spread inside) its bounds, as if n units had been counted."""
    low, width = bounds[0], bounds[1] - bounds[0]
    share = min(1.0, max(0.0, (value - low) / width))
    limits = wilson_limits(share * n, n, level)
    return low + width * limits[0], low + width * limits[1]
