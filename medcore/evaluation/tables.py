"""What a reader asks of decisions: per class and overall, with intervals, and at a prevalence that is stated.

- ``classification_table``: sensitivity, specificity, PPV, NPV, F1 of every class and their means.
- ``overall``: accuracy, balanced accuracy, macro F1, MCC, kappa.
- ``predictive_values``: what a positive or negative call means where 5, 20 or 50 % have the disease.
- The formulas, for one matrix or a thousand, are in ``confusion``; the intervals in ``intervals``.

    table = classification_table(scores.where("test"))      # cells are Estimates and print as 0.83 (0.79–0.87)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval
from medcore.evaluation.scores import Scores
from medcore.metrics.confusion import check_prevalence, class_indexes, confusion_matrix, metric_function, npv_at, ppv_at

PER_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1")
MEANS = ("balanced_accuracy", "macro_specificity", "macro_ppv", "macro_npv", "macro_f1")
OVERALL = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "kappa")
PREVALENCES = (0.05, 0.2, 0.5)


class PredictiveValues(NamedTuple):
    """Share of positive (``ppv``) and of negative calls (``npv``) that are right; None where there are none."""

    ppv: float | None
    npv: float | None


def classification_table(scores: Scores, decision: np.ndarray | None = None, *, level: float = 0.95) -> pd.DataFrame:
    """Per class and on average: how good are the decisions?

    Args:
        scores: Cases of one side.
        decision: Class index per case; by default the class with the highest score. **Shape** ``(N,)``.
        level: Confidence level of the patient-level intervals.

    Returns:
        One row per class that has cases, then ``mean``; columns ``n`` (cases), ``patients``, then one of Estimates per
        metric. A class that was never called enters the mean PPV and F1 with 0.

    Raises:
        MedcoreError: A decision is missing or no class.
    """
    rows: dict[str, list[object]] = {}
    for k, name in enumerate(scores.classes):
        members = scores.truth == k
        if members.any():
            found = [interval(scores, metric, decision=decision, positive=name, level=level) for metric in PER_CLASS]
            rows[name] = [int(members.sum()), len(np.unique(scores.patient[members])), *found]
    means = [interval(scores, metric, decision=decision, level=level) for metric in MEANS]
    rows["mean"] = [len(scores), scores.patients, *means]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", "patients", *PER_CLASS])


def overall(
    scores: Scores, decision: np.ndarray | None = None, *, metrics: Sequence[str] = OVERALL, level: float = 0.95
) -> list[Estimate]:
    """Metrics over all classes with patient-level intervals, ready for ``run.record``.

    Args:
        scores: Cases of one side.
        decision: Class index per case; by default the class with the highest score. **Shape** ``(N,)``.
        metrics: Names as for ``interval``.
        level: Confidence level.
    """
    return [interval(scores, metric, decision=decision, level=level) for metric in metrics]


def metric_value(
    metric: str, truth: np.ndarray, decision: np.ndarray, *, classes: int, positive: int = 1
) -> float | None:
    """One metric of decisions, without interval; None where it does not exist (0 / 0).

    Args:
        metric: Such as ``balanced_accuracy``, ``mcc``, ``quadratic_kappa``, ``sensitivity``.
        truth: Class indexes. **Shape** ``(N,)``.
        decision: Class indexes. **Shape** ``(N,)``.
        classes: K.
        positive: The class that one-class metrics speak of.

    Raises:
        MedcoreError: Unknown metric, or an index is outside 0…K-1.
    """
    matrix = confusion_matrix(truth, decision, classes).astype(float)
    positive = int(class_indexes("positive", np.array([positive]), classes)[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(metric_function(metric, positive)(matrix))
    return value if np.isfinite(value) else None


def quadratic_weighted_kappa(truth: np.ndarray, decision: np.ndarray, *, classes: int) -> float | None:
    """Agreement on ordered classes (negative, low, high density); None when truth and decision are one same class.

    Args:
        truth: Class indexes in their order. **Shape** ``(N,)``.
        decision: Class indexes. **Shape** ``(N,)``.
        classes: K.

    **Reference** Cohen 1968, doi:10.1037/h0026256.
    """
    return metric_value("quadratic_kappa", truth, decision, classes=classes)


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> PredictiveValues:
    """What a call means where a share ``prevalence`` has the disease (Bayes' rule).

    Args:
        sensitivity: 0 to 1.
        specificity: 0 to 1.
        prevalence: Strictly between 0 and 1.

    Raises:
        MedcoreError: A number is out of its range.
    """
    for name, value in (("sensitivity", sensitivity), ("specificity", specificity)):
        if not 0 <= value <= 1:
            raise MedcoreError(f"predictive_values: {name}={value} must lie between 0 and 1")
    prevalence = check_prevalence(prevalence)
    ppv = ppv_at(prevalence, sensitivity, specificity) if sensitivity > 0 or specificity < 1 else None
    npv = npv_at(prevalence, sensitivity, specificity) if specificity > 0 or sensitivity < 1 else None
    return PredictiveValues(ppv, npv)


def prevalence_table(
    scores: Scores,
    decision: np.ndarray,
    *,
    prevalences: Sequence[float] = PREVALENCES,
    positive: str | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """PPV and NPV with patient-level intervals at stated prevalences, because a study's own is rarely the clinic's.

    Args:
        scores: Cases of one side.
        decision: Class index per case. **Shape** ``(N,)``.
        prevalences: Each strictly between 0 and 1.
        positive: The class that is the disease; by default the second of two.
        level: Confidence level.

    Returns:
        One row per prevalence; columns ``ppv`` and ``npv`` of Estimates, named ``ppv@0.05`` and the like.
    """
    rows = {
        check_prevalence(prevalence): [
            interval(scores, f"{metric}@{prevalence:g}", decision=decision, positive=positive, level=level)
            for metric in ("ppv", "npv")
        ]
        for prevalence in prevalences
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["ppv", "npv"])
    return table.rename_axis("prevalence")
