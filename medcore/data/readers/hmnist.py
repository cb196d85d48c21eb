"""``hmnist_28_28_RGB.csv``: HAM10000 as a table of pixels, one row an image (also its ``_L`` and 8×8 forms).

The tabular form of a set of images: each image a row of 28×28 pixels in a CSV, as HAM10000 is also passed around.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from medcore.data.datasets import card as facts_of
from medcore.data.patchset import PatchSet
from medcore.data.readers.ham10000 import METADATA, as_labels, metadata_file, read_metadata_table
from medcore.data.readers.listing import NO_PATIENTS, ArrayRows, Listing, Problems
from medcore.data.readers.tables import typed
from medcore.data.sizes import resize
from medcore.data.source import data_home
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


SIDE = 28  # pixels, of the published file
FILES = {3: "hmnist_28_28_RGB.csv", 1: "hmnist_28_28_L.csv"}  # by channels


def tabular_form(patches: PatchSet, source: str | Path = "") -> tuple[PatchSet, str]:
    """The images of a set as the table has them.

    Args:
        patches: A set, of any size.
        source: Where the set comes from; its folder is searched for the published file.

    Returns:
        The same images at 28×28 with the columns of ``patches``, in memory, and a sentence about their origin.
    """
    file = published_file(source, patches.shape[2])
    found = None if file is None else matched(file, patches)
    if file is not None and found is not None:
        return with_pixels(patches, found), f"read from the published file {file.name}"
    reason = f"{file.name} is there but holds other images" if file else "the published file is not there"
    small = shrunk(patches)
    if set(patches.classes) == set(CODES):
        with tempfile.TemporaryDirectory() as folder:
            file = write_pixels_csv(small, Path(folder))
            return with_pixels(
                patches, pixels_of(file)
            ), f"made from the images ({reason}), written as CSV and read back"
    return small, "made from the images; such a file exists for HAM10000 only"


def published_file(source: str | Path, channels: int) -> Path | None:
    """The published table beside the images of a set, if it is there."""
    folders = [Path(source).expanduser(), data_home() / str(source)] if str(source) else []
    files = [folder / FILES[channels] for folder in folders]
    return next((file for file in files if file.is_file()), None)


def matched(file: Path, patches: PatchSet) -> np.ndarray | None:
    """Pixels of the table's rows in the order of ``patches``, by image name; None when one is missing.

    **Shape** -> ``(N, 28, 28, C)`` uint8.
    """
    listing = read_hmnist(file, Problems("raise"))
    assert listing.rows is not None
    if "image" not in listing.rows.columns or "image" not in patches.columns:
        return None
    row_of = {name: row for row, name in enumerate(listing.rows.columns["image"].tolist())}
    rows = [row_of.get(name, -1) for name in patches.column("image").tolist()]
    return None if -1 in rows else np.concatenate(list(listing.rows.chunks()))[rows]


def pixels_of(file: Path) -> np.ndarray:
    """All pixels of a table, through its reader. **Shape** ``(N, 28, 28, C)`` uint8."""
    rows = read_hmnist(file, Problems("raise")).rows
    assert rows is not None
    return np.concatenate(list(rows.chunks()))


def write_pixels_csv(small: PatchSet, folder: Path) -> Path:
    """Write a set of 28×28 images as the published file does, with the metadata of the lesions beside it.

    Raises:
        MedcoreError: The images are of another size, or the classes are not those of HAM10000.
    """
    import pandas as pd

    if small.shape[:2] != (SIDE, SIDE) or set(small.classes) != set(CODES):
        raise MedcoreError(
            f"write_pixels_csv: images of {small.shape[0]}×{small.shape[1]} with classes {small.classes}; the table "
            f"holds {SIDE}×{SIDE} pixels and the classes {sorted(CODES)}"
        )
    pixels = small.take().reshape(len(small), -1)
    codes = np.array([CODES.index(name) for name in small.label_names])
    names = [f"pixel{number:04d}" for number in range(pixels.shape[1])]
    file = folder / FILES[small.shape[2]]
    with open(file, "w", encoding="utf-8") as out:
        out.write(",".join([*names, "label"]) + "\n")
        np.savetxt(out, np.column_stack([pixels, codes]), fmt="%d", delimiter=",")
    images = [f"image {row}" for row in range(len(small))]
    lesions = np.where(small.patients == "", images, small.patients)
    table = pd.DataFrame({"lesion_id": lesions, "image_id": images, "dx": small.label_names})
    table.to_csv(folder / METADATA[0], index=False)
    return file


def shrunk(patches: PatchSet, side: int = SIDE) -> PatchSet:
    """All images at another size (bicubic), in memory."""
    return with_pixels(patches, np.concatenate([resize(c, (side, side), "bicubic") for c in patches.chunks()]))


def with_pixels(patches: PatchSet, images: np.ndarray) -> PatchSet:
    """The same rows with other pixels, in memory."""
    return PatchSet.from_arrays(images, patches.table, patches.card)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
