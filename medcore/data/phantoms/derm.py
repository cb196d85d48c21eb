"""phantom-derm: dermatoscopic images of seven kinds of lesion, with the names and the imbalance of HAM10000.

- A lesion is drawn once and photographed one to four times, turned, shifted and zoomed, through the same dermatoscope:
  images of one lesion look alike, so the lesion is the unit of every split (``group = "lesion"``).
- mel, bcc and akiec are abnormal by their disorder; nevi come in many colours, so colour alone does not tell.
- Outlines of nevi are sharp, and many contact plates carry an engraved scale: detail as such is nothing abnormal here,
  only detail that normal images do not have. A blur takes both for strange; a network can learn the difference.

    python -c "from medcore.data.phantoms import make_derm; print(make_derm(patients=40))"
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image

from medcore.data.info import DERM_CLASSES
from medcore.data.patchset import PatchSet
from medcore.data.phantoms.derm_lesions import ABSORBERS, LESIONS, bare_skin
from medcore.data.phantoms.facts import check_range, names, phantom_card
from medcore.data.phantoms.optics import Slide, photograph, stain_slide
from medcore.data.phantoms.tissue import Field, generator, outlines, paint, scatter, smoothstep, soften

FIELD_UM = 12_800.0
MARGIN = 1.4  # the drawn skin is so much wider than a photograph, which can then turn and shift
LESION_SHARE = {"akiec": 3.0, "bcc": 4.4, "bkl": 9.8, "df": 1.0, "mel": 8.2, "nv": 72.3, "vasc": 1.3}
IMAGES = {"akiec": 1.8, "bcc": 1.8, "bkl": 1.8, "df": 1.8, "mel": 2.2, "nv": 1.5, "vasc": 1.7}  # mean per lesion
SHADE = (0.577, 0.577, 0.577)


def make_derm(
    *, patients: int = 940, size: int = 64, seed: int = 0, hair: float = 0.05, lamp_spread: float = 4.0
) -> PatchSet:
    """Draw phantom-derm.

    Args:
        patients: How many lesions (the unit in the ``patient`` column), 1 to 99,999; about 1.6 images each.
        size: Side of an image in pixels, 16 to 512; the field of view stays 12.8 mm.
        seed: Any image is a function of (seed, lesion, index) and of the other parameters.
        hair: Share of lesions on hairy skin.
        lamp_spread: How much the dermatoscopes' lamps differ, in grey levels.

    Returns:
        The set in memory; the classes of the first fourteen lesions go round, so that a small set shows all.

    Raises:
        MedcoreError: A parameter is out of its range.
    """
    recipe = dict(locals())
    check_range("make_derm", patients=(patients, 1, 99_999), size=(size, 16, 512), hair=(hair, 0, 1))
    images, rows = [], []
    for lesion in range(patients):
        rng = generator(seed, "derm-lesion", lesion)
        name = _class_of(rng, lesion)
        count = 1 + min(int(rng.geometric(1 / IMAGES[name])) - 1, 3)
        views = photograph_lesion(rng, seed, lesion, name, count, size=size, hair=hair, lamp_spread=lamp_spread)
        for index, view in enumerate(views):
            images.append(view)
            unit = f"L{lesion + 1:05d}"
            rows.append({"label": DERM_CLASSES.index(name), **names(unit, f"{unit}-{index}")})
    card = phantom_card("phantom-derm", pixel_size_um=FIELD_UM / size, recipe=recipe)
    return PatchSet.from_arrays(np.stack(images), pd.DataFrame(rows), card)


def _class_of(rng: np.random.Generator, lesion: int) -> str:
    share = np.array([LESION_SHARE[name] for name in DERM_CLASSES])
    drawn = str(rng.choice(DERM_CLASSES, p=share / share.sum()))
    return DERM_CLASSES[lesion % len(DERM_CLASSES)] if lesion < 2 * len(DERM_CLASSES) else drawn


def photograph_lesion(
    rng: np.random.Generator,
    seed: int,
    lesion: int,
    name: str,
    count: int,
    *,
    size: int,
    hair: float,
    lamp_spread: float,
) -> list[np.ndarray]:
    """All images of one lesion, each ``(size, size, 3)`` uint8."""
    pixels = 2 * size
    wide = Field(round(MARGIN * pixels), pixels / FIELD_UM)
    slide = _dermatoscope(rng, lamp_spread)
    skin = bare_skin(rng, wide)
    LESIONS[name](rng, wide, skin)
    hairy, dark = rng.random() < hair, rng.uniform(0, 1.2) * (rng.random() < 0.4)
    layers = [*skin.maps(), _hair(rng, wide) if hairy else np.zeros_like(skin.deep)]
    field = Field(pixels, wide.scale)
    scale = _engraving(rng, field)
    views = []
    for index in range(count):
        own = generator(seed, "derm", lesion, index)
        seen = _look_at(own, layers, wide, field)
        seen[-1] = seen[-1] + _vignette(field, dark) + scale
        views.append(photograph(own, seen, slide, field, size))
    return views


def _dermatoscope(rng: np.random.Generator, lamp_spread: float) -> Slide:
    return stain_slide(
        rng,
        np.vstack([ABSORBERS, SHADE]),
        hue_spread=0.03,
        strength_spread=0.08,
        lamp_spread=lamp_spread,
        blur=(50, 90),
        grain=(1.0, 1.8),
    )


def _hair(rng: np.random.Generator, field: Field) -> np.ndarray:
    places = scatter(rng, field, 2600, jitter=0.5)
    places = places[rng.random(len(places)) < rng.uniform(0.1, 0.6)]
    angle = rng.uniform(0, np.pi) + rng.normal(0, 0.4, len(places))
    strands = outlines(rng, places, rng.uniform(3000, 9000, len(places)), 110, angle, roughness=0.02, vertices=16)
    return soften(paint(field, strands, rng.uniform(0.6, 1.6)), field, 40)


def _vignette(field: Field, darkness: float) -> np.ndarray:
    x, y = field.grid()
    radius = np.hypot(x - field.side / 2, y - field.side / 2) / (field.side / 2)
    return (darkness * smoothstep(radius, 0.95, 1.35)).astype(np.float32)


def _engraving(rng: np.random.Generator, field: Field) -> np.ndarray:
    """The scale engraved in the contact plate: none, a cross or a ring in the middle, and ticks along the sides.

    Most handheld dermatoscopes have one. It lies over healthy and abnormal lesions alike: a sharp, dark structure
    that is nothing strange to whoever has seen the instrument before.
    """
    x, y = (np.abs(axis - field.side / 2) for axis in field.grid())
    near, far, line = np.minimum(x, y), np.maximum(x, y), 110.0
    middle, ticked = rng.choice(["none", "cross", "ring"], p=[0.4, 0.3, 0.3]), rng.random() < 0.5
    marks = np.zeros(x.shape, bool)
    if middle == "cross":
        marks |= (near < line) & (far < 3500)
    if middle == "ring":
        marks |= np.abs(np.hypot(x, y) - 3200) < line
    if ticked:
        marks |= (near % 1000 < 2 * line) & (far > 4800) & (far < 5800)
    return rng.uniform(0.3, 0.8) * soften(marks.astype(np.float32), field, 60)


def _look_at(rng: np.random.Generator, layers: list[np.ndarray], wide: Field, field: Field) -> list[np.ndarray]:
    """The layers as one photograph sees them: turned, mirrored, shifted, zoomed."""
    turn, zoom = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.1)
    cos, sin = np.cos(turn) / zoom, np.sin(turn) / zoom
    mirror = rng.choice([-1, 1])
    shift = wide.pixels / 2 + rng.normal(0, 0.02, 2) * wide.pixels
    half = field.pixels / 2
    matrix = (
        cos * mirror,
        -sin,
        shift[0] - half * (cos * mirror - sin),
        sin * mirror,
        cos,
        shift[1] - half * (sin * mirror + cos),
    )
    shape = (field.pixels, field.pixels)
    return [
        np.asarray(
            Image.fromarray(np.asarray(layer, np.float32)).transform(
                shape, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=float(np.median(layer))
            )
        )
        for layer in layers
    ]
