"""What a reader asks of decisions: per class and overall, with intervals, and at a prevalence that is stated.

- ``classification_table``: sensitivity, specificity, PPV, NPV, F1 of every class and their means.
- ``prevalence_table``: what a positive or negative call means where 5, 20 or 50 % have the disease.
- The formulas, for one matrix or a thousand, are in ``metrics.confusion``; the intervals in ``intervals``.

    table = classification_table(scores.where("test"))      # cells are Estimates and print as 0.83 (0.79–0.87)
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from medcore.evaluation.intervals import interval
from medcore.evaluation.scores import Scores
from medcore.metrics.confusion import check_prevalence

PER_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1")
MEANS = ("balanced_accuracy", "macro_specificity", "macro_ppv", "macro_npv", "macro_f1")
PREVALENCES = (0.05, 0.2, 0.5)


def classification_table(scores: Scores, decision: np.ndarray | None = None, *, level: float = 0.95) -> pd.DataFrame:
    """Per class and on average: how good are the decisions?

    Args:
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


def prevalence_table(
    scores: Scores,
    decision: np.ndarray,
    *,
    positive: str | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """PPV and NPV with patient-level intervals at stated prevalences, because a study's own is rarely the clinic's.

    Args:
        decision: Class index per case. **Shape** ``(N,)``.
        positive: The class that is the disease; by default the second of two.

    Returns:
        One row per prevalence; columns ``ppv`` and ``npv`` of Estimates, named ``ppv@0.05`` and the like.
    """
    rows = {
        check_prevalence(prevalence): [
            interval(scores, f"{metric}@{prevalence:g}", decision=decision, positive=positive, level=level)
            for metric in ("ppv", "npv")
        ]
        for prevalence in PREVALENCES
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["ppv", "npv"])
    return table.rename_axis("prevalence")
