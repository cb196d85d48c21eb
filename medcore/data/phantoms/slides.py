"""phantom-slides: whole slides with islands of colorectal tissue, glass, pen, a fold, and what lies where.

    make_slides("slides/", slides=8, side=4096)     # P001.tiff, P001.geojson, ..., metadata.csv

- An island is one tissue with areas of others in it, each drawn in the file beside the slide (the smaller on top): the
  truth in QuPath's format. A slide is ``tumour`` where some area is TUM, else ``normal``, where NORM stands instead.
- Tissues are those of phantom-crc, photographed in pieces with the stain of the patient; pieces are turned and
  mirrored, so that drawing costs little and a slide of 20,000 pixels a side is written in constant memory.
- Tiled, JPEG, BigTIFF, each level half as large as the one before: OpenSlide and tifffile read it.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcore.data.datasets import CRC_CLASSES
from medcore.data.npzfile import atomic_path, forget
from medcore.data.phantoms.crc import slide_of
from medcore.data.phantoms.crc_tissues import TISSUES, habit_of
from medcore.data.phantoms.optics import photograph
from medcore.data.phantoms.tissue import Field, check_range, generator
from medcore.data.slides.annotations import Drawing, Shape, rasterise, write_geojson
from medcore.data.slides.reader import FACTS

TILE = 256  # pixels a side of a tile of the file
SMALLEST = 512  # pixels a side of the smallest level, about
PEN_COLOUR = (40, 110, 70)
PEN_UM = 50.0  # width of the pen's stroke, at least
FOLD_UM = 60.0  # width of a fold, at least
QUALITY = 88
BASES = ("STR", "MUS")


@dataclass(frozen=True)
class SlidePlan:
    """What one slide shows.

    Attributes:
        islands: Outlines of the tissue, with the class of each.
        areas: Other tissues within the islands.
        fold: A band in which tissue lies double; x and y of its corners in level-0 pixels.
        pen: A stroke of marker ink.
        label: ``tumour`` or ``normal``.
    """

    side: int
    islands: list[Shape]
    areas: list[Shape]
    fold: np.ndarray
    pen: np.ndarray
    label: str

    @cached_property
    def drawing(self) -> Drawing:
        """Everything drawn, the larger first."""
        return Drawing.of([*self.islands, *self.areas], CRC_CLASSES)


def plan_slide(seed: int, number: int, side: int, mpp: float, *, tumour: bool) -> SlidePlan:
    """Islands, areas, a fold and a pen stroke of one slide: a function of its arguments."""
    rng = generator(seed, "slide-plan", number)
    count = int(rng.integers(1, 4))
    centres = [(0.5, 0.5)] if count == 1 else [(0.3, 0.35), (0.7, 0.62), (0.25, 0.8)][:count]
    islands, areas = [], []
    for place in centres:
        centre = (np.array(place) + rng.uniform(-0.04, 0.04, 2)) * side
        radius = side * (0.36 if count == 1 else 0.22) * rng.uniform(0.85, 1.1)
        islands.append(Shape(str(rng.choice(BASES)), [_outline(rng, centre, radius)]))
        kinds = ["TUM" if tumour else "NORM", *rng.choice(["LYM", "MUC", "DEB", "ADI", "NORM"], 3).tolist()]
        for turn, kind in zip(rng.uniform(0, 0.8) + np.arange(4) * np.pi / 2, kinds, strict=True):
            inner = centre + 0.52 * radius * np.array([np.cos(turn), np.sin(turn)])
            areas.append(Shape(kind, [_outline(rng, inner, radius * rng.uniform(0.2, 0.36))]))
    island = islands[0].rings[0]
    middle, angle = island.mean(0), rng.uniform(0, np.pi)
    fold = _band(middle + rng.uniform(-0.05, 0.05, 2) * side, angle, 0.5 * side, max(0.01 * side, FOLD_UM / mpp))
    pen = _band(np.array([0.5, 0.06]) * side, rng.uniform(-0.03, 0.03), 0.7 * side, max(0.018 * side, PEN_UM / mpp))
    return SlidePlan(side, islands, areas, fold, pen, "tumour" if tumour else "normal")


def _outline(rng: np.random.Generator, centre: np.ndarray, radius: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    bumps = sum(0.1 / k * rng.standard_normal() * np.cos(k * turn + rng.uniform(0, 6.3)) for k in range(2, 7))
    reach = radius * np.clip(1 + bumps, 0.6, 1.35)
    return np.round(centre + reach[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1), 1)


def _band(centre: np.ndarray, angle: float, length: float, width: float) -> np.ndarray:
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    return np.stack(
        [centre + a * along * length / 2 + b * across * width / 2 for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    )


class Texture:
    """Photographed pieces of every tissue of one patient, made when first asked for."""

    def __init__(self, seed: int, number: int, side: int, mpp: float, variants: int) -> None:
        self.seed, self.number, self.side, self.variants = seed, number, side, variants
        self.field = Field(2 * side, 2 / mpp)
        self.slide, self.habit = slide_of(seed, number, 0.4), habit_of(seed, number)
        self._made: dict[tuple[str, int], np.ndarray] = {}

    def piece(self, tissue: str, row: int, column: int) -> np.ndarray:
        """The piece that lies in a place of the grid, turned and mirrored by chance. **Shape** ``(side, side, 3)``."""
        rng = generator(self.seed, "slide-piece", self.number, row, column)
        variant, turns = int(rng.integers(self.variants)), int(rng.integers(8))
        if (tissue, variant) not in self._made:
            own = generator(self.seed, "slide-texture", self.number, CRC_CLASSES.index(tissue), variant)
            maps = TISSUES[tissue](own, self.field, self.habit)
            self._made[tissue, variant] = photograph(own, list(maps), self.slide, self.field, self.side)
        turned = np.rot90(self._made[tissue, variant], turns % 4)
        return turned[:, ::-1] if turns >= 4 else turned


def paint_block(plan: SlidePlan, texture: Texture, row: int, column: int) -> np.ndarray:
    """One block of level 0. **Shape** ``(side, side, 3)`` uint8."""
    side = texture.side
    region = (column * side, row * side, side, side)
    glass = CRC_CLASSES.index("BACK")
    labels = plan.drawing.paint(region, (side, side), glass)
    block = texture.piece("BACK", row, column).copy()
    for number in np.unique(labels):
        if number != glass:
            inside = labels == number
            block[inside] = texture.piece(CRC_CLASSES[number], row, column)[inside]
    folded = rasterise([plan.fold], region, (side, side)) & (labels != glass)
    if folded.any():
        lamp = texture.slide.lamp.astype(np.float32)
        other = texture.piece(BASES[0], row + 1, column + 1)[folded].astype(np.float32)
        block[folded] = np.clip(block[folded] * other / lamp, 0, 255).astype(np.uint8)
    inked = rasterise([plan.pen], region, (side, side))
    if inked.any():
        ink = np.array(PEN_COLOUR, np.float32) / 255
        block[inked] = (block[inked] * ink).astype(np.uint8)
    return block


def write_slide(path: Path, plan: SlidePlan, texture: Texture, mpp: float) -> None:
    """Write a pyramid, block row by block row; what waits for the next levels lies on the disk."""
    import tifffile

    levels = 1
    while plan.side >> levels >= SMALLEST:
        levels += 1
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".levels-") as scratch, atomic_path(path) as temporary:
        halves = [
            np.lib.format.open_memmap(f"{scratch}/{n}.npy", "w+", np.uint8, (plan.side >> n, plan.side >> n, 3))
            for n in range(1, levels)
        ]
        with tifffile.TiffWriter(temporary, bigtiff=True) as tiff:
            for level in range(levels):
                size = plan.side >> level
                source = _block_rows(plan, texture) if level == 0 else _rows_of(halves[level - 1])
                below = halves[level] if level + 1 < levels else None
                scale = 1e4 / (mpp * 2**level)
                tiff.write(
                    _encoded(source, size, below), shape=(size, size, 3), dtype=np.uint8, tile=(TILE, TILE),
                    photometric="ycbcr", subsampling=(2, 2), compression="jpeg", subfiletype=int(level > 0),
                    metadata=None, resolution=(scale, scale), resolutionunit=3, maxworkers=1,
                )  # fmt: skip


def _block_rows(plan: SlidePlan, texture: Texture) -> Iterator[np.ndarray]:
    """Level 0 in strips of one block's height."""
    count = -(-plan.side // texture.side)
    for row in range(count):
        strip = np.concatenate([paint_block(plan, texture, row, column) for column in range(count)], axis=1)
        yield strip[: min(texture.side, plan.side - row * texture.side), : plan.side]


def _rows_of(level: np.ndarray) -> Iterator[np.ndarray]:
    for top in range(0, len(level), TILE):
        yield np.array(level[top : top + TILE])
        forget(level)


def _encoded(strips: Iterator[np.ndarray], size: int, below: np.ndarray | None) -> Iterator[bytes]:
    """JPEG tiles of a level, from the top; each strip is halved into the level below."""
    top = 0
    for strip in strips:
        if below is not None:
            even = strip[: len(strip) // 2 * 2, : size // 2 * 2]
            half = (
                even.reshape(len(even) // 2, 2, size // 2, 2, 3).mean((1, 3), dtype=np.float32).round().astype(np.uint8)
            )
            below[top // 2 : top // 2 + len(half)] = half[: len(below) - top // 2]
            forget(below)
        for row in range(0, len(strip), TILE):
            for column in range(0, size, TILE):
                tile = strip[row : row + TILE, column : column + TILE]
                short = TILE - tile.shape[0], TILE - tile.shape[1]
                buffer = io.BytesIO()
                whole = np.pad(tile, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge")
                Image.fromarray(whole).save(buffer, "JPEG", quality=QUALITY)
                yield buffer.getvalue()
        top += len(strip)


def make_slides(folder: str | Path, *, slides: int = 12, side: int = 4096, seed: int = 0, mpp: float = 0.5) -> Path:
    """Draw slides, one per patient, with their truth and a table; what is there already is kept.

    Args:
        folder: Where they go.
        slides: How many, 1 to 999; every other one holds tumour.
        side: Pixels a side, a multiple of 512 from 1024 to 65536.
        seed: A slide is a function of (seed, number, side, mpp).
        mpp: Microns per pixel.

    Raises:
        MedcoreError: A parameter is out of its range.
    """
    check_range("make_slides", slides=(slides, 1, 999), side=(side, 1024, 65_536), mpp=(mpp, 0.1, 4))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(slides):
        name = f"P{number + 1:03d}"
        plan = plan_slide(seed, number, side, mpp, tumour=number % 2 == 0)
        rows.append([f"{name}.tiff", name, plan.label])
        if not (folder / f"{name}.tiff").is_file():
            write_geojson(folder / f"{name}.geojson", [*plan.islands, *plan.areas])
            texture = Texture(seed, number, 512 if side >= 8192 else 256, mpp, 3 if side >= 8192 else 2)
            write_slide(folder / f"{name}.tiff", plan, texture, mpp)
    with atomic_path(folder / "metadata.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["slide", "patient", "label"], *rows])
    facts: dict[str, Any] = {"slides": slides, "side": side, "seed": seed, "mpp": mpp}
    with atomic_path(folder / FACTS) as temporary:
        temporary.write_text(json.dumps(facts))
    return folder
