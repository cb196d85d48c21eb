"""phantom-derm: dermatoscopic images of seven kinds of lesion, with the names and the imbalance of HAM10000.

A lesion is four maps of absorbers in skin: melanin near the surface looks brown, deep melanin blue-grey (its red light
is lost on the way), blood red, keratin yellowish. Lengths are micrometres on the skin. What makes a lesion suspicious
here is disorder (lobes, patches of several colours, crooked vessels, crusts), not a colour: nevi come in every colour
of the other classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from medcore.data.datasets import DERM_ABNORMAL, DERM_CLASSES
from medcore.data.patchset import PatchSet
from medcore.data.phantoms.cells import Blob, blob
from medcore.data.phantoms.optics import StainedSlide, hospital_of, photograph, scanned_at, stain_slide
from medcore.data.phantoms.tissue import (
    Field,
    check_range,
    clouds,
    generator,
    named_at,
    names,
    noise,
    outlines,
    paint,
    phantom_card,
    scatter,
    smoothstep,
    soften,
)

ABSORBERS = np.array(
    [
        (0.40, 0.58, 0.71),  # melanin
        (0.68, 0.58, 0.45),  # deep melanin
        (0.22, 0.72, 0.66),  # blood
        (0.15, 0.38, 0.91),  # keratin
    ]
)


@dataclass
class Skin:
    """Concentrations of the absorbers, each ``(P, P)``; lesions are painted into them.

    Attributes:
        melanin: Brown.
        deep: Blue-grey.
        blood: Red.
        keratin: Yellow; crusts and scale.
    """

    melanin: np.ndarray
    deep: np.ndarray
    blood: np.ndarray
    keratin: np.ndarray

    def cover(self, where: np.ndarray, **levels: np.ndarray | float) -> None:
        """Replace absorbers by ``levels`` where ``where`` is 1 (between 0 and 1: mixed)."""
        for name, level in levels.items():
            old = getattr(self, name)
            setattr(self, name, old + (level - old) * where)

    def maps(self) -> list[np.ndarray]:
        """The four maps in the order of ``ABSORBERS``."""
        return [np.maximum(m, 0) for m in (self.melanin, self.deep, self.blood, self.keratin)]


def bare_skin(rng: np.random.Generator, field: Field) -> Skin:
    """Skin of a random tone with faint furrows and redness."""
    tone, redness = rng.uniform(0.05, 0.2), rng.uniform(0.12, 0.28)
    furrows = 0.012 * noise(rng, field, 200)
    return Skin(
        melanin=tone * (1 + 0.06 * clouds(rng, field, 1800)) + furrows,
        deep=np.zeros((field.pixels, field.pixels), np.float32),
        blood=redness * (1 + 0.12 * clouds(rng, field, 1500)),
        keratin=np.full((field.pixels, field.pixels), rng.uniform(0, 0.1), np.float32),
    )


def _shape(
    rng: np.random.Generator, field: Field, *, radius: tuple[float, float], irregular: float, aspect: float = 1.6
) -> Blob:
    centre = field.side / 2 + rng.normal(0, 700, 2)
    return blob(rng, centre, rng.uniform(*radius), aspect=rng.uniform(1, aspect), irregular=irregular)


def _inside(rng: np.random.Generator, field: Field, shape: Blob, edge: float, ragged: float = 0.0) -> np.ndarray:
    """1 inside, 0 outside, a rim of relative width ``edge``; ``ragged`` adds noise to the outline."""
    depth = shape.depth(*field.grid())
    if ragged:
        depth = depth + ragged * clouds(rng, field, 700)
    return 1 - smoothstep(depth, 1 - edge, 1 + edge)


def _dots(
    rng: np.random.Generator, field: Field, where: np.ndarray, *, size: float, spacing: float, share: float
) -> np.ndarray:
    """Round dots inside ``where``, 0 to 1."""
    places = scatter(rng, field, spacing, jitter=0.45)
    places = places[(field.at(where, places) > 0.7) & (rng.random(len(places)) < share)]
    width = size * np.exp(0.3 * rng.standard_normal(len(places)))
    return soften(paint(field, outlines(rng, places, width, width, 0.0, roughness=0.1), 1.0), field, 60)


def _patches(rng: np.random.Generator, field: Field, where: np.ndarray, grain: float, share: float) -> np.ndarray:
    """Ragged patches that fill about ``share`` of ``where``, 0 to 1."""
    height = clouds(rng, field, grain, 2)
    level = np.quantile(height[where > 0.5], 1 - share) if (where > 0.5).any() else 9.0
    return smoothstep(height, level - 0.3, level + 0.3) * where


def _tone(rng: np.random.Generator) -> dict[str, float]:
    """A colour of pigmented tissue; nevi and melanomas draw from the same box."""
    base = {"melanin": rng.uniform(0.08, 0.2), "deep": 0.0, "blood": rng.uniform(0.15, 0.35)}
    kind = rng.choice(["brown", "dark", "blue", "red", "pale"], p=[0.3, 0.3, 0.15, 0.15, 0.1])
    change = {
        "brown": {"melanin": rng.uniform(0.35, 0.8)},
        "dark": {"melanin": rng.uniform(0.9, 1.7)},
        "blue": {"melanin": rng.uniform(0.2, 0.5), "deep": rng.uniform(0.35, 0.9)},
        "red": {"blood": rng.uniform(0.5, 0.9)},
        "pale": {},
    }
    return base | change[str(kind)]


def nevus(rng: np.random.Generator, field: Field, skin: Skin) -> None:
    """nv: round to oval with a sharp outline, one to three colours in concentric order, perhaps faint globules."""
    shape = _shape(rng, field, radius=(1600, 4000), irregular=0.01, aspect=1.3)
    depth = shape.depth(*field.grid())
    edges = [1.0, *np.sort(rng.uniform(0.25, 0.85, rng.choice(3, p=[0.55, 0.35, 0.1])))[::-1]]
    softness = rng.uniform(0.03, 0.07)
    texture = 1 + rng.uniform(0, 0.05) * noise(rng, field, 150)
    for edge in edges:
        skin.cover(1 - smoothstep(depth, edge - softness, edge + softness), **_tone(rng))
    skin.melanin *= texture
    if rng.random() < 0.15:
        inside = depth < 1
        skin.melanin += 0.1 * _dots(rng, field, inside, size=320, spacing=560, share=0.8)


def melanoma(rng: np.random.Generator, field: Field, skin: Skin) -> None:
    """mel: lobed and lopsided, patches of two to four colours without order, stray dots at the rim."""
    shape = _shape(rng, field, radius=(2300, 4000), irregular=0.11)
    where = _inside(rng, field, shape, rng.uniform(0.05, 0.2), ragged=rng.uniform(0.02, 0.06))
    skin.cover(where, **_tone(rng))
    for _ in range(rng.choice([2, 3, 4])):
        patch = _patches(rng, field, where, rng.uniform(450, 900), rng.uniform(0.2, 0.45))
        skin.cover(patch, **_tone(rng))
    rim = _inside(rng, field, shape, 0.3) * (1 - 0.7 * where)
    stray = _dots(rng, field, np.maximum(where, rim), size=320, spacing=900, share=rng.uniform(0.1, 0.5))
    skin.melanin += rng.uniform(0.3, 0.6) * stray


def keratosis(rng: np.random.Generator, field: Field, skin: Skin) -> None:
    """bkl: a waxy stuck-on plate with a sharp, slightly scalloped edge and a few pale cysts or dark plugs."""
    shape = _shape(rng, field, radius=(1500, 3600), irregular=0.05, aspect=1.9)
    where = _inside(rng, field, shape, 0.06, ragged=rng.uniform(0, 0.04))
    brown = rng.uniform(0.3, 1.0)
    skin.cover(where, melanin=brown * (1 + 0.07 * noise(rng, field, 260)), keratin=rng.uniform(0.05, 0.35))
    plugs = _dots(rng, field, where, size=260, spacing=1300, share=rng.uniform(0, 0.3))
    skin.melanin += rng.uniform(0.1, 0.35) * plugs
    cysts = _dots(rng, field, where, size=240, spacing=1500, share=rng.uniform(0, 0.3))
    skin.cover(cysts, melanin=0.6 * brown)


def dermatofibroma(rng: np.random.Generator, field: Field, skin: Skin) -> None:
    """df: a pale scar-like centre in a soft brown ring."""
    shape = _shape(rng, field, radius=(1400, 2800), irregular=0.03)
    where, depth = _inside(rng, field, shape, 0.35), shape.depth(*field.grid())
    skin.cover(where, melanin=rng.uniform(0.3, 0.6), blood=rng.uniform(0.2, 0.5))
    centre = np.exp(-((depth / rng.uniform(0.35, 0.55)) ** 2))
    skin.cover(centre, melanin=0.05, blood=rng.uniform(0.1, 0.3))


def vascular(rng: np.random.Generator, field: Field, skin: Skin) -> None:
    """vasc: smooth red to purple lagoons with sharp borders."""
    shape = _shape(rng, field, radius=(1100, 2800), irregular=0.04)
    where = _inside(rng, field, shape, 0.08)
    lagoons = 1 + 0.15 * smoothstep(noise(rng, field, 600), -0.3, 0.3)
    deep = rng.uniform(0, 0.8) * rng.choice([0, 1])
    skin.cover(where, blood=rng.uniform(0.7, 1.5) * lagoons, melanin=0.15, deep=deep)


def basal_cell(rng: np.random.Generator, field: Field, skin: Skin) -> None:
    """bcc: a pearly pink plate with branching vessels, blue-grey nests, an ulcer with crust."""
    shape = _shape(rng, field, radius=(2100, 3800), irregular=0.1, aspect=1.9)
    where = _inside(rng, field, shape, rng.uniform(0.08, 0.25), ragged=0.05)
    skin.cover(where, blood=rng.uniform(0.3, 0.6), melanin=rng.uniform(0.08, 0.8))
    vessels = _vessels(rng, field, shape, int(rng.integers(3, 7)))
    skin.blood += rng.uniform(0.3, 0.6) * vessels
    nests = _dots(rng, field, where, size=rng.uniform(500, 900), spacing=1300, share=rng.uniform(0.35, 0.9))
    skin.cover(nests, deep=rng.uniform(0.3, 0.9), melanin=rng.uniform(0.2, 0.8))
    if rng.random() < 0.5:
        ulcer = _patches(rng, field, where, 1200, rng.uniform(0.1, 0.35))
        skin.cover(ulcer, blood=rng.uniform(0.5, 0.9), melanin=rng.uniform(0.2, 0.8))


def _vessels(rng: np.random.Generator, field: Field, shape: Blob, trunks: int) -> np.ndarray:
    """Crooked branching vessels that run inwards from the border, 0 to 1."""
    steps, step = 16, 180.0
    start = rng.uniform(0, 2 * np.pi, trunks)
    tips = shape.place(start, 0.95)
    heading = shape.outward(start) + np.pi + rng.normal(0, 0.4, trunks)
    width = rng.uniform(140, 260, trunks)
    quads = []
    for number in range(steps):
        heading = heading + rng.normal(0, 0.35, len(heading))
        ahead = tips + step * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
        side = width[:, None] / 2 * np.stack([-np.sin(heading), np.cos(heading)], axis=-1)
        quads.append(np.stack([tips - side, tips + side, ahead + side, ahead - side], axis=1))
        tips = ahead
        if number in (4, 8):
            tips, heading = np.tile(tips, (2, 1)), np.concatenate([heading - 0.5, heading + 0.5])
            width = np.tile(0.75 * width, 2)
    return soften(paint(field, np.concatenate(quads), 1.0), field, 50)


def actinic(rng: np.random.Generator, field: Field, skin: Skin) -> None:
    """akiec: an ill-defined red patch, pale follicle dots, yellow-white scale, brown crusts."""
    shape = _shape(rng, field, radius=(1900, 4200), irregular=0.12, aspect=1.9)
    where = _inside(rng, field, shape, 0.3, ragged=0.1)
    red = rng.uniform(0.35, 0.7)
    skin.cover(where, blood=red * (1 + 0.2 * clouds(rng, field, 500)), melanin=rng.uniform(0.1, 0.6))
    follicles = _dots(rng, field, where, size=380, spacing=800, share=rng.uniform(0.1, 0.6))
    skin.cover(0.7 * follicles, blood=0.15, melanin=0.1)
    scale = _patches(rng, field, where, 1000, rng.uniform(0.1, 0.35))
    skin.cover(scale, melanin=0.08, blood=0.15, keratin=rng.uniform(0, 0.1))
    crust = _patches(rng, field, where, 800, rng.uniform(0.15, 0.35))
    skin.cover(crust, melanin=rng.uniform(0.5, 1.2), keratin=rng.uniform(0.0, 0.15))


LESIONS: dict[str, Callable[[np.random.Generator, Field, Skin], None]] = {
    "akiec": actinic,
    "bcc": basal_cell,
    "bkl": keratosis,
    "df": dermatofibroma,
    "mel": melanoma,
    "nv": nevus,
    "vasc": vascular,
}


FIELD_UM = 12_800.0
MARGIN = 1.4  # the drawn skin is so much wider than a photograph, which can then turn and shift
LESION_SHARE = {"akiec": 3.0, "bcc": 4.4, "bkl": 9.8, "df": 1.0, "mel": 8.2, "nv": 72.3, "vasc": 1.3}
RARER = LESION_SHARE | {name: LESION_SHARE[name] / 2 for name in DERM_ABNORMAL}
IMAGES = {"akiec": 1.8, "bcc": 1.8, "bkl": 1.8, "df": 1.8, "mel": 2.2, "nv": 1.5, "vasc": 1.7}  # mean per lesion
SHADE = (0.577, 0.577, 0.577)


def make_derm(
    *,
    patients: int = 940,
    size: int = 64,
    seed: int = 0,
    hair: float = 0.05,
    lamp_spread: float = 4.0,
    hospital: str = "a",
) -> PatchSet:
    """Draw phantom-derm.

    Args:
        patients: How many lesions (the unit in the ``patient`` column), 1 to 99,999; about 1.6 images each.
        size: Side of an image in pixels, 16 to 512; the field of view stays 12.8 mm.
        seed: Any image is a function of (seed, lesion, index) and of the other parameters.
        hair: Share of lesions on hairy skin.
        hospital: ``a``, or ``b``: another dermatoscope, and the abnormal kinds half as common (a general practice).
        lamp_spread: How much the dermatoscopes' lamps differ, in grey levels.

    Returns:
        The set in memory; the classes of the first fourteen lesions go round, so that a small set shows all.

    Raises:
        MedcoreError: A parameter is out of its range.
    """
    recipe = dict(locals())
    check_range("make_derm", patients=(patients, 1, 99_999), size=(size, 16, 512), hair=(hair, 0, 1))
    place = hospital_of("make_derm", hospital)
    seed += place.seed
    images, rows = [], []
    for lesion in range(patients):
        rng = generator(seed, "derm-lesion", lesion)
        name = _class_of(rng, lesion, RARER if hospital == "b" else LESION_SHARE)
        count = 1 + min(int(rng.geometric(1 / IMAGES[name])) - 1, 3)
        slide = scanned_at(_dermatoscope(rng, lamp_spread), place)
        views = photograph_lesion(rng, seed, lesion, name, count, size=size, hair=hair, slide=slide)
        for index, view in enumerate(views):
            images.append(view)
            unit = f"{place.prefix}L{lesion + 1:05d}"
            rows.append({"label": DERM_CLASSES.index(name), **names(unit, f"{unit}-{index}")})
    card = phantom_card(named_at("phantom-derm", hospital), pixel_size_um=FIELD_UM / size, recipe=recipe)
    return PatchSet.from_arrays(np.stack(images), pd.DataFrame(rows), card)


def _class_of(rng: np.random.Generator, lesion: int, shares: dict[str, float]) -> str:
    share = np.array([shares[name] for name in DERM_CLASSES])
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
    slide: StainedSlide,
) -> list[np.ndarray]:
    """All images of one lesion, each ``(size, size, 3)`` uint8."""
    pixels = 2 * size
    wide = Field(round(MARGIN * pixels), pixels / FIELD_UM)
    skin = bare_skin(rng, wide)
    LESIONS[name](rng, wide, skin)
    hairy, dark = rng.random() < hair, rng.uniform(0, 1.2) * (rng.random() < 0.4)
    layers = [*skin.maps(), _hair(rng, wide) if hairy else np.zeros_like(skin.deep)]
    field = Field(pixels, wide.scale)
    scale = engraving(rng, field)
    views = []
    for index in range(count):
        own = generator(seed, "derm", lesion, index)
        seen = _look_at(own, layers, wide, field)
        seen[-1] = seen[-1] + _vignette(field, dark) + scale
        views.append(photograph(own, seen, slide, field, size))
    return views


def _dermatoscope(rng: np.random.Generator, lamp_spread: float) -> StainedSlide:
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


def engraving(rng: np.random.Generator, field: Field) -> np.ndarray:
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
    across, along = shift[0] - half * (cos * mirror - sin), shift[1] - half * (sin * mirror + cos)
    matrix = (cos * mirror, -sin, across, sin * mirror, cos, along)
    shape = (field.pixels, field.pixels)
    return [
        np.asarray(
            Image.fromarray(np.asarray(layer, np.float32)).transform(
                shape, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=float(np.median(layer))
            )
        )
        for layer in layers
    ]
