"""The tabular form of a set of images: each image a row of 28×28 pixels in a CSV, as HAM10000 is also passed around.

    small, how = tabular_form(patches, "…/ham10000")     # same rows, in the same order, at 28×28

Where the published ``hmnist_28_28_RGB.csv`` lies beside the images and can be matched to them, it is read. Elsewhere
the file is made from the images, in the same layout, and read back: the result says which of the two it was.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medcore.data.patchset import PatchSet
from medcore.data.paths import data_home
from medcore.data.readers.ham10000 import METADATA
from medcore.data.readers.hmnist import CODES, read_hmnist
from medcore.data.readers.listing import Problems
from medcore.errors import MedcoreError

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
            file = write_table(small, Path(folder))
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


def write_table(small: PatchSet, folder: Path) -> Path:
    """Write a set of 28×28 images as the published file does, with the metadata of the lesions beside it.

    Raises:
        MedcoreError: The images are of another size, or the classes are not those of HAM10000.
    """
    if small.shape[:2] != (SIDE, SIDE) or set(small.classes) != set(CODES):
        raise MedcoreError(
            f"write_table: images of {small.shape[0]}×{small.shape[1]} with classes {small.classes}; the table holds "
            f"{SIDE}×{SIDE} pixels and the classes {sorted(CODES)}"
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
    small = [np.asarray(_picture(image).resize((side, side), Image.Resampling.BICUBIC)) for chunk in patches.chunks()
             for image in chunk]  # fmt: skip
    return with_pixels(patches, np.stack(small).reshape(len(small), side, side, -1))


def with_pixels(patches: PatchSet, images: np.ndarray) -> PatchSet:
    """The same rows with other pixels, in memory."""
    return PatchSet.from_arrays(images, patches.table, patches.card)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
