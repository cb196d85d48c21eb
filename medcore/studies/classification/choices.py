"""What a classification study fixes beside the parameters of its notebook: every value with its meaning."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from medcore.training.config import setting, settings_table


@dataclass(frozen=True)
class ClassificationChoices:
    """What a classification study fixes beside the parameters of its notebook."""

    metrics: tuple[str, ...] = setting(("balanced_accuracy", "accuracy", "auroc"), "Metrics, headline first.")
    class_weights: str = setting("balanced", "Weights of the classes in the loss; baselines are treated alike.")
    optimiser: str = setting("adamw", "Rule that turns gradients into steps.")
    schedule: str = setting("one-cycle", "How the learning rate changes over a training.")
    frozen_epochs: int = setting(1, "Epochs in which only the head of a pretrained network learns.", "epochs")
    backbone_share: float = setting(0.2, "Learning rate of a pretrained backbone.", "share of the head's")
    encoder_sides: tuple[int, int] = setting(
        (112, 224), "An encoder sees images at their own side, but within these limits.", "pixels"
    )
    few_patients: tuple[int, ...] = setting((1, 5, 10, 50), "Patients of each class that a probe learns from.")
    few_draws: int = setting(5, "How often so few are drawn.", "times")
    fewest_test_images: int = setting(50, "With fewer test images the cross-validated figure leads.", "images")
    fewest_test_units: int = setting(5, "With fewer test patients (lesions, …) the cross-validated figure leads.")
    mistakes: int = setting(12, "Wrong answers that are shown, the surest first.", "images")
    answered: tuple[float, ...] = setting((0.9, 0.8), "Shares of cases that the rules for not answering shall answer.")
    promise: float = setting(0.95, "How often a set of plausible classes shall hold the truth.")
    maps: int = setting(8, "Images with a Grad-CAM map.", "images")
    maps_alike: float = setting(0.5, "From this rank correlation with a randomised network on, maps are not believed.")

    def table(self) -> pd.DataFrame:
        """One row per choice: value, unit, meaning."""
        return settings_table(self)
