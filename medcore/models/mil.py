"""Gated attention over the windows of a patient: which windows speak, and what they say together.

    model = GatedABMIL(features=128)
    logits, attention = model(bags, mask)       # (B, N, D), (B, N) -> (B,), (B, N)

- A patient is a bag of window features; only the bag has a label. The attention weights sum to 1 over the bag's
  windows, so the number of windows alone says nothing.
- Features are standardised by the training bags' mean and spread, kept in the state dict.

**Reference** Ilse, Tomczak & Welling 2018, arXiv:1802.04712 (the gated variant, equation 9).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medcore.errors import MedcoreError


class GatedABMIL(nn.Module):
    """Attention-based multiple-instance learning with a gate.

    Args:
        features: Numbers D that describe a window.
        hidden: Width of the embedding and of the attention.
        dropout: Share of the embedding dropped in training, 0 to below 1.

    **Shape**: bags (B, N, D) and mask (B, N) bool, True where there is a window -> logits (B,), attention (B, N).
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, features: int, hidden: int = 64, dropout: float = 0.25) -> None:
        super().__init__()
        if min(features, hidden) < 1 or not 0 <= dropout < 1:
            raise MedcoreError(f"GatedABMIL(features={features}, hidden={hidden}, dropout={dropout}): out of range")
        self.spec: dict[str, Any] = {
            "family": "gated_abmil",
            "args": {"features": features, "hidden": hidden, "dropout": dropout},
        }
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.embed = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.content = nn.Linear(hidden, hidden)
        self.gate = nn.Linear(hidden, hidden)
        self.weigh = nn.Linear(hidden, 1)
        self.head = nn.Linear(hidden, 1)

    def standardise_by(self, windows: Tensor) -> None:
        """Take mean and spread of the training windows. **Shape** ``(M, D)``."""
        self.mean.copy_(windows.mean(0))
        spread = windows.std(0, unbiased=False)
        self.spread.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def forward(self, bags: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See the class.

        Raises:
            MedcoreError: Shapes do not fit, or a bag is empty.
        """
        if bags.ndim != 3 or bags.shape[2] != len(self.mean) or mask.shape != bags.shape[:2]:
            raise MedcoreError(
                f"GatedABMIL: bags {tuple(bags.shape)} and mask {tuple(mask.shape)}; needed: (B, N, {len(self.mean)}) "
                "and (B, N)"
            )
        if not bool(mask.any(1).all()):
            empty = torch.nonzero(~mask.any(1)).flatten().tolist()
            raise MedcoreError(f"GatedABMIL: bag {empty[0]} has no window ({len(empty)} such bags); leave it out")
        embedded = self.embed((bags - self.mean) / self.spread)  # (B, N, hidden)
        energy = self.weigh(torch.tanh(self.content(embedded)) * torch.sigmoid(self.gate(embedded))).squeeze(2)
        attention = energy.masked_fill(~mask, -torch.inf).softmax(1)  # (B, N)
        return self.head((attention.unsqueeze(2) * embedded).sum(1)).squeeze(1), attention
