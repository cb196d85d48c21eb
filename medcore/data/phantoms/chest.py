"""A chest as X-rays see it: attenuation along each ray of body, lungs, heart, bones, fluid and devices.

Lengths are millimetres, the patient's right is on the left of the image, and more attenuation is shown brighter. A map
is float32 of **shape** ``(P, P)``, P = side of the canvas in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from medcore.data.phantoms.cells import blob
from medcore.data.phantoms.tissue import UNITS_PER_LEVEL, Field, clouds, noise, paint, smoothstep, soften

FIELD_MM = 380.0
RIGHT, LEFT = -1, 1  # of the patient: left and right of the image
GLYPHS = {  # five bits a row
    "A": (14, 17, 17, 31, 17, 17, 17), "B": (30, 17, 17, 30, 17, 17, 30), "E": (31, 16, 16, 30, 16, 16, 31),
    "L": (16, 16, 16, 16, 16, 16, 31), "O": (14, 17, 17, 17, 17, 17, 14), "P": (30, 17, 17, 30, 16, 16, 16),
    "R": (30, 17, 17, 30, 20, 18, 17), "T": (31, 4, 4, 4, 4, 4, 4),
}  # fmt: skip


@dataclass(frozen=True)
class Chest:
    """Anatomy of one patient in one breath, in millimetres.

    Attributes:
        middle: x of the spine.
        width: From the spine to the inside of the lateral chest wall.
        apex: y of the top of the lungs.
        dome: y of the top of the diaphragm on the patient's right.
        lower: How far the left side of the diaphragm is below the right one.
        heart: Width of the heart over that of the chest (cardiothoracic ratio).
        fat: Attenuation of the chest wall beyond that of a slim person.
        breast: Attenuation of breast tissue over the lower lungs; 0 for none.
        bent: How far this body lies from the symmetric one, down and to the right, on a coarse grid over the field.
            **Shape** ``(2, n, n)``.
    """

    middle: float
    width: float
    apex: float
    dome: float
    lower: float
    heart: float
    fat: float
    breast: float
    bent: np.ndarray

    def floor(self, side: int) -> float:
        """The y of the top of the diaphragm on a side."""
        return self.dome + (self.lower if side == LEFT else 0.0)

    def across(self, x: np.ndarray, side: int) -> np.ndarray:
        """0 at the mediastinum, 1 at the lateral chest wall of a side."""
        return (side * (x - self.middle) - 20) / (self.width - 20)

    def lung(self, field: Field, side: int, inset: float = 0.0) -> np.ndarray:
        """1 inside a lung that keeps ``inset`` mm away from the lateral and upper chest wall, else 0."""
        x, y = field.grid()
        u = self.across(x, side)
        top = self.apex + 150 * (u - 0.3) ** 2 + 500 * np.maximum(u - 0.7, 0) ** 2 + inset
        floor = self.floor(side) + 130 * (u - 0.45) ** 2
        edge = 1 - inset / (self.width - 20)
        inside = smoothstep(y - top, -4, 4) * smoothstep(floor - y, -4, 4)
        return inside * smoothstep(u, -0.04, 0.04) * (1 - smoothstep(u, edge - 0.03, edge + 0.03))


@dataclass(frozen=True)
class Disease:
    """What is wrong on one side of a chest, each from 0 (subtle) to 1 (gross); None where it is not there."""

    consolidation: float | None = None
    effusion: float | None = None
    nodule: float | None = None
    pneumothorax: float | None = None


def attenuation(
    rng: np.random.Generator, field: Field, chest: Chest, sides: dict[int, Disease], spots: np.ndarray
) -> np.ndarray:
    """The attenuation of a chest with what is wrong on its two sides. **Shape** ``(P, P)``.

    Args:
        spots: Where consolidation (across, down) and nodule are, each 0 to 1. **Shape** ``(3,)``.
    """
    x, y = field.grid()
    solid = np.maximum(_heart(rng, field, chest), _mediastinum(field, chest))
    tissue = 1.0 + chest.fat + 0.16 * smoothstep(y, chest.dome - 10, chest.dome + 60)
    tissue = tissue + 0.03 * clouds(rng, field, 40) + chest.breast * _breasts(field, chest)
    bones = _ribs(rng, field, chest) + _spine(rng, field, chest) + _clavicles(rng, field, chest)
    air = np.zeros_like(x)
    marks = np.zeros_like(x)
    for side in (RIGHT, LEFT):
        aerated, drawn = _side(rng, field, chest, side, sides.get(side, Disease()), spots)
        air, marks = np.maximum(air, aerated), marks + drawn
    air *= 1 - 0.92 * solid
    trachea = smoothstep(4 - np.abs(x - chest.middle), -4, 4) * smoothstep(chest.apex + 75 - y, -4, 4)
    inside = tissue - 0.62 * air + bones + marks * (1 - solid) - 0.12 * trachea
    return _bent(field, chest, np.asarray(_body(field, chest) * inside, dtype=np.float32))


def _bent(field: Field, chest: Chest, drawn: np.ndarray) -> np.ndarray:
    """A map in the patient's own shape: nobody is as symmetric as a drawing, and no two are bent alike."""
    shift = [ndimage.zoom(part, field.pixels / len(part), order=3) * field.scale for part in chest.bent]
    places = np.indices(drawn.shape) + np.stack(shift)
    return np.asarray(ndimage.map_coordinates(drawn, places, order=1, mode="nearest"), dtype=np.float32)


def _side(
    rng: np.random.Generator, field: Field, chest: Chest, side: int, disease: Disease, spots: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far one lung is filled with air, and the attenuation of its vessels and pleura."""
    x, y = field.grid()
    u, cavity = chest.across(x, side), chest.lung(field, side)
    lung, air = cavity, cavity * (1 - 0.08 * noise(rng, field, 5) * cavity)
    marks = _vessels(rng, field, chest, side)
    if disease.pneumothorax is not None:
        lung = chest.lung(field, side, 9 + 34 * disease.pneumothorax)
        air = cavity * (1.12 - (0.16 + 0.1 * disease.pneumothorax) * lung)
        marks = marks * lung + 0.2 * lung * (1 - lung) * cavity * 4 * smoothstep(u, 0.2, 0.5)
    if disease.consolidation is not None:
        down = chest.apex + 60 + spots[1] * (chest.dome - chest.apex - 70)
        where = np.array([chest.middle + side * (45 + 55 * spots[0]), down])
        spread = blob(rng, where, rng.uniform(24, 34 + 22 * disease.consolidation), aspect=rng.uniform(1, 1.8))
        cloud = (1 - smoothstep(spread.depth(x, y), 0.5, 1.25)) * np.clip(0.85 + 0.4 * clouds(rng, field, 14), 0, 1.2)
        air = air * (1 - np.clip((0.35 + 0.45 * disease.consolidation) * cloud, 0, 1))
    if disease.nodule is not None:
        where = _inside(spots[2], field, lung * smoothstep(u, 0.1, 0.3))
        ball = blob(rng, where, rng.uniform(9, 11 + 7 * disease.nodule), aspect=1.2, irregular=0.06)
        air = air * (1 - (0.5 + 0.4 * disease.nodule) * (1 - smoothstep(ball.depth(x, y), 0.7, 1.15)))
    if disease.effusion is not None:
        height = 6 + 70 * disease.effusion
        surface = chest.floor(side) + 26 - height * (0.5 + 0.6 * np.clip(u, 0, 1) ** 2)
        air = air * (1 - 0.85 * smoothstep(y - surface, -5, 7))
        marks = marks * (1 - smoothstep(y - surface, -5, 7))
    return air, marks


def _inside(spot: float, field: Field, where: np.ndarray) -> np.ndarray:
    """A point (mm) where a map is near 1, the first of them for ``spot`` 0 and the last for 1."""
    rows, columns = np.nonzero(where > 0.9)
    pick = int(spot * (len(rows) - 1))
    return (np.array([columns[pick], rows[pick]]) + 0.5) / field.scale


def _body(field: Field, chest: Chest) -> np.ndarray:
    x, y = field.grid()
    away = np.abs(x - chest.middle)
    half = chest.width + 26 + 30 * chest.fat + 70 * smoothstep(-y, -130, -40)
    shoulder = 4 + 0.28 * np.maximum(away - 48, 0)
    return smoothstep(half - away, -4, 6) * np.maximum(smoothstep(y - shoulder, -6, 6), smoothstep(46 - away, -6, 6))


def _heart(rng: np.random.Generator, field: Field, chest: Chest) -> np.ndarray:
    """1 in the heart, which leans to the patient's left, and in the knob of the aorta."""
    x, y = field.grid()
    half = chest.heart * chest.width
    centre = np.array([chest.middle + 0.33 * half, chest.floor(LEFT) - 0.62 * half])
    tilt = (x - centre[0]) * 0.3
    bulge = np.hypot((x - centre[0]) / half, (y - centre[1] - tilt) / (0.86 * half))
    knob = np.hypot(x - chest.middle - 20, y - chest.apex - 78) / rng.uniform(14, 19)
    return 1 - np.minimum(smoothstep(bulge, 0.95, 1.06), smoothstep(knob, 0.85, 1.15))


def _mediastinum(field: Field, chest: Chest) -> np.ndarray:
    x, y = field.grid()
    half = 20 + 8 * smoothstep(y, chest.apex + 60, chest.apex + 120)
    return 1 - smoothstep(np.abs(x - chest.middle - 2) - half, -4, 4)


def _breasts(field: Field, chest: Chest) -> np.ndarray:
    x, y = field.grid()
    place = np.hypot((np.abs(x - chest.middle) - 78) / 62, (y - chest.dome + 20) / 58)
    return 1 - smoothstep(place, 0.75, 1.02)


def _ribs(rng: np.random.Generator, field: Field, chest: Chest) -> np.ndarray:
    """Ten pairs of ribs at even distance: behind, sloping outwards, and fainter ones in front, sloping inwards."""
    x, y = field.grid()
    out = np.clip(np.abs(x - chest.middle) / chest.width, 0, 1.08)
    space = rng.uniform(22.5, 25.5)
    total = np.zeros_like(x)
    for slope, start, level in ((46.0, -6.0, 0.10), (-58.0, 62.0, 0.045)):
        phase = (y - chest.apex - start - slope * (out - 0.1) ** 2) / space
        ridge = 1 - smoothstep(np.abs(phase - np.rint(phase)) * space, 3.2, 6.0)
        total += level * ridge * ((phase > -0.5) & (phase < 9.5))
    return total * smoothstep(1.08 - np.abs(x - chest.middle) / chest.width, 0, 0.05)


def _spine(rng: np.random.Generator, field: Field, chest: Chest) -> np.ndarray:
    x, y = field.grid()
    column = 1 - smoothstep(np.abs(x - chest.middle), 12, 19)
    discs = 0.5 + 0.5 * np.cos(2 * np.pi * (y / rng.uniform(25, 29) + rng.random()))
    return column * (0.09 + 0.05 * discs)


def _clavicles(rng: np.random.Generator, field: Field, chest: Chest) -> np.ndarray:
    x, y = field.grid()
    tilt, level = rng.uniform(0.1, 0.35), chest.apex + rng.uniform(12, 30)
    away = np.abs(x - chest.middle)
    band = np.abs(y - level + tilt * (away - 30) - 5 * np.sin(away / 22))
    return 0.17 * (1 - smoothstep(band, 4, 7.5)) * smoothstep(away, 18, 28)


def _vessels(rng: np.random.Generator, field: Field, chest: Chest, side: int) -> np.ndarray:
    """Vessels that leave the hilum and taper, and the hilum itself."""
    x, y = field.grid()
    root = np.array([chest.middle + side * 32, 0.5 * (chest.apex + chest.dome) + rng.uniform(-8, 8)])
    turn = np.linspace(-1.25, 1.25, 15) + rng.normal(0, 0.08, 15)
    ahead = np.stack([side * np.cos(turn), np.sin(turn)], axis=-1)
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], axis=-1) * rng.uniform(2.0, 4.0, (15, 1))
    tip = root + ahead * rng.uniform(55, 115, (15, 1)) + rng.normal(0, 6, (15, 2))
    branches = paint(field, np.stack([root + aside, tip, root - aside], axis=1), rng.uniform(0.08, 0.16, 15))
    hilum = 0.14 * np.exp(-(((x - root[0]) / 13) ** 2) - ((y - root[1]) / 22) ** 2)
    return (soften(branches, field, 1.0) + hilum) * chest.lung(field, side)


def stroke(field: Field, points: np.ndarray, width: float, level: float) -> np.ndarray:
    """A line through points (mm, **shape** ``(n, 2)``) with round ends, as a tube or a fold of skin shows."""
    image = Image.new("L", (field.pixels, field.pixels))
    pixels = max(1, round(width * field.scale))
    corners = [tuple(point) for point in (points * field.scale).tolist()]
    ImageDraw.Draw(image).line(corners, fill=round(UNITS_PER_LEVEL * level), width=pixels, joint="curve")
    return soften(np.asarray(image, dtype=np.float32) / UNITS_PER_LEVEL, field, 0.8)


def written(field: Field, text: str, x: float, y: float, height: float) -> np.ndarray:
    """1 on the strokes of letters whose upper left corner is at ``x``, ``y`` (mm), else 0."""
    rows = np.array([GLYPHS[letter] for letter in text])  # (letters, 7)
    bits = (rows[:, :, None] >> np.arange(4, -2, -1)) & 1  # the sixth column parts the letters
    bits[:, :, 5] = 0
    sign = Image.fromarray(np.concatenate(list(bits), axis=1).astype(np.uint8) * 255)
    size = max(7, round(height * field.scale))
    sign = sign.resize((max(6 * len(text), round(size * sign.width / 7)), size), Image.Resampling.BOX)
    page = Image.new("L", (field.pixels, field.pixels))
    page.paste(sign, (round(x * field.scale), round(y * field.scale)))
    return np.asarray(page, dtype=np.float32) / 255
