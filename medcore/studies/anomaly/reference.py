"""Trivial painters: what paints a picture again without having learnt, or by straight lines only.

    score_set(Blur(), ps, "structure")                       # an anomaly score that owes nothing to training
    score_set(fit_linear(normal, components=32), ps, "mse")  # an autoencoder without bends

Every autoencoder has to be read beside them, by the same score.

The trivial anomaly detector: how badly do k principal components of normal images redraw an image?
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from medcore.data.audit.hashing import content_images
from medcore.data.patchset import PatchSet
from medcore.data.sizes import resize, resize_maps
from medcore.errors import MedcoreError
from medcore.evaluation.predict import stream
from medcore.metrics.similarity import gaussian_blur

SIDE = 64  # pixels; components are computed on pictures shrunk to this
MOST_PICTURES = 2_000  # more do not change the first hundred components much


class Blur(nn.Module):
    """Repeats the picture out of focus, and has learnt nothing.

    Args:
        share: standard deviation of the blur as a share of the shorter side.

    **Shape**: (B, C, H, W) -> same.
    """

    def __init__(self, share: float = 1 / 16) -> None:
        super().__init__()
        self.share = share

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return gaussian_blur(images.float(), self.share * min(images.shape[-2:]))


class LinearPainter(nn.Module):
    """Paints with principal components: a linear autoencoder, the best there is by squared error.

    Args:
        mean: (P,) mean picture of P = C·h·w values.
        components: (K, P) orthonormal.
        shape: (C, h, w) of the pictures that the components are for.

    **Shape**: (B, C, H, W) in [0, 1] -> same; other sizes are shrunk to h×w and enlarged again.

    **Reference**: Baldi and Hornik 1989, doi:10.1016/0893-6080(89)90014-2.
    """

    def __init__(self, mean: Tensor, components: Tensor, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        components, mean = self.get_buffer("components"), self.get_buffer("mean")
        flat = resize_maps(images.float(), self.shape[1:], antialias=True).flatten(1) - mean
        painted = (flat @ components.T @ components + mean).unflatten(1, self.shape)
        return resize_maps(painted, images.shape[-2:]).clamp(0, 1)


def fit_linear(normal: PatchSet, components: int, *, seed: int = 0) -> LinearPainter:
    """The principal components of normal pictures as a painter.

    Args:
        normal: what to learn from; of more than 2,000 pictures a random 2,000 are used.
        components: numbers that describe a picture, as the bottleneck of the network to compare with.
        seed: of the sample and of the randomised decomposition.

    Raises:
        MedcoreError: there are fewer pictures than components.
    """
    if not 1 <= components <= len(normal):
        raise MedcoreError(f"fit_linear: components={components} must be 1 to the {len(normal)} normal images")
    height, width, channels = normal.shape
    size = (min(SIDE, height), min(SIDE, width))
    rows = np.random.default_rng(seed).permutation(len(normal))[:MOST_PICTURES]
    pixels = stream(
        lambda images: resize_maps(images.float(), size, antialias=True).flatten(1), normal.select(np.sort(rows))
    )
    found = PCA(min(components, *pixels.shape), svd_solver="randomized", random_state=seed).fit(pixels)
    mean, matrix = (torch.from_numpy(array.astype(np.float32)) for array in (found.mean_, found.components_))
    return LinearPainter(mean, matrix, (channels, *size))


MOST_TRAINING_IMAGES = 5_000
CHUNK = 256


def pca_reconstruction(
    normal: PatchSet, held_out: PatchSet, *, components: int = 120, side: int = SIDE, seed: int = 0
) -> np.ndarray:
    """Mean squared error after projection on the principal components of normal images.

    Args:
        normal: Images to learn from; of more than 5,000 a random 5,000 are used.
        held_out: Images to score.
        components: How many numbers describe an image (the size of the bottleneck to compare with).
        side: Images larger than this are shrunk to it, pixels.
        seed: Of the randomised decomposition and of the sample.

    Returns:
        Errors of intensities in 0…1, higher = more unusual. **Shape** ``(N,)`` float64.

    Raises:
        MedcoreError: There are too few normal images for so many components, or the sets differ in shape.

    **Reference** Turk & Pentland 1991 ("distance from face space"), doi:10.1162/jocn.1991.3.1.71.
    """
    if normal.shape != held_out.shape:
        raise MedcoreError(f"pca_reconstruction: normal images are {normal.shape}, the others {held_out.shape}")
    if not 1 <= components <= len(normal):
        raise MedcoreError(f"pca_reconstruction: components={components} must be 1 to the {len(normal)} normal images")
    rows = np.arange(len(normal))
    if len(normal) > MOST_TRAINING_IMAGES:
        rows = np.sort(np.random.default_rng(seed).choice(len(normal), MOST_TRAINING_IMAGES, replace=False))
    training = np.concatenate([_pixels(normal, rows[i : i + CHUNK], side) for i in range(0, len(rows), CHUNK)])
    model = PCA(min(components, training.shape[1]), svd_solver="randomized", random_state=seed).fit(training)
    errors = [np.zeros(0)]
    for start in range(0, len(held_out), CHUNK):
        pixels = _pixels(held_out, np.arange(start, min(len(held_out), start + CHUNK)), side)
        missing = model.inverse_transform(model.transform(pixels)) - pixels
        errors.append((missing.astype(np.float64) ** 2).mean(axis=1))
    return np.concatenate(errors)


def _pixels(ps: PatchSet, rows: np.ndarray, side: int) -> np.ndarray:
    """Pixels without padding, shrunk, in 0…1. **Shape** ``(n, h·w·C)`` float32."""
    images = content_images(ps, rows)
    height, width = (min(side, length) for length in images.shape[1:3])
    if (height, width) != images.shape[1:3]:
        images = resize(images, (height, width), "bicubic")
    return images.reshape(len(images), -1).astype(np.float32) / 255
