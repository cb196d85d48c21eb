"""Losses as plain functions, each linear in the samples.

Every loss returns one number per sample; a batch's loss is their mean. Accumulating gradients over pieces or over
processes therefore gives what one large batch would have given.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from medcore.errors import MedcoreError

DISTANCES = ("mse", "l1", "ssim", "mixed")


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


def ssim(first: Tensor, second: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity per image with a Gaussian window, 1 for equal images.

    Args:
        first: Images in [0, 1]. **Shape** ``(B, C, H, W)`` with sides of at least ``window``.
        second: As ``first``.
        window: Side of the window, pixels, odd.
        sigma: Standard deviation of the window, pixels.

    Returns:
        **Shape** ``(B,)``.

    Raises:
        MedcoreError: A side is shorter than the window.

    **Reference** Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    """
    if min(first.shape[-2:]) < window:
        raise MedcoreError(
            f"ssim: images of {first.shape[-2]}×{first.shape[-1]} need sides of at least {window} pixels"
        )
    # In bfloat16 the difference of two nearly equal squares can turn negative, and the quotient NaN.
    with torch.autocast(first.device.type, enabled=False):
        return _ssim(first.float(), second.float(), window, sigma)


def _ssim(first: Tensor, second: Tensor, window: int, sigma: float) -> Tensor:
    down, across = (_window_matrix(side, window, sigma).to(first.device) for side in first.shape[-2:])
    stacked = torch.cat([first, second, first * first, second * second, first * second], 1)
    smooth = down @ (stacked @ across.T)  # as a matrix product several times faster than as a convolution
    mean_1, mean_2, square_1, square_2, product = smooth.chunk(5, 1)
    variance_1, variance_2 = square_1 - mean_1**2, square_2 - mean_2**2
    covariance = product - mean_1 * mean_2
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_1**2 + mean_2**2 + c1) * (variance_1 + variance_2 + c2))
    return similarity.mean((1, 2, 3))


@lru_cache(maxsize=32)
def _window_matrix(side: int, window: int, sigma: float) -> Tensor:
    """Each row weighs the pixels of one window, without padding. **Shape** -> ``(side - window + 1, side)``."""
    taps = torch.exp(-((torch.arange(window) - window // 2) ** 2) / (2 * sigma**2))
    columns = torch.arange(side - window + 1)[:, None] + torch.arange(window)
    return torch.zeros(len(columns), side).scatter_(1, columns, (taps / taps.sum()).expand(len(columns), -1))


def reconstruction_error(kind: str, output: Tensor, images: Tensor) -> Tensor:
    """Distance of a reconstruction from its image, one number per sample.

    ``mse`` and ``l1`` are means over pixels and channels; ``ssim`` is 1 − SSIM; ``mixed`` is
    0.84 × (1 − SSIM) + 0.16 × l1 (Zhao et al. 2017, arXiv:1511.08861, with single-scale SSIM).

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


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, variance) from N(0, 1), nats, per latent dimension. **Shape** ``(B, Z)`` -> same."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def hard_dice(predicted: Tensor, truth: Tensor, classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Dice of each image and class, and where it is defined (the class is in truth or prediction).

    Args:
        predicted: Classes. **Shape** ``(B, H, W)``.
        truth: Classes, ``ignore_index`` where a pixel does not count. **Shape** ``(B, H, W)``.
        classes: Number of classes K.
        ignore_index: Value of pixels that do not count.

    Returns:
        Dice (0 where undefined) and 1 where defined. **Shape** ``(B, K)`` twice.
    """
    target, valid = one_hot_pixels(truth, classes, ignore_index)
    found = one_hot_pixels(predicted, classes, -1)[0] * valid[:, None]
    overlap, total = (target * found).sum((2, 3)), target.sum((2, 3)) + found.sum((2, 3))
    defined = (total > 0).to(total.dtype)
    return 2 * overlap / total.clamp_min(1), defined
