"""Is a stated probability true? Reliability, calibration error, Brier score, and the temperature that mends it.

- Bins hold equal numbers of cases, so no bin is judged by a handful.
- A temperature (or a logistic curve for raw anomaly scores) is fitted on validation cases only.
- Multi-class questions are asked of the predicted class: was it right as often as it said?

    mended = fit_temperature(logit_scores.where("val")).apply(logits)
    estimates = calibration_estimates(scores.where("test"))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, log_softmax, logit, softmax

from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate, not_estimable
from medcore.evaluation.intervals import mean_interval
from medcore.evaluation.proportions import clustered_limits, tables_of_patients, wilson_limits
from medcore.evaluation.resampling import group_index, jackknife_limits
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.metrics.calibration import (
    BINS,
    SquaredError,
    calibration_line,
    checked_probabilities,
    equal_mass_bins,
    squared_calibration_error,
)
from medcore.metrics.confusion import ratio

CALIBRATION = ("brier", "calibration_error", "calibration_slope", "calibration_intercept")
STEEPEST = 50.0  # slopes beyond mean that the regression has no end
HOTTEST = 50.0  # temperatures outside 1/50…50 mean that no temperature helps


class Reliability(NamedTuple):
    """Per bin: mean stated probability, observed share with Wilson's interval, number of cases. Each ``(B,)``."""

    stated: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


def reliability(
    probability: np.ndarray, outcome: np.ndarray, patient: np.ndarray | None = None, *, bins: int = BINS
) -> Reliability:
    """How often it happened where the model said 10, 20, … per cent.

    Cases with the same stated probability stay in one bin.

    Args:
        probability: Stated, 0 to 1. **Shape** ``(N,)``.
        outcome: Whether it was so. **Shape** ``(N,)``.
        patient: Whose case it is, so that the bars speak of patients; without it every case counts as independent.
            **Shape** ``(N,)``.
        bins: At most this many, of about equal size.

    Raises:
        MedcoreError: A probability is outside 0…1, lengths differ, or there is no case.
    """
    probability, outcome = checked_probabilities(probability, outcome)
    index = equal_mass_bins(probability, bins)
    patient = np.arange(len(index)) if patient is None else np.asarray(patient)
    n = np.bincount(index)
    stated, observed = np.bincount(index, probability) / n, np.bincount(index, outcome) / n
    limits = np.array([_limits_of_share(outcome[index == b], patient[index == b]) for b in range(len(n))])
    return Reliability(stated, observed, limits[:, 0], limits[:, 1], n)


def _limits_of_share(outcome: np.ndarray, patient: np.ndarray) -> tuple[float, float]:
    group, patients = group_index(patient)
    if patients == len(group):
        return wilson_limits(float(outcome.sum()), len(outcome))
    zeros = np.zeros(len(group), dtype=np.int64)
    return clustered_limits(tables_of_patients(zeros, outcome.astype(np.int64), group, patients, 2), _share_of_second)


def _share_of_second(confusion: np.ndarray) -> np.ndarray:
    return ratio(confusion[..., 0, 1], confusion[..., 0, :].sum(-1))


def stated_and_observed(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """What a reliability diagram needs.

    Returns:
        Two classes: the probability of the second and whether it was so. More: the probability of the predicted class
        and whether it was right. Each **Shape** ``(N,)``.

    Raises:
        MedcoreError: The scores are no probabilities.
    """
    score = scores.score
    wrong = score.size and (score.min() < 0 or score.max() > 1)
    if wrong or (score.ndim == 2 and not np.allclose(score.sum(axis=1), 1, atol=1e-3)):
        raise MedcoreError(
            "calibration: the scores are no probabilities (between 0 and 1, adding up to 1); apply softmax, or "
            "fit_temperature / fit_logistic on validation cases"
        )
    if len(scores.classes) == 2:
        return scores.positive_score, scores.positive
    return score.max(axis=1, initial=0), scores.predicted == scores.truth


def calibration_estimates(scores: Scores, *, bins: int = BINS, level: float = 0.95) -> list[Estimate]:
    """Brier score, calibration error, calibration slope and intercept, with patient-level intervals.

    With more than two classes the Brier score sums over classes (0 to 2), the others speak of the predicted class.

    Args:
        scores: Probabilities, cases of one side.

    Raises:
        MedcoreError: The scores are no probabilities.
    """
    probability, outcome = stated_and_observed(scores)
    outcome = outcome.astype(float)
    about: dict[str, Any] = {"unit": scores.unit, "split": scores.side, "level": level}
    if not len(scores):
        return [not_estimable(name, "there are no cases", n=0, **about) for name in CALIBRATION]
    many = len(scores.classes) > 2
    truth = np.eye(len(scores.classes))[scores.truth]
    losses = ((scores.score - truth) ** 2).sum(axis=1) if many else (probability - outcome) ** 2
    brier = mean_interval(losses, scores.patient, name="brier", bounds=(0.0, 2.0 if many else 1.0), **about)
    group, patients = group_index(scores.patient)
    about["n"] = len(scores)
    if patients < 2:
        why = "one patient only: nothing shows how much patients differ"
        return [brier, *(not_estimable(name, why, **about) for name in CALIBRATION[1:])]
    error = _error_estimate(squared_calibration_error(probability, outcome, group, bins=bins), patients, about)
    return [brier, error, *_line_estimates(probability, outcome, group, about)]


def _error_estimate(found: SquaredError, patients: int, about: dict[str, Any]) -> Estimate:
    """Limits of the mean squared gap by inverting its distribution, a scaled noncentral F; all as roots.

    **Reference** Satterthwaite 1946, doi:10.2307/3002019 (degrees of freedom of a sum of squares).
    """
    from scipy.optimize import brentq
    from scipy.stats import f, ncf

    name, value = CALIBRATION[1], float(np.sqrt(max(0.0, found.plain - found.chance)))
    if found.chance <= 1e-15:
        return not_estimable(name, "no spread between patients", value=value, **about)
    freedom, unit = found.chance**2 / found.spread, found.spread / found.chance
    seen, rest = found.plain / found.chance, (patients - 1.0) * freedom  # every part of ``chance`` has P - 1 degrees

    def beyond(shift: float, share: float) -> float:
        return float(ncf.cdf(seen, freedom, rest, shift) if shift > 0 else f.cdf(seen, freedom, rest)) - share

    limits = []
    for share in (0.5 + about["level"] / 2, 0.5 - about["level"] / 2):
        far = 10.0 + 4 * freedom * seen
        while beyond(far, share) > 0:
            far *= 2
        limits.append(brentq(beyond, 0.0, far, args=(share,)) if beyond(0.0, share) > 0 else 0.0)
    low, high = (float(np.sqrt(shift * unit)) for shift in limits)
    note = "" if low > 0 else "no more than chance"
    method = f"noncentral F over {patients} patients"
    return Estimate(name, value, low, min(1.0, high), method=method, note=note, **about)


def _line_estimates(
    probability: np.ndarray, outcome: np.ndarray, group: np.ndarray, about: dict[str, Any]
) -> list[Estimate]:
    names, found = CALIBRATION[2:], []
    if outcome.min() == outcome.max() or np.ptp(probability) == 0:
        why = "every answer was right, or none" if outcome.min() == outcome.max() else "one probability for all"
        return [not_estimable(name, why, **about) for name in names]
    for name, slope in zip(names, (True, False), strict=True):
        line = calibration_line(probability, outcome, group, slope=slope)
        value = float(line.value[-1])
        limits = jackknife_limits(value, line.left_out[:, -1], bounds=None, level=about["level"])
        method = f"jackknife over {len(line.left_out)} patients, t"
        if limits is None or abs(value) > STEEPEST:
            found.append(not_estimable(name, "the stated probabilities separate right from wrong", **about))
        else:
            found.append(Estimate(name, value, *limits, method=method, **about))
    return found


def brier_change(before: Scores, after: Scores, *, level: float = 0.95) -> Estimate:
    """How much lower the Brier score is after a recalibration of the same cases: whether it helps, by its interval.

    A temperature leaves the order of cases alone, so a change of the Brier score is one of calibration.

    Args:
        after: Others for the same cases in the same order.

    Raises:
        MedcoreError: The two do not speak of the same cases, or hold no probabilities.
    """
    losses = []
    for scores in (after, before):
        probability, outcome = stated_and_observed(scores)
        truth = np.eye(len(scores.classes))[scores.truth]
        many = len(scores.classes) > 2
        losses.append(((scores.score - truth) ** 2).sum(axis=1) if many else (probability - outcome) ** 2)
    if not np.array_equal(before.truth, after.truth) or not np.array_equal(before.patient, after.patient):
        raise MedcoreError("brier_change: both must list the same cases")
    return mean_interval(
        losses[0] - losses[1], after.patient, name="brier_difference", unit=after.unit, split=after.side,
        bounds=None, level=level,
    )  # fmt: skip


@dataclass(frozen=True)
class Temperature:
    """Logits divided by ``value`` give better probabilities; the order of cases and classes stays.

    Attributes:
        value: Above 1: the model was overconfident.
        chosen_on: Side(s) of the cases it was fitted on.
        n: How many cases.
        before: Negative log-likelihood per case on them without it.
        after: The same with it.
    """

    value: float
    chosen_on: str
    n: int
    before: float
    after: float

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities: ``(N, K)`` logits give ``(N, K)``; ``(N,)`` logits of the second class give ``(N,)``."""
        logits = np.asarray(logits, dtype=float) / self.value
        return expit(logits) if logits.ndim == 1 else softmax(logits, axis=1)


@dataclass(frozen=True)
class Logistic:
    """Turns a raw score (an anomaly score, a share of windows) into a probability: ``expit(slope * score + offset)``.

    Attributes:
        slope: Change of the logit per unit of score.
        offset: Logit at score 0.
        chosen_on: Side(s) of the cases it was fitted on.
        n: How many cases.
    """

    slope: float
    offset: float
    chosen_on: str
    n: int

    def apply(self, score: np.ndarray) -> np.ndarray:
        """Probabilities of the second class. **Shape** ``(N,)`` to ``(N,)``."""
        return expit(self.slope * np.asarray(score, dtype=float) + self.offset)


def fit_temperature(scores: Scores) -> Temperature:
    """The temperature with the smallest negative log-likelihood, by L-BFGS on its logarithm.

    Args:
        scores: Validation cases; the score holds logits, ``(N, K)`` or ``(N,)`` for the second of two classes.
            Give ``np.log(probabilities)`` where only probabilities are known.

    Raises:
        TestDataRefused: A case is marked ``test`` or not marked.
        MedcoreError: There are no cases, or one class only.

    **Reference** Guo et al. 2017, arXiv:1706.04599.
    """
    from scipy.optimize import minimize

    refuse_test_data(scores, "a temperature")
    _needs_two_classes(scores, "a temperature")
    logits = scores.score if scores.score.ndim == 2 else np.stack([np.zeros(len(scores)), scores.score], axis=1)
    rows = np.arange(len(scores))

    def loss(log_temperature: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = logits / np.exp(log_temperature[0])
        logs = log_softmax(scaled, axis=1)
        slope = (scaled[rows, scores.truth] - (np.exp(logs) * scaled).sum(axis=1)).mean()
        return -float(logs[rows, scores.truth].mean()), np.array([slope])

    limit = np.log(HOTTEST)
    found = minimize(loss, np.zeros(1), jac=True, method="L-BFGS-B", bounds=[(-limit, limit)])
    return Temperature(float(np.exp(found.x[0])), scores.side, len(scores), loss(np.zeros(1))[0], float(found.fun))


def fit_logistic(scores: Scores) -> Logistic:
    """Platt's calibration: a logistic curve through a raw score, with his correction against over-confidence.

    The curve never falls: a score that is lower for positives here gives everybody the same probability, because a
    calibration that turned the order would make such a score look useful.

    Args:
        scores: Validation cases of two classes, any real score.

    Raises:
        TestDataRefused: A case is marked ``test`` or not marked.
        MedcoreError: There are no cases, one class only, or all scores are equal.

    **Reference** Platt 1999; corrected targets as in Lin et al. 2007, doi:10.1007/s10994-007-5018-6.
    """
    from scipy.optimize import minimize

    refuse_test_data(scores, "a calibration")
    _needs_two_classes(scores, "a calibration")
    score, positive = scores.positive_score, scores.positive
    centre, scale = float(score.mean()), float(score.std())
    if scale == 0:
        raise MedcoreError(f"a calibration cannot be chosen: all {len(scores)} scores are equal ({score[0]:g})")
    counts = positive.sum(), (~positive).sum()
    target = np.where(positive, (counts[0] + 1) / (counts[0] + 2), 1 / (counts[1] + 2))
    standard = (score - centre) / scale

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        stated = line[0] * standard + line[1]
        miss = expit(stated) - target
        return float((np.logaddexp(0, stated) - target * stated).mean()), np.array(
            [(miss * standard).mean(), miss.mean()]
        )

    start = np.array([1.0, float(logit(positive.mean()))])
    slope, offset = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)]).x
    return Logistic(float(slope / scale), float(offset - slope * centre / scale), scores.side, len(scores))


def _needs_two_classes(scores: Scores, what: str) -> None:
    present = np.unique(scores.truth)
    if len(present) < 2:
        seen = f"all {len(scores)} cases are {scores.classes[present[0]]!r}" if len(present) else "there are no cases"
        raise MedcoreError(f"{what} cannot be chosen: {seen}; put cases of several classes on the validation side")
