"""phantom-helico: windows of gastric biopsies, immunohistochemistry against *H. pylori*, with patients' diagnoses.

- ``Cropped``: windows of healthy patients, to train on. ``Annotated``: labelled windows of other patients.
  ``HoldOut``: patients never seen, split ``test``, only their diagnosis is told. No patient is in two sets.
- Bacteria are short curved rods in clusters near the border. Brown stain without bacteria (stained edges, clumps of
  debris, pigment grains) is as frequent in healthy patients: counting brown pixels is not enough.
- Column ``bacteria`` holds the true number in every window, also where the label is withheld (-1).

    python -c "from medcore.data.phantoms import make_helico; print(make_helico(patients=12))"
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from medcore.data.info import HELICO_DENSITIES
from medcore.data.patchset import PatchSet
from medcore.data.phantoms.facts import check_range, names, phantom_card
from medcore.data.phantoms.gastric import CHROMOGENS, Brown, draw_window
from medcore.data.phantoms.optics import Slide, photograph, stain_slide
from medcore.data.phantoms.tissue import Field, generator

FIELD_UM = 40.0
SETS = ["Cropped", "Annotated", "Annotated", "Annotated", "HoldOut", "HoldOut"]  # of patients, going round
DENSITIES = [0, 1, 0, 2]  # of those patients that are not Cropped, going round: half of them healthy
BACTERIA = [0.0, 4.0, 14.0]  # mean number in a positive window, by density
POSITIVE = [(0.0, 0.0), (0.12, 0.4), (0.45, 0.9)]  # range of a patient's share of positive windows, by density


@dataclass(frozen=True)
class Case:
    """One patient.

    Attributes:
        name: As in the ``patient`` column.
        kind: ``Cropped``, ``Annotated`` or ``HoldOut``.
        density: 0 negative, 1 low, 2 high.
        windows: Number of windows.
        positive: Expected share of windows with bacteria.
        brown: How much brown that is no bacterium the patient's windows show.
        slide: Stain and scanner.
    """

    name: str
    kind: str
    density: int
    windows: int
    positive: float
    brown: Brown
    slide: Slide


def make_helico(
    *,
    patients: int = 240,
    windows_per_patient: int = 16,
    size: int = 64,
    seed: int = 0,
    stain_spread: float = 0.2,
    artefacts: float = 1.0,
) -> PatchSet:
    """Draw phantom-helico.

    Args:
        patients: How many patients, 1 to 9,999: one sixth Cropped, half Annotated, one third HoldOut. The default is
            about as many as QuironHelico has.
        windows_per_patient: Median number of windows (thrice that in Cropped); a patient has 4 to four times as many.
        size: Side of a window in pixels, 16 to 512; the field of view stays 40 µm.
        seed: Any window is a function of (seed, patient, window) and of the other parameters.
        stain_spread: Spread of the log of stain strength between patients.
        artefacts: Factor on the amount of brown that is no bacterium.

    Returns:
        The set in memory. Labels: 1 = bacteria in the window, 0 = none, -1 = withheld (HoldOut).

    Raises:
        MedcoreError: A parameter is out of its range.
    """
    recipe = dict(locals())
    check_range("make_helico", patients=(patients, 1, 9999), windows_per_patient=(windows_per_patient, 4, 999))
    check_range("make_helico", size=(size, 16, 512), artefacts=(artefacts, 0, 5))
    field = Field(2 * size, 2 * size / FIELD_UM)
    images, rows = [], []
    for number in range(patients):
        case = case_of(seed, number, windows_per_patient, stain_spread, artefacts)
        for window in range(case.windows):
            rng = generator(seed, "helico", number, window)
            infected = window == 0 or rng.random() < case.positive  # an infected patient has a positive window
            count = 1 + rng.poisson(BACTERIA[case.density] - 1) if case.density and infected else 0
            maps = draw_window(rng, field, count, case.brown)
            images.append(photograph(rng, maps, case.slide, field, size))
            rows.append(_row(case, window, int(count)))
    card = phantom_card("phantom-helico", pixel_size_um=FIELD_UM / size, recipe=recipe)
    return PatchSet.from_arrays(np.stack(images), pd.DataFrame(rows), card)


def case_of(seed: int, number: int, windows_per_patient: int, stain_spread: float, artefacts: float) -> Case:
    """Patient ``number``: which set, which diagnosis, how many windows, which stain."""
    rng = generator(seed, "helico-case", number)
    kind = SETS[number % len(SETS)]
    turn, place = divmod(number, len(SETS))
    density = 0 if kind == "Cropped" else DENSITIES[(turn * (len(SETS) - 1) + place - 1) % len(DENSITIES)]
    usual = (3 if kind == "Cropped" else 1) * windows_per_patient  # healthy tissue is what there is most of
    windows = int(np.clip(np.rint(usual * np.exp(0.7 * rng.standard_normal())), 4, 4 * usual))
    brown = artefacts * rng.gamma(0.8, 1.0, 3)
    return Case(
        name=f"B22-{number + 1:03d}",
        kind=kind,
        density=density,
        windows=windows,
        positive=rng.uniform(*POSITIVE[density]),
        brown=Brown(*brown.tolist()),
        slide=_slide(rng, stain_spread),
    )


def _slide(rng: np.random.Generator, stain_spread: float) -> Slide:
    return stain_slide(
        rng,
        CHROMOGENS,
        hue_spread=0.15 * stain_spread,
        strength_spread=stain_spread,
        lamp_spread=5.0,
        blur=(0.15, 0.35),
        grain=(1.0, 3.0),
    )


def _row(case: Case, window: int, bacteria: int) -> dict[str, object]:
    return {
        "label": -1 if case.kind == "HoldOut" else int(bacteria > 0),
        "split": "test" if case.kind == "HoldOut" else "",
        **names(case.name, f"{case.name}-{window:05d}"),
        "set": case.kind,
        "section": 0,
        "window": window,
        "diagnosis": HELICO_DENSITIES[case.density],
        "bacteria": bacteria,
    }
