"""What a task brings to the training loop: its loss, its metrics, and which of them picks the best epoch.

    objective = Classification(["benign", "malignant"], class_weights="balanced")
    fit(model, objective, train, validation, config)

The loop knows none of these by name. An objective returns loss parts (means over the batch's samples) and adds
whatever its metrics need to sums on the device; ``Totals`` of ``fit.py`` turns sums into the epoch's numbers.
"""

from medcore.training.objectives.base import Objective
from medcore.training.objectives.images import Classification, Findings, Ordinal, Regression
from medcore.training.objectives.pixels import ELBO, GaussianOutput, Reconstruction, Segmentation

__all__ = [
    "ELBO", "Classification", "Findings", "GaussianOutput", "Objective", "Ordinal", "Reconstruction", "Regression",
    "Segmentation",
]  # fmt: skip
