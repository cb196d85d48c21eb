"""Losses as plain functions, each linear in the samples, and the weights of classes in them.

Every loss returns one number per sample; a batch's loss is their mean. Accumulating gradients over pieces or over
processes therefore gives what one large batch would have given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.metrics.similarity import ssim

Weights = Sequence[float] | str | None
DISTANCES = ("mse", "l1", "ssim", "mixed")


def class_weights(choice: Weights, counts: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
    """One weight per class, mean 1 over the training samples; ``"balanced"`` weighs by 1 / frequency.

    Raises:
        MedcoreError: Not one positive number per class, or an unknown word.
    """
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice != "balanced":
            raise MedcoreError(f"class_weights={choice!r}: must be None, 'balanced' or one number per class")
        weights = counts.sum() / np.maximum(counts, 1) / max((counts > 0).sum(), 1)
        return np.where(counts > 0, weights, 1.0)
    weights = np.asarray(choice, dtype=np.float64)
    if weights.shape != (len(names),) or not (weights > 0).all():
        raise MedcoreError(f"class_weights={choice!r}: needs {len(names)} numbers above 0, for {', '.join(names)}")
    return weights * counts.sum() / max(float((weights * counts).sum()), 1e-12)


def mask_counts(patches: PatchSet, ignore_index: int) -> np.ndarray:
    """Pixels of each mask value. **Shape** ``(256,)`` with the ignored value left at 0.

    Raises:
        MedcoreError: The set has no masks.
    """
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, len(patches), 256):
        counts += np.bincount(patches.take_masks(slice(start, start + 256)).ravel(), minlength=256)
    if 0 <= ignore_index < 256:
        counts[ignore_index] = 0
    return counts


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy per sample, weighted by its class.

    torch's own weighted mean divides by the weights that happen to be in the batch; this one does not.

    Args:
        logits: **Shape** ``(B, K)``.
        labels: **Shape** ``(B,)`` int64.
        weights: One per class, mean 1 over the training samples. **Shape** ``(K,)``.
        smoothing: Share of the target spread evenly over all classes (Szegedy et al. 2016, arXiv:1512.00567).

    Returns:
        **Shape** ``(B,)``.
    """
    log_probabilities = F.log_softmax(logits.float(), 1)
    # a product with a one-hot target: deterministic on a GPU, where the gradient of a gather is not
    target = (labels[:, None] == torch.arange(logits.shape[1], device=labels.device)).to(log_probabilities.dtype)
    smooth = target * (1 - smoothing) + smoothing / logits.shape[1]
    loss = -(smooth * log_probabilities).sum(1)
    return loss if weights is None else loss * (target @ weights)


def findings_cross_entropy(logits: Tensor, findings: Tensor) -> Tensor:
    """Binary cross-entropy per image, a mean over its K findings; what is neither present nor absent costs nothing.

    **Shapes** logits ``(B, K)``, findings ``(B, K)`` int64 (1, 0, below 0 = unknown) -> ``(B,)``.
    """
    known = (findings >= 0).float()
    cost = F.binary_cross_entropy_with_logits(logits.float(), findings.clamp_min(0).float(), reduction="none")
    return (cost * known).mean(1)


def corn(logits: Tensor, grades: Tensor) -> Tensor:
    """Conditional ordinal loss per image, over the K - 1 questions "above grade k, given at least k?".

    An image answers the questions up to its own grade; the sum over them is divided by K - 1, so that every image
    weighs the same in every batch (the paper divides by the number of answers in the batch).

    **Shapes** logits ``(B, K - 1)``, grades ``(B,)`` int64 -> ``(B,)``.

    **Reference** Shi, Cao, Raschka 2023, doi:10.1007/s10044-023-01181-9.
    """
    places = torch.arange(logits.shape[1], device=grades.device)
    asked, above = (grades[:, None] >= places).float(), (grades[:, None] > places).float()
    return (F.binary_cross_entropy_with_logits(logits.float(), above, reduction="none") * asked).mean(1)


def pixel_cross_entropy(
    logits: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    """Cross-entropy per image, a mean over its valid pixels; ``gamma`` > 0 makes it the focal loss.

    Args:
        logits: **Shape** ``(B, K, H, W)``.
        target: One-hot classes, 0 where ignored. **Shape** ``(B, K, H, W)``.
        valid: 1 where a pixel counts. **Shape** ``(B, H, W)``.
        weights: One per class. **Shape** ``(K,)``.
        gamma: Exponent that plays down pixels that are right already.

    Returns:
        **Shape** ``(B,)``.

    **Reference** Lin et al. 2017, arXiv:1708.02002 (focal loss).
    """
    log_probabilities = F.log_softmax(logits.float(), 1)
    chosen = (target * log_probabilities).sum(1)  # (B, H, W), 0 where ignored
    loss = -chosen if gamma == 0 else -((1 - chosen.exp()).clamp_min(1e-12) ** gamma) * chosen
    if weights is not None:
        loss = loss * torch.einsum("bkhw,k->bhw", target, weights)
    return loss.sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor, smooth: float = 1.0) -> Tensor:
    """1 − soft Dice per image, a mean over the classes.

    Args:
        logits: **Shape** ``(B, K, H, W)``.
        target: One-hot classes, 0 where ignored. **Shape** ``(B, K, H, W)``.
        valid: 1 where a pixel counts. **Shape** ``(B, H, W)``.
        smooth: Pixels added above and below, so that an absent class that is not predicted costs nothing.

    Returns:
        **Shape** ``(B,)``, 0 to 1.

    **Reference** Milletari et al. 2016, arXiv:1606.04797.
    """
    probabilities = logits.float().softmax(1) * valid[:, None]
    overlap = (probabilities * target).sum((2, 3))
    total = probabilities.sum((2, 3)) + target.sum((2, 3))
    return 1 - ((2 * overlap + smooth) / (total + smooth)).mean(1)


def one_hot_pixels(masks: Tensor, classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """One-hot classes (0 where ignored) and valid pixels. **Shape** ``(B, H, W)`` -> ``(B, K, H, W), (B, H, W)``."""
    valid = masks != ignore_index
    classes_row = torch.arange(classes, device=masks.device).view(1, -1, 1, 1)
    target = (masks[:, None] == classes_row).float()  # an ignored pixel equals no class
    return target, valid.float()


def reconstruction_error(kind: str, output: Tensor, images: Tensor) -> Tensor:
    """Distance of a reconstruction from its image, one number per sample.

    ``mse`` and ``l1`` are means over pixels and channels; ``ssim`` is 1 − SSIM; ``mixed`` is
    0.84 × (1 − SSIM) + 0.16 × l1 (Zhao et al. 2017, arXiv:1511.08861, with single-scale SSIM). The SSIM is that of
    ``metrics.similarity``, so the loss is what the anomaly score ``ssim`` measures later.

    **Shape** ``(B, C, H, W)`` twice -> ``(B,)``.
    """
    output, images = output.float(), images.float()
    if kind == "mse":
        return (output - images).square().mean((1, 2, 3))
    if kind == "l1":
        return (output - images).abs().mean((1, 2, 3))
    if kind == "ssim":
        return 1 - ssim(output, images)
    return 0.84 * (1 - ssim(output, images)) + 0.16 * (output - images).abs().mean((1, 2, 3))
