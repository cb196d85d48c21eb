"""Sums over the samples of an epoch, kept on the device and added over processes.

Every metric of an epoch is a function of sums (of losses, of confusion counts, of score histograms), so that one
addition over all processes at the end is exact, and nothing waits for the GPU in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medcore.training import distributed

if TYPE_CHECKING:
    from medcore.training.batches import Batch
    from medcore.training.objectives import Objective


def sums_dtype(device: torch.device) -> torch.dtype:
    """float64 wherever there is one: counts of pixels pass 2**24 quickly."""
    return torch.float32 if device.type == "mps" else torch.float64


class Totals:
    """The sums of one epoch on one set of images.

    Args:
        objective: Names the loss parts and the further sums it needs.
        device: Where the sums live.
    """

    def __init__(self, objective: Objective, device: torch.device) -> None:
        dtype = sums_dtype(device)
        self.objective = objective
        self.parts = torch.zeros(len(objective.parts), dtype=dtype, device=device)
        self.samples = 0  # known on the host: sizes of batches are
        self.sums = {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in objective.sums().items()}

    @torch.no_grad()
    def add(self, parts: dict[str, Tensor], output: Any, batch: Batch) -> None:
        """Add a batch: loss parts (means over its samples) and whatever the objective counts."""
        self.parts += torch.stack([parts[name].detach() for name in self.objective.parts]).to(self.parts) * len(batch)
        self.samples += len(batch)
        self.objective.count(self.sums, output, batch)

    def result(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Means and metrics of the epoch over all processes, and tables such as the confusion matrix."""
        device, dtype = self.parts.device, self.parts.dtype
        count = torch.tensor([self.samples], dtype=dtype, device=device)
        pieces = [count, self.parts, *self.sums.values()]
        flat = distributed.sum_over_processes(torch.cat([piece.flatten() for piece in pieces])).cpu().double()
        split = torch.split(flat, [piece.numel() for piece in pieces])
        samples = max(float(split[0]), 1.0)
        means = {name: float(value) / samples for name, value in zip(self.objective.parts, split[1], strict=True)}
        shaped = zip(self.sums, split[2:], strict=True)
        sums = {name: values.reshape(self.sums[name].shape).numpy() for name, values in shaped}
        return means | self.objective.metrics(sums, samples), self.objective.tables(sums)


def confusion_counts(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Confusion matrix, truth down and prediction across. **Shape** ``(n,)`` twice -> ``(K, K)`` float64.

    Pairs whose truth is not a class (an ignored pixel) are left out; nothing waits for the GPU.
    """
    valid = (truth >= 0) & (truth < classes)
    cells = torch.where(valid, truth * classes + predicted, classes * classes)
    counts = torch.zeros(classes * classes + 1, dtype=torch.int64, device=truth.device)
    counts.scatter_add_(0, cells, torch.ones_like(cells))  # whole numbers: the order cannot matter
    return counts[:-1].reshape(classes, classes)


def recalls(confusion: np.ndarray) -> np.ndarray:
    """Share of each class that was found, NaN for a class without samples. **Shape** ``(K, K)`` -> ``(K,)``."""
    support = confusion.sum(1)
    return np.divide(confusion.diagonal(), support, out=np.full(len(confusion), np.nan), where=support > 0)


def mean_of_known(values: np.ndarray) -> float:
    """Mean of the values that are not NaN, NaN when there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 over the classes that occur in truth or prediction. **Shape** ``(K, K)``."""
    denominator = confusion.sum(0) + confusion.sum(1)
    present = denominator > 0
    return float(np.mean(2 * confusion.diagonal()[present] / denominator[present])) if present.any() else 0.0


SCORE_BINS = 1000


def score_histogram(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Histograms of each class's probability: others, members. **Shape** ``(B, K), (B,) -> (K, 2, bins)``."""
    batch, classes = probabilities.shape
    bins = (probabilities * SCORE_BINS).long().clamp_(0, SCORE_BINS - 1)
    columns = torch.arange(classes, device=labels.device)
    member = (labels[:, None] == columns).long()  # (B, K)
    cells = (columns * 2 + member) * SCORE_BINS + bins
    counts = torch.zeros(classes * 2 * SCORE_BINS, dtype=torch.int64, device=labels.device)
    counts.scatter_add_(0, cells.flatten(), torch.ones(batch * classes, dtype=torch.int64, device=labels.device))
    return counts.reshape(classes, 2, SCORE_BINS)


def auroc_from_histogram(histogram: np.ndarray) -> float:
    """Mean one-versus-rest AUROC, NaN when no class has both sides. **Shape** ``(K, 2, bins)``.

    Equal bins count as ties, half each, as in the Mann–Whitney statistic.
    """
    others, members = histogram[:, 0], histogram[:, 1]
    below = np.cumsum(others, 1) - others
    wins = ((below + others / 2) * members).sum(1)
    pairs = others.sum(1) * members.sum(1)
    known = pairs > 0
    return float(np.mean(wins[known] / pairs[known])) if known.any() else float("nan")
