"""From stain concentrations to pixels: a slide's stain, the light through it, lens, sensor and JPEG.

A slide belongs to one patient: its stain vectors, their strength, the lamp and the scanner's habits are drawn once per
patient. That is what makes memorising patients pay, and why a split must never mix them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from medcore.data.images import compress_jpeg
from medcore.data.phantoms.tissue import Field
from medcore.errors import MedcoreError

WARMTH = np.array([0.6, 0.1, -1.0])  # how a lamp's channels move when it gets warmer


@dataclass(frozen=True)
class StainedSlide:
    """How one patient's slide was stained and scanned.

    Attributes:
        matrix: Unit absorption rows. **Shape** ``(S, 3)``.
        strength: Factor on each stain's concentration. **Shape** ``(S,)``.
        lamp: Intensity of empty glass per channel, 0 to 255. **Shape** ``(3,)``.
        gamma: Contrast curve of the scanner; 1 is linear.
        blur: Sigma of the lens in micrometres.
        grain: Standard deviation of the sensor noise in grey levels.
        quality: JPEG quality, 1 to 95.
    """

    matrix: np.ndarray
    strength: np.ndarray
    lamp: np.ndarray
    gamma: float
    blur: float
    grain: float
    quality: int


class Hospital(NamedTuple):
    """How one hospital's laboratory and scanner differ from those that a phantom is usually drawn with.

    ``tilt`` turns the stain vectors towards each other (share), ``strength`` multiplies the stains (old slides fade),
    ``warmth`` moves the lamp (grey levels), ``gamma`` and ``blur`` are factors, ``grain`` is added in grey levels,
    ``quality`` is the JPEG quality. Seeds of its patients are shifted, so that no patient is in both.
    """

    prefix: str = ""
    seed: int = 0
    tilt: float = 0.0
    strength: tuple[float, ...] = (1.0,)
    warmth: float = 0.0
    gamma: float = 1.0
    blur: float = 1.0
    grain: float = 0.0
    quality: int = 0


HOSPITALS = {
    "a": Hospital(),
    "b": Hospital("B-", 7919, 0.12, (0.75, 1.25), 9.0, 1.08, 1.5, 1.5, -25),
}


def hospital_of(maker: str, name: str) -> Hospital:
    """A hospital by its name.

    Raises:
        MedcoreError: There is none of that name.
    """
    if name not in HOSPITALS:
        raise MedcoreError(f"{maker}: hospital={name!r}; choose one of {', '.join(HOSPITALS)}")
    return HOSPITALS[name]


def scanned_at(slide: StainedSlide, hospital: Hospital) -> StainedSlide:
    """The slide as another laboratory would have stained it and another scanner seen it."""
    if hospital == HOSPITALS["a"]:
        return slide
    matrix = slide.matrix + hospital.tilt * (slide.matrix.mean(axis=0) - slide.matrix)
    strength = slide.strength * np.resize(hospital.strength, len(slide.strength))
    return replace(
        slide,
        matrix=matrix / np.linalg.norm(matrix, axis=1, keepdims=True),
        strength=strength,
        lamp=np.clip(slide.lamp + hospital.warmth * WARMTH, 190, 254),
        gamma=slide.gamma * hospital.gamma,
        blur=slide.blur * hospital.blur,
        grain=slide.grain + hospital.grain,
        quality=max(40, slide.quality + hospital.quality),
    )


def stain_slide(
    rng: np.random.Generator,
    vectors: np.ndarray,
    *,
    hue_spread: float = 0.06,
    strength_spread: float = 0.25,
    lamp_spread: float = 6.0,
    blur: tuple[float, float] = (0.3, 0.6),
    grain: tuple[float, float] = (2.0, 5.0),
) -> StainedSlide:
    """Stain and scan a patient's slide in its own way.

    Args:
        vectors: Textbook absorption rows. **Shape** ``(S, 3)``.
        hue_spread: Standard deviation of the change of each vector component.
        strength_spread: Standard deviation of the log of each stain's strength.
        lamp_spread: Standard deviation of the lamp's channels in grey levels.
        blur: Range of the lens blur in micrometres.
        grain: Range of the sensor noise in grey levels.
    """
    matrix = np.maximum(vectors + hue_spread * rng.standard_normal(vectors.shape), 0.01)
    return StainedSlide(
        matrix=matrix / np.linalg.norm(matrix, axis=1, keepdims=True),
        strength=np.exp(strength_spread * rng.standard_normal(len(vectors))),
        lamp=np.clip(243 + lamp_spread * (rng.standard_normal() * WARMTH + 0.3 * rng.standard_normal(3)), 205, 254),
        gamma=float(np.exp(0.08 * rng.standard_normal())),
        blur=float(rng.uniform(*blur)),
        grain=float(rng.uniform(*grain)),
        quality=int(rng.integers(70, 92)),
    )


def photograph(
    rng: np.random.Generator, concentrations: list[np.ndarray], slide: StainedSlide, field: Field, size: int
) -> np.ndarray:
    """Send light through a slide and take its picture.

    Args:
        rng: The image's generator (section thickness, focus and sensor noise differ from image to image).
        concentrations: One map per stain of the slide. **Shape** ``(P, P)`` each, P a multiple of ``size``.
        size: Side of the picture in pixels.

    Returns:
        uint8 pixels. **Shape** ``(size, size, 3)``.
    """
    thickness = slide.strength * np.exp(0.07 * rng.standard_normal())
    stack = np.stack(concentrations, axis=-1)
    density = stack @ (thickness[:, None] * slide.matrix).astype(np.float32)
    light = np.exp(-density * slide.gamma)  # Beer-Lambert; a power of the light is a factor on its density
    focus = slide.blur * field.scale * rng.uniform(0.8, 1.6)
    light = ndimage.gaussian_filter(light, (focus, focus, 0), truncate=3)
    light = _shrunk(light, field.pixels // size) * slide.lamp.astype(np.float32)
    light += slide.grain * rng.standard_normal(light.shape, dtype=np.float32)
    return compress_jpeg(np.clip(light + 0.5, 0, 255).astype(np.uint8), slide.quality, subsampling=0)


def _shrunk(light: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of ``factor`` by ``factor`` pixels: what one sensor pixel collects."""
    parts = [light[row::factor, column::factor] for row in range(factor) for column in range(factor)]
    return np.asarray(sum(parts) / np.float32(factor * factor))
