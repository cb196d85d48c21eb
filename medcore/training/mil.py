"""Training of attention-based multiple-instance learning: a few bags of features, all of them in every step.

model = fit_mil(features, owner, truth, MILConfig(epochs=100))
probability, attention = predict_mil(model, features, owner, patients)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medcore.errors import MedcoreError
from medcore.models.mil import GatedABMIL


@dataclass(frozen=True)
class MILConfig:
    """Choices of the training.

    Attributes:
        epochs: Steps over all bags.
        learning_rate: Of AdamW with a cosine schedule.
        weight_decay: Of AdamW; strong, for bags are few.
        dropout: Share of the embedding dropped, 0 to below 1.
        most_windows: In each epoch a bag shows at most so many of its windows, drawn anew: big bags become small ones.
        seed: Of weights, dropout and draws.
    """

    epochs: int = 100
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    hidden: int = 64
    dropout: float = 0.25
    most_windows: int = 32
    seed: int = 0


def fit_mil(features: np.ndarray, owner: np.ndarray, truth: np.ndarray, config: MILConfig | None = None) -> GatedABMIL:
    """Train a gated ABMIL on bags of window features.

    Args:
        features: One row per window. **Shape** ``(N, D)``.
        owner: Bag of each window, 0 to P-1, each at least once. **Shape** ``(N,)``.
        truth: Label of each bag, 0 or 1, both present. **Shape** ``(P,)``.

    Returns:
        The model in evaluation mode.

    Raises:
        MedcoreError: An empty bag, one class only, or a feature that is not finite.
    """
    config = config or MILConfig()
    if len(np.unique(truth)) < 2:
        raise MedcoreError(f"fit_mil: all {len(truth)} bags are of one class; both are needed")
    bags, mask = pad_bags(features, owner, len(truth))
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = GatedABMIL(features.shape[1], config.hidden, config.dropout).train()
        model.standardise_by(bags[mask])
        _train(model, bags, mask, torch.as_tensor(truth, dtype=torch.float32), config, generator)
    return model.eval()


def _train(
    model: GatedABMIL, bags: Tensor, mask: Tensor, truth: Tensor, config: MILConfig, generator: torch.Generator
) -> None:
    """Balanced cross-entropy over all bags, once per epoch."""
    weight = torch.where(truth == 1, 0.5 / truth.mean(), 0.5 / (1 - truth.mean()))
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, config.epochs))
    for _ in range(config.epochs):
        shown, seen = _draw(bags, mask, config.most_windows, generator)
        logits, _ = model(shown, seen)
        loss = F.binary_cross_entropy_with_logits(logits, truth, weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()


def _draw(bags: Tensor, mask: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most ``most`` windows of every bag, drawn without replacement."""
    if mask.shape[1] <= most:
        return bags, mask
    order = torch.rand(mask.shape, generator=generator).masked_fill(~mask, 2.0).argsort(1)[:, :most]  # windows first
    return bags.gather(1, order.unsqueeze(2).expand(-1, -1, bags.shape[2])), mask.gather(1, order)


@torch.no_grad()
def predict_mil(model: GatedABMIL, features: np.ndarray, owner: np.ndarray, bags: int) -> tuple[np.ndarray, np.ndarray]:
    """Probability of every bag, and the attention that each window got within its bag.

    Returns:
        **Shape** ``(P,)`` in 0 to 1, and ``(N,)`` that sums to 1 over each bag.
    """
    padded, mask = pad_bags(features, owner, bags)
    logits, attention = model.eval()(padded, mask)
    order = np.argsort(owner, kind="stable")
    spread = np.empty(len(owner))
    spread[order] = attention[mask].numpy()
    return logits.sigmoid().numpy().astype(np.float64), spread


def pad_bags(features: np.ndarray, owner: np.ndarray, bags: int) -> tuple[Tensor, Tensor]:
    """Windows as padded bags. **Shape** ``(N, D)`` to ``(P, M, D)`` float32 and a mask ``(P, M)`` bool.

    Raises:
        MedcoreError: Lengths differ, a feature is not finite, or a bag has no window.
    """
    if features.ndim != 2 or len(features) != len(owner):
        raise MedcoreError(f"bags: features of shape {features.shape} for {len(owner)} windows; (N, D) is needed")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
        raise MedcoreError(f"bags: the features of window {row} are not finite; look at that window and at the encoder")
    counts = np.bincount(owner, minlength=bags)
    if len(counts) > bags or not counts.all():
        raise MedcoreError(f"bags: windows per bag are {counts.tolist()[:20]}, but each of {bags} bags needs a window")
    order = np.argsort(owner, kind="stable")
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    padded = np.zeros((bags, int(counts.max()), features.shape[1]), dtype=np.float32)
    mask = np.zeros(padded.shape[:2], dtype=bool)
    padded[owner[order], place], mask[owner[order], place] = features[order], True
    return torch.from_numpy(padded), torch.from_numpy(mask)
