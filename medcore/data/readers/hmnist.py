"""``hmnist_28_28_RGB.csv``: HAM10000 as a table of pixels, one row an image (also its ``_L`` and 8×8 forms)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from medcore.data.info import card as facts_of
from medcore.data.readers.ham10000 import as_labels, metadata_file, read_metadata_table
from medcore.data.readers.listing import NO_PATIENTS, ArrayRows, Listing, Problems
from medcore.data.readers.tables import typed
from medcore.errors import MedcoreError

CODES = ["akiec", "bcc", "bkl", "df", "nv", "vasc", "mel"]  # the file's label 4 is nv, 5 vasc, 6 mel
_STEP = 512  # rows parsed at once


def is_hmnist(path: Path) -> bool:
    """Whether a CSV begins with ``pixel0000``."""
    try:
        with open(path, "rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf\"'").startswith(b"pixel0000")
    except OSError:
        return False


def read_hmnist(path: Path, problems: Problems) -> Listing:
    """List the rows of the tabular form of HAM10000.

    Lesions are known only when the metadata of the same images lies beside it: rows are then joined by position,
    after a check that every diagnosis agrees.

    Args:
        path: The CSV with columns ``pixel0000, ..., label``.
        problems: Collects warnings; the small size of the pixels is always one.

    Raises:
        MedcoreError: Columns that do not make a square image, or values that are no pixels.
    """
    shape = _shape(path)
    codes = np.concatenate([labels for _, labels in _rows(path)] or [np.zeros(0, dtype=np.int64)])
    if len(codes) == 0:
        raise MedcoreError(f"{path} has a header but no rows; download it again")
    facts = facts_of("ham10000")
    order = np.array([facts.classes.index(name) for name in CODES])
    label = order[codes]
    source = np.array([f"row {row + 2}" for row in range(len(label))], dtype=str)
    columns: dict[str, np.ndarray] = {"label": label, "source": source, "split": np.full(len(label), "", dtype=str)}
    beside = metadata_file(path.parent)
    joined = _join(beside, label, facts.classes) if beside else None
    columns |= joined or {"patient": source}
    problems.warn(
        f"the pixels of {path.name} are {shape[1]}×{shape[0]}: fine structure of the 600×450 originals "
        "is lost, and results do not carry over to real images"
    )
    if not joined:
        problems.warn(NO_PATIENTS)
    card = facts.as_card(
        name=path.stem, title=f"{facts.title}, tabular form of {shape[1]}×{shape[0]} pixels",
        group="lesion" if joined else "image", patients_known=bool(joined),
        recipe={"reader": "hmnist", "lesions": "joined by row with the metadata" if joined else "not known"},
    )  # fmt: skip
    rows = ArrayRows(columns, shape, lambda: (pixels.reshape(-1, *shape) for pixels, _ in _rows(path)))
    return Listing(path, card, rows=rows, problems=problems, also=[beside] if beside else [])


def _header(path: Path) -> list[str]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return next(csv.reader(file), [])


def _shape(path: Path) -> tuple[int, int, int]:
    header = _header(path)
    pixels = len(header) - 1
    if header[-1:] != ["label"]:
        raise MedcoreError(f"{path}: the last column must be 'label', not {header[-1:]}")
    for channels in (3, 1):
        side = round((pixels / channels) ** 0.5)
        if side * side * channels == pixels:
            return side, side, channels
    raise MedcoreError(f"{path}: {pixels} pixel columns do not make a square image of 1 or 3 channels")


def _rows(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pixels ``(n, P)`` uint8 and labels ``(n,)`` in pieces, each value checked."""
    width = len(_header(path))
    with open(path, encoding="utf-8-sig") as file:
        next(file)
        first = 2
        while lines := list(islice(file, _STEP)):
            try:
                values = np.loadtxt(lines, dtype=np.int64, delimiter=",", ndmin=2)
            except ValueError as error:
                raise MedcoreError(f"{path.name}, rows {first} to {first + len(lines) - 1}: {error}") from error
            if values.size:
                yield _checked(values, width, path, first)
            first += len(lines)


def _checked(values: np.ndarray, width: int, path: Path, first: int) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = values[:, :-1], values[:, -1]
    bad = (labels < 0) | (labels >= len(CODES)) | (pixels < 0).any(axis=1) | (pixels > 255).any(axis=1)
    if values.shape[1] != width or bad.any():
        row = first + int(np.argmax(bad))
        raise MedcoreError(f"{path.name}, row {row}: pixels must be 0..255 and labels 0..6; download the file again")
    return pixels.astype(np.uint8), labels


def _join(metadata: Path, label: np.ndarray, classes: list[str]) -> dict[str, np.ndarray] | None:
    """Columns of the metadata beside the table; None unless every row agrees."""
    table = read_metadata_table(metadata)
    if len(table.rows) != len(label) or (as_labels(table, classes) != label).any():
        return None
    extra = {name: typed(table.column(name)) for name in table.header if name not in ("image_id", "lesion_id", "dx")}
    names = np.array(table.column("image_id"), dtype=str)
    return {"patient": np.array(table.column("lesion_id"), dtype=str), "image": names, **extra}
