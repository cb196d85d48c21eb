"""Nearest-neighbour patch features: the strong peer that any reconstruction has to be compared with.

    memory = fit_patchcore(model, train, levels=(1, 2))     # any classifier; normal pictures only
    values = memory.score(images)                            # (B,)
    where = memory.error_map(images)                         # (B, H, W)
    values = score_set(memory.model, ps, memory.as_score())  # a whole set

Patches of normal pictures are remembered as features of a classifier's middle layers; a patch is as strange as the
nearest remembered one is far. A greedy coreset keeps the memory small without losing its extremes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcore.data.patchset import PatchSet
from medcore.data.sizes import resize_maps
from medcore.errors import MedcoreError
from medcore.evaluation.predict import stream
from medcore.evaluation.scores import refuse_test_data
from medcore.models.classifier import Classifier
from medcore.studies.anomaly.scores import ScoreFunction

PROJECTED = 64  # dimensions in which the coreset measures distances (Johnson-Lindenstrauss)


@dataclass
class PatchMemory:
    """Remembered patches of normal pictures.

    Attributes:
        model: the classifier whose maps are the features.
        levels: which of its ``pyramid`` maps are used, 0 = finest.
        bank: (M, D) remembered features.
        top: share of a picture's strangest patches whose mean is its score; 0 takes the strangest alone, 1 the mean.
        neighbours: remembered patches whose mean distance counts.
    """

    model: Classifier
    levels: tuple[int, ...]
    bank: Tensor
    top: float = 0.0
    neighbours: int = 1

    def distances(self, images: Tensor) -> Tensor:
        """Distance of every patch from the nearest remembered ones. **Shape**: (B, C, H, W) -> (B, h, w)."""
        features = patch_features(self.model, images, self.levels)
        batch, height, width, _ = features.shape
        nearest = nearest_distances(features.flatten(0, 2), self.bank.to(features), self.neighbours)
        return nearest.view(batch, height, width)

    def score(self, images: Tensor) -> Tensor:
        """How strange each picture is. **Shape**: (B, C, H, W) in [0, 1] -> (B,)."""
        flat = self.distances(images).flatten(1)
        count = max(1, round(self.top * flat.shape[1]))
        return flat.topk(count, dim=1).values.mean(1)

    def error_map(self, images: Tensor) -> Tensor:
        """Distances brought to the picture's size. **Shape**: (B, C, H, W) in [0, 1] -> (B, H, W)."""
        distances = self.distances(images).unsqueeze(1)
        return resize_maps(distances, images.shape[-2:]).squeeze(1)

    def as_score(self) -> ScoreFunction:
        """The score with the signature of all anomaly scores: (model, images) -> (B,)."""

        def score(model: nn.Module, images: Tensor) -> Tensor:
            if model is not self.model:
                raise MedcoreError("this patch memory belongs to another model; fit one for this model")
            return self.score(images)

        return score


def fit_patchcore(
    model: Classifier,
    train: PatchSet,
    *,
    levels: tuple[int, ...] = (1, 2),
    memory: int = 2000,
    candidates: int = 50_000,
    top: float = 0.0,
    neighbours: int = 1,
    seed: int = 0,
) -> PatchMemory:
    """Remembers the patches of normal pictures.

    Args:
        model: any classifier, used as it is (pretrained weights are what makes it see).
        levels: which of the model's ``pyramid`` maps make a patch's features, 0 = finest.
        memory: patches that are kept, chosen by a greedy coreset.
        candidates: patches that the coreset chooses from, drawn evenly from the pictures.
        top: share of a picture's strangest patches whose mean is its score.
        neighbours: remembered patches whose mean distance counts.
        seed: of the draw and of the coreset's start.

    Raises:
        TestDataRefused: a picture is marked ``test``.
        MedcoreError: levels that the model does not have, or no pictures.

    **Reference**: Roth et al. 2022, arXiv:2106.08265.
    """
    refuse_test_data(train, "a memory of patches")
    depth = len(model.backbone.widths)
    if not levels or not all(0 <= level < depth for level in levels):
        raise MedcoreError(f"levels={levels}: this {model.backbone.name} has the levels 0 to {depth - 1}")
    if memory < 1 or neighbours < 1 or neighbours > memory or not 0 <= top <= 1:
        raise MedcoreError(
            f"memory={memory}, neighbours={neighbours}, top={top}: need 1 <= neighbours <= memory, top <= 1"
        )
    generator = torch.Generator().manual_seed(seed)
    per_image = max(1, -(-candidates // max(1, len(train))))

    def draw(images: Tensor) -> Tensor:
        flat = patch_features(model, images, levels).flatten(1, 2)  # (B, P, D)
        picks = torch.rand(flat.shape[:2], generator=generator).argsort(1)[:, :per_image].to(flat.device)
        return flat.gather(1, picks.unsqueeze(2).expand(-1, -1, flat.shape[2]))

    drawn = torch.from_numpy(np.concatenate(stream(draw, train, model=model)))
    pool = drawn[torch.randperm(len(drawn), generator=generator)[:candidates]]
    device = next(model.parameters()).device
    bank = pool[greedy_coreset(pool.to(device), memory, seed).cpu()]
    return PatchMemory(model, tuple(levels), bank.to(device), top, neighbours)


@torch.no_grad()
def patch_features(model: Classifier, images: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Features of every patch: each level smoothed over 3x3, brought to the finest one's size, side by side.

    **Shape**: (B, C, H, W) in [0, 1] -> (B, h, w, D).
    """
    pyramid = model.pyramid(images)
    maps = [F.avg_pool2d(pyramid[level].float(), 3, stride=1, padding=1) for level in levels]
    size = max((level.shape[-2:] for level in maps), key=lambda hw: hw[0] * hw[1])
    return torch.cat([resize_maps(m, size) for m in maps], dim=1).permute(0, 2, 3, 1)


@torch.no_grad()
def greedy_coreset(features: Tensor, count: int, seed: int = 0) -> Tensor:
    """Rows that cover all others: each next one is the farthest from those chosen so far.

    Distances are measured in a random projection to PROJECTED dimensions, on the features' device.

    **Shape**: (N, D) -> (min(count, N),) int64.

    **Reference**: Sener and Savarese 2018, arXiv:1708.00489.
    """
    generator = torch.Generator().manual_seed(seed)
    if features.shape[1] > PROJECTED:
        matrix = torch.randn(features.shape[1], PROJECTED, generator=generator) / PROJECTED**0.5
        features = features @ matrix.to(features)
    count = min(count, len(features))
    chosen = torch.empty(count, dtype=torch.int64, device=features.device)
    chosen[0] = int(torch.randint(len(features), (1,), generator=generator))
    nearest = torch.full((len(features),), float("inf"), device=features.device)
    for step in range(1, count):  # stays on the device: no value is looked at in the loop
        nearest = torch.minimum(nearest, (features - features[chosen[step - 1]]).square().sum(1))
        chosen[step] = nearest.argmax()
    return chosen


def nearest_distances(queries: Tensor, bank: Tensor, neighbours: int = 1, chunk: int = 4096) -> Tensor:
    """Mean Euclidean distance to the nearest rows of the bank. **Shape**: (Q, D), (M, D) -> (Q,)."""
    parts = [
        torch.cdist(part, bank).topk(neighbours, dim=1, largest=False).values.mean(1) for part in queries.split(chunk)
    ]
    return torch.cat(parts)
