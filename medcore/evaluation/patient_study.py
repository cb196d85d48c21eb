"""The method and what it is read beside, on the same patients in the same folds.

found = diagnose_all(cohort, learner)            # name -> Diagnoses; HoldOut once where there is one, else folds
operating_points(cohort, learner)                # what other threshold rules give
other_cuts(cohort, learner, seeds=(1, 2))        # AUROC with other folds
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medcore.evaluation.cohort import Cohort
from medcore.evaluation.intervals import interval
from medcore.evaluation.nested import (
    Diagnoses,
    LearnPatients,
    hold_out_diagnosis,
    hold_out_patients,
    nested_diagnosis,
    nested_patients,
)
from medcore.evaluation.patient_baselines import number_of_windows, rule
from medcore.evaluation.patient_metrics import patient_auroc
from medcore.evaluation.window_models import WindowLearner
from medcore.training.mil import MILConfig

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
        rule_name: How thresholds are chosen.
        attention: Training of ABMIL.
        seed: Of the folds.
    """
    window_wise = hold_out_diagnosis if (cohort.split == "test").any() else nested_diagnosis
    patient_wise = hold_out_patients if (cohort.split == "test").any() else nested_patients
    others: dict[str, LearnPatients] = {
        RULE: rule(cohort, RED),
        ATTENTION: learner.attention(attention),
    }
    if _counts_vary(cohort, folds):
        others[COUNT] = number_of_windows(cohort)
    found = {OURS: window_wise(cohort, learn=learner, folds=folds, rule=rule_name, seed=seed)}
    return found | {
        name: patient_wise(cohort, learn, folds=folds, rule=rule_name, seed=seed) for name, learn in others.items()
    }


def _counts_vary(cohort: Cohort, folds: int) -> bool:
    """Whether patients differ in their number of windows, also without a fold."""
    commonest = np.bincount(cohort.windows_per_patient).max()
    return len(cohort) - int(commonest) >= 2 * folds


def other_cuts(
    cohort: Cohort, learner: WindowLearner, *, folds: int = 5, rule_name: str = "youden", seeds: Sequence[int]
) -> np.ndarray:
    """AUROC of the method when the patients are cut into folds anew: how much of a figure hangs on one draw.

    The autoencoder's scores are left out: each cut would train as many again. **Shape** ``(len(seeds),)``.
    """
    light = learner.without_autoencoder()
    found = (nested_diagnosis(cohort, learn=light, folds=folds, rule=rule_name, seed=seed) for seed in seeds)
    return np.array([patient_auroc(one).value for one in found])


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
