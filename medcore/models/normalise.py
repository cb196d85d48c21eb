"""The first layer of every network: from images in [0, 1] to the range that its weights expect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from medcore.data.stain import FEWEST_TISSUE_PIXELS, LEAST_DENSITY, MOST_PIXELS
from medcore.errors import MedcoreError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """(images - mean) / std per channel, with mean and std kept in the state dict.

    A one-channel image is replicated when the mean has more channels than the input: a grey image then meets
    three-channel weights exactly as an RGB image with three equal channels would.

    Args:
        mean: per channel, in units of the image (0 to 1).
        in_channels: channels of the images; as many as ``mean`` has, or 1.

    **Shape**: (B, in_channels, H, W) in [0, 1] -> (B, len(mean), H, W).

    Raises:
        MedcoreError: numbers that cannot normalise, or images of another shape or type.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], in_channels: int | None = None) -> None:
        super().__init__()
        self.in_channels = len(mean) if in_channels is None else in_channels
        check_normalisation(mean, std, self.in_channels)
        self.given = {"mean": tuple(mean), "std": tuple(std)}
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        check_images(images, self.in_channels)
        return (images - self.mean) / self.std  # (B, 1, H, W) - (1, 3, 1, 1) replicates the grey channel


class StainNormalise(nn.Module):
    """Repaints each stained image as if it had been stained like a target, by Macenko's method, image by image.

    The same as ``data.stain.normalise_stains`` of one image, but for rounding; an image with hardly any stained pixel
    stays as it is.

    Args:
        target: ``Staining.as_list`` of the target: two unit rows (red, green, blue) and two largest concentrations.

    **Shape**: (B, 3, H, W) in [0, 1] -> the same.

    **Reference** Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250.
    """

    target: Tensor

    def __init__(self, target: Sequence[float]) -> None:
        super().__init__()
        if len(target) != 8:
            raise MedcoreError(f"stain={list(target)}: 8 numbers are needed; see data.stain.Staining.as_list")
        self.register_buffer("target", torch.tensor(list(target), dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        target = self.target.to(images.device, torch.float64)
        density = -(images.double() * 255).clamp(min=1).div(255).log().flatten(2).transpose(1, 2)  # (B, P, 3)
        step = max(1, density.shape[1] // MOST_PIXELS)
        repainted = []
        for image in density:
            matrix, maxima = _staining(image[::step])
            if matrix is None:
                repainted.append(image)
                continue
            change = (torch.linalg.pinv(matrix) * (target[6:] / maxima)) @ target[:6].view(2, 3)
            repainted.append(image @ change)
        return torch.stack(repainted).neg().exp().clamp(0, 1).transpose(1, 2).reshape(images.shape).to(images.dtype)


def _staining(density: Tensor) -> tuple[Tensor | None, Tensor]:
    """Stain rows (2, 3) and largest concentrations (2,) of the pixels of one image (P, 3); None without stain."""
    tissue = density[density.amin(1) > LEAST_DENSITY]
    if len(tissue) < FEWEST_TISSUE_PIXELS:
        return None, density
    plane = torch.linalg.eigh(torch.cov(tissue.T))[1][:, [2, 1]]
    plane = plane * torch.where(plane.sum(0) < 0, -1.0, 1.0)
    along = tissue @ plane
    ends = torch.quantile(torch.atan2(along[:, 1], along[:, 0]), torch.tensor([0.01, 0.99]).to(density))
    vectors = (torch.stack([ends.cos(), ends.sin()], 1) @ plane.T).abs()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    matrix = vectors[torch.argsort(-vectors[:, 0])]  # haematoxylin absorbs more red than eosin does
    maxima = torch.quantile(density @ torch.linalg.pinv(matrix), 0.99, dim=0)
    return matrix, maxima.clamp(min=1e-6)


def check_images(images: Tensor, in_channels: int) -> None:
    """Refuses what cannot be a batch of images in [0, 1]; looks at shape and type only, never at the pixels."""
    if images.ndim != 4 or images.shape[1] != in_channels:
        raise MedcoreError(
            f"images: shape {tuple(images.shape)}, but this model takes (B, {in_channels}, H, W); "
            "convert the images, or build the model with in_channels to match"
        )
    if not images.is_floating_point():
        raise MedcoreError(
            f"images: type {images.dtype}, but a model takes floats in [0, 1]; divide uint8 images by 255"
        )


def check_normalisation(mean: Sequence[float], std: Sequence[float], in_channels: int) -> None:
    """Raises MedcoreError where mean, std and channels do not belong together."""
    if len(mean) != len(std) or (in_channels != len(mean) and in_channels != 1):
        raise MedcoreError(
            f"mean={tuple(mean)}, std={tuple(std)}: one of each per channel is needed (in_channels={in_channels})"
        )
    if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        raise MedcoreError(
            f"mean={tuple(mean)}, std={tuple(std)}: must be finite and std above 0; "
            "a channel without any variation cannot be normalised, drop it or pass std=1"
        )


def channel_statistics(images: Iterable[np.ndarray]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel over all pixels of training images (any others leak), in units of [0, 1].

    Args:
        images: **Shape** each ``(H, W, C)`` uint8; sizes may differ.

    Returns:
        One number per channel; a channel without variation gets std 1.
    """
    count, total, squares = 0, np.zeros(1, np.int64), np.zeros(1, np.int64)
    for image in images:
        values = image.reshape(-1, image.shape[-1]).astype(np.int64)
        count, total, squares = count + len(values), total + values.sum(0), squares + (values**2).sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0)) / 255
    return (mean / 255).tolist(), np.where(std > 1e-6, std, 1.0).tolist()
