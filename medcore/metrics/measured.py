"""How well a measured value is stated: errors, R², agreement (Bland–Altman) and the line of truth over answer.

Every metric is a function of sums over the cases, so that a resample or a left-out patient costs one matrix product:

    sums = moments(truth, stated).sum(0)       # (MOMENTS,)
    mae(sums), r2(sums)

Errors are answer minus truth. Works on numpy arrays and tensors, sums along the last axis.

**Reference** Bland & Altman 1986, doi:10.1016/S0140-6736(86)90837-8.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medcore.metrics.confusion import Array

MOMENTS = 8  # count, |error|, error, error², truth, truth², stated², truth × stated
LIMITS = 1.96  # spreads of the error between which 95 % of normal errors lie


def moments(truth: Array, stated: Array) -> Array:
    """What is summed, of each case. **Shape** ``(N,)`` twice to ``(N, MOMENTS)``."""
    error = stated - truth
    parts = [truth * 0 + 1, abs(error), error, error**2, truth, truth**2, stated**2, truth * stated]
    if isinstance(truth, np.ndarray):
        return np.stack(parts, axis=-1)
    import torch  # a tensor came in, so it is loaded already

    return torch.stack(parts, dim=-1)


def mae(sums: Array) -> Array:
    """Mean absolute error."""
    return sums[..., 1] / sums[..., 0]


def bias(sums: Array) -> Array:
    """Mean error: above zero, answers are too high."""
    return sums[..., 2] / sums[..., 0]


def rmse(sums: Array) -> Array:
    """Root of the mean squared error."""
    return (sums[..., 3] / sums[..., 0]) ** 0.5


def r2(sums: Array) -> Array:
    """Share of the truth's variance that is explained: 0 for its own mean, below it for worse."""
    return 1 - sums[..., 3] / (sums[..., 5] - sums[..., 4] ** 2 / sums[..., 0])


def lower_limit(sums: Array) -> Array:
    """Lower limit of agreement: bias minus 1.96 standard deviations of the error."""
    return bias(sums) - LIMITS * _spread(sums)


def upper_limit(sums: Array) -> Array:
    """Upper limit of agreement: bias plus 1.96 standard deviations of the error."""
    return bias(sums) + LIMITS * _spread(sums)


def slope(sums: Array) -> Array:
    """Slope of the truth over the answer: below 1, answers are spread too far."""
    count, truth = sums[..., 0], sums[..., 4]
    stated = truth + sums[..., 2]
    varies = sums[..., 6] - stated**2 / count
    return (sums[..., 7] - stated * truth / count) / (varies * (varies > 1e-12 * sums[..., 6]))


def _spread(sums: Array) -> Array:
    count = sums[..., 0]
    return ((sums[..., 3] - sums[..., 2] ** 2 / count) / (count - 1)) ** 0.5


MEASURED: dict[str, Callable[[Array], Array]] = {
    "mae": mae, "rmse": rmse, "r2": r2, "bias": bias, "lower_limit_of_agreement": lower_limit,
    "upper_limit_of_agreement": upper_limit, "calibration_slope": slope,
}  # fmt: skip
