"""The trivial anomaly detector: how badly do k principal components of normal images redraw an image?

    score = pca_reconstruction(normal_train, test, components=120)       # (N,), higher = more unusual

An autoencoder is a nonlinear version of this; its error has to be read beside the linear one with as many components.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA

from medcore.data.hashing import content_images
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError

SIDE = 64  # pixels; larger images are shrunk to this
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
        images = np.stack([_shrunk(image, (width, height)) for image in images])
    return images.reshape(len(images), -1).astype(np.float32) / 255


def _shrunk(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    grey = image.shape[2] == 1
    small = np.asarray(Image.fromarray(image[..., 0] if grey else image).resize(size, Image.Resampling.BICUBIC))
    return small[..., None] if grey else small
