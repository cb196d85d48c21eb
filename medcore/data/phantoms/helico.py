"""phantom-helico: windows of gastric biopsies, immunohistochemistry against *H. pylori*, with patients' diagnoses.

Pale blue tissue, a border, a lumen, brown rods and brown nuisances, drawn as maps of haematoxylin, DAB (brown) and
black pigment, each ``(P, P)`` float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from medcore.data.datasets import HELICO_DENSITIES
from medcore.data.patchset import PatchSet
from medcore.data.phantoms.cells import blob, nuclei
from medcore.data.phantoms.optics import HOSPITALS, StainedSlide, hospital_of, photograph, scanned_at, stain_slide
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

CHROMOGENS = np.array([(0.80, 0.54, 0.25), (0.25, 0.57, 0.78), (0.52, 0.58, 0.63)])
BACTERIUM_UM = 3.2, 0.75  # length and width


@dataclass(frozen=True)
class Brown:
    """Mean amounts of brown that is no bacterium; 1 is usual.

    Attributes:
        edge: Stained borders.
        clumps: Lumps of debris.
        grains: Grains of dark pigment.
    """

    edge: float
    clumps: float
    grains: float


def draw_window(rng: np.random.Generator, field: Field, bacteria: int, brown: Brown) -> list[np.ndarray]:
    """One window with exactly ``bacteria`` rods."""
    depth = _border(rng, field)
    tissue = smoothstep(depth, -0.4, 0.6)
    haematoxylin = _mucosa(rng, field, depth) * tissue + 0.02
    dab = 0.015 + 0.02 * rng.random() * tissue
    dab = dab + _stained_edge(rng, field, depth, brown.edge) + _clumps(rng, field, depth, brown.clumps)
    if bacteria:
        rods = _rods(rng, field, depth, bacteria)
        dab, haematoxylin = np.maximum(dab, rods), haematoxylin * (1 - 0.5 * (rods > 0.2))
    return [haematoxylin, dab, _grains(rng, field, brown.grains)]


def _border(rng: np.random.Generator, field: Field) -> np.ndarray:
    """Micrometres into the tissue, negative in the lumen: a pit seen from above, or the rim of a fold."""
    radius = rng.uniform(10, 70)
    place = field.side / 2 + rng.uniform(-0.35, 0.35, 2) * field.side
    angle = rng.uniform(0, 2 * np.pi)
    centre = place + (radius if radius > 18 else 0) * np.array([np.cos(angle), np.sin(angle)])
    shape = blob(rng, centre, radius, aspect=rng.uniform(1, 1.5), irregular=0.05)
    depth = (shape.depth(*field.grid()) - 1) * radius + 0.6 * noise(rng, field, 2)
    return depth if rng.random() < 0.6 else -depth


def _mucosa(rng: np.random.Generator, field: Field, depth: np.ndarray) -> np.ndarray:
    """Haematoxylin of a mucous epithelium: foamy cells, a row of nuclei, more of them below."""
    foam = np.exp(-((noise(rng, field, 1.6) / 0.35) ** 2))
    pale = 0.14 + 0.1 * rng.random() + 0.16 * foam * smoothstep(-depth, -14, -8) + 0.03 * clouds(rng, field, 5)
    row = rng.uniform(6, 13)
    places = scatter(rng, field, rng.uniform(6.0, 8.5), jitter=0.3)
    level = field.at(depth, places)
    basal = (level > row - 2.5) & (level < row + 3.5)
    below = (level > row + 8) & (rng.random(len(places)) < rng.uniform(0.2, 0.7))
    rise_y, rise_x = np.gradient(soften(depth, field, 2))
    inwards = np.arctan2(field.at(rise_y, places), field.at(rise_x, places))
    chosen = basal | below
    cells = nuclei(
        rng,
        field,
        places[chosen],
        length=6.8,
        width=5.2,
        angle=(inwards + np.where(below, rng.uniform(0, 3, len(places)), 0))[chosen],
        density=rng.uniform(0.45, 0.8),
        spread=0.15,
        clumps=0.12,
        vesicular=0.3,
    )
    return np.maximum(pale, cells)


def _stained_edge(rng: np.random.Generator, field: Field, depth: np.ndarray, amount: float) -> np.ndarray:
    """Brown that clings to a stretch of the border, without structure."""
    if rng.random() > 1 - np.exp(-0.35 * amount):
        return np.zeros_like(depth)
    where = np.exp(-(((depth - rng.uniform(-1, 2)) / rng.uniform(1.5, 4)) ** 2))
    stretch = smoothstep(noise(rng, field, 9), -0.4, 0.8)
    return rng.uniform(0.25, 0.9) * where * stretch


def _clumps(rng: np.random.Generator, field: Field, depth: np.ndarray, amount: float) -> np.ndarray:
    """Smooth lumps of brown debris, as large as nuclei."""
    count = rng.poisson(0.4 * amount)
    if not count:
        return np.zeros_like(depth)
    places = rng.uniform(0, field.side, (count, 2))
    length = rng.uniform(5, 11, count)
    width = length * rng.uniform(0.6, 1, count)
    shapes = outlines(rng, places, length, width, rng.uniform(0, 3.1, count), roughness=0.1)
    return soften(paint(field, shapes, rng.uniform(0.6, 1.5, count)), field, rng.uniform(0.5, 1.2))


def _grains(rng: np.random.Generator, field: Field, amount: float) -> np.ndarray:
    """Round black-brown pigment grains anywhere."""
    count = rng.poisson(1.0 * amount)
    places = rng.normal(rng.uniform(0, field.side, 2), 6, (count, 2))
    size = rng.uniform(0.9, 1.8, count)
    return soften(paint(field, outlines(rng, places, size, size, 0.0), rng.uniform(0.6, 1.3, count)), field, 0.15)


def _rods(rng: np.random.Generator, field: Field, depth: np.ndarray, count: int) -> np.ndarray:
    """Curved brown rods in clusters within a few micrometres of the border."""
    free = np.argwhere((depth > -6) & (depth < 1.5))
    if not len(free):  # no border in sight: they lie where the lumen or the surface comes closest
        free = np.argwhere(np.abs(depth) <= np.quantile(np.abs(depth), 0.1))
    homes = free[rng.integers(len(free), size=1 + count // 5)]
    centre = homes[rng.integers(len(homes), size=count)][:, ::-1] / field.scale + rng.normal(0, 2.0, (count, 2))
    centre = np.clip(centre, 1.0, field.side - 1.0)
    length = BACTERIUM_UM[0] * np.exp(0.2 * rng.standard_normal(count))
    turn = rng.uniform(0, np.pi) + rng.normal(0, 0.7, count)
    return soften(paint(field, _bent(rng, centre, length, turn), rng.uniform(0.8, 1.5, count)), field, 0.12)


def _bent(rng: np.random.Generator, centre: np.ndarray, length: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Outlines of curved rods. **Shape** ``(n, 16, 2)``, micrometres."""
    straight = outlines(rng, np.zeros_like(centre), length, BACTERIUM_UM[1], 0.0, roughness=0.02, vertices=16)
    along, across = straight[..., 0], straight[..., 1]
    bend = rng.uniform(-0.35, 0.35, (len(centre), 1)) * length[:, None]
    across = across + bend * ((2 * along / length[:, None]) ** 2 - 0.5)
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    x, y = along * cos - across * sin, along * sin + across * cos
    return np.stack([centre[:, :1] + x, centre[:, 1:] + y], axis=-1)


FIELD_UM = 40.0
SETS = ["Cropped", "Annotated", "Annotated", "Annotated", "HoldOut", "HoldOut"]  # of patients, going round
DENSITIES = [0, 1, 0, 2]  # of those patients that are not Cropped, going round: half of them healthy
RARER = [0, 0, 0, 1, 0, 0, 0, 2]  # at the second hospital: a quarter is infected
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
    slide: StainedSlide


def make_helico(
    *,
    patients: int = 240,
    windows_per_patient: int = 16,
    size: int = 64,
    seed: int = 0,
    stain_spread: float = 0.2,
    artefacts: float = 1.0,
    hospital: str = "a",
) -> PatchSet:
    """Draw phantom-helico.

    Args:
        patients: How many patients, 1 to 9,999: one sixth Cropped, half Annotated, one third HoldOut. The default is
            about as many as QuironHelico has.
        windows_per_patient: Median number of windows (thrice that in Cropped); a patient has 4 to four times as many.
        size: Side of a window in pixels, 16 to 512; the field of view stays 40 µm.
        seed: Any window is a function of (seed, patient, window) and of the other parameters.
        stain_spread: Spread of the log of stain strength between patients.
        hospital: ``a``, or ``b``: other stain and scanner, older slides, and a quarter of the patients infected.
        artefacts: Factor on the amount of brown that is no bacterium.

    Returns:
        The set in memory. Labels: 1 = bacteria in the window, 0 = none, -1 = withheld (HoldOut).

    Raises:
        MedcoreError: A parameter is out of its range.
    """
    recipe = dict(locals())
    check_range("make_helico", patients=(patients, 1, 9999), windows_per_patient=(windows_per_patient, 4, 999))
    check_range("make_helico", size=(size, 16, 512), artefacts=(artefacts, 0, 5))
    place = hospital_of("make_helico", hospital)
    seed += place.seed
    field = Field(2 * size, 2 * size / FIELD_UM)
    images, rows = [], []
    for number in range(patients):
        case = case_of(seed, number, windows_per_patient, stain_spread, artefacts, hospital)
        for window in range(case.windows):
            rng = generator(seed, "helico", number, window)
            infected = window == 0 or rng.random() < case.positive  # an infected patient has a positive window
            count = 1 + rng.poisson(BACTERIA[case.density] - 1) if case.density and infected else 0
            maps = draw_window(rng, field, count, case.brown)
            images.append(photograph(rng, maps, case.slide, field, size))
            rows.append(_row(case, window, int(count)))
    card = phantom_card(named_at("phantom-helico", hospital), pixel_size_um=FIELD_UM / size, recipe=recipe)
    return PatchSet.from_arrays(np.stack(images), pd.DataFrame(rows), card)


def case_of(
    seed: int, number: int, windows_per_patient: int, stain_spread: float, artefacts: float, hospital: str = "a"
) -> Case:
    """Patient ``number``: which set, which diagnosis, how many windows, which stain."""
    rng = generator(seed, "helico-case", number)
    kind, order = SETS[number % len(SETS)], RARER if hospital == "b" else DENSITIES
    turn, place = divmod(number, len(SETS))
    density = 0 if kind == "Cropped" else order[(turn * (len(SETS) - 1) + place - 1) % len(order)]
    usual = (3 if kind == "Cropped" else 1) * windows_per_patient  # healthy tissue is what there is most of
    windows = int(np.clip(np.rint(usual * np.exp(0.7 * rng.standard_normal())), 4, 4 * usual))
    brown = artefacts * rng.gamma(0.8, 1.0, 3)
    return Case(
        name=f"{HOSPITALS[hospital].prefix}B22-{number + 1:03d}",
        kind=kind,
        density=density,
        windows=windows,
        positive=rng.uniform(*POSITIVE[density]),
        brown=Brown(*brown.tolist()),
        slide=scanned_at(_slide(rng, stain_spread), HOSPITALS[hospital]),
    )


def _slide(rng: np.random.Generator, stain_spread: float) -> StainedSlide:
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
