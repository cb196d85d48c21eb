"""Is a stated probability true? Calibration error of one column of probabilities."""

from __future__ import annotations

import numpy as np

from medcore.errors import MedcoreError

BINS = 10


def calibration_error(
    probability: np.ndarray, outcome: np.ndarray, *, bins: int = BINS, weights: np.ndarray | None = None
) -> float:
    """Expected calibration error: mean distance of stated and observed over bins of equal mass, 0 to 1.

    Args:
        probability: Stated, 0 to 1. **Shape** ``(N,)``.
        outcome: Whether it was so. **Shape** ``(N,)``.
        bins: At most this many.
        weights: Weights of the cases (for resampling). **Shape** ``(N,)``.

    **Reference** Nixon et al. 2019 (equal-mass bins), arXiv:1904.01685.
    """
    probability, outcome = checked_probabilities(probability, outcome)
    index = equal_mass_bins(probability, bins)
    mass = np.ones(len(index)) if weights is None else np.asarray(weights, dtype=float)
    gap = np.bincount(index, mass * (probability - outcome))
    return float(np.abs(gap).sum() / mass.sum())


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
