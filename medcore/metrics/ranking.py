"""DeLong's variance of the AUROC, single and paired, by midranks: for independent cases (one per patient).

**Reference** DeLong et al. 1988, doi:10.2307/2531595; Sun & Xu 2014 (the fast form), doi:10.1109/LSP.2014.2337313.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from medcore.errors import MedcoreError


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
        variance: DeLong's, above 0.
        level: Confidence level.

    **Reference** Qin & Hotilovac 2008, doi:10.1177/0962280207087173.
    """
    half = norm.ppf(0.5 + level / 2) * np.sqrt(variance) / (auroc * (1 - auroc))
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
    auroc, covariance = delong(positive, np.stack([first, second]))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    value, error = float(auroc[0] - auroc[1]), float(np.sqrt(max(0.0, variance)))
    return Difference(value, error, float(2 * norm.sf(abs(value) / error)) if error > 1e-15 else float(value == 0))
