"""The tables of QuironHelico: diagnosis per patient, and annotated windows from ``.xlsx`` and ``.csv`` together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcore.data.info import HELICO_DENSITIES
from medcore.data.readers.tables import read_table, require
from medcore.errors import MedcoreError

_NEEDED = ("Pat_ID", "Section_ID", "Window_ID", "Presence")
Key = tuple[str, int, int]


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
        book = load_workbook(path, read_only=True, data_only=True)
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
