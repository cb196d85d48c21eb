"""phantom-glands: H&E images of colon glands with exact masks of background, benign and malignant gland.

- Benign glands are round with one row of nuclei and mucin, or crowded with regular outlines (adenoma-like);
  malignant ones are irregular, of uneven size, with ragged lumina. A malignant image may keep a few benign ones.
- A gland is all inside its outline, lumen included. Touching glands are parted by a septum of a few pixels, which is
  background, so that connected components count them. Clefts and tears in the stroma are background.
- Stain, scanner and grade belong to the patient.

    python -c "from medcore.data.phantoms import make_glands; print(make_glands(patients=4))"
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from medcore.data.datasets import GLAND_GRADES
from medcore.data.patchset import PatchSet
from medcore.data.phantoms.cells import Blob, blob, blob_depths, normal_epithelium, nuclei, tumour_epithelium
from medcore.data.phantoms.optics import StainedSlide, hospital_of, photograph, scanned_at, stain_slide
from medcore.data.phantoms.tissue import (
    Field,
    check_range,
    clouds,
    fibres,
    generator,
    named_at,
    names,
    noise,
    phantom_card,
    scatter,
    smoothstep,
)
from medcore.data.stain import REFERENCE_STAINING

FIELD_UM = 280.0
BENIGN, MALIGNANT = GLAND_GRADES.index("benign"), GLAND_GRADES.index("malignant")
Maps = tuple[np.ndarray, np.ndarray]


def make_glands(
    *,
    patients: int = 36,
    images_per_patient: int = 3,
    size: int = 256,
    seed: int = 0,
    stain_spread: float = 0.25,
    hospital: str = "a",
) -> PatchSet:
    """Draw phantom-glands.

    Args:
        patients: How many patients, 1 to 999; every second one has a malignant tumour.
        images_per_patient: Number of images of each patient.
        size: Side of an image in pixels, 64 to 2048; the field of view stays 280 µm.
        seed: Any image is a function of (seed, patient, index), size and stain_spread.
        stain_spread: Spread of the log of stain strength between patients; hue varies in proportion.
        hospital: ``a``, or ``b``: other stain, scanner and blur.

    Returns:
        The set in memory, with masks. ``label`` and ``grade`` are the patient's; ``glands`` is their number, and
        ``architecture`` what the worst of them look like: 0 normal, 1 crowded as in an adenoma, 2 malignant with wide
        lumina, 3 malignant, nearly solid or sieve-like.

    Raises:
        MedcoreError: A parameter is out of its range.
    """
    recipe = dict(locals())
    check_range("make_glands", patients=(patients, 1, 999), images_per_patient=(images_per_patient, 1, 999))
    check_range("make_glands", size=(size, 64, 2048))
    place = hospital_of("make_glands", hospital)
    seed += place.seed
    field = Field(size, size / FIELD_UM)
    images, masks, rows = [], [], []
    for patient in range(patients):
        rng = generator(seed, "glands-patient", patient)
        slide, habit = scanned_at(_slide(rng, stain_spread), place), _habit(rng, patient)
        for index in range(images_per_patient):
            own = generator(seed, "glands", patient, index)
            maps, mask, facts = _section(own, field, **habit)
            images.append(photograph(own, list(maps), slide, field, size))
            masks.append(mask)
            unit = f"{place.prefix}G{patient + 1:03d}"
            grade = {"label": habit["grade"], "grade": GLAND_GRADES[habit["grade"]]}
            rows.append({**names(unit, f"{unit}-{index:02d}"), **grade, **facts})
    card = phantom_card(named_at("phantom-glands", hospital), pixel_size_um=FIELD_UM / size, recipe=recipe)
    return PatchSet.from_arrays(np.stack(images), pd.DataFrame(rows), card, masks=np.stack(masks))


def _slide(rng: np.random.Generator, stain_spread: float) -> StainedSlide:
    vectors = REFERENCE_STAINING.matrix
    return stain_slide(rng, vectors, hue_spread=0.2 * stain_spread, strength_spread=stain_spread, blur=(0.5, 0.9))


def _habit(rng: np.random.Generator, patient: int) -> dict[str, Any]:
    """What a patient's glands are like."""
    return {
        "grade": MALIGNANT if patient % 2 else BENIGN,
        "crowded": float(rng.uniform(0, 1)),
        "cell": 5.4 * float(np.exp(0.1 * rng.standard_normal())),
        "inflamed": float(rng.uniform(0.1, 0.8)),
    }


def _section(
    rng: np.random.Generator, field: Field, *, grade: int, crowded: float, cell: float, inflamed: float
) -> tuple[Maps, np.ndarray, dict[str, int]]:
    """Haematoxylin and eosin, the mask ``(P, P)`` uint8, and what the table says of the glands of one image."""
    rings, malignant = _layout(rng, field, grade, crowded)
    depth, owner = blob_depths(field, rings)
    septum = _septum(owner, depth)
    mask = np.zeros(depth.shape, dtype=np.uint8)
    inside = (depth < 1) & ~septum
    mask[inside] = np.where(malignant, MALIGNANT, BENIGN)[owner[inside]]
    haematoxylin, eosin = _stroma(rng, field, depth, inflamed)
    architecture = 0
    for kind, (h, e, level) in (
        (BENIGN, _benign(rng, field, [r for r, m in zip(rings, malignant, strict=True) if not m], cell, crowded)),
        (MALIGNANT, _malignant(rng, field, [r for r, m in zip(rings, malignant, strict=True) if m], cell)),
    ):
        haematoxylin, eosin = np.where(mask == kind, h, haematoxylin), np.where(mask == kind, e, eosin)
        architecture = level if (mask == kind).any() else architecture
    return (haematoxylin, eosin), mask, {"glands": len(np.unique(owner[inside])), "architecture": architecture}


def _layout(rng: np.random.Generator, field: Field, grade: int, crowded: float) -> tuple[list[Blob], np.ndarray]:
    """The glands of an image, and which of them are malignant."""
    if grade == BENIGN:
        radius, spacing, aspect, irregular, uneven = rng.uniform(24, 36), 2.85 - 0.5 * crowded, 1.7, 0.04, 0.1
    else:
        radius, spacing, aspect, irregular, uneven = rng.uniform(24, 40), 2.7 - 0.5 * crowded, 2.4, 0.1, 0.3
    centres = scatter(rng, field, spacing * radius, jitter=0.2)
    stretch, turn = rng.uniform(1, aspect), rng.uniform(0, np.pi)
    rings = []
    for centre in centres[rng.random(len(centres)) < 0.85]:
        size = radius * np.exp(uneven * rng.standard_normal())
        ring = blob(rng, centre, size, aspect=stretch, irregular=irregular)
        rings.append(Blob(ring.centre, ring.radii, turn + 0.4 * float(rng.standard_normal()), ring.bumps))
    rings = [ring for ring in rings if ring.touches(field)]
    benign_left = rng.uniform(0.1, 0.4) if rng.random() < 0.3 else 0.0
    malignant = np.full(len(rings), grade == MALIGNANT) & (rng.random(len(rings)) >= benign_left)
    return rings, malignant


def _septum(owner: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Pixels where two glands meet."""
    owner = np.where(depth < 1, owner, -1)
    other = ndimage.grey_dilation(owner, size=3)
    lowest = ndimage.grey_erosion(np.where(owner < 0, np.iinfo(owner.dtype).max, owner), size=3)
    return (owner >= 0) & (other != lowest)


def _stroma(rng: np.random.Generator, field: Field, depth: np.ndarray, inflamed: float) -> Maps:
    """Collagen with spindle cells and lymphocytes, torn here and there, with clefts around some glands."""
    weave, direction = fibres(
        rng, field, angle=rng.uniform(0, np.pi), length=16, width=1.8, waviness=rng.uniform(3, 9), wavelength=40
    )
    eosin = np.clip(0.5 + 0.17 * weave + 0.12 * clouds(rng, field, 25) + rng.uniform(-0.15, 0.2), 0.02, 2)
    places = scatter(rng, field, 11, jitter=0.5)
    lymph = (rng.random(len(places)) < inflamed * smoothstep(field.at(noise(rng, field, 25), places), -1, 1)) * 1.0
    angle = field.at(direction, places) + 0.3 * rng.standard_normal(len(places))
    spindle = nuclei(rng, field, places[lymph == 0], length=10, width=3, angle=angle[lymph == 0], density=0.85)
    around = np.repeat(places[lymph == 1], 2, axis=0) + rng.normal(0, 4, (2 * int(lymph.sum()), 2))
    round_ones = nuclei(rng, field, around, length=6, width=5.5, density=1.1, spread=0.1)
    haematoxylin = np.maximum(np.maximum(0.15 + 0.04 * weave, spindle), round_ones)
    tear = smoothstep(weave + 1.2 * noise(rng, field, 22), rng.uniform(1.6, 2.8), 3.4)
    cleft = smoothstep(noise(rng, field, 20), 0.3, 1.0) * (depth < 1 + rng.uniform(0.03, 0.2)) * (rng.random() < 0.6)
    open_glass = np.maximum(tear, cleft)
    return haematoxylin * (1 - 0.95 * open_glass), eosin * (1 - 0.97 * open_glass)


def _benign(
    rng: np.random.Generator, field: Field, rings: list[Blob], cell: float, crowded: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Crypts with goblet cells; in patients with crowded glands half of the images look like an adenoma."""
    adenoma = crowded > 0.5 and rng.random() < 0.5
    if adenoma:
        h, e, _ = tumour_epithelium(
            rng, field, rings, cell=cell, lumen=rng.uniform(0.3, 0.5), atypia=0.1, vesicular=0.1, ragged=0.03
        )
    else:
        h, e, _ = normal_epithelium(rng, field, rings, cell=cell, goblets=rng.uniform(0.5, 1.0))
    return h, e, int(adenoma)


def _malignant(
    rng: np.random.Generator, field: Field, rings: list[Blob], cell: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Piled-up uneven nuclei, ragged and often several lumina."""
    lumen, vesicular, density = rng.uniform(0.1, 0.55), rng.uniform(0, 0.7), rng.uniform(0.85, 1.15)
    holes = rng.choice([0.0, 0.1, 0.25])
    h, e, _ = tumour_epithelium(
        rng, field, rings, cell=1.15 * cell, lumen=lumen, atypia=0.25, vesicular=vesicular, density=density, holes=holes
    )
    return h, e, 3 if lumen < 0.25 or holes == 0.25 else 2
