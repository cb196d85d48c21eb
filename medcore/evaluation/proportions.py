"""Counts: Wilson's interval, McNemar's exact test, and limits of metrics of decisions by an effective number of cases.

For several cases per patient, Wilson's score interval takes ``n / design effect`` cases (Korn & Graubard 1998; Dean &
Pagano 2015). Few patients, or one error, tell little about the design effect: the jackknife's is averaged with what a
moderate correlation within patients (``CORRELATION``) would give, weighted by their degrees of freedom, as Smyth 2004
moderates variances; so one error more or less does not change an interval by leaps. ``benchmarks/INTERVALS.md`` has the
coverage.

**Reference** Korn & Graubard 1998, Survey Methodology 24:193; Dean & Pagano 2015, doi:10.1093/jssam/smv024; Smyth 2004,
doi:10.2202/1544-6115.1027; Satterthwaite 1946, doi:10.2307/3002019 (degrees of freedom of a sum over classes).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from medcore.errors import MedcoreError
from medcore.evaluation.resampling import degrees_of_freedom
from medcore.metrics.confusion import Metric

CORRELATION = 0.2  # between cases of one patient and class, assumed before the data speak
WEIGHT, FEWEST = 2.0, 8.0  # degrees of freedom of that assumption, and fewest of Student's t
STEP = 1e-4  # in cases, of the derivative that is a case's influence


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
        quantile: Replaces the normal quantile, for instance by one of Student's t.

    Raises:
        MedcoreError: The counts are impossible.

    **Reference** Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    if not (n > 0 and 0 <= successes <= n):
        raise MedcoreError(f"wilson: {successes} successes of n = {n} are impossible")
    z = ndtri(0.5 + level / 2) if quantile is None else quantile
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
    from scipy.stats import binomtest

    first, second = np.asarray(first_right, dtype=bool), np.asarray(second_right, dtype=bool)
    if first.shape != second.shape:
        raise MedcoreError(f"mcnemar: first_right has shape {first.shape}, second_right {second.shape}")
    only, other = int((first & ~second).sum()), int((~first & second).sum())
    return McNemar(only, other, float(binomtest(only, only + other, 0.5).pvalue) if only + other else 1.0)


def extreme_limits(value: float, n: float, bounds: tuple[float, float], level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a value at (or without spread inside) its bounds, as if n units had been counted."""
    low, width = bounds[0], bounds[1] - bounds[0]
    share = min(1.0, max(0.0, (value - low) / width))
    limits = wilson_limits(share * n, n, level)
    return low + width * limits[0], low + width * limits[1]


class Effective(NamedTuple):
    """How many independent cases a metric of clustered decisions is worth: ``n``, and ``freedom`` of Student's t."""

    n: float
    freedom: float


def effective_cases(tables: np.ndarray, metric: Metric, bounds: tuple[float, float] = (0.0, 1.0)) -> Effective:
    """The number of independent cases that would vary as much, from patients' confusion matrices.

    Args:
        tables: Counts of each patient, truth down. **Shape** ``(P, K, K)``.
        bounds: Its smallest and largest value.
    """
    matrix, sizes = tables.sum(0), tables.sum(2)  # (K, K), (P, K)
    smooth = smoothed(matrix)
    squares = _squared_influences(smooth, influences(smooth, metric))
    independent, correlated = _variance(squares, sizes, 0.0), _variance(squares, sizes, CORRELATION)
    share = float(np.clip((metric(smooth) - bounds[0]) / (bounds[1] - bounds[0]), 1e-9, 1 - 1e-9))
    varies = independent > 1e-12  # else no decision could move the metric, and its cases are counted
    n = share * (1 - share) * (bounds[1] - bounds[0]) ** 2 / independent if varies else float(matrix.sum())
    per_case = influences(matrix, metric)
    design, freedom = design_effect(
        _left_out_influences(tables, metric, per_case),
        float(np.nansum(matrix * np.where(matrix > 0, per_case, 0) ** 2)),
        correlated / independent if varies else 1.0,
        list(sizes.T > 0),
    )
    if sizes.sum(1).max() > 1:
        return Effective(max(1.0, n / design), freedom)
    variances, counts = squares * sizes.sum(0), sizes.sum(0)  # each class brings as many degrees as it has cases
    total = float((variances**2 / np.maximum(counts - 1, 1)).sum())
    return Effective(max(1.0, n), variances.sum() ** 2 / total if total > 0 else np.inf)


def clustered_limits(
    tables: np.ndarray, metric: Metric, *, bounds: tuple[float, float] = (0.0, 1.0), level: float = 0.95
) -> tuple[float, float]:
    """Wilson's limits with an effective number of cases; arguments as for ``effective_cases``."""
    low, width = bounds[0], bounds[1] - bounds[0]
    share = float(np.clip((metric(tables.sum(0)) - low) / width, 0, 1))
    n, freedom = effective_cases(tables, metric, bounds)
    limits = wilson_limits(share * n, n, level, quantile=float(stdtrit(freedom, 0.5 + level / 2)))
    return low + width * limits[0], low + width * limits[1]


def clustered_difference(
    first: np.ndarray, second: np.ndarray, truth: np.ndarray, group: np.ndarray, metric: Metric, *, level: float = 0.95
) -> tuple[float, float]:
    """Limits of a paired difference of a metric between two methods' decisions on the same cases.

    Args:
        first: Class indexes. **Shape** ``(N,)``.
        group: Patient index of each case. **Shape** ``(N,)``.
    """
    classes, patients = int(max(first.max(), second.max(), truth.max())) + 1, int(group.max()) + 1
    influence, cases = np.zeros(len(truth)), np.zeros(len(truth))
    left_out, flip = np.zeros(patients), np.zeros(classes)
    for sign, decision in ((1, first), (-1, second)):
        tables = tables_of_patients(truth, decision, group, patients, classes)
        matrix = tables.sum(0)
        smooth = smoothed(matrix)
        of_smooth, per_case = influences(smooth, metric), influences(matrix, metric)
        influence = influence + sign * of_smooth[truth, decision]
        cases = cases + sign * per_case[truth, decision]
        left_out = left_out + sign * _left_out_influences(tables, metric, per_case)
        turned = np.where(smooth > 0, (np.diagonal(of_smooth)[:, None] - of_smooth) ** 2, 0).sum(1)
        flip = flip + turned / np.maximum((smooth > 0).sum(1) - 1, 1) / 2  # one pseudo-case that only one gets right
    rows = np.bincount(truth, minlength=classes)
    squares = (np.bincount(truth, np.square(influence), classes) + flip) / (rows + 1)
    sizes = tables.sum(2)
    independent, correlated = _variance(squares, sizes, 0.0), _variance(squares, sizes, CORRELATION)
    design, freedom = design_effect(
        left_out, float(np.square(cases).sum()), correlated / max(independent, 1e-300), list(sizes.T > 0)
    )
    value = float(metric(tables_of_patients(truth, first, group, patients, classes).sum(0)) - metric(tables.sum(0)))
    half = float(stdtrit(freedom, 0.5 + level / 2)) * np.sqrt(design * independent)
    return value - half, value + half


def design_effect(
    influence: np.ndarray, independent: float, assumed: float, members: list[np.ndarray]
) -> tuple[float, float]:
    """By how much patients enlarge a variance, moderated, and the degrees of freedom of Student's t.

    Args:
        influence: Deviation that each patient causes, mean 0. **Shape** ``(P,)``.
        independent: The variance that independent cases would give.
        assumed: The design effect of the assumed correlation.
    """
    patients, jackknife = len(influence), float((influence**2).sum())
    if patients < 2 or jackknife < 1e-20 or independent < 1e-20:
        return max(assumed, 1e-9), FEWEST
    freedom = degrees_of_freedom(influence, [part for part in members if part.any()])
    seen = (patients - 1) / patients * jackknife / independent
    return (freedom * seen + WEIGHT * assumed) / (freedom + WEIGHT), max(freedom + WEIGHT, FEWEST)


def tables_of_patients(
    truth: np.ndarray, decision: np.ndarray, group: np.ndarray, patients: int, classes: int
) -> np.ndarray:
    """Each patient's confusion matrix. **Shape** ``(P, K, K)`` float64."""
    cell = (group * classes + truth) * classes + decision
    return np.bincount(cell, minlength=patients * classes**2).reshape(patients, classes, classes).astype(float)


def influences(matrix: np.ndarray, metric: Metric) -> np.ndarray:
    """How much one more case in a cell would move the metric. **Shape** ``(K, K)`` to ``(K, K)``."""
    cells = np.eye(matrix.size).reshape(-1, *matrix.shape) * STEP
    return ((metric(matrix + cells) - metric(matrix)) / STEP).reshape(matrix.shape)


def smoothed(matrix: np.ndarray) -> np.ndarray:
    """One case more for each class that has any, half of it right, with the class's total kept.

    No metric is then without variance. **Shape** ``(K, K)`` to ``(K, K)``.
    """
    occurs, rows = (matrix.sum(0) + matrix.sum(1)) > 0, matrix.sum(1, keepdims=True)
    others = (occurs | (occurs.sum() < 2))[None, :] & ~np.eye(len(matrix), dtype=bool)
    spread = np.where(others, 0.5 / np.maximum(others.sum(1, keepdims=True), 1), 0.0) + 0.5 * np.eye(len(matrix))
    return (matrix + spread * (rows > 0)) * rows / (rows + 1)


def _squared_influences(matrix: np.ndarray, influence: np.ndarray) -> np.ndarray:
    """Mean square of a case's influence by its true class. **Shape** ``(K,)``."""
    rows = matrix.sum(1)
    squares = np.where(matrix > 0, matrix * influence**2, 0).sum(1)
    return np.where(rows > 0, squares / np.maximum(rows, 1e-300), 0)


def _variance(squares: np.ndarray, sizes: np.ndarray, correlation: float) -> float:
    """Of the metric where cases of a patient and class correlate. **Shape** ``(K,), (P, K)``."""
    return float((squares * (sizes + correlation * sizes * (sizes - 1)).sum(0)).sum())


def _left_out_influences(tables: np.ndarray, metric: Metric, per_case: np.ndarray) -> np.ndarray:
    """What leaving out each patient changes; to first order for one who alone has a class. **Shape** ``(P,)``."""
    matrix = tables.sum(0)
    left = matrix - tables
    with np.errstate(divide="ignore", invalid="ignore"):
        values = metric(left)
    alone = ((matrix.sum(1) > 0) & (left.sum(2) == 0)).any(1) | ~np.isfinite(values)
    first_order = metric(matrix) - (tables * np.where(matrix > 0, per_case, 0)).sum((1, 2))
    values = np.where(alone, first_order, values)
    return values.mean() - values
