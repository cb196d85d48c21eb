"""Trivial painters: what paints a picture again without having learnt, or by straight lines only.

    score_set(Blur(), ps, "structure")                       # an anomaly score that owes nothing to training
    score_set(fit_linear(normal, components=32), ps, "mse")  # an autoencoder without bends

Every autoencoder has to be read beside them, by the same score.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional as F

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.predict import stream
from medcore.evaluation.similarity import gaussian_blur

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
        flat = _shrunk(images.float(), self.shape[1:]).flatten(1) - mean
        painted = (flat @ components.T @ components + mean).unflatten(1, self.shape)
        return _resized(painted, (images.shape[-2], images.shape[-1])).clamp(0, 1)


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
    pixels = stream(lambda images: _shrunk(images.float(), size).flatten(1), normal.select(np.sort(rows)))
    found = PCA(min(components, *pixels.shape), svd_solver="randomized", random_state=seed).fit(pixels)
    mean, matrix = (torch.from_numpy(array.astype(np.float32)) for array in (found.mean_, found.components_))
    return LinearPainter(mean, matrix, (channels, *size))


def _shrunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
