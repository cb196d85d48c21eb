"""A metric of given scores as something that can be resampled, and what it needs to exist at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from medcore.errors import MedcoreError
from medcore.evaluation import confusion
from medcore.evaluation.resampling import (
    Statistic,
    auroc_statistic,
    average_precision_statistic,
    confusion_statistic,
    group_index,
)
from medcore.evaluation.scores import Scores

RANKED = ("auroc", "average_precision")


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

    @property
    def members(self) -> dict[str, np.ndarray]:
        """Which patients have a case of each part. Each **Shape** ``(P,)`` bool."""
        return {name: np.bincount(self.group[part], minlength=self.patients) > 0 for name, part in self.parts.items()}


def measure(scores: Scores, metric: str, decision: np.ndarray | None = None, positive: str | None = None) -> Measure:
    """Prepare a metric for resampling.

    Args:
        scores: Cases.
        metric: ``auroc``, ``average_precision``, or any of the confusion matrix.
        decision: Class index per case; by default the class with the highest score. **Shape** ``(N,)``.
        positive: The class that one-class metrics speak of; by default the second of two.

    Raises:
        MedcoreError: The metric or class does not exist, or a decision is missing.
    """
    if metric in RANKED:
        return _ranked(scores, metric, positive)
    known = {**confusion.OVERALL, **confusion.OF_ONE_CLASS}
    if metric not in known:
        raise MedcoreError(f"metric {metric!r} is none of {', '.join([*RANKED, *known])}")
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
        return Measure(metric, statistic, group, patients, parts=parts, n=len(scores), ranked=ranked)
    present = [k for k in range(len(scores.classes)) if (scores.truth == k).any()]
    statistics = [_ranked_statistic(metric, scores.truth == k, scores.score[:, k], group, patients) for k in present]
    parts = {f"class {scores.classes[k]!r}": scores.truth == k for k in present}
    parts |= {"a second class": scores.truth != present[0]} if len(present) == 1 else {}
    note = f"mean of one against the rest over {_counted(len(present), len(scores.classes))}"
    return Measure(metric, _mean_of(statistics), group, patients, parts=parts, n=len(scores), note=note)


def _ranked_statistic(
    metric: str, positive: np.ndarray, score: np.ndarray, group: np.ndarray, patients: int
) -> Statistic:
    if metric == "auroc":
        return auroc_statistic(positive, score, group, patients)
    return average_precision_statistic(positive, score, group)


def _mean_of(statistics: list[Statistic]) -> Statistic:
    return lambda weights: sum(statistic(weights) for statistic in statistics) / max(1, len(statistics))


def _decided(scores: Scores, metric: str, decision: np.ndarray, positive: str | None) -> Measure:
    classes = len(scores.classes)
    decision = confusion.class_indexes("decision", decision, classes)
    if len(decision) != len(scores):
        raise MedcoreError(f"{metric}: {len(decision)} decisions for {len(scores)} cases")
    chosen = _positive_index(scores, metric, positive)
    group, patients = group_index(scores.patient)
    statistic = confusion_statistic(
        scores.truth, decision, classes, group, patients, confusion.metric_function(metric, chosen)
    )
    parts = _parts(scores, metric, decision, chosen)
    first = next(iter(parts.values()), np.zeros(0, dtype=bool))
    n = int(first.sum()) if metric in confusion.OF_ONE_CLASS else len(scores)
    bounds = (-1.0, 1.0) if metric in confusion.FROM_MINUS_ONE else (0.0, 1.0)
    present = len(np.unique(scores.truth))
    missing = present < classes and metric in ("balanced_accuracy", "macro_f1")
    note = f"mean over {_counted(present, classes)}" if missing else ""
    return Measure(metric, statistic, group, patients, bounds, parts, n, note)


def _positive_index(scores: Scores, metric: str, positive: str | None) -> int:
    if positive is not None and positive not in scores.classes:
        raise MedcoreError(f"{metric}: positive={positive!r} is none of the classes {scores.classes}")
    if positive is None and metric in confusion.OF_ONE_CLASS and len(scores.classes) != 2:
        raise MedcoreError(f"{metric} speaks of one class; give positive=, one of {scores.classes}")
    return scores.classes.index(positive) if positive is not None else 1


def _parts(scores: Scores, metric: str, decision: np.ndarray, positive: int) -> dict[str, np.ndarray]:
    truth, name = scores.truth, scores.classes[min(positive, len(scores.classes) - 1)]
    special: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "accuracy": lambda: {"any class": np.ones(len(scores), dtype=bool)},
        "sensitivity": lambda: {f"class {name!r}": truth == positive},
        "specificity": lambda: {f"another class than {name!r}": truth != positive},
        "ppv": lambda: {f"a call {name!r}": decision == positive},
        "npv": lambda: {f"a call other than {name!r}": decision != positive},
        "f1": lambda: {f"class or call {name!r}": (truth == positive) | (decision == positive)},
    }
    if metric in special:
        return special[metric]()
    present = np.unique(truth)
    parts = {f"class {scores.classes[k]!r}": truth == k for k in present}
    return parts if len(present) > 1 else parts | {"a second class": np.zeros(len(scores), dtype=bool)}


def _counted(present: int, classes: int) -> str:
    return f"{classes} classes" if present == classes else f"the {present} of {classes} classes that have cases"
