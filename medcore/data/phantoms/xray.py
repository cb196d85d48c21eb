"""phantom-xray: chest radiographs with five findings that come together, at several sites, with two shortcuts.

- Findings follow from what ails a patient: heart failure enlarges the heart and brings fluid, a tumour shows as a
  nodule and brings fluid, and so on. Patients have one to three images; all but the size of the heart may change.
- Two things in the images go along with findings at the sites ``ward`` and ``clinic`` and mean nothing: the word
  PORTABLE (effusion), and a chest drain, which treats a pneumothorax that is there or was.
- Sites differ in scanner, mix of patients and markers. The second hospital has one site, where neither shortcut holds.
- A subtle finding may be reported as uncertain (-1).

    python -c "from medcore.data.phantoms import make_xray; print(make_xray(patients=6))"
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from medcore.data.datasets import XRAY_FINDINGS
from medcore.data.npzfile import finding_column
from medcore.data.patchset import PatchSet
from medcore.data.phantoms.chest import FIELD_MM, LEFT, RIGHT, Chest, Disease, attenuation, stroke, written
from medcore.data.phantoms.optics import hospital_of
from medcore.data.phantoms.tissue import Field, check_range, generator, named_at, names, noise, phantom_card

# cardiomegaly, consolidation, effusion, nodule, pneumothorax: how often each goes with what ails a patient
AILMENTS = {
    "none": (0.03, 0.02, 0.02, 0.04, 0.01),
    "heart failure": (0.85, 0.15, 0.55, 0.04, 0.02),
    "infection": (0.10, 0.80, 0.35, 0.05, 0.03),
    "tumour": (0.08, 0.20, 0.40, 0.85, 0.10),
    "trauma": (0.05, 0.20, 0.35, 0.04, 0.80),
}
BENT_MM = 11.0  # standard deviation of how far a body lies from the symmetric one


class Site(NamedTuple):
    """One place where images are taken.

    ``share`` of all patients; ``mix`` of their ailments, as in ``AILMENTS``; ``blur`` in mm; ``grain`` of the noise;
    ``edges`` is how far the scanner enhances them; ``shutter`` whether it blackens what lies outside the beam; ``side``
    the letter in a corner; ``says_portable`` whether PORTABLE is written where it applies; ``devices`` the share of
    patients with a tube in the windpipe or a central line.
    """

    name: str
    share: float
    mix: tuple[float, ...]
    blur: float
    grain: float
    edges: float
    shutter: bool
    side: str
    says_portable: bool
    devices: float


SITES = {
    "a": (
        Site("clinic", 0.45, (0.34, 0.15, 0.15, 0.19, 0.17), 1.5, 0.018, 0.0, False, "L", True, 0.05),
        Site("ward", 0.35, (0.12, 0.24, 0.22, 0.15, 0.27), 2.6, 0.034, 0.0, False, "R", True, 0.5),
        Site("practice", 0.20, (0.32, 0.18, 0.18, 0.16, 0.16), 2.0, 0.024, 0.8, True, "L", False, 0.02),
    ),
    "b": (Site("abroad", 1.0, (0.32, 0.17, 0.17, 0.17, 0.17), 2.2, 0.028, 0.4, True, "R", True, 0.15),),
}


def make_xray(
    *,
    patients: int = 700,
    size: int = 64,
    seed: int = 0,
    shortcut: float = 0.8,
    uncertain: float = 0.5,
    hospital: str = "a",
) -> PatchSet:
    """Draw phantom-xray.

    Args:
        patients: How many patients, 1 to 9999, each with one to three images.
        size: Side of an image in pixels, 32 to 1024; the field of view stays 380 mm.
        seed: Any image is a function of (seed, patient, index) and of the parameters below and ``size``.
        shortcut: How far PORTABLE goes along with an effusion and a drain with a pneumothorax, 0 (not at all) to 1.
        uncertain: Share of subtle findings that are reported as uncertain.
        hospital: ``a``, or ``b``: one other site, where neither shortcut holds.

    Returns:
        The set in memory; besides the usual columns ``site``, ``projection`` (PA or AP), ``portable`` (whether the
        word is in the image), ``drain`` and ``line`` (whether one is), each 0 or 1.

    Raises:
        MedcoreError: A parameter is out of its range.
    """
    recipe = dict(locals())
    check_range("make_xray", patients=(patients, 1, 9999), size=(size, 32, 1024))
    check_range("make_xray", shortcut=(shortcut, 0, 1), uncertain=(uncertain, 0, 1))
    place = hospital_of("make_xray", hospital)
    seed, shortcut = seed + place.seed, shortcut if hospital == "a" else 0.0
    field = Field(2 * size, 2 * size / FIELD_MM)
    images, rows = [], []
    for patient in range(patients):
        rng = generator(seed, "xray-patient", patient)
        site = SITES[hospital][int(rng.choice(len(SITES[hospital]), p=[one.share for one in SITES[hospital]]))]
        has = _findings_of(rng, site)
        chest, side, spots = _anatomy(rng, has[0]), int(rng.choice((RIGHT, LEFT))), rng.random(3)
        unit = f"{place.prefix}X{patient + 1:04d}"
        for index in range(int(rng.integers(1, 4))):
            own = generator(seed, "xray", patient, index)
            severity = _severities(own, has, chest.heart)
            facts = _circumstances(own, site, severity, shortcut)
            images.append(_radiograph(own, field, size, site, chest, (side, spots), severity, facts))
            said = _reported(own, severity, uncertain)
            rows.append({**names(unit, f"{unit}-{index:02d}"), **said, "site": site.name, **facts})
    card = phantom_card(named_at("phantom-xray", hospital), pixel_size_um=1000 * FIELD_MM / size, recipe=recipe)
    return PatchSet.from_arrays(np.stack(images), pd.DataFrame(rows), card)


def _findings_of(rng: np.random.Generator, site: Site) -> np.ndarray:
    """Which findings a patient has. **Shape** ``(5,)`` bool."""
    ailment = list(AILMENTS.values())[int(rng.choice(len(AILMENTS), p=site.mix))]
    return rng.random(len(XRAY_FINDINGS)) < ailment


def _anatomy(rng: np.random.Generator, enlarged: bool) -> Chest:
    return Chest(
        middle=FIELD_MM / 2 + float(rng.normal(0, 3)),
        width=float(rng.uniform(118, 145)),
        apex=float(rng.uniform(42, 62)),
        dome=float(rng.uniform(252, 284)),
        lower=float(rng.uniform(-4, 22)),
        heart=float(rng.uniform(0.5, 0.64) if enlarged else rng.uniform(0.38, 0.49)),
        fat=float(rng.uniform(0, 0.3)),
        breast=float(rng.choice([0.0, rng.uniform(0.08, 0.22)])),
        bent=rng.normal(0, BENT_MM, (2, 4, 4)),
    )


def _severities(rng: np.random.Generator, has: np.ndarray, heart: float) -> dict[str, float | None]:
    """How far each finding of a patient shows in one image, 0 to 1; None where it is not (or no longer) there."""
    there = has & (rng.random(len(has)) < 0.85)
    drawn = rng.beta(1.2, 1.5, len(has))
    found = {name: float(s) if h else None for name, s, h in zip(XRAY_FINDINGS, drawn, there, strict=True)}
    return found | {"cardiomegaly": (heart - 0.5) / 0.14 if has[0] else None}


def _circumstances(
    rng: np.random.Generator, site: Site, severity: dict[str, float | None], shortcut: float
) -> dict[str, str | int]:
    """How the image was taken, and what is in it that means nothing."""
    fluid, air = severity["effusion"] is not None, severity["pneumothorax"] is not None
    lying = rng.random() < 0.4 + shortcut * (0.6 * fluid - 0.35 * (not fluid))
    drain = rng.random() < 0.1 + shortcut * (0.75 * air - 0.1 * (not air))
    return {
        "projection": "AP" if lying else "PA",
        "portable": int(lying and site.says_portable),
        "drain": int(drain and site.says_portable),
        "line": int(rng.random() < site.devices),
    }


def _reported(rng: np.random.Generator, severity: dict[str, float | None], uncertain: float) -> dict[str, int]:
    """What the report says of each finding: present, absent, or uncertain where it is subtle."""
    subtle = [one is not None and one < 0.2 and rng.random() < uncertain for one in severity.values()]
    states = zip(severity.values(), subtle, strict=True)
    return {finding_column(k): -1 if doubt else int(one is not None) for k, (one, doubt) in enumerate(states)}


def _radiograph(
    rng: np.random.Generator, field: Field, size: int, site: Site, chest: Chest,
    where: tuple[int, np.ndarray], severity: dict[str, float | None], facts: dict[str, str | int],
) -> np.ndarray:  # fmt: skip
    """One image. **Shape** ``(size, size, 1)`` uint8. ``where`` is the side that is ill and the spots on it."""
    (side, spots), lying = where, facts["projection"] == "AP"
    breath, shift = rng.normal(-10 if lying else 0, 8), rng.normal(0, 8)  # who lies breathes in less ...
    chest = replace(
        chest,
        middle=chest.middle + rng.normal(0, 7),
        apex=chest.apex + shift,
        dome=chest.dome + shift + breath,
        heart=chest.heart * (1.08 if lying else 1.0),  # ... and the heart is magnified
    )
    inner = {name: severity[name] for name in XRAY_FINDINGS if name != "cardiomegaly"}
    sides = {side: Disease(**inner)}
    if severity["effusion"] is not None and rng.random() < 0.4:
        sides[-side] = Disease(effusion=severity["effusion"] * rng.uniform(0.4, 1))
    rays = attenuation(rng, field, chest, sides, spots)
    rays += _harmless(rng, field, chest, lying) + _devices(rng, field, chest, side, facts)
    rays = _scanned(rng, rays, field, size, site)
    low, high = np.quantile(rays, (0.03, 0.995)) + rng.normal(0, 0.09, 2)  # the window a technician sets by eye
    grey = np.clip((rays - low) / max(high - low, 0.2), 0, 1) ** np.exp(rng.normal(0, 0.3))
    grey = _framed(rng, grey, field, size, site, facts)
    return np.rint(255 * grey).astype(np.uint8)[..., None]


def _harmless(rng: np.random.Generator, field: Field, chest: Chest, lying: bool) -> np.ndarray:
    """What may be taken for a finding: a fold of skin, nipples, a scar."""
    marks = np.zeros((field.pixels, field.pixels), np.float32)
    if rng.random() < (0.3 if lying else 0.05):
        x = chest.middle + rng.choice((RIGHT, LEFT)) * rng.uniform(0.6, 0.95) * chest.width
        marks += stroke(field, np.array([[x, chest.apex + 20], [x + rng.normal(0, 14), chest.dome - 20]]), 3, 0.1)
    if rng.random() < 0.15:
        x, y = field.grid()
        place = np.hypot(np.abs(x - chest.middle) - 78, y - chest.dome + 12)
        marks += 0.16 * np.exp(-((place / 6) ** 2))
    if rng.random() < 0.15:
        start = np.array([chest.middle + rng.choice((RIGHT, LEFT)) * rng.uniform(40, 80), chest.dome - 45])
        marks += stroke(field, np.stack([start, start + rng.normal(0, 22, 2)]), 4, 0.14)
    return marks


def _devices(
    rng: np.random.Generator, field: Field, chest: Chest, side: int, facts: dict[str, str | int]
) -> np.ndarray:
    """Tubes and lines: a chest drain through the lateral wall, a tube in the windpipe, a central line."""
    marks = np.zeros((field.pixels, field.pixels), np.float32)
    if facts["drain"]:
        wall, level = chest.middle + side * (chest.width + 30), rng.uniform(0.55, 0.8)
        y = chest.apex + level * (chest.dome - chest.apex)
        tip = [chest.middle + side * rng.uniform(45, 75), chest.apex + rng.uniform(25, 60)]
        bend = [chest.middle + side * 0.8 * chest.width, y - rng.uniform(15, 35)]
        marks += stroke(field, np.array([[wall, y + 10], bend, tip]), 7, 0.42)
    if facts["line"]:
        end = chest.apex + rng.uniform(55, 80)
        tube = np.array([[chest.middle, 0], [chest.middle + rng.normal(0, 2), end]])
        vein = np.array([[-95, 20], [-40, 28], [-18, 50], [-20, rng.uniform(90, 125)]]) + [chest.middle, chest.apex]
        marks += stroke(field, tube, 6, 0.22) if rng.random() < 0.6 else stroke(field, vein, 3.5, 0.38)
    return marks


def _scanned(rng: np.random.Generator, rays: np.ndarray, field: Field, size: int, site: Site) -> np.ndarray:
    """What the detector makes of the rays: blur, scatter, enhanced edges, and noise where few photons pass."""
    rays = ndimage.gaussian_filter(rays, site.blur * field.scale * rng.uniform(0.8, 1.2), truncate=3)
    spread = ndimage.gaussian_filter(rays, 22 * field.scale, truncate=2)
    rays = rays + (site.edges - 0.12) * (rays - spread)  # scatter takes contrast, the scanner gives it back
    rays = rays.reshape(size, 2, size, 2).mean(axis=(1, 3))
    dose = rng.uniform(0.7, 1.4)
    coarse = noise(rng, Field(size, size / FIELD_MM), 6)
    grain = 0.8 * rng.standard_normal(rays.shape) + 0.5 * coarse
    return np.asarray(rays + site.grain * dose * np.exp(0.6 * (rays - 1)) * grain)


def _framed(
    rng: np.random.Generator, grey: np.ndarray, field: Field, size: int, site: Site, facts: dict[str, str | int]
) -> np.ndarray:
    """The image with its shutter, the letter of a side and, of a portable one, the word."""
    if site.shutter:
        edge = rng.uniform(4, 22, 4) * size / FIELD_MM
        row, column = np.mgrid[:size, :size]
        beam = (row >= edge[0]) & (row < size - edge[1]) & (column >= edge[2]) & (column < size - edge[3])
        grey = grey * beam
    text = written(field, site.side, 342 if site.side == "L" else 22, rng.uniform(30, 45), 20)
    if facts["portable"]:
        x = 235 if site.side == "R" else 10
        text = np.maximum(text, written(field, "PORTABLE", x + rng.normal(0, 4), rng.uniform(5, 14), 20))
    text = text.reshape(size, 2, size, 2).mean(axis=(1, 3))
    return np.asarray(grey + (0.98 - grey) * text)
