"""From a patient's score to decision, probability and density level: chosen on training patients, then applied.

Patients are few, so Youden's threshold comes from a logistic curve (``youden.logistic_youden``), not off the bare ROC;
``benchmarks/thresholds.py`` measures what either gives away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from medcore.evaluation.calibration import Logistic, fit_logistic
from medcore.evaluation.cohort import Cohort
from medcore.evaluation.density import choose_cuts, levels_from
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.evaluation.thresholds import OperatingPoint, choose_threshold, parse_rule, point_at
from medcore.evaluation.youden import logistic_youden


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
