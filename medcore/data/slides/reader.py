"""A folder of whole slides, with a table of patients and labels and drawings beside it.

- The table is ``metadata.csv`` (or the only table that names the slides): a column names the slide by file or stem,
  others are ``patient``, ``label``, ``split``, ``mpp`` (microns per pixel where the file does not say), and any more.
- Drawings are found by the slide's name: ``NAME.geojson`` (QuPath) or ``NAME.xml`` (ASAP, Aperio), beside it or in
  ``annotations/``. With drawings the classes are those drawn; else each tile takes the label of its slide.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medcore.data import sizes
from medcore.data.card import Card
from medcore.data.formats import SUFFIXES
from medcore.data.readers.columns import ROLES, clean_labels, clean_patients, find_columns
from medcore.data.readers.files import TABLES, is_hidden
from medcore.data.readers.listing import NO_PATIENTS, Listing, Problems, listed
from medcore.data.readers.names import role_of, split_name
from medcore.data.readers.tables import Table, is_missing, read_table, typed
from medcore.data.slides.annotations import ENDINGS, IGNORED, read_drawing
from medcore.data.slides.slide import ALWAYS, is_slide
from medcore.data.slides.tiles import Run, SlideResult, SlideRow, TileRule, cut_slides, one_by_one
from medcore.errors import MedcoreError

_TIFF = (".tif", ".tiff")
FACTS = "phantom.json"  # marks a folder of slides that were drawn
OUTSIDE = "background"  # class of what is not drawn on, in masks
LOOKED_AT = 8  # of the largest TIFF files, to tell slides from pictures
ALIKE = 0.02  # share by which pixel sizes may differ and count as one


def find_slides(source: Path) -> list[Path]:
    """Whole slides of a folder and its subfolders (or the one file), by name; [] where there is none.

    Where there is a slide, every other TIFF is taken for one too, so that a broken one is named. A folder with more
    pictures of other kinds than slides is no folder of slides.
    """
    if source.is_file():
        return [source] if is_slide(source) else []
    files: list[Path] = []
    for folder, inner, names in os.walk(source):
        inner[:] = sorted(name for name in inner if not is_hidden(name) and role_of(name) != "masks")
        files += [Path(folder) / name for name in names if not is_hidden(name)]
    tiffs = [file for file in files if file.suffix.lower() in _TIFF]
    slides = [file for file in files if file.suffix.lower() in ALWAYS]
    largest = sorted(tiffs, key=lambda file: -os.lstat(file).st_size)[:LOOKED_AT]
    if slides or any(map(is_slide, largest)):
        slides += tiffs
    others = sum(file.suffix.lower() in SUFFIXES for file in files) - len(tiffs)
    return sorted(slides, key=lambda file: file.relative_to(source).parts) if len(slides) >= others else []


def read_slides(
    path: Path,
    problems: Problems,
    *,
    mpp: float | None = None,
    tissue: float = 0.5,
    tile_label: str = "centre",
    outside: str | None = None,
    classes: list[str] | None = None,
    columns: dict[str, str] | None = None,
    encoding: str | None = None,
    patient_pattern: str | None = None,
    quality: Path | None = None,
    run: Run = one_by_one,
) -> Listing:
    """List whole slides; their tiles are cut when the set is written.

    Args:
        path: A folder, or one slide.
        mpp: Microns per pixel of the tiles; None takes that of the slides where it is the same in all.
        tissue: Least share of a tile that is tissue, 0 to 1.
        tile_label: How drawings say what a tile is: ``centre``, ``share`` (more than half) or ``mask``.
        outside: Class of tissue outside of all drawings; None: no label, and ``background`` in masks.
        classes: Class names in order; None for the sorted ones.
        columns: Which column of the table is the slide (``image``), ``label``, ``patient`` or ``split``.
        encoding: Of the table.
        patient_pattern: Finds the patient in a slide's path where no table says it: one group, as ``(TCGA-..-....)``.
        quality: Folder for the table and the pictures of quality.
        run: How the slides are worked on, as in ``cut_slides``.

    Raises:
        MedcoreError: The table contradicts itself, or the pixel sizes differ and none was asked for.
    """
    files = find_slides(path)
    table_file = _table_of(path, files, problems) if path.is_dir() else None
    if table_file is not None:
        rows, names = _rows_of_table(table_file, files, problems, columns or {}, classes, encoding)
    else:
        rows, names = _rows_without_table(path, files, patient_pattern, problems), list(classes or [])
    rows = [row for row in rows if _opens(row, problems)]
    drawn = [row for row in rows if row.drawn is not None]
    if drawn:
        rows, names = _by_drawings(rows, names, problems, classes, tile_label, outside)
        outside = OUTSIDE if tile_label == "mask" and outside is None else outside
    elif tile_label == "mask":
        raise MedcoreError(
            f"'{path}': masks need drawings (NAME.geojson or NAME.xml beside each slide); none was found"
        )
    known = any(row.columns["patient"] != row.path.name for row in rows)
    if not known:
        problems.warn(NO_PATIENTS)
    recipe = {"reader": "slides", "tissue": tissue, "tile_label": tile_label, "outside": outside}
    card = _card(path, names, recipe, known=known)
    also = [row.path for row in rows] + [row.drawn for row in rows if row.drawn] + ([table_file] if table_file else [])
    rule = {"mpp": mpp or _common_mpp(rows), "tissue": tissue, "label": tile_label,
            "outside": names.index(outside) if outside in names else -1}  # fmt: skip
    return SlideListing(path, card, problems=problems, also=also, slides=rows, rule=rule, quality=quality, run=run)


def _card(path: Path, names: list[str], recipe: dict[str, Any], *, known: bool) -> Card:
    return Card(
        name=path.resolve().stem or "slides",
        title=f"Tiles of the whole slides in {path.resolve().name}",
        classes=names,
        task="segmentation" if recipe["tile_label"] == "mask" else "classification",
        group="patient" if known else "image",
        case="patch",
        patients_known=known,
        synthetic=(path / FACTS).is_file(),
        recipe=recipe,
    )


@dataclass
class SlideListing(Listing):
    """Whole slides of a folder.

    Attributes:
        slides: Those that open, by name.
        rule: What is known of the ``TileRule``: all but size and overlap.
        quality: Folder for the table and the pictures of quality.
        run: How they are worked on.
    """

    slides: list[SlideRow] = field(default_factory=list)
    rule: dict[str, Any] = field(default_factory=dict)
    quality: Path | None = None
    run: Run = one_by_one


def _rows_without_table(root: Path, files: list[Path], pattern: str | None, problems: Problems) -> list[SlideRow]:
    rows = []
    for file in files:
        found = re.search(pattern, file.relative_to(root.parent).as_posix()) if pattern else None
        if pattern and not found:
            problems.bad(f"slide '{file}': --patient-pattern {pattern!r} finds no patient", file=file.name)
            continue
        patient = found[found.lastindex or 0] if found else file.name
        rows.append(SlideRow(file, {"label": -1, "patient": patient, "split": ""}, None, _drawing_of(file)))
    return rows


def _drawing_of(file: Path) -> Path | None:
    stem = file.stem.removesuffix(".ome")
    places = [file.parent, file.parent / "annotations", file.parent.parent / "annotations"]
    found = (place / (stem + ending) for place in places for ending in ENDINGS)
    return next((path for path in found if path.is_file()), None)


def _finder(files: list[Path], root: Path) -> dict[str, list[Path]]:
    """Files by path, name and stem, without regard to case."""
    found: dict[str, list[Path]] = {}
    for file in files:
        keys = {file.relative_to(root).as_posix(), file.name, file.stem, file.stem.removesuffix(".ome")}
        for key in keys:
            found.setdefault(key.casefold(), []).append(file)
    return found


def _table_of(root: Path, files: list[Path], problems: Problems) -> Path | None:
    """The table of the slides: ``metadata.csv``, else the only one beside them that names one."""
    known = _finder(files, root)
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() in TABLES and not is_hidden(path.name))
    named = [path for path in tables if path.stem.lower() == "metadata"]
    if named:
        return named[0]
    naming = [path for path in tables if any(cell.casefold() in known for row in read_table(path).rows for cell in row)]
    if len(naming) > 1:
        raise MedcoreError(
            f"'{root}' has several tables that name its slides ({listed([path.name for path in naming])}); call the "
            "right one metadata.csv"
        )
    if naming:
        problems.note(f"{naming[0].name} is read as the table of the slides")
    return naming[0] if naming else None


def _rows_of_table(
    path: Path, files: list[Path], problems: Problems, asked: dict[str, str], classes: list[str] | None,
    encoding: str | None,
) -> tuple[list[SlideRow], list[str]]:  # fmt: skip
    known = _finder(files, path.parent)
    table = read_table(path, encoding=encoding)
    table.header = ["image" if name.lower() == "slide" and "image" not in asked else name for name in table.header]
    table = find_columns(table, asked, problems, lambda cell: cell.casefold() in known, lambda _: False)
    if "image" not in table.header:
        raise MedcoreError(
            f"{path}: no column names the slides of its folder; add one, or say which: --column image=NAME"
        )
    labels, names = clean_labels(table, classes, problems) if "label" in table.header else ([], [])
    patients = clean_patients(table, problems) if "patient" in table.header else []
    extra = {name: typed(table.column(name)) for name in table.header if name not in (*ROLES, "mpp")}
    rows: dict[Path, SlideRow] = {}
    for index, cell in enumerate(table.column("image")):
        found = known.get(Path(cell.replace("\\", "/")).as_posix().casefold(), [])
        place = table.place(index)
        if len(found) != 1 or found[0] in rows:
            reason = "stands twice" if found and found[0] in rows else "is not among the slides" if not found else (
                "may be one of several: write its path")  # fmt: skip
            problems.bad(f"{place}: slide '{cell}' {reason}", file=cell, row=table.numbers[index])
            continue
        columns = {
            "label": names.index(labels[index]) if labels and labels[index] else -1,
            "patient": patients[index] if patients and patients[index] else found[0].name,
            "split": _split(table, index),
        } | {name: values[index].item() for name, values in extra.items()}
        rows[found[0]] = SlideRow(found[0], columns, _mpp(table, index), _drawing_of(found[0]))
    without = [file.name for file in files if file not in rows]
    if without:
        problems.warn(f"{path.name}: {len(without)} slides beside it have no row and are not read ({listed(without)})")
    problems.note(f"{path.name}: {len(rows)} rows, columns {', '.join(role for role in ROLES if role in table.header)}")
    if not rows:
        raise MedcoreError(f"{path}: no row names a slide of its folder")
    return [rows[file] for file in files if file in rows], names


def _split(table: Table, index: int) -> str:
    cell = table.column("split")[index] if "split" in table.header else ""
    side = "" if is_missing(cell) else split_name(cell)
    if side is None:
        raise MedcoreError(
            f"{table.place(index)}: split {cell!r} is not known; allowed are train, val, test or nothing"
        )
    return side


def _mpp(table: Table, index: int) -> float | None:
    cell = table.column("mpp")[index] if "mpp" in table.header else ""
    try:
        return None if is_missing(cell) else float(cell.replace(",", "."))
    except ValueError:
        raise MedcoreError(
            f"{table.place(index)}: mpp {cell!r} is no number; write microns per pixel, as 0.25"
        ) from None


def _opens(row: SlideRow, problems: Problems) -> bool:
    """Whether the slide and its drawing open; a broken one is named and left out."""
    try:
        row.open().close()
        if row.drawn is not None:
            read_drawing(row.drawn)
    except MedcoreError as error:
        problems.bad(str(error), file=row.path.name)
        return False
    return True


def _by_drawings(
    rows: list[SlideRow], names: list[str], problems: Problems, classes: list[str] | None, rule: str,
    outside: str | None,
) -> tuple[list[SlideRow], list[str]]:  # fmt: skip
    """The classes of the drawings; the label of a slide becomes a column of its own."""
    drawn = Counter(shape.name for row in rows if row.drawn for shape in read_drawing(row.drawn)[0])
    ignored = sorted(name for name in drawn if name.endswith(IGNORED))
    found = sorted(set(drawn) - set(ignored))
    outside = OUTSIDE if rule == "mask" and outside is None else outside
    first = [outside] if rule == "mask" and outside else []
    classes = classes or [*first, *sorted({*found, *([outside] if outside else [])} - set(first))]
    missing = [name for name in found if name not in classes]
    if missing:
        raise MedcoreError(f"drawings hold the class {missing[0]!r}, which is not among {', '.join(classes)}; add it")
    how = {"centre": "the class at its centre", "share": "the class of more than half of it", "mask": "a mask"}[rule]
    problems.note(
        f"drawings of {sum(row.drawn is not None for row in rows)} of {len(rows)} slides: "
        f"{listed([f'{name} ({count})' for name, count in sorted(drawn.items())], 12)}; each tile takes {how}; tissue "
        f"outside of them: {outside or 'no label'}"
    )
    if ignored:
        problems.note(f"drawings of {listed(ignored)} count nowhere")
    bare = [row for row in rows if row.drawn is None]
    if bare and rule == "mask":
        for row in bare:
            problems.exclude(f"slide '{row.path}' has no drawing, and masks are asked for", file=row.path.name)
        rows = [row for row in rows if row.drawn is not None]
    elif bare:
        problems.warn(
            f"{len(bare)} slides have no drawing: their tiles have no label ({listed([r.path.name for r in bare])})"
        )
    told = {-1: "", **dict(enumerate(names))}
    moved = [
        replace(
            row, columns={**row.columns, "label": -1} | ({"slide_label": told[row.columns["label"]]} if names else {})
        )
        for row in rows
    ]
    return moved, list(classes)


def _common_mpp(rows: list[SlideRow]) -> float:
    """The pixel size of the slides where it is the same in all.

    Raises:
        MedcoreError: It differs.
    """
    found = {}
    for row in rows:
        with row.open() as slide:
            found[slide.mpp[0]] = row.path.name
    if not found:
        return 1.0  # nothing will be cut
    low, high = min(found), max(found)
    if high > low * (1 + ALIKE):
        raise MedcoreError(
            f"the slides have pixels of {low:g} µm ({found[low]}) to {high:g} µm ({found[high]}); say at which size "
            "tiles are cut: --mpp (Python: mpp=...)"
        )
    return round(float(low), 4)


def prepare_slides(
    listing: SlideListing,
    target: Path | None,
    policy: str,
    complete: Callable[[Listing, Counter[str]], Card],
    *,
    size: Any,
    channels: int,
    overlap: int,
    progress: bool,
) -> Card:
    """Cut the slides of a listing into ``target`` (None: read all, write nothing).

    Args:
        complete: From the listing and conversions to the card with what was left out.

    Raises:
        MedcoreError: As ``cut_slides``; or a policy that has no meaning here.
    """
    if policy not in ("resize", "tile"):
        raise MedcoreError(f"policy={policy!r} has no meaning for whole slides: they are cut into tiles")
    rule = TileRule(size=sizes.parse_size(size or sizes.DEFAULT_SIZE), overlap=overlap, **listing.rule)
    recipe = {"policy": "tile", "scaled_or_cut": True, "size": list(rule.size), "channels": channels,
              "overlap": overlap, "mpp": rule.mpp}  # fmt: skip
    listing.card = replace(listing.card, recipe={**listing.card.recipe, **recipe}, pixel_size_um=rule.mpp)

    def finish(results: list[SlideResult]) -> Card:
        for result in results:
            for note in result.notes:
                listing.problems.note(note)
            if result.problem:
                listing.problems.bad(result.problem, file=result.quality["slide"])
        return complete(listing, Counter())

    return cut_slides(
        listing.slides, rule, listing.card, target, finish, quality=listing.quality, progress=progress, run=listing.run
    )
