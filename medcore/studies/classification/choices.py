"""What a classification study fixes beside the parameters of its notebook: every value with its meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from medcore.data.patchset import PatchSet
from medcore.data.stain import StainMissing, typical_staining
from medcore.studies.preprocessing import is_stained
from medcore.training.augment.recipe import as_augment
from medcore.training.config import setting, settings_table


@dataclass(frozen=True)
class ClassificationChoices:
    """What a classification study fixes beside the parameters of its notebook."""

    metrics: tuple[str, ...] = setting(("balanced_accuracy", "accuracy", "auroc"), "Metrics, headline first.")
    class_weights: str = setting("balanced", "Weights of the classes in the loss; baselines are treated alike.")
    stain: str = setting("", "macenko repaints each image in the training patients' typical staining; empty: no.")
    optimiser: str = setting("adamw", "Rule that turns gradients into steps.")
    schedule: str = setting("one-cycle", "How the learning rate changes over a training.")
    frozen_epochs: int = setting(1, "Epochs in which only the head of a pretrained network learns.", "epochs")
    backbone_share: float = setting(0.2, "Learning rate of a pretrained backbone.", "share of the head's")
    encoder_sides: tuple[int, int] = setting(
        (112, 224), "An encoder sees images at their own side, but within these limits.", "pixels"
    )
    tuned_images: int = setting(6000, "An encoder is fine-tuned on about so many images,", "images shown")
    tuned_epochs: tuple[int, int] = setting((3, 12), "within these limits.", "epochs")
    turned_images: int = setting(
        1000, "With fewer images an encoder's features are means over quarter turns, where the augmentation turns.",
        "images",
    )  # fmt: skip
    few_patients: tuple[int, ...] = setting((1, 5, 10, 50), "Patients of each class that a probe learns from.")
    few_draws: int = setting(5, "How often so few are drawn.", "times")
    context_reach: float = setting(
        3.0, "Neighbours of a patch weigh by a Gaussian of this standard deviation.", "spacings of patches"
    )
    context_components: int = setting(48, "Principal components of an encoder's features that are held against them.")
    context_folds: int = setting(5, "Folds in which patches are judged beside their neighbours.", "folds")
    fewest_test_images: int = setting(50, "With fewer test images the cross-validated figure leads.", "images")
    fewest_test_units: int = setting(5, "With fewer test patients (lesions, …) the cross-validated figure leads.")
    mistakes: int = setting(12, "Wrong answers that are shown, the surest first.", "images")
    answered: tuple[float, ...] = setting((0.9, 0.8), "Shares of cases that the rules for not answering shall answer.")
    promises: tuple[float, ...] = setting(
        (0.95, 0.9, 0.8), "How often a set of plausible classes shall hold the truth: the first that the validation "
        "patients can keep.",
    )  # fmt: skip
    maps: int = setting(8, "Images with a Grad-CAM map.", "images")
    maps_alike: float = setting(0.5, "From this rank correlation with a randomised network on, maps are not believed.")

    def staining(self, train: PatchSet) -> list[float] | None:
        """What images are repainted in, estimated from training images alone; None where they stay as they are."""
        return typical_staining(train).as_list() if self.stain == "macenko" else None

    def may_repaint(self, train: PatchSet) -> bool:
        """Whether repainting is worth a try: the images show stained tissue and are not repainted anyway."""
        if self.stain or not is_stained(train):
            return False
        try:
            typical_staining(train)
        except StainMissing:
            return False
        return True

    def table(self) -> pd.DataFrame:
        """One row per choice: value, unit, meaning."""
        return settings_table(self)


def variant_changes(
    weights: str | None, architectures: Sequence[str], *, seed: int, stained: bool
) -> dict[str, dict[str, Any]]:
    """Name to what a small experiment changes; the first changes nothing.

    Args:
        weights: Of the training that is varied; a file holds the weights of one architecture only.
        architectures: Further models, of which every layer learns from the first step on.
        stained: Whether repainting the staining is worth a try.
    """
    public = weights if weights == "imagenet" else None
    return {
        "as above": {},
        **({"Macenko staining": {"stain": "macenko"}} if stained else {}),
        "no augmentation": {"augment": None},
        "flips and turns only": {"augment": as_augment("flips")},
        "seed 1": {"seed": seed + 1},
        "seed 2": {"seed": seed + 2},
        **{f"model {name}": {"model": name, "weights": public, "frozen_epochs": 0, "backbone_share": 1.0}
           for name in architectures},
    }  # fmt: skip
