"""The drawing kit of all phantoms: counter-based randomness, noise, fibres, cell outlines.

- Every image has its own generator, keyed by (seed, set, patient, index): any subset can be drawn again alone.
- Lengths are micrometres; a ``Field`` says how many canvas pixels one takes, so a larger image is a sharper one.
- Noise is cut out of a few cached, tileable textures: a cut costs microseconds, and no image depends on another.
- Maps are float32 of **shape** ``(P, P)``, P = side of the canvas in pixels.

Also what the four makers share besides drawing: the card, the names of images, the check of parameters.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from medcore.data import datasets
from medcore.data.card import Card
from medcore.errors import MedcoreError

TILE_SEED = 20240607  # the textures are part of the method, the same for every seed
UNITS_PER_LEVEL = 100  # a polygon is painted in hundredths of a concentration unit


def generator(seed: int, name: str, *keys: int) -> np.random.Generator:
    """A generator that is a pure function of its arguments (Philox keyed by all of them).

    **Reference** Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", doi:10.1145/2063384.2063405.
    """
    entropy = np.random.SeedSequence([seed, zlib.crc32(name.encode()), *keys])
    return np.random.Generator(np.random.Philox(entropy))


@dataclass(frozen=True)
class Field:
    """A square piece of a slide.

    Attributes:
        pixels: Side of the canvas in pixels.
        scale: Canvas pixels per micrometre.
    """

    pixels: int
    scale: float

    @property
    def side(self) -> float:
        """Side in micrometres."""
        return self.pixels / self.scale

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Micrometre coordinates x and y of every pixel centre, each ``(P, P)``."""
        return _grid(self.pixels, self.scale)

    def at(self, values: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Values of a map at points in micrometres (the border's value outside). **Shape** ``(n,)``."""
        column, row = np.clip((points * self.scale).astype(int), 0, self.pixels - 1).T
        return values[row, column]


@lru_cache(maxsize=16)
def _grid(pixels: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    axis = ((np.arange(pixels) + 0.5) / scale).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y


@lru_cache(maxsize=256)
def _tile(side: int, grain_x: float, grain_y: float, pad: int = 0) -> np.ndarray:
    """A tileable texture of zero mean and unit variance. **Shape** ``(side + pad, side + pad)``."""
    key = [TILE_SEED, side, round(grain_x * 1e4), round(grain_y * 1e4)]
    white = np.random.default_rng(key).standard_normal((side, side), dtype=np.float32)
    fx, fy = np.fft.rfftfreq(side)[None, :], np.fft.fftfreq(side)[:, None]
    gauss = np.exp(-2 * np.pi**2 * ((fx * grain_x) ** 2 + (fy * grain_y) ** 2))
    tile = np.fft.irfft2(np.fft.rfft2(white) * gauss, s=(side, side))
    tile = ((tile - tile.mean()) / tile.std()).astype(np.float32)
    return np.pad(tile, (0, pad), mode="wrap")


def _rounded(pixels: float) -> float:
    step = np.log(1.15)  # few different textures, so that the cache is of use
    return round(float(np.exp(step * round(np.log(max(pixels, 0.3)) / step))), 4)


def noise(rng: np.random.Generator, field: Field, grain: float) -> np.ndarray:
    """Smooth noise of zero mean and unit variance; ``grain`` (micrometres) is its correlation length."""
    pixels = _rounded(grain * field.scale)
    side = 2 ** int(np.clip(np.ceil(np.log2(24 * pixels)), 8, 10))  # large enough that cuts are not all alike
    tile = _tile(side, pixels, pixels, field.pixels)
    row, column, turn = int(rng.integers(side)), int(rng.integers(side)), int(rng.integers(8))
    cut = tile[row : row + field.pixels, column : column + field.pixels]
    cut = cut.T if turn & 1 else cut
    return cut[:: -1 if turn & 2 else 1, :: -1 if turn & 4 else 1]


def clouds(rng: np.random.Generator, field: Field, grain: float, octaves: int = 3) -> np.ndarray:
    """Fractal noise: ``octaves`` layers, each half as coarse and 0.6 times as strong."""
    layers = [0.6**k * noise(rng, field, grain / 2**k) for k in range(octaves)]
    return np.sum(layers, axis=0) / np.sqrt(sum(0.36**k for k in range(octaves)))


def fibres(
    rng: np.random.Generator,
    field: Field,
    *,
    angle: float,
    length: float,
    width: float,
    waviness: float = 0.0,
    wavelength: float = 25.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Noise drawn out along one direction, as muscle or collagen.

    Args:
        length: Correlation length along the fibres in micrometres.
        waviness: How far fibres swing to the side, in micrometres.
        wavelength: Over which length they swing, in micrometres.

    Returns:
        The noise (unit variance) and the local direction in radians, each ``(P, P)``.
    """
    x, y = field.grid()
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    direction = np.full_like(x, angle)
    if waviness > 0:
        swing = waviness * noise(rng, field, wavelength / 3)
        across = across + swing
        rise_y, rise_x = np.gradient(swing, 1 / field.scale)
        direction = angle - np.arctan(np.cos(angle) * rise_x + np.sin(angle) * rise_y)
    side = 512
    tile = _tile(side, _rounded(length * field.scale), _rounded(width * field.scale))
    start = rng.integers(side, size=2)
    column = np.rint(along * field.scale).astype(np.int32) + start[0]
    row = np.rint(across * field.scale).astype(np.int32) + start[1]
    return tile[row % side, column % side], direction


def scatter(rng: np.random.Generator, field: Field, spacing: float, *, jitter: float = 0.3) -> np.ndarray:
    """Points (µm) on a jittered hexagonal lattice that reaches over the border, shuffled. **Shape** ``(n, 2)``."""
    steps = int(np.ceil(field.side / spacing)) + 3
    row, column = np.mgrid[-1 : steps + 2, -1:steps].astype(float)
    lattice = np.stack([column + 0.5 * (row % 2), row * 0.87], axis=-1).reshape(-1, 2) + rng.random(2)
    points = (lattice + rng.uniform(-jitter, jitter, lattice.shape)) * spacing - spacing
    inside = ((points > -spacing) & (points < field.side + spacing)).all(axis=1)
    return rng.permutation(points[inside])


def outlines(
    rng: np.random.Generator,
    centres: np.ndarray,
    length: np.ndarray | float,
    width: np.ndarray | float,
    angle: np.ndarray | float,
    *,
    roughness: float = 0.06,
    vertices: int = 12,
) -> np.ndarray:
    """Bumpy ellipses: cell or nucleus outlines.

    Args:
        centres: **Shape** ``(n, 2)``, micrometres.
        length: Long axes in micrometres, one or ``(n,)``.
        angle: Directions of the long axes in radians.
        roughness: Relative size of the bumps.

    Returns:
        Polygons in micrometres. **Shape** ``(n, vertices, 2)``.
    """
    n = len(centres)
    turn = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    bumps = 1 + sum(
        roughness * rng.standard_normal((n, 1)) * np.cos(k * turn + rng.uniform(0, 6.3, (n, 1))) for k in (2, 3, 4)
    )
    along = np.reshape(length, (-1, 1)) / 2 * bumps * np.cos(turn)
    across = np.reshape(width, (-1, 1)) / 2 * bumps * np.sin(turn)
    cos, sin = np.cos(np.reshape(angle, (-1, 1))), np.sin(np.reshape(angle, (-1, 1)))
    x, y = along * cos - across * sin, along * sin + across * cos
    return np.stack([centres[:, :1] + x, centres[:, 1:] + y], axis=-1)


def paint(
    field: Field, polygons: np.ndarray, fill: np.ndarray | float, rim: np.ndarray | float | None = None
) -> np.ndarray:
    """Draw polygons, later ones on top, with concentrations 0 to 2.55 for inside and rim.

    Args:
        polygons: **Shape** ``(n, vertices, 2)``, micrometres.
        fill: Concentration inside, one or ``(n,)``.
        rim: Concentration of the outline, one or ``(n,)``; as ``fill`` when None.

    Returns:
        The map, 0 where nothing was drawn. **Shape** ``(P, P)``.
    """
    image = Image.new("L", (field.pixels, field.pixels))
    draw = ImageDraw.Draw(image)
    fills = _levels(fill, len(polygons))
    rims = fills if rim is None else _levels(rim, len(polygons))
    corners = (polygons * field.scale).reshape(len(polygons), 2 * polygons.shape[1]).tolist()
    for corner, inside, edge in zip(corners, fills, rims, strict=True):
        draw.polygon(corner, fill=inside, outline=edge)
    return np.asarray(image, dtype=np.float32) / UNITS_PER_LEVEL


def _levels(values: np.ndarray | float, count: int) -> list[int]:
    return np.broadcast_to(np.clip(np.asarray(values) * UNITS_PER_LEVEL, 0, 255).astype(int), count).tolist()


def soften(values: np.ndarray, field: Field, sigma: float) -> np.ndarray:
    """Gaussian blur; ``sigma`` in micrometres."""
    return ndimage.gaussian_filter(values, sigma * field.scale, mode="nearest", truncate=3)


def smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, a smooth rise between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


LICENCE = "CC0-1.0, synthetic"


def phantom_card(name: str, *, pixel_size_um: float, recipe: dict[str, Any]) -> Card:
    """The card of a made set, from the facts in ``info`` and the parameters it was made with."""
    facts = datasets.card(name)
    return Card(
        name=name,
        title=facts.title,
        classes=list(facts.classes),
        abnormal=list(facts.abnormal),
        task=facts.task,
        licence=LICENCE,
        pixel_size_um=pixel_size_um,
        group=facts.group,
        case=facts.case,
        synthetic=True,
        recipe={"reader": "phantom", **recipe},
    )


def named_at(name: str, hospital: str) -> str:
    """The name of a set as another hospital draws it."""
    return name if hospital == "a" else f"{name}-{hospital}"


def names(unit: str, stem: str) -> dict[str, str]:
    """Patient (or lesion), image and source of one image."""
    return {"patient": unit, "image": stem, "source": f"{unit}/{stem}.png"}


def check_range(maker: str, **ranges: tuple[float, float, float]) -> None:
    """Raise a ``MedcoreError`` unless every (value, least, most) is in order."""
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise MedcoreError(f"{maker}: {name}={value!r} is out of range; choose {least} to {most}")
