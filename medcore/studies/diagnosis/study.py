"""What needs no model: the patient scores that every diagnosis is read beside.

nested_patients(cohort, rule(cohort, "red share"))     # the trivial rule
nested_patients(cohort, number_of_windows(cohort))     # the shortcut of how the set was made

The method and what it is read beside, on the same patients in the same folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from medcore.evaluation.intervals import interval
from medcore.studies.diagnosis.aggregation import aggregate
from medcore.studies.diagnosis.cohort import Cohort
from medcore.studies.diagnosis.learner import ERRORS, WindowLearner
from medcore.studies.diagnosis.nested import (
    Diagnoses,
    LearnPatients,
    hold_out_diagnosis,
    hold_out_patients,
    nested_diagnosis,
    nested_patients,
)
from medcore.training.mil import MILConfig


def rule(cohort: Cohort, score: str, aggregation: str = "top3") -> LearnPatients:
    """A patient score from a window score that learns nothing: by default the mean of the three highest windows.

    Args:
        cohort: Windows with the score.
        score: Its name.
        aggregation: One of ``AGGREGATIONS`` that needs no threshold (``top3``, ``mean``).
    """
    values, owner = cohort.score(score)[cohort.counted], cohort.owner[cohort.counted]
    found = aggregate(aggregation, values, np.zeros(len(values), dtype=bool), owner, len(cohort))
    return lambda excluded: found


def number_of_windows(cohort: Cohort) -> LearnPatients:
    """How many windows a patient has. It says nothing of tissue: where it tells patients apart, the set was made so."""
    found = cohort.windows_per_patient.astype(np.float64)
    return lambda excluded: found


OURS = "this method"
RULE = "red pixels, three highest windows"
ATTENTION = "attention over windows (ABMIL)"
COUNT = "number of windows"
RED = "red share"
OPERATING_RULES = ("youden", "sensitivity>=0.95", "specificity>=0.90", "cost 5:1")


def diagnose_all(
    cohort: Cohort,
    learner: WindowLearner,
    *,
    folds: int = 5,
    cuts: int = 1,
    rule_name: str = "youden",
    attention: MILConfig | None = None,
    seed: int = 0,
) -> dict[str, Diagnoses]:
    """Diagnose every patient by the method, the trivial rule, ABMIL and the number of windows (where it varies).

    Args:
        cohort: Windows with a score ``red share``. With patients marked ``test``, everything is chosen on the others
            and applied to these once; without, in nested folds.
        learner: Of this very cohort.
        folds: Outer folds.
        cuts: How often the patients are cut into folds, where there is no HoldOut: with ``seed``, ``seed + 1``, and so
            on. ABMIL is trained for the first cut only. Autoencoders that would have to be trained for every cut are,
            where the first cut chose one of their scores; else their scores stand to choose in the first cut only.
        rule_name: How thresholds are chosen.
        attention: Training of ABMIL.
        seed: Of the folds.
    """
    held_out = bool((cohort.split == "test").any())
    window_wise = hold_out_diagnosis if held_out else nested_diagnosis
    patient_wise = hold_out_patients if held_out else nested_patients
    options: dict[str, Any] = {"folds": folds, "rule": rule_name}
    more = [] if held_out else range(seed + 1, seed + cuts)
    ours = window_wise(cohort, learn=learner, seed=seed, **options)
    again = learner if _cheap_or_needed(learner, ours) else learner.without_autoencoder()
    found = {OURS: replace(ours, others=tuple(window_wise(cohort, learn=again, seed=n, **options) for n in more))}
    simple = {RULE: rule(cohort, RED)} | ({COUNT: number_of_windows(cohort)} if _counts_vary(cohort, folds) else {})
    for name, learn in simple.items():
        first, *others = (patient_wise(cohort, learn, seed=n, **options) for n in (seed, *more))
        found[name] = replace(first, others=tuple(others))
    found[ATTENTION] = patient_wise(cohort, learner.attention(attention), seed=seed, **options)
    return {name: found[name] for name in (OURS, RULE, ATTENTION, COUNT) if name in found}


def _cheap_or_needed(learner: WindowLearner, first: Diagnoses) -> bool:
    """Whether other cuts are to use the autoencoder: one serves them all, or the first cut chose its scores."""
    return learner.bystanders is not None or any(one.window.score in ERRORS.values() for one in first.rules)


def _counts_vary(cohort: Cohort, folds: int) -> bool:
    """Whether patients differ in their number of windows, also without a fold."""
    commonest = np.bincount(cohort.windows_per_patient).max()
    return len(cohort) - int(commonest) >= 2 * folds


def operating_points(
    cohort: Cohort,
    learner: WindowLearner,
    *,
    folds: int = 5,
    rules: Sequence[str] = OPERATING_RULES,
    seed: int = 0,
) -> pd.DataFrame:
    """The method under several threshold rules, each chosen on training patients.

    Returns:
        One row per rule with Estimates of ``sensitivity``, ``specificity`` and ``accuracy`` (Wilson).
    """
    diagnose = hold_out_diagnosis if (cohort.split == "test").any() else nested_diagnosis
    rows = {}
    for name in rules:
        found = diagnose(cohort, learn=learner, folds=folds, rule=name, seed=seed)
        scores, decision = found.scores(), found.table["decision"].to_numpy()
        rows[name] = [
            interval(scores, metric, decision=decision) for metric in ("sensitivity", "specificity", "accuracy")
        ]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["sensitivity", "specificity", "accuracy"])
