"""The interval behind every patient-level estimate: leave out one patient at a time, then Student's t.

- The variance is the delete-one-patient jackknife: it sees all correlation inside a patient, whatever it is.
- The scale is the logit (for values between -1 and 1 that of the rescaled value, Fisher's z), because values near
  1 have skewed errors.
- The degrees of freedom are estimated: at most patients - 1, fewer when few patients carry most of the variance.
  A cohort of 40 patients, of whom two bring half of the patches, is not a cohort of 40.

**Reference** Jackknife: Efron & Stein 1981, doi:10.1214/aos/1176345462; clustered AUROC: Obuchowski 1997,
doi:10.2307/2533958; degrees of freedom: Satterthwaite 1946, doi:10.2307/3002019.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student


def jackknife_limits(
    value: float,
    left_out: np.ndarray,
    members: Sequence[np.ndarray] = (),
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    level: float = 0.95,
) -> tuple[float, float] | None:
    """The interval, or None when the patients show no spread or the value sits at a bound.

    Args:
        value: On all patients.
        left_out: Values without one patient each. **Shape** ``(P,)``, P at least 2.
        members: For each part of the cases (a class), which patients have it. Each **Shape** ``(P,)`` bool.
        bounds: Smallest and largest possible value; None computes on the plain scale.
        level: Confidence level.
    """
    influence = left_out.mean() - left_out
    error = float(np.sqrt((len(influence) - 1) / len(influence) * (influence**2).sum()))
    tiny = 1e-12 * max(1.0, abs(value))
    if error <= tiny or (bounds is not None and not bounds[0] + tiny < value < bounds[1] - tiny):
        return None
    quantile = student.ppf(0.5 + level / 2, degrees_of_freedom(influence, members))
    if bounds is None:
        return value - quantile * error, value + quantile * error
    low, width = bounds[0], bounds[1] - bounds[0]
    share = (value - low) / width
    half = quantile * error / width / (share * (1 - share))
    return low + width * float(expit(logit(share) - half)), low + width * float(expit(logit(share) + half))


def degrees_of_freedom(influence: np.ndarray, members: Sequence[np.ndarray] = ()) -> float:
    """How many independent deviations stand behind a jackknife variance, 1 to P - 1.

    Args:
        influence: Deviation that each patient causes, mean 0, not all 0. **Shape** ``(P,)``.
        members: For each part of the cases, which patients have it: a part with few patients brings few degrees
            (Welch), however many patients lack it. Each **Shape** ``(P,)`` bool.
    """
    squares, patients = influence**2, len(influence)
    concentration = (squares**2).sum() / squares.sum() ** 2  # 1 / P when all weigh the same, 1 for one patient
    normal = 2 / max(concentration - 1 / patients, 1e-12)
    return float(np.clip(min([normal, *(_welch(squares, part) for part in members)]), 1, patients - 1))


def _welch(squares: np.ndarray, part: np.ndarray) -> float:
    inside, outside = squares[part].sum(), squares[~part].sum()
    count, rest = part.sum(), (~part).sum()
    return squares.sum() ** 2 / max(inside**2 / max(1, count - 1) + outside**2 / max(1, rest - 1), 1e-300)
