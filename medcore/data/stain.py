"""Stains as light absorbers: optical density, colour deconvolution, Macenko estimation and normalisation.

- Beer-Lambert: a pixel is ``background * exp(-concentrations @ matrix)``; densities here use the natural logarithm.
- A stain matrix has one unit row per stain, columns red, green, blue. **Shape** ``(S, 3)``, S = 1 to 3.
- All functions take uint8 images of any leading shape, so a batch of a whole patient is one call.

    python -c "from medcore.data import stain; print(stain.HAEMATOXYLIN_EOSIN)"
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused

HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)
DAB = (0.268, 0.570, 0.776)
FEWEST_TISSUE_PIXELS = 50
LEAST_DENSITY = 0.15  # pixels with a channel below this count as glass
MOST_PIXELS = 20_000  # that enter an estimate, evenly spaced
EXTREMES = (1, 99)  # percentiles of the angles that count as the two stains
MOST_IMAGES = 16  # of a patient, from which a typical staining is estimated


class StainMissing(MedcoreError):
    """Hardly anything but glass is in the images."""


def stain_matrix(*vectors: tuple[float, float, float]) -> np.ndarray:
    """Unit rows from absorption vectors; two stains are completed by their cross product as a residual.

    **Shape** ``(3, 3)`` for two or three vectors, ``(1, 3)`` for one. float64.
    """
    rows = np.array(vectors, dtype=np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if len(rows) != 2:
        return rows
    residual = np.cross(rows[0], rows[1])
    return np.vstack([rows, residual / np.linalg.norm(residual)])


HAEMATOXYLIN_EOSIN = stain_matrix(HAEMATOXYLIN, EOSIN)
"""Rows haematoxylin, eosin, residual. **Reference** Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291."""
HAEMATOXYLIN_DAB = stain_matrix(HAEMATOXYLIN, DAB)
"""Rows haematoxylin, diaminobenzidine, residual. **Reference** as for HAEMATOXYLIN_EOSIN."""


@dataclass(frozen=True)
class Staining:
    """How strongly, and in which colours, a slide is stained.

    Attributes:
        matrix: Unit absorption rows haematoxylin, eosin. **Shape** ``(2, 3)``.
        maxima: 99th percentile of each stain's concentration (natural-log density). **Shape** ``(2,)``.
    """

    matrix: np.ndarray
    maxima: np.ndarray

    def as_list(self) -> list[float]:
        """Eight plain numbers: the rows, then the maxima."""
        return [*self.matrix.ravel().tolist(), *self.maxima.tolist()]


REFERENCE_STAINING = Staining(
    matrix=np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]]), maxima=np.array([1.9705, 1.0308])
)
"""The target of Macenko's own implementation, which others (StainTools, torchstain) took over."""


def optical_density(images: np.ndarray, *, background: float = 255.0) -> np.ndarray:
    """Natural-log optical density ``-ln(I / background)``, with intensities below 1 read as 1.

    Args:
        images: uint8 pixels. **Shape** ``(..., 3)``.
        background: Intensity of empty glass, 0 to 255.

    Returns:
        float32 densities, about 0 (glass) to 5.5 (black). **Shape** ``(..., 3)``.

    Raises:
        MedcoreError: The pixels are not uint8 RGB.
    """
    if images.dtype != np.uint8 or images.shape[-1] != 3:
        raise MedcoreError(f"stain: images must be uint8 RGB, not {images.dtype} of shape {images.shape}")
    table = -np.log(np.maximum(np.arange(256), 1) / background)
    return table.astype(np.float32)[images]


def intensity(density: np.ndarray, *, background: float = 255.0) -> np.ndarray:
    """Inverse of :func:`optical_density`: uint8 pixels, rounded and clipped. **Shape** ``(..., 3)``."""
    pixels = np.exp(-density)
    pixels *= background
    pixels += 0.5  # the cast below cuts off
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def separate_stains(
    images: np.ndarray, matrix: np.ndarray = HAEMATOXYLIN_EOSIN, *, background: float = 255.0
) -> np.ndarray:
    """Colour deconvolution: how much of each stain every pixel holds.

    Args:
        images: uint8 pixels. **Shape** ``(..., 3)``.
        matrix: Absorption rows. **Shape** ``(S, 3)``; with S < 3 the least-squares solution.
        background: Intensity of empty glass, 0 to 255.

    Returns:
        float32 concentrations; noise can make them slightly negative. **Shape** ``(..., S)``.

    **Reference** Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291-299.
    """
    inverse = np.linalg.pinv(matrix).astype(np.float32)
    return optical_density(images, background=background) @ inverse


def recombine_stains(
    concentrations: np.ndarray, matrix: np.ndarray = HAEMATOXYLIN_EOSIN, *, background: float = 255.0
) -> np.ndarray:
    """Inverse of :func:`separate_stains`: uint8 pixels. **Shape** ``(..., S)`` to ``(..., 3)``."""
    return intensity(concentrations @ np.asarray(matrix, dtype=np.float32), background=background)


def macenko(images: np.ndarray, *, background: float = 255.0) -> Staining:
    """Estimate the stain vectors of a slide from all of its images together.

    Args:
        images: uint8 pixels of one slide or patient. **Shape** ``(..., 3)``.
        background: Intensity of empty glass, 0 to 255.

    Raises:
        MedcoreError: There is almost nothing but glass in the images.

    **Reference** Macenko et al. 2009, ISBI, doi:10.1109/ISBI.2009.5193250.
    """
    pixels = images.reshape(-1, images.shape[-1])
    density = optical_density(pixels[:: max(1, len(pixels) // MOST_PIXELS)], background=background)
    tissue = density[density.min(axis=1) > LEAST_DENSITY]
    if len(tissue) < FEWEST_TISSUE_PIXELS:
        raise StainMissing(
            f"macenko: only {len(tissue)} of {len(density)} pixels are stained (each channel denser than "
            f"{LEAST_DENSITY}); pass images of a whole slide or patient, or leave these images as they are"
        )
    matrix = _extreme_directions(tissue)
    maxima = np.percentile(density @ np.linalg.pinv(matrix).astype(np.float32), 99, axis=0)
    return Staining(matrix, np.maximum(maxima, 1e-6))


def _extreme_directions(tissue: np.ndarray) -> np.ndarray:
    plane = np.linalg.eigh(np.cov(tissue.T, dtype=np.float64))[1][:, [2, 1]]  # (3, 2), largest variance first
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    along = tissue @ plane.astype(np.float32)
    angle = np.arctan2(along[:, 1], along[:, 0])
    ends = np.percentile(angle, EXTREMES)
    vectors = np.abs(np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # haematoxylin absorbs more red than eosin does
    return vectors[np.argsort(-vectors[:, 0])]


def typical_staining(train: PatchSet, *, seed: int = 0) -> Staining:
    """The staining in the middle of the training patients: the median of what each one's images show.

    Args:
        seed: Draws at most ``MOST_IMAGES`` images of each patient.

    Raises:
        TestDataRefused: An image is marked ``test``.
        MedcoreError: The images have no colours, or no patient has stained pixels.
    """
    if (train.splits == "test").any():
        raise TestDataRefused("a typical staining is estimated from training patients; these images are marked test")
    random, found = np.random.default_rng(seed), []
    for name in np.unique(train.patients):
        rows = random.permutation(np.flatnonzero(train.patients == name))[:MOST_IMAGES]
        with suppress(StainMissing):
            found.append(macenko(train.take(np.sort(rows))))
    if not found:
        raise StainMissing(f"set {train.card.name!r}: no patient has stained pixels; leave the stain as it is")
    matrix = np.median([one.matrix for one in found], axis=0)
    return Staining(
        matrix / np.linalg.norm(matrix, axis=1, keepdims=True), np.median([one.maxima for one in found], axis=0)
    )


def normalise_stains(
    images: np.ndarray,
    source: Staining | None = None,
    *,
    target: Staining = REFERENCE_STAINING,
    background: float = 255.0,
) -> np.ndarray:
    """Repaint images as if they had been stained like the target.

    Args:
        images: uint8 pixels of one slide or patient. **Shape** ``(..., 3)``.
        source: How they are stained; estimated from these images when None.
        background: Intensity of empty glass, 0 to 255.

    Returns:
        uint8 pixels. **Shape** as ``images``.

    **Reference** Macenko et al. 2009, ISBI, doi:10.1109/ISBI.2009.5193250.
    """
    source = macenko(images, background=background) if source is None else source
    unmix, scale = np.linalg.pinv(source.matrix), target.maxima / source.maxima
    change = (unmix * scale) @ target.matrix  # density to density, (3, 3)
    return intensity(optical_density(images, background=background) @ change.astype(np.float32), background=background)
