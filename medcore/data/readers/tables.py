"""Read a table that people made: encoding, delimiter, header and rows checked, each fault named by its row.

Spreadsheets, pandas, R and Windows each leave marks (``sep=;``, an index column, UTF-16, decimal commas): they are read
over, and said in ``notes``.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medcore.errors import MedcoreError

MISSING = frozenset({"", "na", "n/a", "n.a.", "nan", "none", "null", "nil", "#n/a", "#na", "<na>", "?", "-", "--", ".",
                     "missing", "nat"})  # fmt: skip
MOST_COLUMNS = 2000  # beyond it a table is one of pixels or features, not of images
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_DELIMITERS = ",;\t|"
_SNIFFED = 100_000  # characters of a line that are looked at for its delimiter
_DECIMAL_COMMA = re.compile(r"^-?\d+,\d+$")


@dataclass
class Table:
    """Rows of a table as text.

    Attributes:
        path: The file.
        header: Column names, stripped.
        rows: One list of texts a row, stripped, as long as the header.
        delimiter: ``,``, ``;``, ``|`` or a tab.
        numbers: The line of each row as a spreadsheet counts it.
        notes: What was read over or converted.
    """

    path: Path
    header: list[str]
    rows: list[list[str]]
    delimiter: str
    numbers: list[int]
    notes: list[str] = field(default_factory=list)

    def column(self, name: str) -> list[str]:
        """All values of one column."""
        position = self.header.index(name)
        return [row[position] for row in self.rows]

    def place(self, index: int) -> str:
        """``metadata.csv, row 17``: the row as a spreadsheet counts it (the header is row 1)."""
        return f"{self.path.name}, row {self.numbers[index]}"


def read_table(path: Path, *, encoding: str | None = None) -> Table:
    """Read a table with commas, semicolons, tabs or bars.

    Args:
        encoding: Its encoding; None for UTF-8, or UTF-16 with its mark.

    Raises:
        MedcoreError: Missing, no file, empty, in another encoding, without a header, with repeated column names or with
            rows of another length.
    """
    notes: list[str] = []
    text = _decode(path, encoding, notes)
    text, told = _told_delimiter(text, notes)
    delimiter = told or _likely_delimiter(text)
    columns = text.lstrip().split("\n", 1)[0].count(delimiter) + 1
    if columns > MOST_COLUMNS:
        raise MedcoreError(
            f"{path} has {columns:,} columns, more than {MOST_COLUMNS:,}: a table of images has one row an image and "
            "few columns; name the file that lists the images"
        )
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise MedcoreError(f"{path}: not a valid CSV ({error}); look for an unclosed quote") from error
    first = 2 if told else 1
    numbered = [
        (n, [cell.strip().strip("\ufeff") for cell in line]) for n, line in enumerate(lines, first) if any(line)
    ]
    if not numbered:
        raise MedcoreError(f"{path} is empty; it needs a header line and one row an image")
    _refuse_title(path, numbered)
    header, body = _without_index(path, numbered[0][1], numbered[1:], notes)
    _check_header(path, header)
    for number, row in body:
        if len(row) != len(header):
            raise MedcoreError(
                f"{path.name}, row {number}: {len(row)} values for {len(header)} columns ({delimiter!r} separates "
                "them); put values that hold a separator in double quotes"
            )
    return Table(path, header, [row for _, row in body], delimiter, [number for number, _ in body], notes)


def require(table: Table, names: Iterable[str], way: str = "") -> None:
    """Refuse a table that lacks columns, with the nearest names it has.

    Args:
        way: How to say which column it is, with ``{0}`` for its name.

    Raises:
        MedcoreError: A column is missing.
    """
    for name in names:
        if name not in table.header:
            close = difflib.get_close_matches(name, table.header, 1, 0.5)
            hint = f"; did you mean {close[0]!r}? Rename it" if close else ""
            raise MedcoreError(
                f"{table.path}: there is no column {name!r}; it has {', '.join(table.header)}{hint}" + way.format(name)
            )


def is_missing(value: str) -> bool:
    """Whether a cell says that its value is not known, as R, Python, Excel or people write it."""
    return value.strip().lower() in MISSING


def typed(values: Sequence[str]) -> np.ndarray:
    """Texts as numbers where all of them are: int64, else float64 (missing = NaN), else str.

    Decimal commas count; codes with leading zeros stay text: ``007`` is not 7.
    """
    filled = [value for value in values if not is_missing(value)]
    if not filled or any(value.lstrip("-").startswith("0") and value.lstrip("-")[1:2].isdigit() for value in filled):
        return np.array(values, dtype=str)
    if any(_DECIMAL_COMMA.match(value) for value in filled):
        values = [value.replace(",", ".") if _DECIMAL_COMMA.match(value) else value for value in values]
    try:
        if len(filled) == len(values):
            return np.array([int(value) for value in values], dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        numbers = np.array([np.nan if is_missing(value) else float(value) for value in values])
    except ValueError:
        return np.array(values, dtype=str)
    return numbers if np.isfinite(numbers[~np.isnan(numbers)]).all() else np.array(values, dtype=str)


def _decode(path: Path, encoding: str | None, notes: list[str]) -> str:
    if path.exists() and not path.is_file():
        raise MedcoreError(f"{path} is not a regular file (a folder, pipe, socket or device); name a table")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MedcoreError(f"{path} cannot be read ({error.strerror})") from error
    mark = next((name for start, name in _MARKS.items() if data.startswith(start)), None)
    if encoding is None and mark is None and b"\0" in data[:200] and not data.startswith(b"PK"):
        mark = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be" if data[:1] == b"\0" else None
    if encoding is None and b"\0" in data and not (mark or "").startswith("utf-16"):
        raise MedcoreError(f"{path} holds zero bytes and is no text file; save it as CSV in UTF-8")
    try:
        text = data.decode(encoding or mark or "utf-8")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise MedcoreError(
            f"{path}, row {row}: byte 0x{data[error.start]:02x} is not {error.encoding}; save the file as UTF-8, or "
            "say its encoding: --encoding cp1252 (Windows; in Python encoding='cp1252'), latin-1, gb18030, ..."
        ) from error
    except LookupError as error:
        raise MedcoreError(f"encoding {encoding!r} is not known; try 'utf-8', 'latin-1' or 'cp1252'") from error
    if encoding or (mark or "").startswith("utf-16"):
        notes.append(f"read as {encoding or mark}")
    return text


def _told_delimiter(text: str, notes: list[str]) -> tuple[str, str | None]:
    """The text without a ``sep=;`` line as Excel writes it, and what that line says."""
    told = re.match(r"\s*\"?sep=(.)\"?\s*\r?\n", text, re.IGNORECASE)
    if not told:
        return text, None
    notes.append(f"the line sep={told[1]} says the delimiter")
    return text[told.end() :], told[1]


def _likely_delimiter(text: str) -> str:
    """The delimiter that parts the header, and the row below alike, into most columns."""
    lines = [line[:_SNIFFED] for line in text.lstrip("\r\n\ufeff").split("\n", 20)[:20] if line.strip()][:2]
    if not lines:
        return ","
    parted = {mark: [len(row) for row in csv.reader(lines, delimiter=mark)] for mark in _DELIMITERS}
    return max(_DELIMITERS, key=lambda mark: (len(set(parted[mark])) == 1 and parted[mark][0] > 1, parted[mark][0]))


def _without_index(
    path: Path, header: list[str], body: list[tuple[int, list[str]]], notes: list[str]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Drop what programs add: row names of pandas and R, and empty columns at the end of a spreadsheet."""
    while header and not header[-1] and all(len(row) < len(header) or not row[-1] for _, row in body):
        body = [(number, row[: len(header) - 1]) for number, row in body]
        header = header[:-1]
    unnamed = bool(header) and (not header[0] or re.fullmatch(r"Unnamed: \d+", header[0]) is not None)
    extra = bool(body) and all(len(row) == len(header) + 1 for _, row in body)
    first = [row[0] for _, row in body if row]
    if first and len(set(first)) == len(first) and (unnamed or (extra and all(re.fullmatch(r"\d+", f) for f in first))):
        notes.append("the first column has no name and numbers the rows: passed over")
        header = header[1:] if unnamed else header
        body = [(number, row[1:]) for number, row in body]
    return header, body


def _refuse_title(path: Path, numbered: list[tuple[int, list[str]]]) -> None:
    """Refuse a table whose first rows are a title, with the row that seems to be its header."""
    widths = [sum(map(bool, row)) for _, row in numbered[:10]]
    full = max(widths)
    if full > 1 and widths[0] <= full / 2:
        number, row = numbered[widths.index(full)]
        raise MedcoreError(
            f"{path}, row {numbered[0][0]} looks like a title, and row {number} ({', '.join(row[:4])}) like the "
            "header; delete the rows above it"
        )


def _check_header(path: Path, header: list[str]) -> None:
    if any(not name for name in header):
        raise MedcoreError(f"{path}, row 1: column {header.index('') + 1} has no name; name it or remove it")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise MedcoreError(f"{path}, row 1: column {repeated[0]!r} stands twice; rename or remove one")
