"""Read a CSV that people made: encoding, delimiter, header and rows checked, each fault named by its row."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcore.errors import MedcoreError

_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass
class Table:
    """Rows of a CSV as text.

    Attributes:
        path: The file.
        header: Column names, stripped.
        rows: One list of texts a row, stripped, as long as the header.
        delimiter: ``,``, ``;`` or a tab.
    """

    path: Path
    header: list[str]
    rows: list[list[str]]
    delimiter: str
    numbers: list[int]

    def column(self, name: str) -> list[str]:
        """All values of one column."""
        position = self.header.index(name)
        return [row[position] for row in self.rows]

    def place(self, index: int) -> str:
        """``metadata.csv, row 17``: the row as a spreadsheet counts it (the header is row 1)."""
        return f"{self.path.name}, row {self.numbers[index]}"


def read_table(path: Path, *, encoding: str | None = None) -> Table:
    """Read a CSV with commas, semicolons or tabs.

    Args:
        path: The file.
        encoding: Its encoding; None for UTF-8 (with or without a byte-order mark).

    Raises:
        MedcoreError: Missing, empty, in another encoding, without a header, with repeated column names or with rows
            of another length.
    """
    text = _decode(path, encoding)
    first_line = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(",;\t", key=first_line.count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise MedcoreError(f"{path}: not a valid CSV ({error}); look for an unclosed quote") from error
    numbered = [(number, [cell.strip() for cell in line]) for number, line in enumerate(lines, 1) if any(line)]
    if not numbered:
        raise MedcoreError(f"{path} is empty; it needs a header line and one row an image")
    header = numbered[0][1]
    _check_header(path, header)
    body = numbered[1:]
    for number, row in body:
        if len(row) != len(header):
            raise MedcoreError(
                f"{path.name}, row {number}: {len(row)} values for {len(header)} columns ({delimiter!r} separates "
                "them); put values that hold a separator in double quotes"
            )
    return Table(path, header, [row for _, row in body], delimiter, [number for number, _ in body])


def require(table: Table, names: Iterable[str]) -> None:
    """Refuse a table that lacks columns, with the nearest names it has.

    Raises:
        MedcoreError: A column is missing.
    """
    for name in names:
        if name not in table.header:
            close = difflib.get_close_matches(name, table.header, 1, 0.5)
            hint = f"; did you mean {close[0]!r}? Rename it" if close else ""
            raise MedcoreError(f"{table.path}: there is no column {name!r}; it has {', '.join(table.header)}{hint}")


def typed(values: list[str]) -> np.ndarray:
    """Texts as numbers where all of them are: int64, else float64 (empty = NaN), else str.

    Codes with leading zeros stay text: ``007`` is not 7.
    """
    filled = [value for value in values if value]
    if not filled or any(value.lstrip("-").startswith("0") and value.lstrip("-")[1:2].isdigit() for value in filled):
        return np.array(values, dtype=str)
    try:
        if len(filled) == len(values):
            return np.array([int(value) for value in values], dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        numbers = np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return np.array(values, dtype=str)
    return numbers if np.isfinite(numbers[~np.isnan(numbers)]).all() else np.array(values, dtype=str)


def _decode(path: Path, encoding: str | None) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MedcoreError(f"{path} cannot be read ({error.strerror})") from error
    if encoding is None and data[:2] in _BYTE_ORDER_MARKS:
        raise MedcoreError(f"{path} is {_BYTE_ORDER_MARKS[data[:2]]}; save it as UTF-8, or pass encoding='utf-16'")
    if encoding is None and b"\0" in data:
        raise MedcoreError(f"{path} holds zero bytes and is no text file; save it as CSV in UTF-8")
    try:
        return data.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise MedcoreError(
            f"{path}, row {row}: byte 0x{data[error.start]:02x} is not {error.encoding}; save the file as UTF-8, or "
            "pass its encoding, as in encoding='latin-1'"
        ) from error
    except LookupError as error:
        raise MedcoreError(f"encoding {encoding!r} is not known; try 'utf-8', 'latin-1' or 'cp1252'") from error


def _check_header(path: Path, header: list[str]) -> None:
    if any(not name for name in header):
        raise MedcoreError(f"{path}, row 1: column {header.index('') + 1} has no name; name it or remove it")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise MedcoreError(f"{path}, row 1: column {repeated[0]!r} stands twice; rename or remove one")
