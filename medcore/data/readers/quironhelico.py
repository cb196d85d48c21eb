"""The tables of QuironHelico: diagnosis per patient, and annotated windows from ``.xlsx`` and ``.csv`` together.

QuironHelico: immunohistochemistry windows per patient, with annotated windows and a diagnosis per patient.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcore.data.datasets import HELICO_DENSITIES
from medcore.data.datasets import card as facts_of
from medcore.data.readers.files import image_files, subfolders
from medcore.data.readers.listing import ImageRow, Listing, Problems, listed
from medcore.data.readers.tables import read_table, require
from medcore.errors import MedcoreError

MOST_WORKBOOK_BYTES = 100 << 20
_NEEDED = ("Pat_ID", "Section_ID", "Window_ID", "Presence")
Key = tuple[str, int, int]  # patient, section, window


@dataclass(frozen=True)
class Annotation:
    """What the tables say about one window.

    Attributes:
        presence: 1 positive, -1 negative, 0 ambiguous (said so, or rows that contradict each other).
        place: Table and row.
        position: Place on the slide (i, j) in pixels; None when not given.
        contradictory: Whether rows disagree.
    """

    presence: int
    place: str
    position: tuple[int, int] | None = None
    contradictory: bool = False


def read_diagnoses(path: Path) -> dict[str, str]:
    """``CODI`` to ``DENSITAT``.

    Raises:
        MedcoreError: Missing columns, an unknown density, or one patient with two diagnoses.
    """
    table = read_table(path)
    require(table, ("CODI", "DENSITAT"))
    diagnoses: dict[str, str] = {}
    for index, (patient, density) in enumerate(zip(table.column("CODI"), table.column("DENSITAT"), strict=True)):
        if density not in HELICO_DENSITIES:
            raise MedcoreError(
                f"{table.place(index)}: DENSITAT {density!r} is not one of {', '.join(HELICO_DENSITIES)}"
            )
        if diagnoses.setdefault(patient, density) != density:
            raise MedcoreError(
                f"{table.place(index)}: patient {patient!r} is {density} here and {diagnoses[patient]} above; "
                "correct one"
            )
    return diagnoses


def read_annotations(root: Path) -> tuple[list[Path], dict[Key, Annotation]]:
    """All annotated windows of all tables directly in the folder, and the tables they come from.

    Rows without ``Presence`` say nothing; rows marked ``Deleted`` are passed over.

    Raises:
        MedcoreError: A Presence other than -1, 0, 1, or an identifier that is no number.
    """
    annotations: dict[Key, Annotation] = {}
    tables = []
    for path in sorted([*root.glob("*.xlsx"), *root.glob("*.csv")], key=lambda path: (path.suffix != ".xlsx", path)):
        rows = list(_rows(path))
        if not rows:
            continue
        tables.append(path)
        for number, row in rows:
            _add(annotations, row, f"{path.name}, row {number}")
    return tables, annotations


def _add(annotations: dict[Key, Annotation], row: dict[str, Any], place: str) -> None:
    window = str(row["Window_ID"]).strip()
    if _blank(row["Presence"]) or "_Aug" in window or str(row.get("Deleted", "")).strip() in ("1", "1.0", "True"):
        return
    key = (str(row["Pat_ID"]).strip(), _number(row, "Section_ID", place), _number(row, "Window_ID", place))
    presence = _number(row, "Presence", place)
    if presence not in (-1, 0, 1):
        raise MedcoreError(f"{place}: Presence {row['Presence']!r} is not -1, 0 or 1; correct it")
    position = None
    if not _blank(row.get("i")) and not _blank(row.get("j")):
        position = (_number(row, "i", place), _number(row, "j", place))
    earlier = annotations.get(key)
    if earlier is None:
        annotations[key] = Annotation(presence, place, position)
    elif earlier.presence != presence:
        same = Annotation(0, f"{earlier.place} and {place}", earlier.position, True)
        annotations[key] = earlier if earlier.contradictory else same


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered rows of a table that has the needed columns; none for other tables."""
    if path.suffix == ".csv":
        table = read_table(path)
        if set(_NEEDED) <= set(table.header):
            for number, row in zip(table.numbers, table.rows, strict=True):
                yield number, dict(zip(table.header, row, strict=True))
        return
    from openpyxl import load_workbook

    try:
        with zipfile.ZipFile(path) as archive:  # a workbook is a zip; its texts are held in memory
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MOST_WORKBOOK_BYTES:
            raise MedcoreError(f"{path} unpacks to more than {MOST_WORKBOOK_BYTES:,} bytes; save the table as .csv")
        book = load_workbook(path, read_only=True, data_only=True)
    except MedcoreError:
        raise
    except Exception as error:  # broken workbooks raise anything from BadZipFile to KeyError
        raise MedcoreError(f"{path} is not a readable workbook ({error}); save it again as .xlsx or .csv") from error
    for sheet in book.worksheets:
        lines = sheet.iter_rows(values_only=True)
        header = [str(cell).strip() for cell in next(lines, ())]
        if set(_NEEDED) <= set(header):
            for number, cells in enumerate(lines, 2):
                if any(not _blank(cell) for cell in cells):
                    yield number, dict(zip(header, cells, strict=False))
    book.close()


def _blank(value: Any) -> bool:
    return value is None or str(value).strip() in ("", "nan")


def _number(row: dict[str, Any], name: str, place: str) -> int:
    try:
        value = float(str(row[name]).strip())
        if value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise MedcoreError(f"{place}: {name} {row[name]!r} is not a whole number; correct it")


_SETS = {"Cropped": "CrossValidation/Cropped", "Annotated": "CrossValidation/Annotated", "HoldOut": "HoldOut"}
_WINDOW = re.compile(r"^0*(\d+)(?:_Aug(\d+))?$")
_DIAGNOSIS = "PatientDiagnosis.csv"


def is_quironhelico(root: Path) -> bool:
    """Whether a folder has the diagnosis table and at least one of the three sets."""
    return (root / _DIAGNOSIS).is_file() and any((root / part).is_dir() for part in _SETS.values())


def read_quironhelico(root: Path, problems: Problems) -> Listing:
    """List all windows with their patient, section, annotation and diagnosis.

    Args:
        root: The folder of the published layout.

    Raises:
        MedcoreError: A folder or window whose name cannot be read, a patient without a diagnosis row, contradictory
            diagnoses, or a bad annotation table.
    """
    facts = facts_of("quironhelico")
    diagnoses = read_diagnoses(root / _DIAGNOSIS)
    tables, annotations = read_annotations(root)
    items = [item for name in _SETS for item in _windows(root, name, problems)]
    if not items:
        raise MedcoreError(f"'{root}' holds no window; expected\n{facts.layout}")
    items = _diagnose(items, diagnoses, problems)
    items = _annotate(items, annotations, problems)
    _mark_copies(items, annotations, problems)
    _warn_about_patients(items, diagnoses, problems)
    if not tables:
        problems.warn(
            "no annotation table was found (.xlsx or .csv with Pat_ID, Window_ID, Presence): no window is labelled"
        )
    recipe = {"reader": "quironhelico", "annotation_tables": [path.name for path in tables]}
    card = facts.as_card(name=root.resolve().name, recipe=recipe)
    return Listing(root, card, items, problems=problems, also=[root / _DIAGNOSIS, *tables])


def _windows(root: Path, set_name: str, problems: Problems) -> list[ImageRow]:
    """The windows of one set, from ``<Pat_ID>_<Section_ID>/<Window_ID>[_AugN]``."""
    folder = root / _SETS[set_name]
    items = []
    for sample in subfolders(folder) if folder.is_dir() else []:
        patient, _, section = sample.name.rpartition("_")
        if not patient or not section.isdigit():
            problems.bad(f"folder '{sample}' is not named <Pat_ID>_<Section_ID>; rename it", file=sample.name)
            continue
        for file in image_files(sample, problems):
            match = _WINDOW.match(file.stem)
            source = file.relative_to(root).as_posix()
            if match is None:
                problems.bad(f"window '{source}' is not named <number> or <number>_Aug<number>; rename it", file=source)
                continue
            columns: dict[str, Any] = {
                "label": -1, "patient": patient, "split": "test" if set_name == "HoldOut" else "", "source": source,
                "image": file.stem, "set": set_name, "section": int(section), "window": int(match[1]),
                "augmented": int(match[2] or 0), "copy_of": "",
            }  # fmt: skip
            items.append(ImageRow(file, columns))
    return items


def _diagnose(items: list[ImageRow], diagnoses: dict[str, str], problems: Problems) -> list[ImageRow]:
    kept = []
    for item in items:
        patient = item.columns["patient"]
        if patient in diagnoses:
            item.columns["diagnosis"] = diagnoses[patient]
            kept.append(item)
        else:
            problems.bad(
                f"window '{item.columns['source']}': patient {patient!r} has no row in {_DIAGNOSIS}; add it",
                file=item.columns["source"],
            )
    return kept


def _annotate(items: list[ImageRow], annotations: dict[Key, Annotation], problems: Problems) -> list[ImageRow]:
    """Labels from the tables; ambiguous windows leave the set, listed."""
    kept, ambiguous, contradictory = [], 0, 0
    for item in items:
        entry = (
            annotations.get(_key(item)) if item.columns["set"] != "Cropped" and not item.columns["augmented"] else None
        )
        if entry is None:
            kept.append(item)
            continue
        if entry.presence == 0:
            ambiguous += 1
            contradictory += entry.contradictory
            reason = "contradictory annotations" if entry.contradictory else "ambiguous annotation (Presence 0)"
            problems.exclude(f"{reason} in {entry.place}", file=item.columns["source"])
            continue
        item.columns["label"] = 1 if entry.presence > 0 else 0
        kept.append(item)
    if ambiguous:
        problems.warn(
            f"{ambiguous} windows with ambiguous annotation (Presence 0) are excluded"
            + (f"; {contradictory} of them because their rows contradict each other" if contradictory else "")
        )
    return kept


def _key(item: ImageRow) -> Key:
    return item.columns["patient"], item.columns["section"], item.columns["window"]


def _mark_copies(items: list[ImageRow], annotations: dict[Key, Annotation], problems: Problems) -> None:
    """Fill ``copy_of`` for augmented copies and for one window under two patients; warn about both."""
    _mark_augmented(items, problems)
    _mark_shared_places(items, annotations, problems)
    _mark_equal_files(items, problems)


def _mark_augmented(items: list[ImageRow], problems: Problems) -> None:
    originals = {(item.columns["set"], *_key(item)): item.columns["source"] for item in items
                 if not item.columns["augmented"]}  # fmt: skip
    copies = [item for item in items if item.columns["augmented"]]
    for item in copies:
        patient, section, window = _key(item)
        absent = f"{item.columns['set']}/{patient}_{section}/{window:05d} (not here)"
        item.columns["copy_of"] = originals.get((item.columns["set"], *_key(item)), absent)
    if copies:
        count = len({item.columns["copy_of"] for item in copies})
        problems.warn(f"{len(copies)} windows are augmented copies (_AugN) of {count} others; unlabelled, with copy_of")


def _mark_shared_places(items: list[ImageRow], annotations: dict[Key, Annotation], problems: Problems) -> None:
    """Windows that the tables list under two patients with the same number at the same place of the slide."""
    places: dict[tuple[int, tuple[int, int]], list[Key]] = defaultdict(list)
    for key, entry in annotations.items():
        if entry.position:
            places[(key[2], entry.position)].append(key)
    shared = [sorted(keys) for keys in places.values() if len({key[0] for key in keys}) > 1]
    if not shared:
        return
    here = {_key(item): item for item in items if item.columns["set"] != "Cropped" and not item.columns["augmented"]}
    doubled = 0
    for keys in shared:
        present = [here[key] for key in keys if key in here]
        for item in present[1:]:
            item.columns["copy_of"] = present[0].columns["source"]
        doubled += len(present) > 1
    pairs = sorted({" = ".join(sorted({key[0] for key in keys})) for keys in shared})
    problems.warn(
        f"the annotation tables list {len(shared)} windows under two patients with the same number and place on the "
        f"slide ({listed(pairs)}): these may be one patient. Of {doubled} of them both images are here; the later ones "
        "carry copy_of"
    )


def _mark_equal_files(items: list[ImageRow], problems: Problems) -> None:
    """Files with equal bytes; only files of equal size are read."""
    sizes: dict[int, list[ImageRow]] = defaultdict(list)
    for item in items:
        sizes[item.file.stat().st_size].append(item)
    equal, across = 0, set()
    for candidates in sizes.values():
        first: dict[str, ImageRow] = {}
        for item in candidates if len(candidates) > 1 else []:
            original = first.setdefault(hashlib.sha256(item.file.read_bytes()).hexdigest(), item)
            if original is not item:
                equal += 1
                item.columns["copy_of"] = item.columns["copy_of"] or original.columns["source"]
                if original.columns["patient"] != item.columns["patient"]:
                    across.add(f"{original.columns['patient']} = {item.columns['patient']}")
    if equal:
        under = f", also under two patients ({listed(sorted(across))})" if across else ""
        problems.warn(f"{equal} windows are files with the same bytes as an earlier one{under}; they carry copy_of")


def _warn_about_patients(items: list[ImageRow], diagnoses: dict[str, str], problems: Problems) -> None:
    present = {item.columns["patient"] for item in items}
    absent = sorted(set(diagnoses) - present)
    if absent:
        problems.warn(
            f"{len(absent)} of {len(diagnoses)} patients of {_DIAGNOSIS} have no window here ({listed(absent)})"
        )
    sets = {item.columns["set"] for item in items}
    if "HoldOut" not in sets:
        problems.warn("there is no HoldOut part: no patient is set aside for a final test")
    positive = sorted({item.columns["patient"] for item in items
                       if item.columns["label"] == 1 and item.columns["diagnosis"] == HELICO_DENSITIES[0]})  # fmt: skip
    if positive:
        problems.warn(f"patients diagnosed NEGATIVA have positive windows ({listed(positive)}): contradictory labels")
    both = {item.columns["patient"] for item in items if item.columns["set"] == "HoldOut"} & {
        item.columns["patient"] for item in items if item.columns["set"] != "HoldOut"
    }
    if both:
        problems.warn(f"patients of HoldOut also have cross-validation windows ({listed(sorted(both))})")
