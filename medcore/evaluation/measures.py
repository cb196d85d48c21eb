"""A metric of given scores as something that can be resampled, and what it needs to exist at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from medcore.errors import MedcoreError
from medcore.evaluation.proportions import extreme_limits
from medcore.evaluation.resampling import confusion_statistic, group_index
from medcore.evaluation.scores import Scores
from medcore.metrics import confusion
from medcore.metrics.ranking import Statistic, auroc_statistic, average_precision_statistic

RANKED = ("auroc", "average_precision")
DRAWS = 10_000  # of sensitivity and specificity, for predictive values at a stated prevalence


@dataclass(frozen=True)
class Measure:
    """One metric on one set of cases.

    Attributes:
        name: Of the metric.
        statistic: Patient weights ``(R, P)`` to values ``(R,)``.
        group: Patient index of each case. **Shape** ``(N,)``.
        patients: P.
        bounds: Smallest and largest possible value, None where there are none.
        parts: Cases that must exist, by what to call them; an empty one leaves the metric without value, one from
            a single patient without interval. Each **Shape** ``(N,)`` bool.
        n: How many cases the value speaks of.
        note: For the reader.
        ranked: The score of an AUROC of two classes, for DeLong. **Shape** ``(N,)``.
        at_limit: Interval for a level where the patients show no spread; None uses Wilson's, each patient once.
        drawn: Interval for a level from draws, where every patient has one case; None where there is no such thing.
        exact: Why the value is the same whoever the patients are; empty where it is not.
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
    at_limit: Callable[[float], tuple[float, float]] | None = None
    drawn: Callable[[float], tuple[float, float]] | None = None
    exact: str = ""

    @property
    def members(self) -> dict[str, np.ndarray]:
        """Which patients have a case of each part. Each **Shape** ``(P,)`` bool."""
        return {name: np.bincount(self.group[part], minlength=self.patients) > 0 for name, part in self.parts.items()}


def measure(scores: Scores, metric: str, decision: np.ndarray | None = None, positive: str | None = None) -> Measure:
    """Prepare a metric for resampling.

    Args:
        scores: Cases.
        metric: ``auroc``, ``average_precision``, or any of ``confusion.metric_function``.
        decision: Class index per case; by default the class with the highest score. **Shape** ``(N,)``.
        positive: The class that one-class metrics speak of; by default the second of two.

    Raises:
        MedcoreError: The metric or class does not exist, or a decision is missing.
    """
    if metric in RANKED:
        return _ranked(scores, metric, positive)
    confusion.parse_metric(metric)
    if decision is None and scores.score.ndim == 1:
        raise MedcoreError(
            f"{metric} speaks of decisions, and one score per case gives none: choose a threshold on "
            "validation cases and give decision=point.apply(scores)"
        )
    return _decided(scores, metric, scores.predicted if decision is None else decision, positive)


def _ranked(scores: Scores, metric: str, positive: str | None) -> Measure:
    group, patients = group_index(scores.patient)
    if positive is not None:
        scores = scores.one_vs_rest(positive)
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
    one = Measure(
        name=metric,
        statistic=confusion_statistic(scores.truth, decision, classes, group, patients, of_matrix),
        group=group,
        patients=patients,
        bounds=(-1.0, 1.0) if base in confusion.FROM_MINUS_ONE else (0.0, 1.0),
        parts=_parts(scores, metric, decision, chosen),
        n=len(scores),
        note=_missing_classes(scores, base),
        exact=_said_of_all(decision) if base == "balanced_accuracy" else "",
    )
    if "@" in metric:
        right = [(decision == chosen)[scores.truth == chosen], (decision != chosen)[scores.truth != chosen]]
        return replace(one, at_limit=_corners(one, metric, right), drawn=_jeffreys(metric, right))
    counted = next(iter(one.parts.values()))
    return replace(one, n=int(counted.sum())) if base in confusion.OF_ONE_CLASS else one


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


def _corners(one: Measure, metric: str, right: list[np.ndarray]) -> Callable[[float], tuple[float, float]]:
    """At a stated prevalence: the worst and best that Wilson's limits of sensitivity and specificity allow."""
    counts = [int(members.sum()) for members in one.members.values()]

    def limits(level: float) -> tuple[float, float]:
        rates = [
            extreme_limits(float(hits.mean()), n, (0.0, 1.0), level) for hits, n in zip(right, counts, strict=True)
        ]
        ends = [_at_prevalence(metric, *(rate[end] for rate in rates)) for end in (0, 1)]
        return float(ends[0]), float(ends[1])

    return limits


def _jeffreys(metric: str, right: list[np.ndarray]) -> Callable[[float], tuple[float, float]]:
    """At a stated prevalence: quantiles over draws of sensitivity and specificity from their Jeffreys posteriors.

    **Reference** Brown, Cai & DasGupta 2001 (Jeffreys interval), doi:10.1214/ss/1009213286.
    """

    def limits(level: float) -> tuple[float, float]:
        generator = np.random.default_rng(0)
        rates = [generator.beta(hits.sum() + 0.5, (~hits).sum() + 0.5, DRAWS) for hits in right]
        low, high = np.quantile(_at_prevalence(metric, *rates), [0.5 - level / 2, 0.5 + level / 2])
        return float(low), float(high)

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
