"""A metric of given scores as something that can be resampled, and what it needs to exist at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from medcore.errors import MedcoreError
from medcore.evaluation.proportions import clustered_difference, clustered_limits, effective_cases, tables_of_patients
from medcore.evaluation.resampling import confusion_statistic, group_index
from medcore.evaluation.scores import Scores, Values
from medcore.metrics import confusion
from medcore.metrics.measured import MEASURED, moments
from medcore.metrics.ranking import (
    Statistic,
    auroc_statistic,
    auroc_within_folds,
    average_precision_statistic,
    like,
)

RANKED = ("auroc", "average_precision")
SHARED_TRAINING = "folds share training cases, which the interval does not count"
DRAWS = 10_000  # of sensitivity and specificity, for predictive values at a stated prevalence


class Decided(NamedTuple):
    """Class indexes of truth and decision, each **Shape** ``(N,)``, and the metric of their confusion matrix."""

    truth: np.ndarray
    decision: np.ndarray
    metric: confusion.Metric


@dataclass(frozen=True)
class Measure:
    """One metric on one set of cases.

    Attributes:
        name: Of the metric.
        statistic: Patient weights ``(R, P)`` to values ``(R,)``.
        group: Patient index of each case. **Shape** ``(N,)``.
        patients: P.
        bounds: Smallest and largest possible value, None where there are none.
        parts: Cases that must exist, by what to call them; an empty one leaves the metric without value, one from a
            single patient a ranked metric without interval. Each **Shape** ``(N,)`` bool.
        n: How many cases the value speaks of.
        note: For the reader.
        ranked: The score of an AUROC of two classes, for DeLong. **Shape** ``(N,)``.
        limits: Interval for a level where the metric has a construction of its own; None leaves it to the jackknife.
        method: How ``limits`` are made, for the reader.
        decided: What a metric of decisions was computed from, None for other metrics.
        exact: Why the value is the same whoever the patients are; empty where it is not.
        chance: The value without any signal, of a measure over folds whose interval is widened towards it; None of
            others.
    """

    name: str
    statistic: Statistic
    group: np.ndarray
    patients: int
    bounds: tuple[float, float] | None = (0.0, 1.0)
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    n: int = 0
    note: str = ""
    ranked: np.ndarray | None = None
    limits: Callable[[float], tuple[float, float]] | None = None
    method: str = ""
    decided: Decided | None = None
    exact: str = ""
    chance: float | None = None

    @property
    def members(self) -> dict[str, np.ndarray]:
        """Which patients have a case of each part. Each **Shape** ``(P,)`` bool."""
        return {name: np.bincount(self.group[part], minlength=self.patients) > 0 for name, part in self.parts.items()}


def measure(
    scores: Scores | Values, metric: str, decision: np.ndarray | None = None, positive: str | None = None
) -> Measure:
    """Prepare a metric for resampling.

    Args:
        metric: ``auroc``, ``average_precision``, or any of ``confusion.metric_function``; of values any of
            ``measured.MEASURED``.
        decision: Class index per case; by default the class with the highest score. **Shape** ``(N,)``.
        positive: The class that one-class metrics speak of; by default the second of two.

    Raises:
        MedcoreError: The metric or class does not exist, or a decision is missing.
    """
    if isinstance(scores, Values):
        return _measured(scores, metric)
    if metric in RANKED:
        return _ranked(scores, metric, positive)
    confusion.parse_metric(metric)
    if decision is None and scores.score.ndim == 1:
        raise MedcoreError(
            f"{metric} speaks of decisions, and one score per case gives none: choose a threshold on "
            "validation cases and give decision=point.apply(scores)"
        )
    return _decided(scores, metric, scores.predicted if decision is None else decision, positive)


def _measured(values: Values, metric: str) -> Measure:
    if metric not in MEASURED:
        raise MedcoreError(f"metric {metric!r} of a measured value is none of {', '.join(MEASURED)}")
    group, patients = group_index(values.patient)
    centre = values.truth.mean() if len(values) else 0.0  # errors stay; squares of large numbers lose no digits
    each = moments(values.truth - centre, values.score - centre)
    sums = np.stack([np.bincount(group, column, patients) for column in each.T], axis=1)
    function, known = MEASURED[metric], {"any case": np.ones(len(values), dtype=bool)}
    known |= {"a second value": values.truth != values.truth[:1]} if metric == "r2" else {}
    return Measure(metric, lambda weights: function(weights @ like(sums, weights)), group, patients, None, known,
                   len(values))  # fmt: skip


def _ranked(scores: Scores, metric: str, positive: str | None) -> Measure:
    group, patients = group_index(scores.patient)
    if positive is not None:
        scores = scores.one_vs_rest(positive)
    if scores.folds is not None and metric == "auroc" and len(scores.classes) == 2:
        return _within_folds(scores, group, patients)
    if len(scores.classes) == 2:
        statistic = _ranked_statistic(metric, scores.positive, scores.positive_score, group, patients)
        parts = {f"class {name!r}": scores.truth == k for k, name in enumerate(scores.classes)}
        ranked = scores.positive_score if metric == "auroc" else None
        exact = _said_of_all(scores.positive_score) if metric == "auroc" else ""
        return Measure(metric, statistic, group, patients, parts=parts, n=len(scores), ranked=ranked, exact=exact)
    present = [k for k in range(len(scores.classes)) if (scores.truth == k).any()]
    statistics = [_ranked_statistic(metric, scores.truth == k, scores.score[:, k], group, patients) for k in present]
    parts = {f"class {scores.classes[k]!r}": scores.truth == k for k in present}
    parts |= {"a second class": scores.truth != present[0]} if len(present) == 1 else {}
    note = f"mean of one against the rest over {_counted(len(present), len(scores.classes))}"
    exact = _said_of_all(scores.score) if metric == "auroc" else ""
    return Measure(metric, _mean_of(statistics), group, patients, parts=parts, n=len(scores), note=note, exact=exact)


def _within_folds(scores: Scores, group: np.ndarray, patients: int) -> Measure:
    assert scores.folds is not None
    statistic = auroc_within_folds(scores.positive, *scores.folds, group, patients)
    repeats = len(scores.folds.score)
    note = "pairs within folds" + (f", mean of {repeats} repeats of the folds" if repeats > 1 else "")
    parts = {f"class {name!r}": scores.truth == k for k, name in enumerate(scores.classes)}
    return Measure("auroc", statistic, group, patients, parts=parts, n=len(scores), note=note, chance=0.5)


def _ranked_statistic(
    metric: str, positive: np.ndarray, score: np.ndarray, group: np.ndarray, patients: int
) -> Statistic:
    if metric == "auroc":
        return auroc_statistic(positive, score, group, patients)
    return average_precision_statistic(positive, score, group)


def _mean_of(statistics: list[Statistic]) -> Statistic:
    return lambda weights: sum(statistic(weights) for statistic in statistics) / max(1, len(statistics))


def _decided(scores: Scores, metric: str, decision: np.ndarray, positive: str | None) -> Measure:
    classes, base = len(scores.classes), confusion.parse_metric(metric)[0]
    decision = confusion.class_indexes("decision", decision, classes)
    if len(decision) != len(scores):
        raise MedcoreError(f"{metric}: {len(decision)} decisions for {len(scores)} cases")
    chosen = _positive_index(scores, base, positive)
    group, patients = group_index(scores.patient)
    of_matrix = confusion.metric_function(metric, chosen)
    bounds = (-1.0, 1.0) if base in confusion.FROM_MINUS_ONE else (0.0, 1.0)
    tables = tables_of_patients(scores.truth, decision, group, patients, classes)
    one = Measure(
        name=metric,
        statistic=confusion_statistic(scores.truth, decision, classes, group, patients, of_matrix),
        group=group,
        patients=patients,
        bounds=bounds,
        parts=_parts(scores, metric, decision, chosen),
        n=len(scores),
        note=_missing_classes(scores, base),
        limits=lambda level: clustered_limits(tables, of_matrix, bounds=bounds, level=level),
        method=f"Wilson, effective number of cases from {patients} patients",
        decided=Decided(scores.truth, decision, of_matrix),
        exact=_said_of_all(decision) if base == "balanced_accuracy" else "",
    )
    if scores.folds is not None and base == "balanced_accuracy":
        one = replace(one, chance=1 / max(1, len(np.unique(scores.truth))))
    elif scores.folds is not None:
        one = replace(one, note="; ".join(text for text in (one.note, SHARED_TRAINING) if text))
    if "@" in metric:
        limits = _drawn_at_prevalence(metric, tables, chosen)
        return replace(one, limits=limits, method=f"draws of sensitivity and specificity from {patients} patients")
    counted = next(iter(one.parts.values()))
    return replace(one, n=int(counted.sum())) if base in confusion.OF_ONE_CLASS else one


def difference(first: Measure, second: Measure) -> Measure:
    """The first minus the second metric on the same cases; nothing is inherited but what holds for both."""
    shared = SHARED_TRAINING if first.chance is not None or second.chance is not None else ""
    notes = dict.fromkeys(note for note in (first.note, second.note, shared) if note)
    ranked = None if first.ranked is None or second.ranked is None else np.stack([first.ranked, second.ranked])
    both = Measure(
        name=f"{first.name}_difference",
        statistic=lambda weights: first.statistic(weights) - second.statistic(weights),
        group=first.group,
        patients=first.patients,
        bounds=None,
        parts={**first.parts, **{f"{name} (second)": part for name, part in second.parts.items()}},
        n=len(first.group),
        note="; ".join(notes),
        ranked=ranked,
        exact=first.exact if first.exact and second.exact else "",
    )
    if first.decided is None or second.decided is None:
        return both
    truth, calls, metric = first.decided
    other = second.decided.decision
    return replace(
        both,
        limits=lambda level: clustered_difference(calls, other, truth, first.group, metric, level=level),
        method=f"paired, effective number of cases from {first.patients} patients",
    )


def _positive_index(scores: Scores, base: str, positive: str | None) -> int:
    if positive is not None and positive not in scores.classes:
        raise MedcoreError(f"{base}: positive={positive!r} is none of the classes {scores.classes}")
    if positive is None and base in confusion.OF_ONE_CLASS and len(scores.classes) != 2:
        raise MedcoreError(f"{base} speaks of one class; give positive=, one of {scores.classes}")
    return scores.classes.index(positive) if positive is not None else 1


def _parts(scores: Scores, metric: str, decision: np.ndarray, positive: int) -> dict[str, np.ndarray]:
    truth, name = scores.truth, repr(scores.classes[min(positive, len(scores.classes) - 1)])
    if metric == "accuracy":
        return {"any class": np.ones(len(scores), dtype=bool)}
    if "@" in metric:
        return {f"class {name}": truth == positive, f"another class than {name}": truth != positive}
    if metric in confusion.OF_ONE_CLASS:
        return {
            "sensitivity": {f"class {name}": truth == positive},
            "specificity": {f"another class than {name}": truth != positive},
            "ppv": {f"a call {name}": decision == positive},
            "npv": {f"a call other than {name}": decision != positive},
            "f1": {f"class or call {name}": (truth == positive) | (decision == positive)},
        }[metric]
    present = np.unique(truth)
    parts = {f"class {scores.classes[k]!r}": truth == k for k in present}
    return parts if len(present) > 1 else parts | {"a second class": np.zeros(len(scores), dtype=bool)}


def _drawn_at_prevalence(metric: str, tables: np.ndarray, positive: int) -> Callable[[float], tuple[float, float]]:
    """At a stated prevalence: quantiles over draws of sensitivity and specificity from their Jeffreys posteriors.

    Both count as many cases as they are worth (``effective_cases``).

    **Reference** Brown, Cai & DasGupta 2001 (Jeffreys interval), doi:10.1214/ss/1009213286.
    """

    def limits(level: float) -> tuple[float, float]:
        generator, rates = np.random.default_rng(0), []
        for base in ("sensitivity", "specificity"):
            function = confusion.metric_function(base, positive)
            share, found = float(function(tables.sum(0))), effective_cases(tables, function)
            # Student's t instead of the normal quantile is the same as fewer cases
            n = found.n * float((ndtri(0.5 + level / 2) / stdtrit(found.freedom, 0.5 + level / 2)) ** 2)
            rates.append(generator.beta(share * n + 0.5, (1 - share) * n + 0.5, DRAWS))
        low, high = np.quantile(_at_prevalence(metric, *rates), [0.5 - level / 2, 0.5 + level / 2])
        value = float(confusion.metric_function(metric, positive)(tables.sum(0)))
        return min(float(low), value), max(float(high), value)

    return limits


def _at_prevalence(metric: str, sensitivity: confusion.Array, specificity: confusion.Array) -> confusion.Array:
    base, stated = confusion.parse_metric(metric)
    return confusion.AT_PREVALENCE[base](0.5 if stated is None else stated, sensitivity, specificity)


def _said_of_all(answers: np.ndarray) -> str:
    """A constant answer has the AUROC 1/2 and the balanced accuracy 1 / classes: no patient changes that."""
    constant = len(answers) > 0 and bool((answers == answers[0]).all())
    return "every case gets the same answer" if constant else ""


def _missing_classes(scores: Scores, base: str) -> str:
    present = len(np.unique(scores.truth))
    a_mean = base == "balanced_accuracy" or base.startswith("macro_")
    return f"mean over {_counted(present, len(scores.classes))}" if a_mean and present < len(scores.classes) else ""


def _counted(present: int, classes: int) -> str:
    return f"{classes} classes" if present == classes else f"the {present} of {classes} classes that have cases"
