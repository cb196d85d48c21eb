"""How many patients? Sample sizes for a precise, a convincing or a well calibrated external validation.

    patients_for_width(0.85, low=0.75, high=0.92, patients=40, half_width=0.05)   # from a finished run's interval
    patients_for_proportion(0.9, half_width=0.05, prevalence=0.3)                 # sensitivity to ±0.05
    patients_to_prove(0.9, expected=0.96, power=0.8, prevalence=0.3)               # lower limit above 0.9
    patients_for_calibration(prevalence=0.3, auroc=0.85)                          # O/E, slope and AUROC

All numbers are of patients with one answer each. From a finished run they already hold how much images of one patient
agree, since the run's interval is over patients.

**Reference**: Riley et al. 2021, doi:10.1002/sim.9025 (external validation, binary outcome); Newcombe 2006,
doi:10.1002/sim.2324 (AUROC); Wilson 1927, doi:10.1080/01621459.1927.10502953.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from scipy.special import expit, logit

from medcore.errors import MedcoreError
from medcore.evaluation.proportions import wilson_limits

MOST = 10_000_000  # patients; a larger answer is none


@dataclass(frozen=True)
class SampleSize:
    """One question and its answer.

    Attributes:
        question: What shall be reached.
        patients: How many patients in all, rounded up; None when no number up to ten million is enough.
        cases: How many of them have the condition, where that is what counts; else None.
        basis: What the number rests on.
    """

    question: str
    patients: int | None
    cases: int | None
    basis: str


def patients_for_width(value: float, low: float, high: float, patients: int, half_width: float) -> SampleSize:
    """Patients for an interval of ±``half_width``, from what a finished run's interval over patients shows.

    The error on the logit scale is taken to fall with the root of the number of patients.

    Args:
        value: The estimate, above 0 and below 1.
        low: Lower end of its 95 % interval.
        patients: How many patients that interval rests on, at least 2.
        half_width: Half the width of the wanted interval, 0 to 0.5.

    Raises:
        MedcoreError: The numbers are no interval of a proportion.
    """
    if not 0 <= low < value < high <= 1 or patients < 2 or not 0 < half_width < 0.5:
        raise MedcoreError(
            f"planning: {value} ({low} to {high}) of {patients} patients and half_width={half_width} do not fit: "
            "give a value between its limits, at least 2 patients and a half width below 0.5"
        )
    ends = np.clip([low, high], 1e-4, 1 - 1e-4)
    spread = (logit(ends[1]) - logit(ends[0])) / 2 * np.sqrt(patients)  # of one patient, in units of 1.96 errors
    reached = _half_width_on_logit(value, half_width)
    count = ceil((spread / reached) ** 2)
    return SampleSize(f"95 % CI of ±{half_width:g}", max(count, 2), None, f"interval of a run over {patients} patients")


def _half_width_on_logit(value: float, half_width: float) -> float:
    """The distance on the logit scale whose interval around a value is twice ``half_width`` wide; by bisection."""
    low, high = 1e-6, 30.0
    for _ in range(100):
        middle = (low + high) / 2
        wide = expit(logit(value) + middle) - expit(logit(value) - middle)
        low, high = (middle, high) if wide < 2 * half_width else (low, middle)
    return low


def patients_for_proportion(expected: float, *, half_width: float, prevalence: float = 1.0) -> SampleSize:
    """Patients for a sensitivity (or any proportion) with a Wilson interval of at most ±``half_width``.

    Args:
        expected: The proportion that is expected, 0 to 1.
        prevalence: Share of the patients in whom it is counted: for a sensitivity, of those with the condition.
    """
    _check(expected=expected, half_width=half_width, prevalence=prevalence)

    def narrow(count: int) -> bool:
        low, high = wilson_limits(expected * count, count)
        return bool(high - low <= 2 * half_width)

    return _scaled(f"{expected:g} to ±{half_width:g} (95 % CI)", _smallest(narrow), prevalence, "Wilson interval")


def patients_to_prove(least: float, *, expected: float, power: float = 0.8, prevalence: float = 1.0) -> SampleSize:
    """Patients so that the 95 % interval's lower end lies above ``least`` with the given power.

    Args:
        least: What shall be shown, such as a sensitivity of 0.9.
        expected: What is expected to be true; it must lie above ``least``.
        power: Probability of success, 0 to 1.
        prevalence: Share of the patients in whom it is counted.

    Raises:
        MedcoreError: What is expected does not lie above what shall be shown.
    """
    from scipy.stats import binom

    _check(least=least, expected=expected, power=power, prevalence=prevalence)
    if expected <= least:
        raise MedcoreError(f"planning: expected={expected} must lie above what shall be shown, {least}")

    def convincing(count: int) -> bool:
        fewest = next((hits for hits in range(count, -1, -1) if wilson_limits(hits, count)[0] <= least), -1) + 1
        return bool(binom.sf(fewest - 1, count, expected) >= power)

    # power rises in a saw-tooth: the answer is the first count after which it stays above for a whole tooth
    count = _smallest(lambda n: all(convincing(n + step) for step in range(0, 12, 3)))
    question = f"lower end of the 95 % CI above {least:g}, expected {expected:g}"
    return _scaled(question, count, prevalence, f"exact binomial power {power:g}")


def patients_for_calibration(
    *,
    prevalence: float,
    auroc: float,
    ratio_width: float = 0.2,
    slope_width: float = 0.2,
    auroc_width: float = 0.1,
) -> list[SampleSize]:
    """Patients for an external validation: observed over expected, calibration slope and AUROC, to stated widths.

    The linear predictor is taken as normal in both classes with the shift that gives the AUROC (binormal).

    Args:
        prevalence: Of the condition, above 0 and below 1.
        auroc: Expected, above 0.5 and below 1.
        ratio_width: Width of the 95 % interval of observed over expected around 1.
        slope_width: Width of that of the calibration slope around 1.
        auroc_width: Width of that of the AUROC.
    """
    _check(prevalence=prevalence, auroc=auroc)
    if auroc <= 0.5:
        raise MedcoreError(f"planning: auroc={auroc} must lie above 0.5")
    error = np.arcsinh(ratio_width / 2) / 1.96  # exp(1.96 e) - exp(-1.96 e) = width
    of_ratio = ceil((1 - prevalence) / (prevalence * error**2))
    of_slope = ceil(slope_variance(*binormal_predictor(prevalence, auroc)) / (slope_width / 3.92) ** 2)
    of_auroc = _smallest(lambda n: 3.92 * np.sqrt(auroc_variance(auroc, n, prevalence)) <= auroc_width)
    rows = {
        f"observed over expected, 95 % CI {ratio_width:g} wide": (of_ratio, "Riley 2021, criterion 1"),
        f"calibration slope, 95 % CI {slope_width:g} wide": (of_slope, "Riley 2021, criterion 2"),
        f"AUROC {auroc:g}, 95 % CI {auroc_width:g} wide": (of_auroc, "Riley 2021, criterion 3; Newcombe 2006"),
    }
    return [
        SampleSize(question, count, None if count is None else ceil(count * prevalence), basis)
        for question, (count, basis) in rows.items()
    ]


def binormal_predictor(prevalence: float, auroc: float, points: int = 20_001) -> tuple[np.ndarray, np.ndarray]:
    """A calibrated linear predictor with this AUROC: its values and their probabilities, both ``(points,)``.

    The predictor is normal with equal variance in both classes, and the logit of the probability it states is right.
    """
    from scipy.stats import norm

    shift = np.sqrt(2) * norm.ppf(auroc)
    grid = np.linspace(-8, 8 + shift, points)
    weight = prevalence * norm.pdf(grid - shift) + (1 - prevalence) * norm.pdf(grid)
    return logit(prevalence) + shift * grid - shift**2 / 2, weight / weight.sum()


def slope_variance(predictor: np.ndarray, weight: np.ndarray) -> float:
    """Variance of the calibration slope times n, from the information of a logistic model at slope 1."""
    curvature = weight * expit(predictor) * (1 - expit(predictor))
    both = (curvature * predictor).sum()
    return float(curvature.sum() / (curvature.sum() * (curvature * predictor**2).sum() - both**2))


def auroc_variance(auroc: float, patients: int, prevalence: float) -> float:
    """Newcombe's variance of an AUROC of n patients."""
    half = patients / 2 - 1
    spread = 1 + half * (1 - auroc) / (2 - auroc) + half * auroc / (1 + auroc)
    return float(auroc * (1 - auroc) * spread / (patients**2 * prevalence * (1 - prevalence)))


def _smallest(enough, start: int = 2) -> int | None:  # type: ignore[no-untyped-def]
    """The smallest count that is enough, by doubling and bisection; None above ten million."""
    high = start
    while not enough(high):
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _scaled(question: str, cases: int | None, prevalence: float, basis: str) -> SampleSize:
    patients = None if cases is None else ceil(cases / prevalence)
    return SampleSize(question, patients, cases if prevalence < 1 else None, basis)


def _check(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 < value <= 1 or (value == 1 and name not in ("prevalence", "expected")):
            raise MedcoreError(f"planning: {name}={value} must lie between 0 and 1")
