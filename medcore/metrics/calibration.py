"""Is a stated probability true? Calibration error without the part that chance alone makes, slope and intercept.

The plain expected calibration error is above zero for the best calibrated model: with few cases a bin's share of hits
strays from its truth. Here the squares of the gaps are freed of their own variance, which cases of one patient share.

**Reference** Bröcker 2012, doi:10.1007/s00382-011-1191-1; Kumar, Liang & Ma 2019, arXiv:1909.10155 (debiasing);
Nixon et al. 2019, arXiv:1904.01685 (bins of equal mass).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from medcore.errors import MedcoreError

BINS = 10
SUREST = 1e-6  # stated probabilities are kept so far from 0 and 1 where their logit is needed


class SquaredError(NamedTuple):
    """Mean squared gap between stated and observed shares over bins, and what chance alone would make of it.

    ``plain`` holds the chance part, ``chance`` is its expectation and ``spread`` the sum of squares of its parts
    (eigenvalues), so that ``plain - chance`` is unbiased.
    """

    plain: float
    chance: float
    spread: float


def squared_calibration_error(
    probability: np.ndarray, outcome: np.ndarray, group: np.ndarray | None = None, *, bins: int = BINS
) -> SquaredError:
    """Squared gaps over bins of equal mass, with their variance between patients.

    Args:
        probability: Stated, 0 to 1. **Shape** ``(N,)``.
        outcome: Whether it was so. **Shape** ``(N,)``.
        group: Patient index of each case; each case its own by default. **Shape** ``(N,)``.
    """
    probability, outcome = checked_probabilities(probability, outcome)
    index = equal_mass_bins(probability, bins)
    group = np.arange(len(index)) if group is None else group
    cases, patients = np.bincount(index), int(group.max()) + 1
    gap = np.bincount(index, outcome - probability) / cases
    rest = outcome - probability - gap[index]
    cell = group * len(cases) + index
    sums = np.bincount(cell, rest, patients * len(cases)).reshape(patients, len(cases)) / cases
    scaled = sums * np.sqrt(cases / len(index))  # so that the squares of a patient's row add up to its share
    rest_of = max(patients - 1, 1)
    covariance = scaled.T @ scaled * patients / rest_of
    chance = float(np.trace(covariance))
    # the squares of a sample covariance are too large on average; this is unbiased (Bai & Saranadasa 1996)
    spread = rest_of**2 / max((rest_of - 1) * (rest_of + 2), 1) * ((covariance**2).sum() - chance**2 / rest_of)
    plain = float((cases * gap**2).sum() / len(index))
    return SquaredError(plain, chance, float(np.clip(spread, chance**2 / len(cases), chance**2)))


def calibration_error(
    probability: np.ndarray, outcome: np.ndarray, group: np.ndarray | None = None, *, bins: int = BINS
) -> float:
    """Root mean squared gap between stated and observed beyond chance, 0 to 1; arguments as above."""
    found = squared_calibration_error(probability, outcome, group, bins=bins)
    return float(np.sqrt(max(0.0, found.plain - found.chance)))


class Line(NamedTuple):
    """A logistic recalibration: its coefficients, and the coefficients without each patient ``(P, ...)``."""

    value: np.ndarray
    left_out: np.ndarray


def calibration_line(probability: np.ndarray, outcome: np.ndarray, group: np.ndarray, *, slope: bool) -> Line:
    """Logistic regression of what happened on the logit of what was stated.

    Args:
        probability: Stated, 0 to 1. **Shape** ``(N,)``.
        outcome: Whether it was so, both kinds. **Shape** ``(N,)``.
        group: Patient index of each case. **Shape** ``(N,)``.
        slope: Fit intercept and slope (1 is right, below is overconfident); else the intercept at slope 1 (0 is right,
            below means that stated probabilities are too high).

    Returns:
        Intercept, or intercept and slope; without each patient by one Newton step.

    **Reference** Cox 1958, doi:10.1093/biomet/45.3-4.562; Van Calster et al. 2019, doi:10.1186/s12916-019-1466-7.
    """
    probability, outcome = checked_probabilities(probability, outcome)
    stated = logit(np.clip(probability, SUREST, 1 - SUREST))
    design = np.stack([np.ones_like(stated), stated], 1) if slope else np.ones((len(stated), 1))
    offset = np.zeros_like(stated) if slope else stated
    value, patients = np.zeros(design.shape[1]), int(group.max()) + 1
    for _ in range(50):
        likely = expit(offset + design @ value)
        hessian = (design * (likely * (1 - likely))[:, None]).T @ design
        step = np.linalg.lstsq(hessian, design.T @ (outcome - likely), rcond=None)[0]
        value = value + np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-10:
            break
    likely = expit(offset + design @ value)
    weight, miss = likely * (1 - likely), outcome - likely
    score = np.stack([np.bincount(group, miss * column, patients) for column in design.T], 1)  # (P, k)
    pairs = [[np.bincount(group, weight * a * b, patients) for a in design.T] for b in design.T]
    own = np.moveaxis(np.array(pairs), -1, 0)  # (P, k, k)
    remaining = own.sum(0) - own
    left_out = value - (np.linalg.pinv(remaining) @ score[..., None])[..., 0]
    return Line(value, left_out)


def checked_probabilities(probability: np.ndarray, outcome: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64.

    Raises:
        MedcoreError: A probability is outside 0…1, lengths differ, or there is no case.
    """
    probability, outcome = np.asarray(probability, dtype=float), np.asarray(outcome, dtype=float)
    if probability.shape != outcome.shape or probability.ndim != 1 or not len(probability):
        raise MedcoreError(
            f"calibration: probability {probability.shape} and outcome {outcome.shape} must be equally long, not empty"
        )
    outside = np.flatnonzero(~((probability >= 0) & (probability <= 1)))
    if len(outside):
        raise MedcoreError(
            f"calibration: probability[{outside[0]}] is {probability[outside[0]]}, not between 0 and 1; "
            "apply softmax or sigmoid to logits first"
        )
    return probability, outcome


def equal_mass_bins(probability: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each case: equal numbers as far as equal probabilities stay together. Bins are numbered without gaps."""
    if bins < 1:
        raise MedcoreError(f"calibration: bins={bins} must be at least 1")
    values, inverse, counts = np.unique(probability, return_inverse=True, return_counts=True)
    middle = counts.cumsum() - counts / 2
    wanted = np.minimum((middle * bins / counts.sum()).astype(int), bins - 1)
    return np.unique(wanted, return_inverse=True)[1][inverse]
