"""From a folder of whole slides to a PatchSet: a grid of tiles where there is tissue, in a fixed order.

    medcore data prepare slides/ --mpp 0.5 --size 224      # a table (metadata.csv) gives patients and labels

- Tiles lie on a grid that begins at the slide's corner, ``size - overlap`` tile pixels apart, row by row; slides by
  name. A tile is kept where at least the share ``tissue`` of it is tissue; what lies beyond the slide is white.
- ``x`` and ``y`` are level-0 pixels of a tile's corner. ``tissue``, ``dense`` (a fold, or many nuclei) and
  ``sharpness`` say how good it is.
- Each slide becomes a set of its own first, which is dropped whole if the slide turns out broken; then they are joined.
  So no half of a slide is ever in a set, and slides can be cut side by side, in other processes or on other machines.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from medcore.data.card import Card
from medcore.data.npzfile import PatchSetWriter, atomic_path
from medcore.data.parallel import map_threads
from medcore.data.patchset import PatchSet
from medcore.data.slides.annotations import Drawing, read_drawing
from medcore.data.slides.slide import Slide
from medcore.data.slides.tissue import SHARP, Tissue, find_tissue, sharpness
from medcore.errors import MedcoreError

LABEL_RULES = ("centre", "share", "mask")
NATIVE = 0.9  # how much finer than its pixels a slide may be read
QUALITY = ("slide", "patient", "tiles", "mpp", "tissue_mm2", "tissue_share", "pen_share", "dense_share",
           "blurred_tiles", "threshold", "problem")  # fmt: skip
_BATCH = 64
_RUN_BYTES = 1 << 22  # of tiles that one thread reads in a row


@dataclass(frozen=True)
class TileRule:
    """How slides are cut.

    Attributes:
        size: Height and width of a tile, pixels.
        mpp: Microns per pixel of a tile.
        overlap: Pixels that neighbouring tiles share.
        tissue: Least share of a tile that is tissue, 0 to 1.
        label: How annotations say what a tile is: ``centre``, ``share`` (more than half) or ``mask``.
        outside: Class index of tissue outside of all annotations; -1: none.
    """

    size: tuple[int, int]
    mpp: float
    overlap: int = 0
    tissue: float = 0.5
    label: str = "centre"
    outside: int = -1

    def __post_init__(self) -> None:
        """Refuse what cannot be cut."""
        if not 0 <= self.overlap < min(self.size):
            raise MedcoreError(f"overlap={self.overlap}: must be 0 to {min(self.size) - 1} pixels, less than a tile")
        if not 0 <= self.tissue <= 1:
            raise MedcoreError(f"tissue={self.tissue}: must be a share from 0 to 1")
        if not self.mpp > 0:
            raise MedcoreError(f"mpp={self.mpp}: must be above 0, microns per pixel")
        if self.label not in LABEL_RULES:
            raise MedcoreError(f"tile_label={self.label!r}: choose one of {', '.join(LABEL_RULES)}")


@dataclass(frozen=True)
class SlideRow:
    """One slide and its row of the table.

    Attributes:
        path: The file.
        columns: ``label`` (index, -1 for none), ``patient``, ``split`` and any further ones.
        mpp: Microns per level-0 pixel, where the table says it.
        drawn: File of its annotations.
    """

    path: Path
    columns: dict[str, Any]
    mpp: float | None = None
    drawn: Path | None = None

    def absolute(self) -> SlideRow:
        """The same with absolute paths."""
        return replace(self, path=self.path.resolve(), drawn=self.drawn and self.drawn.resolve())

    def open(self) -> Slide:
        """The slide."""
        return Slide(self.path, mpp=self.mpp)


def tile_grid(slide: Slide, rule: TileRule) -> np.ndarray:
    """All tiles of a slide, row by row. **Shape** ``(n, 4)`` int64: x, y, width, height in level-0 pixels.

    Raises:
        MedcoreError: The slide's pixels are coarser than what is asked for.
    """
    if rule.mpp < NATIVE * max(slide.mpp):
        raise MedcoreError(
            f"slide '{slide.path}' has pixels of {max(slide.mpp):g} µm, coarser than the {rule.mpp:g} µm asked for; "
            "ask for coarser tiles (--mpp)"
        )
    corners, sides = [], []
    for length, side, um in zip(slide.shape[::-1], rule.size[::-1], slide.mpp, strict=True):
        scale = rule.mpp / um
        count = max(1, int(np.ceil((length / scale - rule.overlap) / (side - rule.overlap) - 1e-9)))
        corners.append(np.rint(np.arange(count) * (side - rule.overlap) * scale).astype(np.int64))
        sides.append(max(1, round(side * scale)))
    y, x = np.meshgrid(corners[1], corners[0], indexing="ij")
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, sides[0]), np.full(x.size, sides[1])], axis=1)


def kept_tiles(slide: Slide, rule: TileRule, found: Tissue) -> tuple[np.ndarray, np.ndarray]:
    """Tiles with enough tissue, and their share of it. **Shape** ``(n, 4)`` int64 and ``(n,)``.

    Raises:
        MedcoreError: There is none.
    """
    grid = tile_grid(slide, rule)
    share = found.share("tissue", grid)
    if not found.tissue.any():
        raise MedcoreError(f"slide '{slide.path}' has no tissue (no region is darker than the glass); look at it")
    keep = (share >= rule.tissue) & (share > 0)
    if not keep.any():
        raise MedcoreError(
            f"slide '{slide.path}': no tile is tissue to a share of {rule.tissue:g} (the most is {share.max():.2f}); "
            "take smaller tiles, or a lower share (--tissue)"
        )
    return grid[keep], share[keep]


def read_tiles(slide: Slide, regions: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Tiles in order, the next ones read on other threads meanwhile. Each of **shape** ``(h, w, 3)`` uint8."""
    some = max(1, min(16, _RUN_BYTES // (3 * size[0] * size[1])))  # neighbours on one thread: they share file tiles

    def read(run: list[list[int]]) -> list[np.ndarray]:
        return [slide.read((x, y, width, height), size=size) for x, y, width, height in run]

    boxes = regions.tolist()
    for tiles in map_threads(read, [boxes[first : first + some] for first in range(0, len(boxes), some)]):
        yield from tiles


@dataclass(frozen=True)
class SlideTask:
    """One slide as it travels to another process."""

    row: SlideRow
    rule: TileRule
    card: Card
    target: Path | None
    quality: Path | None = None


@dataclass(frozen=True)
class SlideResult:
    """What became of a slide: a row of the table of quality, and why it was left out if it was."""

    quality: dict[str, Any]
    problem: str = ""
    notes: list[str] = field(default_factory=list)


def cut_slide(task: SlideTask) -> SlideResult:
    """Cut one slide into a set of its own (``target``; None reads all and writes nothing); broken ones are told."""
    row = task.row
    facts: dict[str, Any] = {"slide": row.path.name, "patient": row.columns["patient"], "tiles": 0}
    try:
        with row.open() as slide:
            facts["mpp"] = round(slide.mpp[0], 4)
            found = find_tissue(slide)
            facts |= found.quality()
            if task.quality is not None:
                save_overview(found, np.zeros((0, 4), int), task.quality / f"{slide.name}.png")
            regions, share = kept_tiles(slide, task.rule, found)
            drawing, notes = _drawing(row, task.card.classes)
            rows = [
                _columns(row, slide, region, task.rule, drawing)
                | {"tissue": round(float(part), 4), "dense": round(float(dense), 4)}
                for region, part, dense in zip(regions.tolist(), share, found.share("dense", regions), strict=True)
            ]
            facts["blurred_tiles"] = _write_tiles(slide, regions, rows, drawing, task)
            facts["tiles"] = len(rows)
            if task.quality is not None:
                save_overview(found, regions, task.quality / f"{slide.name}.png")
    except MedcoreError as error:
        return SlideResult({**facts, "problem": str(error)}, str(error))
    return SlideResult(facts, notes=notes)


def _drawing(row: SlideRow, classes: list[str]) -> tuple[Drawing | None, list[str]]:
    if row.drawn is None:
        return None, []
    shapes, passed = read_drawing(row.drawn)
    return Drawing.of(shapes, classes), [f"{row.drawn.name}: {line}" for line in passed]


def _columns(row: SlideRow, slide: Slide, region: list[int], rule: TileRule, drawing: Drawing | None) -> dict[str, Any]:
    x, y, width, height = region
    columns = {**row.columns, "slide": row.path.name, "x": x, "y": y, "source": f"{row.path.name}#{x},{y}"}
    if rule.label == "mask":
        columns["label"] = -1
    elif drawing is not None:
        columns["label"] = drawing.label((x, y, width, height), rule.label, rule.outside)
    return columns


def _write_tiles(
    slide: Slide, regions: np.ndarray, rows: list[dict[str, Any]], drawing: Drawing | None, task: SlideTask
) -> int:
    """Read and write all tiles of a slide; returns how many are blurred."""
    masked, size = task.rule.label == "mask", task.rule.size
    blurred, done = 0, 0
    writer = (
        None if task.target is None else PatchSetWriter(task.target, shape=(*size, 3), card=task.card, masks=masked)
    )
    batch: list[np.ndarray] = []

    def flush() -> None:
        nonlocal done
        if writer is not None and batch:
            some = slice(done, done + len(batch))
            masks = [_mask(drawing, region, task.rule) for region in regions[some].tolist()] if masked else None
            writer.add(np.stack(batch), rows[some], None if masks is None else np.stack(masks))
        done += len(batch)
        batch.clear()

    def take() -> None:
        nonlocal blurred
        for row, tile in zip(rows, read_tiles(slide, regions, size), strict=True):
            row["sharpness"] = round(sharpness(tile), 4)
            blurred += row["sharpness"] < SHARP
            batch.append(tile)
            if len(batch) == _BATCH:
                flush()
        flush()

    if writer is None:
        take()
    else:
        with writer:
            take()
    return blurred


def _mask(drawing: Drawing | None, region: list[int], rule: TileRule) -> np.ndarray:
    outside = rule.outside if rule.outside >= 0 else 255
    if drawing is None:
        return np.full(rule.size, outside, np.uint8)
    return drawing.paint((region[0], region[1], region[2], region[3]), rule.size, outside)


Run = Callable[[Callable[[SlideTask], SlideResult], Sequence[SlideTask]], Iterable[tuple[int, SlideResult]]]


def one_by_one(
    function: Callable[[SlideTask], SlideResult], tasks: Sequence[SlideTask]
) -> Iterator[tuple[int, SlideResult]]:
    """Number and result of each task, here."""
    return ((number, function(task)) for number, task in enumerate(tasks))


def cut_slides(
    rows: list[SlideRow], rule: TileRule, card: Card, target: Path | None, finish: Callable[[list[SlideResult]], Card],
    *, quality: Path | None = None, progress: bool = True, run: Run = one_by_one,
) -> Card:  # fmt: skip
    """Cut all slides and join them, in constant memory.

    Args:
        target: The set that is written; None reads everything and writes nothing.
        finish: From what became of the slides to the card; it may refuse.
        quality: Folder for ``quality.csv`` and a picture per slide; None writes none.
        run: How the slides are worked on: here, or in other processes (they must see ``target``'s folder).

    Raises:
        MedcoreError: No slide is left.
    """
    target = target.resolve() if target else None
    quality = quality.resolve() if quality else None
    rows = [row.absolute() for row in rows]  # other processes may stand in another folder
    names = [f".{target.name}.slide-{n:05d}.part" if target else "" for n in range(len(rows))]
    parts = [target.with_name(name) if target else None for name in names]
    tasks = [SlideTask(row, rule, card, part, quality) for row, part in zip(rows, parts, strict=True)]
    found: dict[int, SlideResult] = {}
    try:
        for number, result in tqdm(run(cut_slide, tasks), card.name, len(tasks), disable=not progress, unit="slide"):
            found[number] = result
        results = [found[number] for number in range(len(tasks))]
        if quality is not None:
            write_quality(quality / "quality.csv", [result.quality for result in results])
        card = finish(results)
        if all(result.problem for result in results):
            first = next((result.problem for result in results), card.excluded[0]["reason"] if card.excluded else "")
            raise MedcoreError(f"no slide could be read; the first reason: {first}")
        if target is not None:
            join(
                [part for part, result in zip(parts, results, strict=True) if part and not result.problem], target, card
            )
    finally:
        for part in parts:
            if part is not None:
                part.unlink(missing_ok=True)
    return card


def join(parts: list[Path], target: Path, card: Card) -> None:
    """Sets of the same kind as one, in order; grey where the card's recipe says so."""
    first = PatchSet.open(parts[0])
    channels = int(card.recipe.get("channels", 3))
    with PatchSetWriter(target, shape=(*first.shape[:2], channels), card=card, masks=first.has_masks) as writer:
        for part in parts:
            some, done = PatchSet.open(part), 0
            for images in some.chunks(_BATCH):
                rows = slice(done, done + len(images))
                images = images if channels == 3 else np.stack([_grey(image) for image in images])
                table: Any = some.table.iloc[rows].to_dict("records")
                writer.add(images, table, some.take_masks(rows) if first.has_masks else None)
                done += len(images)


def _grey(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def write_quality(path: Path, rows: list[dict[str, Any]]) -> None:
    """The table of quality, a row per slide."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, QUALITY, restval="")
        writer.writeheader()
        writer.writerows(rows)


def save_overview(found: Tissue, regions: np.ndarray, path: Path) -> None:
    """A picture of a slide: tissue outlined in yellow, dense tissue cyan, pen green, and the kept tiles in black."""
    from PIL import ImageDraw
    from scipy import ndimage

    picture = found.overview.copy()
    edge = found.tissue ^ ndimage.binary_erosion(found.tissue)
    for mask, colour in ((found.dense, (0, 200, 220)), (found.pen, (0, 170, 0))):
        picture[mask] = (picture[mask] * 0.5 + np.array(colour) * 0.5).astype(np.uint8)
    picture[edge] = (230, 160, 0)
    image = Image.fromarray(picture)
    zoom = max(1, 900 // max(image.size))
    image = image.resize((image.width * zoom, image.height * zoom))
    draw = ImageDraw.Draw(image)
    for x, y, width, height in (regions / np.tile(found.scale, 2) * zoom).tolist():
        draw.rectangle((x, y, x + width, y + height), outline=(60, 60, 60))
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")
