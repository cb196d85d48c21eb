"""What an augmentation does, as pictures for a notebook."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from medcore.training.augment import Augment, apply, as_augment


def augmented_examples(
    recipe: Augment | str | dict[str, Any] | None, images: np.ndarray, *, count: int = 7, seed: int = 0
) -> np.ndarray:
    """Each image followed by variants of it, as epochs 1, 2, … of a run with this seed would see them.

    Args:
        recipe: A preset's name or an ``Augment``.
        images: uint8. **Shape** ``(n, H, W, C)``.
        count: Variants per image.
        seed: Seed of the run.

    Returns:
        uint8 images, row by row. **Shape** ``(n * (count + 1), H, W, C)``.
    """
    pixels, ids = torch.from_numpy(np.ascontiguousarray(images)), torch.arange(len(images))
    epochs = [apply(as_augment(recipe), pixels, None, ids, seed=seed, epoch=epoch)[0] for epoch in range(1, count + 1)]
    variants = torch.stack(epochs, dim=1).mul(255).round().clamp(0, 255).to(torch.uint8)
    rows = torch.cat([pixels.permute(0, 3, 1, 2)[:, None], variants], dim=1)
    return rows.flatten(0, 1).permute(0, 2, 3, 1).contiguous().numpy()
