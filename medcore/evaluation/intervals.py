"""From a measure to its interval: which construction, and what to say when there is none.

Confidence intervals that can be believed: the patient is the unit, not the patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import ndtri

from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate, not_estimable, printed_p
from medcore.evaluation.measures import Measure, difference, measure
from medcore.evaluation.proportions import extreme_limits, wilson_limits
from medcore.evaluation.resampling import (
    bootstrap_values,
    bounded_mean_limits,
    case_statistic,
    evaluate,
    group_index,
    jackknife_limits,
    leave_one_out_values,
    mean_statistic,
    widened_for_folds,
)
from medcore.evaluation.scores import Scores, Values
from medcore.metrics.confusion import OF_ONE_CLASS
from medcore.metrics.ranking import delong, delong_limits, delong_test

Method = Literal["auto", "jackknife", "percentile"]
METHODS = ("auto", "jackknife", "percentile")
PROPORTIONS = ("accuracy", "sensitivity", "specificity", "ppv", "npv")
MOST_WEIGHTS = 300_000_000  # patients × cases up to which each patient is left out once; above, resamples are enough
NO_SPREAD = "no spread between patients"
MANY_PATIENTS = 1000  # up to here half a patient at each bound matters, and weights are drawn
FEW_PATIENTS = 5  # of a class: with fewer, coverage fell below 0.93 in benchmarks/INTERVALS.md


class Construction(NamedTuple):
    """How to make an interval: confidence level, method, and the bootstrap's resamples, seed and device."""

    level: float = 0.95
    method: Method = "auto"
    resamples: int = 999
    seed: int = 0
    device: str | None = None


class Limits(NamedTuple):
    """A value with its interval; None where ``note`` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str = "none"
    note: str = ""


def estimate(one: Measure, how: Construction, unit: str, split: str) -> Estimate:
    """A measure with its interval.

    Raises:
        MedcoreError: The construction does not exist.
    """
    if not 0 < how.level < 1 or how.method not in METHODS:
        raise MedcoreError(f"interval: level={how.level} must lie in 0…1, method={how.method!r} in {METHODS}")
    limits = _limits_of_independent(one, how) or _limits(one, how)
    if one.chance is not None and limits.value is not None and limits.low is not None and limits.high is not None:
        wider = widened_for_folds(*limits[:3], one.chance)  # type: ignore[arg-type]
        limits = Limits(limits.value, *wider, f"{limits.method}, widened: folds share training cases", limits.note)
    note = "; ".join(text for text in (limits.note, one.note) if text)
    counted = round(limits.value * one.n) if one.name in PROPORTIONS and limits.value is not None else None
    return Estimate(one.name, *limits[:3], one.n, unit, split, how.level, limits.method, note, counted)


def _value(one: Measure) -> Limits:
    """The value on all patients, or None with the reason."""
    missing = [name for name, part in one.parts.items() if not part.any()]
    if one.patients == 0 or missing:
        return Limits(None, note=f"there is no case of {missing[0]}" if one.patients else "there are no cases")
    value = float(evaluate(one.statistic, np.ones((1, one.patients)), cases=len(one.group))[0])
    return Limits(value) if math.isfinite(value) else Limits(None, note=f"{one.name} has no value here (0/0)")


def _limits(one: Measure, how: Construction) -> Limits:
    found = _value(one)
    if found.value is None:
        return found
    if one.exact:
        return Limits(found.value, found.value, found.value, "exact", one.exact)
    if one.patients < 2:
        return found._replace(note="one patient only: nothing shows how much patients differ")
    few = [name for name, members in one.members.items() if members.sum() < 2]
    if one.limits is not None and how.method == "auto":
        return Limits(found.value, *one.limits(how.level), one.method, _few_patients(one))
    if few:
        return found._replace(note=f"all cases of {few[0]} come from one patient")
    if how.method == "percentile" or (how.method == "auto" and one.patients * len(one.group) > MOST_WEIGHTS):
        return _percentile(one, found.value, how)
    return _jackknife(one, found.value, how.level)


def _few_patients(one: Measure) -> str:
    """Where simulated intervals cover less than they promise: how few patients stand behind a class."""
    counts = {name: int(members.sum()) for name, members in one.members.items()}
    name = min(counts, key=lambda key: counts[key], default="")
    if not name or counts[name] >= FEW_PATIENTS:
        return ""
    if counts[name] == 1:
        return f"all cases of {name} come from one patient: how patients differ in them is assumed, not seen"
    return f"{name} comes from {counts[name]} patients only: the interval may be too narrow"


def _jackknife(one: Measure, value: float, level: float) -> Limits:
    left_out = leave_one_out_values(one.statistic, one.patients, cases=len(one.group))
    if not np.isfinite(left_out).all():
        return Limits(value, note=f"without one of the patients {one.name} has no value")
    limits = jackknife_limits(value, left_out, list(one.members.values()), bounds=one.bounds, level=level)
    if limits is None:
        return _without_spread(one, value, level)
    return Limits(value, *limits, f"jackknife over {one.patients} patients, t{' on logit scale' if one.bounds else ''}")


def _percentile(one: Measure, value: float, how: Construction) -> Limits:
    values = bootstrap_values(
        one.statistic, one.patients, how.resamples, cases=len(one.group), seed=how.seed, device=how.device
    )
    values = values[np.isfinite(values)]
    if len(values) < how.resamples / 2 or np.ptp(values) == 0:
        return _without_spread(one, value, how.level)
    lost = how.resamples - len(values)
    note = f"{lost} of {how.resamples} resamples had no value and are left out" if lost else ""
    low, high = np.quantile(values, [0.5 - how.level / 2, 0.5 + how.level / 2])
    method = f"percentile bootstrap over {one.patients} patients, {how.resamples} resamples"
    return Limits(value, float(low), float(high), method, note)


def _without_spread(one: Measure, value: float, level: float) -> Limits:
    if one.bounds is None:
        return Limits(value, note="it is the same without any one patient: nothing shows how much patients differ")
    fewest = min([int(members.sum()) for members in one.members.values()], default=one.patients)
    low, high = extreme_limits(value, fewest, one.bounds, level)
    return Limits(value, low, high, f"Wilson, each of {fewest} patients counted once", NO_SPREAD)


def _limits_of_independent(one: Measure, how: Construction) -> Limits | None:
    """With one case per patient: DeLong for AUROC and its differences, Wilson or draws for proportions; else None."""
    value = _value(one).value
    if how.method != "auto" or one.patients != len(one.group) or value is None or one.exact:
        return None
    if one.name in PROPORTIONS:
        return Limits(value, *wilson_limits(min(one.n, value * one.n), one.n, how.level), "Wilson")
    counts = [int(part.sum()) for part in one.parts.values()]
    if one.ranked is None or min(counts) < 2:
        return None
    return _delong_limits(one, how.level) if one.ranked.ndim == 1 else _delong_difference(one, how.level)


def _delong_limits(one: Measure, level: float) -> Limits | None:
    positive = list(one.parts.values())[1]
    value, variance = (float(found.ravel()[0]) for found in delong(positive, one.ranked))  # type: ignore[arg-type]
    return Limits(value, *delong_limits(value, variance, level), "DeLong, logit scale") if variance > 1e-20 else None


def _delong_difference(one: Measure, level: float) -> Limits | None:
    positive = list(one.parts.values())[1]
    found = delong_test(positive, *one.ranked)  # type: ignore[misc]
    half = float(ndtri(0.5 + level / 2)) * found.error
    limits = (found.value, found.value - half, found.value + half)
    return Limits(*limits, "DeLong, paired", printed_p(found.p)) if found.error > 1e-10 else None


def interval(
    scores: Scores | Values,
    metric: str = "auroc",
    *,
    decision: np.ndarray | None = None,
    positive: str | None = None,
    level: float = 0.95,
    method: Method = "auto",
    resamples: int = 999,
    seed: int = 0,
    device: str | None = None,
) -> Estimate:
    """A metric with its patient-level confidence interval.

    Args:
        scores: Cases of one side, usually ``scores.where("test")``.
        metric: ``auroc``, ``average_precision``, ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``mcc``, ``kappa``,
            ``quadratic_kappa``, ``within_one``; of values ``mae``, ``rmse``, ``r2``, ``bias`` and the limits of
            agreement; of one class ``sensitivity``, ``specificity``, ``ppv``, ``npv``, ``f1``; at a stated
            prevalence ``ppv@0.05``, ``npv@0.05``.
        decision: Class index per case for metrics of decisions; default: the class with the highest score.
            **Shape** ``(N,)``.
        positive: The class that is meant, default the second of two; more classes without one are averaged.
        level: Confidence level, 0 to 1.
        method: ``auto`` (see above), ``jackknife`` or ``percentile``.
        device: Torch device of the bootstrap; None = numpy.

    Raises:
        MedcoreError: Unknown metric, class or method, or a decision is missing.
    """
    one = measure(scores, metric, decision, positive)
    return estimate(one, Construction(level, method, resamples, seed, device), scores.unit, scores.side)


def paired_difference(
    first: Scores | Values,
    second: Scores | Values,
    metric: str = "auroc",
    *,
    decisions: tuple[np.ndarray, np.ndarray] | None = None,
    positive: str | None = None,
    level: float = 0.95,
    method: Method = "auto",
    resamples: int = 999,
    seed: int = 0,
) -> Estimate:
    """How much better the first of two methods is on the same cases, resampled together.

    With one case per patient the AUROC is compared by DeLong's paired test, and the note gives its p.

    Args:
        second: The other's, for the same cases in the same order.
        decisions: Class index per case of the first and of the second. Each **Shape** ``(N,)``.

    Raises:
        MedcoreError: The two do not speak of the same cases.
    """
    for name in ("truth", "patient", "classes"):
        if not np.array_equal(getattr(first, name), getattr(second, name)):
            raise MedcoreError(f"paired_difference: {name} of the two scores differs; both must list the same cases")
    given = decisions or (None, None)
    one, other = (measure(cases, metric, found, positive) for cases, found in zip((first, second), given, strict=True))
    both = difference(one, other)
    return estimate(both, Construction(level, method, resamples, seed), first.unit, first.side)


def group_gap(scores: Scores | Values, inside: np.ndarray, metric: str, *, level: float = 0.95) -> Estimate:
    """A metric in a group minus the same metric in all other cases, patients resampled together.

    A patient may have cases on both sides. A class that one side lacks leaves the gap without value.

    Args:
        inside: Which cases are of the group. **Shape** ``(N,)`` bool.
    """
    group, patients = group_index(scores.patient)
    sides = [np.asarray(inside, dtype=bool), ~np.asarray(inside, dtype=bool)]
    name, unit, split = f"{metric}_gap", scores.unit, scores.side
    for side in sides:
        kinds = scores.classes if isinstance(scores, Scores) and metric not in OF_ONE_CLASS else ()
        lacking = [kind for k, kind in enumerate(kinds) if not (scores.truth[side] == k).any()]
        if lacking or not side.any():
            why = f"one side has no case of {lacking[0]}" if side.any() else "there are no other cases"
            return not_estimable(name, why, n=len(scores), unit=unit, split=split, level=level)
    return over_parts([scores.select(side) for side in sides], metric, lambda one, other: one - other, name=name,
                      bounds=None, level=level)  # fmt: skip


def over_parts(
    parts: Sequence[Scores | Values], metric: str, combine: Callable[..., Any], *, name: str, level: float = 0.95,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Estimate:  # fmt: skip
    """A metric of several sets of cases made into one value, patients resampled together.

    Args:
        parts: Cases of each; a patient may have some in several.
        combine: From one array ``(R,)`` of values a part to ``(R,)``.
        bounds: Of the value; None where there are none.
    """
    group, patients = group_index(np.concatenate([part.patient for part in parts]))
    starts = np.cumsum([0, *map(len, parts)])
    measures = [measure(part, metric) for part in parts]
    own = [np.unique(group[start:end]) for start, end in pairwise(starts)]  # a part's patients in its measure's order
    needed: dict[str, np.ndarray] = {}
    for n, one in enumerate(measures):
        for kind, which in one.parts.items():
            needed[f"{kind}, part {n + 1}"] = np.zeros(len(group), bool)
            needed[f"{kind}, part {n + 1}"][starts[n] : starts[n + 1]] = which

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.asarray(combine(*(one.statistic(weights[:, rows]) for one, rows in zip(measures, own, strict=True))))

    exact = measures[0].exact if all(one.exact for one in measures) else ""
    whole = Measure(name, statistic, group, patients, bounds, needed, len(group), exact=exact)
    return estimate(whole, Construction(level), parts[0].unit, parts[0].side)


def mean_interval(
    values: np.ndarray,
    patient: np.ndarray,
    *,
    name: str,
    unit: str,
    split: str,
    by: Literal["case", "patient"] = "case",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    level: float = 0.95,
    method: Method = "auto",
) -> Estimate:
    """The mean of a value per case (a Dice score, a Brier loss) with its patient-level interval.

    Args:
        values: One per case; NaN = not defined for this case, left out and counted in the note. **Shape** ``(N,)``.
        patient: **Shape** ``(N,)``.
        unit: What a case is; with ``by="patient"`` the estimate's unit is ``patient``.
        by: Every case counts the same, or every patient does (mean of the patients' means).
        bounds: Smallest and largest possible value, None where there are none.

    Raises:
        MedcoreError: The lengths differ.
    """
    values, patient = np.asarray(values, dtype=float), np.asarray(patient)
    if values.shape != patient.shape:
        raise MedcoreError(f"mean_interval of {name}: {values.shape} values for {patient.shape} patients")
    defined = np.isfinite(values)
    note = "" if defined.all() else f"{(~defined).sum()} of {len(values)} cases have no {name} and are left out"
    group, patients = group_index(patient[defined])
    values = values[defined]
    if by == "patient":
        values = np.bincount(group, values, patients) / np.bincount(group, minlength=patients)
        group, unit = np.arange(patients), "patient"
    one = Measure(name, mean_statistic(values, group, patients), group, patients, bounds, n=len(values), note=note)
    if bounds is not None and np.isfinite(bounds).all() and patients <= MANY_PATIENTS:
        ends = bounds
        drawn = f"drawn weights of {patients} patients and half a patient at each bound"
        one = replace(one, method=drawn, limits=lambda level: bounded_mean_limits(values, group, patients, ends, level))
    return estimate(one, Construction(level, method), unit, split)


def statistic_interval(
    statistic: Callable[[np.ndarray], float],
    patient: np.ndarray,
    *,
    name: str,
    unit: str,
    split: str,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    level: float = 0.95,
    method: Method = "auto",
    resamples: int = 999,
    seed: int = 0,
) -> Estimate:
    """Any statistic with its patient-level interval; it is called once per patient or resample.

    Args:
        statistic: From case weights ``(N,)``, not negative, to a value; NaN where there is none.
        patient: **Shape** ``(N,)``.
        bounds: Smallest and largest possible value, None where there are none.
    """
    group, patients = group_index(patient)
    one = Measure(name, case_statistic(statistic, group), group, patients, bounds, n=len(group))
    return estimate(one, Construction(level, method, resamples, seed), unit, split)
