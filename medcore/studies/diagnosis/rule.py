"""From a patient's score to decision, probability and density level: chosen on training patients, then applied.

Patients are few, so Youden's threshold comes from a logistic curve (``youden.logistic_youden``), not off the bare ROC;
``benchmarks/thresholds.py`` measures what either gives away.

From window scores to a patient's diagnosis: everything is chosen on training patients, then applied once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from medcore.errors import MedcoreError
from medcore.evaluation.calibration import Logistic, fit_logistic
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.evaluation.thresholds import OperatingPoint, choose_threshold, logistic_youden, parse_rule, point_at
from medcore.studies.diagnosis.aggregation import (
    AGGREGATIONS,
    Evidence,
    aggregate,
    choose_cuts,
    fit_evidence,
    level_counts,
    levels_from,
    strong_cut,
    window_levels,
)
from medcore.studies.diagnosis.cohort import Cohort, check_both
from medcore.studies.diagnosis.windows import WindowRule, choose_window_rule, simplest


@dataclass(frozen=True)
class PatientRule:
    """What a patient score means.

    Attributes:
        point: The threshold, by which rule and on whom; a patient at or above it is called infected.
        probability: Score to the probability of infection, at the prevalence of the training patients.
        cuts: Ascending cuts into density levels.
    """

    point: OperatingPoint
    probability: Logistic
    cuts: tuple[float, ...]

    def decide(self, score: np.ndarray) -> pd.DataFrame:
        """Columns ``score``, ``probability``, ``decision`` (0 or 1), ``margin`` and ``level``, a row per patient.

        ``margin`` is the score less the threshold.
        """
        return pd.DataFrame(
            {
                "score": score,
                "probability": self.probability.apply(score),
                "decision": self.point.apply(score),
                "margin": score - self.point.threshold,
                "level": levels_from(score, self.cuts),
            }
        )


def choose_patient_rule(cohort: Cohort, score: np.ndarray, *, rule: str = "youden") -> PatientRule:
    """Choose threshold, probability and density cuts.

    Args:
        cohort: Patients to choose on.
        score: Their scores, each from a model and window rule that have not seen the patient. **Shape** ``(P,)``.
        rule: How the threshold is chosen (``thresholds.choose_threshold``).

    Raises:
        TestDataRefused: A patient is marked ``test``.
        MedcoreError: One class only, or a score that is not finite.
    """
    if np.shape(score) != (len(cohort),):
        raise MedcoreError(f"patient rule: {np.shape(score)} scores for {len(cohort)} patients")
    scores = cohort.patient_scores(score)
    refuse_test_data(scores, "a patient threshold")
    return PatientRule(
        point=_choose_point(scores, rule),
        probability=fit_logistic(scores),
        cuts=choose_cuts(scores.score, cohort.level, len(cohort.levels)),
    )


def _choose_point(scores: Scores, rule: str) -> OperatingPoint:
    steady = parse_rule(rule)[0] == "youden"
    return point_at(scores, logistic_youden(scores), rule) if steady else choose_threshold(scores, rule)


EVIDENCE = "evidence"
PATIENT_SCORES = (EVIDENCE, *AGGREGATIONS)
"""Ways from windows to a patient's score, in the order in which they are preferred when validation sees no difference:
first the one that knows how much a number of windows can say."""


@dataclass(frozen=True)
class DiagnosisRule:
    """Everything that was chosen; it never changes when it is applied.

    Attributes:
        window: How a window is judged.
        aggregation: How the windows of a patient become one score: one of ``PATIENT_SCORES``.
        evidence: What the windows of infected and healthy training patients look like.
        patient: How the score of a patient is judged.
        auroc: AUROC of each aggregation on unseen patients of the inner folds.
    """

    window: WindowRule
    aggregation: str
    evidence: Evidence
    patient: PatientRule
    auroc: dict[str, float]

    def score(self, cohort: Cohort) -> np.ndarray:
        """The score of each patient. **Shape** ``(P,)``, 0 to 1."""
        return patient_scores(cohort, self.window, self.aggregation, self.evidence)

    def diagnose(self, cohort: Cohort) -> pd.DataFrame:
        """One row per patient: name, truth, ``windows``, ``positive_windows`` and what ``PatientRule.decide`` says.

        ``diagnosis``, ``true_level`` and ``truth`` are copied for the reader; no other column depends on them.
        """
        _, positive = self.window.judge(cohort)
        return patient_table(cohort, positive).join(self.patient.decide(self.score(cohort)))


def patient_scores(cohort: Cohort, window: WindowRule, aggregation: str, evidence: Evidence) -> np.ndarray:
    """The score of each patient by one of ``PATIENT_SCORES``. **Shape** ``(P,)``, 0 to 1."""
    if aggregation == EVIDENCE:
        return evidence.score(_levels(cohort, window, evidence.cut))
    probability, positive = window.judge(cohort)
    kept = cohort.counted
    return aggregate(aggregation, probability[kept], positive[kept], cohort.owner[kept], len(cohort))


def learn_evidence(cohort: Cohort, window: WindowRule) -> Evidence:
    """What the windows of infected and healthy patients look like to a window rule.

    Callers see to it that no test patient is among these (``choose_diagnosis`` does).
    """
    cut = strong_cut(cohort.score(window.score), cohort.label, window.threshold)
    return fit_evidence(_levels(cohort, window, cut), cohort.truth, cut)


def _levels(cohort: Cohort, window: WindowRule, cut: float) -> np.ndarray:
    """Windows of each level of each patient. **Shape** ``(P, L)``."""
    level = window_levels(cohort.score(window.score), window.threshold, cut)
    return level_counts(level[cohort.counted], cohort.owner[cohort.counted], len(cohort))


def patient_table(cohort: Cohort, positive: np.ndarray | None = None) -> pd.DataFrame:
    """Names, truth and window counts of the patients, in order. **Shape** ``positive`` ``(N,)`` bool."""
    table = pd.DataFrame(
        {
            "patient": cohort.names,
            "diagnosis": np.array(cohort.levels)[cohort.level],
            "true_level": cohort.level,
            "truth": cohort.truth,
            "windows": cohort.windows_per_patient,
        }
    )
    if positive is not None:
        table["positive_windows"] = np.bincount(
            cohort.owner, weights=positive & cohort.counted, minlength=len(cohort)
        ).astype(np.int64)
    return table


def choose_diagnosis(
    cohort: Cohort,
    *,
    folds: int = 5,
    rule: str = "youden",
    aggregations: Sequence[str] = PATIENT_SCORES,
    seed: int = 0,
) -> DiagnosisRule:
    """Choose window rule, aggregation and patient rule on training patients.

    Args:
        cohort: Training patients; their windows' scores must come from models that have not seen them.
        folds: Inner folds.
        rule: How thresholds are chosen (``thresholds.choose_threshold``).
        aggregations: The candidates, preferred ones first; the first within a standard error of the best is taken.
        seed: Of the folds.

    Raises:
        TestDataRefused: A patient is marked ``test``.
        MedcoreError: One class only, too few patients for the folds, or no annotated windows.
    """
    if not aggregations:
        raise MedcoreError(f"choose_diagnosis: no aggregation to choose from; known are {', '.join(PATIENT_SCORES)}")
    refuse_test_data(cohort.patient_scores(np.zeros(len(cohort))), "a diagnosis rule")
    check_both(cohort)
    unseen = out_of_fold_scores(cohort, folds=folds, rule=rule, aggregations=aggregations, seed=seed)
    auroc = {name: float(roc_auc_score(cohort.truth, score)) for name, score in unseen.items()}
    best = simplest(auroc, unseen, cohort.truth, few=True)
    window = choose_window_rule(cohort, folds=folds, rule=rule, seed=seed)
    return DiagnosisRule(
        window=window,
        aggregation=best,
        evidence=learn_evidence(cohort, window),
        patient=choose_patient_rule(cohort, unseen[best], rule=rule),
        auroc=auroc,
    )


def out_of_fold_scores(
    cohort: Cohort, *, folds: int, rule: str, aggregations: Sequence[str], seed: int
) -> dict[str, np.ndarray]:
    """Patient scores under each aggregation by rules that were chosen without the patient. Each ``(P,)``."""
    scores = {name: np.zeros(len(cohort)) for name in aggregations}
    side = cohort.folds(folds, seed=seed)
    for fold in range(folds):
        others, held_out = cohort.select(side != fold), cohort.select(side == fold)
        window = choose_window_rule(others, folds=folds, rule=rule, seed=seed)
        evidence = learn_evidence(others, window)
        for name in aggregations:
            scores[name][side == fold] = patient_scores(held_out, window, name, evidence)
    return scores
