"""Cohorts whose truth is known: patches of patients who differ, to see whether an interval keeps its promise.

A patch scores ``patient effect + (shift + patient's own shift) · positive + noise``; patients bring very different
numbers of patches. Counting patches as if they were independent then gives intervals that are far too narrow.

**Reference** The binormal model with random patient effects: Obuchowski 1997, doi:10.2307/2533958.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from medcore.evaluation.scores import Scores


@dataclass(frozen=True)
class Cohort:
    """How patients and patches of a simulated study behave.

    Attributes:
        patients: How many.
        mixed: Every patient has positive and negative patches (True), or is positive or negative (False).
        shift: By how much positive patches score higher, in standard deviations of the noise.
        patient_effect: Standard deviation of the patients' own level.
        shift_effect: Standard deviation of the patients' own shift.
        patches: Median number of patches of a patient.
        unevenness: Standard deviation of the logarithm of that number.
        prevalence: Expected share of positive patches.
    """

    patients: int = 40
    mixed: bool = True
    shift: float = 1.5
    patient_effect: float = 0.6
    shift_effect: float = 0.4
    patches: float = 20.0
    unevenness: float = 0.7
    prevalence: float = 0.4

    @property
    def threshold(self) -> float:
        """The threshold that decisions use: half the shift."""
        return self.shift / 2

    def true_values(self) -> dict[str, float]:
        """AUROC, accuracy and balanced accuracy at ``threshold`` in the population of all patients."""
        between, own = self.patient_effect**2, self.shift_effect**2
        sensitivity = norm.cdf(self.threshold / np.sqrt(1 + between + own))
        specificity = norm.cdf(self.threshold / np.sqrt(1 + between))
        return {
            "auroc": float(norm.cdf(self.shift / np.sqrt(2 + 2 * between + own))),
            "accuracy": float(self.prevalence * sensitivity + (1 - self.prevalence) * specificity),
            "balanced_accuracy": float((sensitivity + specificity) / 2),
        }


def simulate(cohort: Cohort, rng: np.random.Generator) -> tuple[Scores, np.ndarray]:
    """Draw one study.

    Returns:
        The scores, every case marked ``test``, and the decisions at ``cohort.threshold``, **Shape** ``(N,)``.
    """
    sizes = np.exp(rng.normal(np.log(cohort.patches), cohort.unevenness, cohort.patients))
    patient = np.repeat(np.arange(cohort.patients), np.maximum(1, np.round(sizes)).astype(int))
    share = rng.beta(2, 2 * (1 - cohort.prevalence) / cohort.prevalence, cohort.patients)
    positive = rng.random(len(patient)) < share[patient]
    if not cohort.mixed:
        positive = (rng.random(cohort.patients) < cohort.prevalence)[patient]
    level = rng.normal(0, cohort.patient_effect, cohort.patients)[patient]
    shift = cohort.shift + rng.normal(0, cohort.shift_effect, cohort.patients)[patient]
    score = level + positive * shift + rng.normal(0, 1, len(patient))
    marks = np.full(len(patient), "test")
    scores = Scores(positive.astype(np.int64), score, patient, marks, ("negative", "positive"))
    return scores, (score >= cohort.threshold).astype(np.int64)
