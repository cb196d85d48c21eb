"""Does a new image look like the training images? A simple distance, in features and in plain pixel statistics.

The distance is that to the nearest class centre, in units of the spread within classes, so that two classes far apart
do not make everything between them look usual. Pixel statistics (colour, contrast, sharpness) catch what a network has
learnt to ignore.

Reference: Lee et al. 2018, arXiv:1807.03888 (class centres with a shared spread; here with a diagonal one).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medcore.data.patchset import PatchSet
from medcore.evaluation.predict import stream
from medcore.evaluation.scores import refuse_test_images
from medcore.models.classifier import Classifier

TYPICAL = 0.99  # share of the validation images that counts as usual


@dataclass
class Space:
    """Class centres and the spread within classes.

    Attributes:
        centres: **Shape** ``(K, D)``.
        spread: **Shape** ``(D,)``.
        limit: Mean squared z-score that 99 % of the validation images stay below.
    """

    centres: list[list[float]]
    spread: list[float]
    limit: float = 1.0

    @classmethod
    def learn(cls, values: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> Space:
        """Centres and spread of training values; the limit from held-out ones."""
        present = np.unique(labels)
        centres = np.stack([values[labels == k].mean(0) for k in present])
        inside = np.concatenate([values[labels == k] - values[labels == k].mean(0) for k in present])
        spread = inside.std(0) + 0.05 * values.std(0) + 1e-6  # a feature that never varies must not decide alone
        space = cls(_rounded(centres), _rounded(spread))
        space.limit = float(np.quantile(space.distance(torch.from_numpy(held_out)).numpy(), TYPICAL))
        return space

    def distance(self, values: Tensor) -> Tensor:
        """Mean squared z-score to the nearest centre in units of the limit. **Shape** ``(B, D) -> (B,)``."""
        spread = torch.tensor(self.spread, dtype=torch.float32, device=values.device)
        centres = torch.tensor(self.centres, dtype=torch.float32, device=values.device) / spread
        return torch.cdist(values.float() / spread, centres).square().amin(1) / (len(self.spread) * self.limit)


@dataclass
class Familiarity:
    """Where training images lie, in features and in pixel statistics."""

    features: Space
    pixels: Space

    @classmethod
    def learn(cls, model: Classifier, train: PatchSet, validation: PatchSet) -> Familiarity:
        """From labelled training images; validation images say how far usual ones lie. Neither may be marked test."""
        for images in (train, validation):
            refuse_test_images(images, "what is familiar")
        spaces = [
            Space.learn(stream(function, train, model=model), train.labels, stream(function, validation, model=model))
            for function in (model.features, pixel_features)
        ]
        return cls(*spaces)

    def distance(self, features: Tensor, images: Tensor) -> Tensor:
        """The larger of both distances; above 1 is unusual. **Shape** ``(B, D), (B, C, H, W) -> (B,)``."""
        return torch.maximum(self.features.distance(features), self.pixels.distance(pixel_features(images)))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any] | None) -> Familiarity | None:
        """The inverse of ``as_dict``; None stays None."""
        return cls(Space(**stored["features"]), Space(**stored["pixels"])) if stored else None


def pixel_features(images: Tensor) -> Tensor:
    """Mean and spread of each channel, and the log sharpness. **Shape** ``(B, C, H, W) -> (B, 2C + 1)``."""
    planes = images.float().flatten(2)  # (B, C, HW), a copy of channels-last images: reductions run four times faster
    means = planes.mean(2)
    spreads = torch.linalg.vector_norm(planes - means[:, :, None], dim=2) / (planes.shape[2] - 1) ** 0.5
    grey = planes.mean(1).view(-1, *images.shape[2:])
    edges = grey - _three_by_three(grey) / _three_by_three(torch.ones_like(grey[:1]))
    sharpness = edges.square_().mean((1, 2)).add(1e-6).log()
    return torch.cat([means, spreads, sharpness[:, None]], dim=1)


def _three_by_three(planes: Tensor) -> Tensor:
    """Sum over each pixel and its up to eight neighbours. **Shape** ``(B, H, W)`` -> the same."""
    padded = F.pad(planes, (1, 1, 1, 1))
    rows = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


def _rounded(values: np.ndarray) -> Any:
    """Five significant digits are plenty, and keep the manifest small."""
    magnitude = 10.0 ** (4 - np.floor(np.log10(np.maximum(np.abs(values), 1e-12))))
    return (np.round(values * magnitude) / magnitude).tolist()
