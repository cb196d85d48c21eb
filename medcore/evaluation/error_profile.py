"""How a painting fails, as a few numbers: by window size, by opponent colour, in the middle and at the rim.

    profile = error_profile(model, images)                       # (B, 18)
    weighted = WeightedErrors.fit(profile, scores)               # labelled validation cases
    values = weighted(profile)                                   # (B,), higher = stranger

A single score weighs these errors alike. Where labelled validation cases exist, which a threshold needs anyway, they
can say which errors matter. The network itself still learns from normal images only, but such a score has to be read
beside trivial methods that were given the same labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from medcore.errors import MedcoreError
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.evaluation.similarity import SCALES, central_weights, structure_maps

STRENGTH = 0.3  # inverse of the ridge: weights of related errors share what they explain instead of cancelling out
FOLDS = 5


def error_profile(picture: Tensor, painted: Tensor) -> Tensor:
    """What is missing of the structure: per window size, opponent colour, and place (middle, rim).

    Args:
        picture: (B, C, H, W) in [0, 1].
        painted: as ``picture``.

    **Shape**: -> (B, 18) for colour, (B, 6) for grey pictures; 0 for equal pictures.
    """
    middle = central_weights(picture.shape[-2], picture.shape[-1], picture.device)
    rim = (2.0 - middle).clamp_min(0)
    places = torch.stack([middle / middle.sum(), rim / rim.sum()])  # (2, H, W)
    parts = [torch.einsum("bchw,phw->bcp", 1.0 - structure_maps(picture, painted, sigma), places) for sigma in SCALES]
    return torch.stack(parts, dim=1).flatten(1)


@dataclass
class WeightedErrors:
    """Weights of the errors, fitted by ridge logistic regression on labelled validation cases.

    Attributes:
        model: The fitted pipeline.
        out_of_fold: Score of every validation case by weights that never saw its patient, log-odds. **Shape** ``(V,)``.
    """

    model: Pipeline
    out_of_fold: np.ndarray

    @classmethod
    def fit(cls, profile: np.ndarray, scores: Scores, *, seed: int = 0) -> WeightedErrors:
        """Fit on validation cases, and score each of them without its own patient.

        Args:
            profile: **Shape** ``(V, F)``.
            scores: Truth and patient of the same cases.
            seed: Of the folds.

        Raises:
            TestDataRefused: A case is marked ``test``.
            MedcoreError: The lengths differ, or too few patients of one kind to leave any out.
        """
        refuse_test_data(scores, "the weights of the errors")
        if len(profile) != len(scores):
            raise MedcoreError(f"WeightedErrors: {len(profile)} profiles for {len(scores)} cases")
        patients = [len(np.unique(scores.patient[scores.truth == kind])) for kind in (0, 1)]
        if min(patients) < FOLDS:
            raise MedcoreError(
                f"WeightedErrors: {patients[0]} patients with normal and {patients[1]} with abnormal validation cases; "
                f"{FOLDS} of each are needed to fit weights. Take a score without weights, such as 'structure'"
            )
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        held_out = np.zeros(len(scores))
        for train, rest in folds.split(profile, scores.truth, scores.patient):
            held_out[rest] = _pipeline().fit(profile[train], scores.truth[train]).decision_function(profile[rest])
        return cls(_pipeline().fit(profile, scores.truth), held_out)

    def __call__(self, profile: np.ndarray) -> np.ndarray:
        """Log-odds of being abnormal, as far as the validation cases know. **Shape** ``(N, F)`` -> ``(N,)``."""
        return self.model.decision_function(profile)


def _pipeline() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000))
