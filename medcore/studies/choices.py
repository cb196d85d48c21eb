"""The choices of a study in one small frozen dataclass, which its notebook shows as a table, and what they lead to.

@dataclass(frozen=True)
class MyChoices(Choices):
folds: int = setting(5, "Folds over patients.", "folds")

MyChoices.from_parameters(p).table()      # field, value, unit, meaning
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from medcore.data.patchset import PatchSet
from medcore.training.augment.apply import augmented_examples
from medcore.training.augment.recipe import REASONS, as_augment, suitable_recipe
from medcore.training.batches import suitable_size
from medcore.training.config import TrainConfig


@dataclass(frozen=True)
class Choices:
    """A frozen dataclass whose fields are made by ``training.config.setting``."""

    @classmethod
    def from_parameters(cls, parameters: Any, **others: Any) -> Self:
        """Choices from a notebook's parameters of the same names (those that are not None), and ``others``."""
        names = [field.name for field in dataclasses.fields(cls)]
        given = {name: value for name in names if (value := getattr(parameters, name, None)) is not None}
        return cls(**given | others)

    def table(self) -> pd.DataFrame:
        """One row per field: its value, unit and meaning."""
        rows = [
            {
                "choice": f.name,
                "value": getattr(self, f.name),
                "unit": f.metadata["unit"],
                "meaning": f.metadata["help"],
            }
            for f in dataclasses.fields(self)
        ]  # fmt: skip
        return pd.DataFrame(rows).set_index("choice")


@dataclass(frozen=True)
class Augmentation:
    """The recipe of a training: its name, and why it leaves the class as it is."""

    name: str
    reason: str

    def examples(self, train: PatchSet, *, images: int = 2, count: int = 7, seed: int = 0) -> np.ndarray:
        """Some training images, each followed by variants. **Shape** ``(images (count + 1), H, W, C)`` uint8."""
        return augmented_examples(self.name, train.take(np.arange(min(images, len(train)))), count=count, seed=seed)


class TrainsClassifiers:
    """What the studies of classifiers (06, 09) share before a training; they bring the set, its sides and choices."""

    patches: PatchSet
    train: PatchSet
    seed: int
    choices: Any

    def augmentation(self, name: str | None = None) -> Augmentation:
        """The augmentation of this name, by default the one that fits the set."""
        name = name or suitable_recipe(self.patches.card, self.patches.shape[2])
        as_augment(name)  # refuses a name that is none
        return Augmentation(name, REASONS[name])

    def config(self, recipe: str, *, pretrained: bool = False, **settings: Any) -> TrainConfig:
        """A training's settings: those given and the study's choices."""
        settings["batch_size"] = settings.get("batch_size") or suitable_size(len(self.train))
        return TrainConfig(
            seed=self.seed,
            augment=as_augment(recipe),
            optimiser=self.choices.optimiser,
            schedule=self.choices.schedule,
            backbone_share=self.choices.backbone_share if pretrained else 1.0,
            **settings,
        )
