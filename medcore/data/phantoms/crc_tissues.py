"""The nine tissues of phantom-crc as maps of haematoxylin, eosin and dirt.

Each function draws one class. What they share on purpose: ADI, BACK and MUC are pale, DEB, MUS and STR are pink, LYM,
NORM and TUM are blue, so that colour tells the group and form the class; and a patch may show a smaller piece of a
neighbouring tissue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medcore.data.datasets import CRC_CLASSES
from medcore.data.phantoms.cells import blob, normal_epithelium, nuclei, tumour_epithelium
from medcore.data.phantoms.tissue import Field, clouds, fibres, generator, noise, scatter, smoothstep, soften

Maps = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Habit:
    """What one patient's tissue is like, beyond its stain; all factors around 1.

    Attributes:
        nucleus: Size of nuclei.
        crowding: Number of cells.
        collagen: Eosin in fibres.
        mucin: Haematoxylin in mucus.
        atypia: How uneven tumour nuclei are.
        lean: Where in its range each trait of each tissue mostly lies, 0 to 1. **Shape** ``(9, 4)``.
    """

    nucleus: float
    crowding: float
    collagen: float
    mucin: float
    atypia: float
    lean: np.ndarray

    def draw(self, rng: np.random.Generator, tissue: str, trait: int, low: float, high: float) -> float:
        """A value of a trait: two thirds the patient's, one third this patch's."""
        share = 0.67 * self.lean[CRC_CLASSES.index(tissue), trait] + 0.33 * rng.random()
        return float(low + (high - low) * share)


def habit_of(seed: int, patient: int) -> Habit:
    """The habit of a patient."""
    rng = generator(seed, "crc-habit", patient)
    nucleus, crowding, collagen, mucin, atypia = np.exp(0.15 * rng.standard_normal(5)).tolist()
    return Habit(nucleus, crowding, collagen, mucin, atypia, rng.random((len(CRC_CLASSES), 4)))


def _empty(field: Field) -> np.ndarray:
    return np.zeros((field.pixels, field.pixels), dtype=np.float32)


def _lymphocytes(rng: np.random.Generator, field: Field, habit: Habit, share: float, spacing: float) -> np.ndarray:
    places = scatter(rng, field, spacing / habit.crowding**0.5, jitter=0.45)
    places = places[rng.random(len(places)) < share]
    return nuclei(
        rng, field, places, length=6.2 * habit.nucleus, width=5.6 * habit.nucleus, density=1.15, spread=0.1, clumps=0.3
    )


def _gap_between(field: Field, places: np.ndarray, bend: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """How much farther the second-nearest place is than the nearest (0 on the seams of a mosaic), in micrometres."""
    x, y = (axis + shift for axis, shift in zip(field.grid(), bend, strict=True))
    first, second = np.full_like(x, np.inf), np.full_like(x, np.inf)
    for column, row in places.astype(np.float32):
        square = (x - column) ** 2 + (y - row) ** 2
        second = np.minimum(second, np.maximum(first, square))
        first = np.minimum(first, square)
    return np.sqrt(second) - np.sqrt(first)


def adipose(rng: np.random.Generator, field: Field, habit: Habit) -> Maps:
    """ADI: large empty fat cells between thin membranes, with flat nuclei in the seams."""
    places = scatter(rng, field, habit.draw(rng, "ADI", 0, 32, 62), jitter=0.35)
    gap = _gap_between(field, places, bend=(4 * noise(rng, field, 14), 4 * noise(rng, field, 14)))
    thick = habit.draw(rng, "ADI", 1, 0.8, 2.2) * np.exp(0.5 * noise(rng, field, 12))
    seam = np.exp(-((gap / thick) ** 2)) * smoothstep(noise(rng, field, 15), -1.8, -0.8)
    band = smoothstep(noise(rng, field, 18), *(np.array([1.0, 1.3]) + rng.uniform(-0.3, 1)))
    strands = band * np.clip(0.5 + 0.35 * noise(rng, field, 1.5), 0, 2) * habit.collagen
    eosin = 0.75 * seam * habit.collagen + 0.8 * strands + 0.03
    on_seam = scatter(rng, field, 9)
    on_seam = on_seam[(field.at(gap, on_seam) < 1.5) | (field.at(band, on_seam) > 0.8)]
    on_seam = on_seam[rng.random(len(on_seam)) < habit.draw(rng, "ADI", 2, 0.1, 0.6)]
    cells = nuclei(rng, field, on_seam, length=8 * habit.nucleus, width=2.8, density=1.0)
    return np.maximum(0.35 * seam + 0.15 * strands, cells), eosin, _empty(field)


def background(rng: np.random.Generator, field: Field, habit: Habit) -> Maps:
    """BACK: glass with uneven light, some dust, sometimes a faint out-of-focus film."""
    film = 0.06 * np.clip(clouds(rng, field, 15) + rng.uniform(-1, 1), 0, 2) * rng.uniform(0, 2)
    x, y = field.grid()
    slope = rng.uniform(0, 0.12) * (np.cos(rng.uniform(0, 6.3)) * x + y) / field.side
    specks = scatter(rng, field, 12, jitter=0.5)
    specks = specks[rng.random(len(specks)) < rng.choice([0.0, 0.02, 0.1, 0.3])]
    dust = nuclei(rng, field, specks, length=3.2, width=2.0, density=0.8, spread=0.6, clumps=0.2, roughness=0.2)
    flakes = scatter(rng, field, 25, jitter=0.5)
    flakes = flakes[rng.random(len(flakes)) < rng.choice([0.0, 0.06])]
    flake = nuclei(rng, field, flakes, length=16, width=7, density=0.3, spread=0.4, roughness=0.2)
    flake = soften(flake, field, rng.uniform(1, 3))
    return 0.5 * film + 0.4 * flake, film + 0.4 * dust + 0.9 * flake, np.clip(slope, 0, 1) + dust


def debris(rng: np.random.Generator, field: Field, habit: Habit) -> Maps:
    """DEB: necrosis, granular and cracked, with ghosts and dust of nuclei."""
    clot = 0.6 + 0.22 * noise(rng, field, 1.1) + 0.2 * clouds(rng, field, 9)
    crack = np.abs(noise(rng, field, habit.draw(rng, "DEB", 0, 3, 7))) < rng.uniform(0.0, 0.4) * np.clip(
        noise(rng, field, 9), 0, 1
    )
    solid = 1 - soften(crack.astype(np.float32), field, 0.6)
    ghosts = scatter(rng, field, 8.5, jitter=0.45)
    ghosts = ghosts[rng.random(len(ghosts)) < habit.draw(rng, "DEB", 1, 0.1, 0.7)]
    shadow = nuclei(
        rng, field, ghosts, length=7, width=6, density=habit.draw(rng, "DEB", 2, 0.3, 0.8), spread=0.3, clumps=0.5
    )
    crumbs = scatter(rng, field, 5, jitter=0.5)
    crumbs = crumbs[(field.at(noise(rng, field, 10), crumbs) > rng.uniform(-0.3, 1.5))]
    dust = nuclei(rng, field, crumbs, length=2.6, width=2.0, density=1.1, spread=0.4, clumps=0, roughness=0.2)
    haze = habit.draw(rng, "DEB", 3, 0.1, 0.45) * (1 + 0.3 * clouds(rng, field, 12))
    haematoxylin = np.maximum(haze + soften(shadow, field, 0.8), dust)
    return haematoxylin * solid, np.clip(clot, 0.1, 2) * solid * habit.collagen, _empty(field)


def lymphocytes(rng: np.random.Generator, field: Field, habit: Habit) -> Maps:
    """LYM: a sheet of small, round, dark, even nuclei with hardly any cytoplasm."""
    share, spacing = habit.draw(rng, "LYM", 0, 0.55, 1.0), habit.draw(rng, "LYM", 1, 6.6, 9.0)
    cells = _lymphocytes(rng, field, habit, share, spacing)
    matrix = np.clip(0.28 + 0.16 * clouds(rng, field, 6) + habit.draw(rng, "LYM", 2, -0.2, 0.3), 0.02, 2)
    return np.maximum(0.5 * matrix, cells), matrix * (1 - 0.5 * (cells > 0.3)), _empty(field)


def mucus(rng: np.random.Generator, field: Field, habit: Habit) -> Maps:
    """MUC: pale bluish streams with fine strands and a few cells adrift."""
    angle = rng.uniform(0, np.pi)
    stream, direction = fibres(
        rng,
        field,
        angle=angle,
        length=14,
        width=habit.draw(rng, "MUC", 0, 1.2, 3),
        waviness=habit.draw(rng, "MUC", 1, 4, 14),
        wavelength=50,
    )
    strands = np.exp(-((np.abs(stream) / 0.35) ** 2)) * smoothstep(noise(rng, field, 9), -1.2, 0.5)
    pool = np.clip(0.16 + 0.1 * clouds(rng, field, 14) + rng.uniform(-0.12, 0.15), 0.01, 1)
    haematoxylin = (pool + habit.draw(rng, "MUC", 2, 0.15, 0.5) * strands) * habit.mucin
    eosin = 0.5 * pool + habit.draw(rng, "MUC", 3, 0.05, 0.45) * strands * habit.collagen
    places = scatter(rng, field, 13, jitter=0.5)
    places = places[rng.random(len(places)) < rng.uniform(0, 0.35)]
    cells = nuclei(
        rng, field, places, length=7 * habit.nucleus, width=4, angle=field.at(direction, places), density=0.9
    )
    return np.maximum(haematoxylin, cells), eosin, _empty(field)


def muscle(rng: np.random.Generator, field: Field, habit: Habit) -> Maps:
    """MUS: dense straight bundles, cigar-shaped nuclei along them, narrow clefts."""
    angle = rng.uniform(0, np.pi)
    bundle, direction = fibres(
        rng, field, angle=angle, length=30, width=1.1, waviness=habit.draw(rng, "MUS", 0, 0, 2.5), wavelength=60
    )
    cleft, _ = fibres(
        rng, field, angle=angle, length=22, width=habit.draw(rng, "MUS", 1, 2, 4), waviness=1, wavelength=60
    )
    gap = smoothstep(cleft, 1.3, 1.8) * rng.uniform(0.2, 1)
    eosin = (0.72 + 0.13 * bundle + habit.draw(rng, "MUS", 2, -0.2, 0.3)) * (1 - 0.85 * gap) * habit.collagen
    places = scatter(rng, field, habit.draw(rng, "MUS", 3, 11, 17) / habit.crowding**0.5, jitter=0.5)
    cells = nuclei(
        rng,
        field,
        places,
        length=13 * habit.nucleus,
        width=3.2 * habit.nucleus,
        angle=field.at(direction, places) + 0.08 * rng.standard_normal(len(places)),
        density=0.9,
    )
    return np.maximum(0.18 + 0.04 * bundle, cells), np.clip(eosin, 0.02, 2), _empty(field)


def stroma(rng: np.random.Generator, field: Field, habit: Habit) -> Maps:
    """STR: loose wavy collagen around spindle-shaped and a few round nuclei, with pale gaps."""
    angle = rng.uniform(0, np.pi)
    wave, direction = fibres(
        rng,
        field,
        angle=angle,
        length=18,
        width=rng.uniform(1.2, 2.0),
        waviness=habit.draw(rng, "STR", 0, 2.5, 9),
        wavelength=rng.uniform(25, 45),
    )
    loose = smoothstep(wave + 0.5 * noise(rng, field, 8), habit.draw(rng, "STR", 1, 0.4, 1.2), 2.2)
    eosin = (0.66 + 0.2 * wave + habit.draw(rng, "STR", 2, -0.25, 0.3)) * (1 - 0.8 * loose) * habit.collagen
    places = scatter(rng, field, habit.draw(rng, "STR", 3, 9, 15) / habit.crowding**0.5, jitter=0.5)
    spindle = nuclei(
        rng,
        field,
        places,
        length=10 * habit.nucleus,
        width=3.0 * habit.nucleus,
        angle=field.at(direction, places) + 0.3 * rng.standard_normal(len(places)),
        density=0.9,
    )
    guests = _lymphocytes(rng, field, habit, rng.choice([0.0, 0.05, 0.2]), 11)
    haze = np.clip(0.16 + 0.05 * wave, 0, 1)
    return np.maximum(np.maximum(haze, spindle), guests), np.clip(eosin, 0.02, 2), _empty(field)


def _lamina(rng: np.random.Generator, field: Field, habit: Habit) -> tuple[np.ndarray, np.ndarray]:
    weave, _ = fibres(rng, field, angle=rng.uniform(0, np.pi), length=9, width=1.6, waviness=5)
    eosin = np.clip(0.4 + 0.2 * weave + habit.draw(rng, "NORM", 0, -0.15, 0.2), 0.02, 2) * habit.collagen
    return np.maximum(0.14, _lymphocytes(rng, field, habit, habit.draw(rng, "NORM", 1, 0.2, 0.7), 9.5)), eosin


def normal_mucosa(rng: np.random.Generator, field: Field, habit: Habit) -> Maps:
    """NORM: round crypts with basal nuclei and goblet cells in a lamina propria with lymphocytes."""
    radius, aspect = rng.uniform(20, 32), rng.uniform(1, 1.9)
    centres = scatter(rng, field, 2.25 * radius, jitter=0.12)
    rings = [blob(rng, centre, radius * rng.uniform(0.85, 1.1), aspect=aspect) for centre in centres]
    rings = [ring for ring in rings if ring.touches(field)]
    share = habit.draw(rng, "NORM", 2, 0.2, 1.0)
    h, e, inside = normal_epithelium(rng, field, rings, cell=5.2 * habit.nucleus, goblets=share)
    haematoxylin, eosin = _lamina(rng, field, habit)
    return np.where(inside, h, haematoxylin), np.where(inside, e, eosin), _empty(field)


def tumour(rng: np.random.Generator, field: Field, habit: Habit) -> Maps:
    """TUM: crowded irregular glands or solid sheets of large, uneven nuclei."""
    look = {
        "atypia": 0.22 * habit.atypia,
        "density": habit.draw(rng, "TUM", 0, 0.9, 1.3),
        "vesicular": habit.draw(rng, "TUM", 1, 0, 0.8),
    }
    if rng.random() < 0.3:
        return _solid_tumour(rng, field, habit, **look)
    radius, lumen, aspect = rng.uniform(20, 38), habit.draw(rng, "TUM", 2, 0.1, 0.65), rng.uniform(1, 2.4)
    centres = scatter(rng, field, 1.95 * radius, jitter=0.2)
    rings = [blob(rng, centre, radius * rng.uniform(0.8, 1.15), aspect=aspect, irregular=0.1) for centre in centres]
    rings = [ring for ring in rings if ring.touches(field)]
    h, e, inside = tumour_epithelium(rng, field, rings, cell=7.2 * habit.nucleus, lumen=lumen, **look)
    haematoxylin, eosin, dirt = stroma(rng, field, habit)
    return np.where(inside, h, haematoxylin), np.where(inside, e, eosin), dirt


def _solid_tumour(
    rng: np.random.Generator, field: Field, habit: Habit, *, atypia: float, density: float, vesicular: float
) -> Maps:
    places = scatter(rng, field, rng.uniform(8, 10.5) / habit.crowding**0.5, jitter=0.35)
    cells = nuclei(
        rng,
        field,
        places,
        length=10 * habit.nucleus,
        width=7.5 * habit.nucleus,
        density=density,
        spread=atypia,
        clumps=0.2,
        vesicular=vesicular,
        roughness=0.12,
    )
    matrix = np.clip(0.48 + 0.12 * noise(rng, field, 3) + rng.uniform(-0.15, 0.15), 0.05, 2)
    split = smoothstep(clouds(rng, field, 10), 1.2, 1.7)
    eosin = matrix * (1 - 0.5 * (cells > 0.3)) * (1 - 0.9 * split)
    return np.maximum(rng.uniform(0.2, 0.35), cells) * (1 - 0.9 * split), eosin, _empty(field)


TISSUES: dict[str, Callable[[np.random.Generator, Field, Habit], Maps]] = {
    "ADI": adipose,
    "BACK": background,
    "DEB": debris,
    "LYM": lymphocytes,
    "MUC": mucus,
    "MUS": muscle,
    "NORM": normal_mucosa,
    "STR": stroma,
    "TUM": tumour,
}

NEIGHBOURS = {
    "ADI": ["STR", "MUS", "BACK"],
    "BACK": ["NORM", "TUM", "ADI", "MUC", "STR"],
    "DEB": ["TUM", "STR", "BACK", "LYM"],
    "LYM": ["STR", "NORM", "ADI", "TUM"],
    "MUC": ["TUM", "STR", "NORM", "BACK"],
    "MUS": ["STR", "ADI", "LYM", "BACK"],
    "NORM": ["LYM", "STR", "MUC", "BACK"],
    "STR": ["TUM", "MUS", "LYM", "DEB"],
    "TUM": ["STR", "DEB", "LYM", "MUC"],
}


def compose_tissue(
    rng: np.random.Generator, field: Field, habit: Habit, tissue: str, mixing: float
) -> tuple[Maps, float]:
    """A patch of one tissue, with probability ``mixing`` beside a smaller piece of a neighbouring one.

    Returns:
        The maps and the share of the patch that shows ``tissue``, at least 0.58.
    """
    maps = TISSUES[tissue](rng, field, habit)
    if rng.random() >= mixing:
        return maps, 1.0
    share = float(rng.uniform(0.1, 0.42))
    other = TISSUES[str(rng.choice(NEIGHBOURS[tissue]))](rng, field, habit)
    x, y = field.grid()
    angle = rng.uniform(0, 2 * np.pi)
    height = (np.cos(angle) * x + np.sin(angle) * y) / field.side + 0.12 * clouds(rng, field, 14)
    level = np.quantile(height, 1 - share)
    over = smoothstep(height, level - 0.02, level + 0.02)
    first, second, third = (a + (b - a) * over for a, b in zip(maps, other, strict=True))
    return (first, second, third), 1 - share
