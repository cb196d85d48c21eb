"""phantom-crc: patches of nine colorectal tissues, with the class names and the imbalance of NCT-CRC-HE.

- Stain, scanner, cell size and the mix of tissues belong to the patient: a model that knows the patient guesses better,
  so a random split flatters against a split by patient.
- The field of view is always 80 µm; ``size`` sets how finely it is scanned.

    python -c "from medcore.data.phantoms import make_crc; print(make_crc(patients=6))"
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from medcore.data.datasets import CRC_CLASSES
from medcore.data.patchset import PatchSet
from medcore.data.phantoms.crc_tissues import compose_tissue, habit_of
from medcore.data.phantoms.optics import StainedSlide, hospital_of, photograph, scanned_at, stain_slide
from medcore.data.phantoms.tissue import Field, check_range, generator, named_at, names, phantom_card
from medcore.data.stain import REFERENCE_STAINING

FIELD_UM = 80.0
FREQUENCY = {"ADI": 9, "BACK": 6, "DEB": 8, "LYM": 12, "MUC": 7, "MUS": 13, "NORM": 11, "STR": 14, "TUM": 20}
FREQUENCIES = {"a": FREQUENCY, "b": FREQUENCY | {"TUM": 10, "NORM": 21}}
DIRT = (0.56, 0.58, 0.59)


def make_crc(
    *,
    patients: int = 45,
    images_per_patient: int = 48,
    size: int = 64,
    seed: int = 0,
    stain_spread: float = 0.4,
    class_focus: float = 1.0,
    mixing: float = 0.45,
    hospital: str = "a",
) -> PatchSet:
    """Draw phantom-crc.

    Args:
        patients: How many patients, 1 to 999.
        images_per_patient: Mean number of patches per patient; single patients have 0.7 to 1.3 times as many.
        size: Side of a patch in pixels, 16 to 512; the field of view stays 80 µm.
        seed: Any patch is a function of (seed, patient, index) and of the parameters below and ``size``.
        stain_spread: Spread of the log of stain strength between patients; hue and lamp vary in proportion.
        class_focus: Dirichlet concentration of a patient's mix of tissues: small = few tissues per patient.
        hospital: ``a``, or ``b``: other stain, scanner and blur, older slides, and tumour half as common.
        mixing: Share of patches that also show a piece (10 to 42 %) of a neighbouring tissue; label = the larger part.

    Returns:
        The set in memory; besides the usual columns ``purity``, the share of the patch that is the labelled tissue.

    Raises:
        MedcoreError: A parameter is out of its range.
    """
    recipe = dict(locals())
    check_range("make_crc", patients=(patients, 1, 999), images_per_patient=(images_per_patient, 1, 9999))
    check_range("make_crc", size=(size, 16, 512))
    place = hospital_of("make_crc", hospital)
    seed += place.seed
    field = Field(2 * size, 2 * size / FIELD_UM)
    images, rows = [], []
    for patient in range(patients):
        slide, habit = scanned_at(slide_of(seed, patient, stain_spread), place), habit_of(seed, patient)
        unit = f"{place.prefix}P{patient + 1:03d}"
        labels = labels_of(seed, patient, images_per_patient, class_focus, FREQUENCIES[hospital])
        for index, label in enumerate(labels.tolist()):
            rng = generator(seed, "crc", patient, index)
            maps, purity = compose_tissue(rng, field, habit, CRC_CLASSES[label], mixing)
            images.append(photograph(rng, list(maps), slide, field, size))
            rows.append({"label": label, **names(unit, f"{unit}-{index:04d}"), "purity": purity})
    card = phantom_card(named_at("phantom-crc", hospital), pixel_size_um=FIELD_UM / size, recipe=recipe)
    return PatchSet.from_arrays(np.stack(images), pd.DataFrame(rows), card)


def slide_of(seed: int, patient: int, stain_spread: float) -> StainedSlide:
    """The slide of a patient."""
    vectors = np.vstack([REFERENCE_STAINING.matrix, DIRT])
    return stain_slide(
        generator(seed, "crc-slide", patient),
        vectors,
        hue_spread=0.2 * stain_spread,
        strength_spread=stain_spread,
        lamp_spread=20 * stain_spread,
    )


def labels_of(
    seed: int, patient: int, images_per_patient: int, class_focus: float, shares: dict[str, int]
) -> np.ndarray:
    """Class indexes of a patient's patches; the first three go round, so that few patients already show all classes.

    **Shape** ``(n,)`` int64.
    """
    rng = generator(seed, "crc-mix", patient)
    count = max(1, round(images_per_patient * rng.uniform(0.7, 1.3)))
    frequency = np.array([shares[name] for name in CRC_CLASSES], dtype=float)
    mix = rng.dirichlet(class_focus * len(CRC_CLASSES) * frequency / frequency.sum())
    labels = rng.choice(len(CRC_CLASSES), size=max(count, 3), p=mix)
    labels[:3] = (3 * patient + np.arange(3)) % len(CRC_CLASSES)
    return labels[:count]
