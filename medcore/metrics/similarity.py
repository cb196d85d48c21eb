"""Structural similarity: one number for score and loss, as a map, at several scales, in opponent colours; and PSNR.

All of it is computed in float32, also under autocast: variances are small differences of large numbers.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

C1, C2 = 0.01**2, 0.03**2  # for pictures in [0, 1]
SCALES = (0.8, 1.5, 3.0)  # standard deviations of the windows in pixels
# variances below which a difference is noise, in lightness, red-green and yellow-blue: the median local variance that
# autoencoders left over in 8-bit JPEG photographs of normal skin (standard deviations 0.014, 0.010 and 0.010)
OPPONENT_NOISE = (2e-4, 1e-4, 1e-4)
CENTRE = 0.25  # standard deviation of the central weight as a share of the side


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of each pair of pictures: the mean of ``ssim_map``. **Shape**: 2 x (B, C, H, W) -> (B,)."""
    return ssim_map(first, second).mean((1, 2))


def ssim_map(first: Tensor, second: Tensor, sigma: float = 1.5) -> Tensor:
    """Structural similarity around every pixel, a mean over the channels; 1 for equal pictures.

    Args:
        first: (B, C, H, W) in [0, 1].
        sigma: standard deviation of the Gaussian window in pixels; 1.5 gives the usual 11x11 window.

    **Shape**: -> (B, H, W), -1 to 1. The border is mirrored.

    **Reference**: Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    """
    with torch.autocast(first.device.type, enabled=False):
        return _ssim_map(first.float(), second.float(), sigma)


def _ssim_map(first: Tensor, second: Tensor, sigma: float) -> Tensor:
    moments = torch.cat([first, second, first * first, second * second, first * second], dim=1)
    mean_1, mean_2, square_1, square_2, product = gaussian_blur(moments, sigma).chunk(5, dim=1)
    variance_1, variance_2 = square_1 - mean_1.square(), square_2 - mean_2.square()
    covariance = product - mean_1 * mean_2
    luminance = (2 * mean_1 * mean_2 + C1) / (mean_1.square() + mean_2.square() + C1)
    structure = (2 * covariance + C2) / (variance_1 + variance_2 + C2)
    return (luminance * structure).mean(1)


def multiscale_ssim_map(first: Tensor, second: Tensor, sigmas: tuple[float, ...] = SCALES) -> Tensor:
    """Mean of ``ssim_map`` over windows of several sizes. **Shape**: 2 x (B, C, H, W) -> (B, H, W)."""
    return torch.stack([ssim_map(first, second, sigma) for sigma in sigmas]).mean(0)


def structure_map(first: Tensor, second: Tensor, sigma: float = 1.5) -> Tensor:
    """How much of the local structure in lightness and in both opponent colours two pictures share; 1 for equal ones.

    It is SSIM's structure term without its luminance term, and each opponent colour is judged against its own noise:
    colour varies much less than lightness in tissue and skin, so with one constant for all it would hardly count.

    Args:
        first: (B, C, H, W) in [0, 1]; grey pictures (C = 1) are judged by lightness alone.
        sigma: standard deviation of the Gaussian window in pixels.

    **Shape**: -> (B, H, W), -1 to 1.
    """
    return structure_maps(first, second, sigma).mean(1)


def structure_maps(first: Tensor, second: Tensor, sigma: float = 1.5) -> Tensor:
    """``structure_map`` for lightness, red-green and yellow-blue apart. **Shape**: 2 x (B, C, H, W) -> (B, C, H, W)."""
    one, two = opponent(first.float()), opponent(second.float())
    moments = torch.cat([one, two, one * one, two * two, one * two], dim=1)
    mean_1, mean_2, square_1, square_2, product = gaussian_blur(moments, sigma).chunk(5, dim=1)
    variance = square_1 - mean_1.square() + square_2 - mean_2.square()
    noise = torch.tensor(OPPONENT_NOISE[: one.shape[1]], device=first.device).view(1, -1, 1, 1)
    return (2 * (product - mean_1 * mean_2) + noise) / (variance.clamp_min(0) + noise)


def opponent(images: Tensor) -> Tensor:
    """Lightness, red minus green, yellow minus blue. **Shape**: (B, 3, H, W) -> same; (B, 1, H, W) is lightness."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images[:, 0], images[:, 1], images[:, 2]
    return torch.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], dim=1)


def central_weights(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Gaussian weights about the middle of a picture, with mean 1. **Shape**: -> (H, W)."""
    rows = (torch.arange(height, device=device) + 0.5) / height - 0.5
    columns = (torch.arange(width, device=device) + 0.5) / width - 0.5
    weights = torch.exp(-0.5 * (rows[:, None].square() + columns.square()) / CENTRE**2)
    return weights / weights.mean()


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian, cut at 3.5 standard deviations, border mirrored. **Shape**: (B, C, H, W) -> same.

    It is computed as two matrix products: at these sizes they are two to six times faster than convolutions.
    """
    down = _blur_matrix(images.shape[-2], sigma).to(images)
    across = _blur_matrix(images.shape[-1], sigma).to(images)
    with torch.autocast(images.device.type, enabled=False):  # bfloat16 would round the variances away
        return down @ (images @ across.T)


@lru_cache(maxsize=32)
def _blur_matrix(side: int, sigma: float) -> Tensor:
    """Each row blurs one pixel; what the window covers beyond the border is mirrored. **Shape**: -> (side, side)."""
    radius = min(int(3.5 * sigma + 0.5), side - 1)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma).square())
    columns = (torch.arange(side)[:, None] + torch.arange(-radius, radius + 1)).abs()
    columns = torch.where(columns >= side, 2 * (side - 1) - columns, columns)
    return torch.zeros(side, side).scatter_add_(1, columns, (taps / taps.sum()).expand(side, -1))


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1], at most 100. **Shape**: 2 x (B, C, H, W) -> (B,)."""
    error = (first - second).square().mean((1, 2, 3))
    return -10.0 * error.clamp_min(1e-10).log10()
