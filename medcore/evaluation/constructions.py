"""From a measure to its interval: which construction, and what to say when there is none."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import norm

from medcore.errors import MedcoreError
from medcore.evaluation.delong import delong, delong_limits, delong_test
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.jackknife import jackknife_limits
from medcore.evaluation.measures import Measure
from medcore.evaluation.proportions import extreme_limits, wilson_limits
from medcore.evaluation.resampling import bootstrap_values, evaluate, leave_one_out_values

Method = Literal["auto", "jackknife", "percentile"]
METHODS = ("auto", "jackknife", "percentile")
PROPORTIONS = ("accuracy", "sensitivity", "specificity", "ppv", "npv")
MOST_WEIGHTS = 300_000_000  # patients × cases up to which each patient is left out once; above, resamples are enough
NO_SPREAD = "no spread between patients"


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

    Args:
        one: What to estimate.
        how: By which construction.
        unit: What a case is.
        split: Which side.

    Raises:
        MedcoreError: The construction does not exist.
    """
    if not 0 < how.level < 1 or how.method not in METHODS:
        raise MedcoreError(f"interval: level={how.level} must lie in 0…1, method={how.method!r} in {METHODS}")
    limits = _limits_of_independent(one, how) or _limits(one, how)
    note = "; ".join(text for text in (limits.note, one.note) if text)
    return Estimate(one.name, *limits[:3], one.n, unit, split, how.level, limits.method, note)


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
    if few:
        return found._replace(note=f"all cases of {few[0]} come from one patient")
    if how.method == "percentile" or (how.method == "auto" and one.patients * len(one.group) > MOST_WEIGHTS):
        return _percentile(one, found.value, how)
    return _jackknife(one, found.value, how.level)


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
    if one.at_limit is not None:
        return Limits(value, *one.at_limit(level), "worst and best of Wilson's limits, each patient once", NO_SPREAD)
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
    if one.drawn is not None and 0 < value < 1:
        low, high = one.drawn(how.level)
        return Limits(value, min(low, value), max(high, value), "Jeffreys draws of sensitivity and specificity")
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
    half = float(norm.ppf(0.5 + level / 2)) * found.error
    limits = (found.value, found.value - half, found.value + half)
    return Limits(*limits, "DeLong, paired", f"p = {found.p:.3g}") if found.error > 1e-10 else None
