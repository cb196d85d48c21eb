"""Readers: each turns one layout of files into a ``Listing``; ``detect`` finds out which layout a source has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medcore.data.readers.arrays import read_npz
from medcore.data.readers.files import TABLES, Folder, scan
from medcore.data.readers.folder import read_folder
from medcore.data.readers.ham10000 import metadata_file, read_ham10000
from medcore.data.readers.hmnist import is_hmnist, read_hmnist
from medcore.data.readers.listing import Listing, Problems, listed
from medcore.data.readers.metadata import METADATA, names_images, read_metadata
from medcore.data.readers.names import role_of, split_name
from medcore.data.readers.nct_crc import is_nct_crc, read_nct_crc
from medcore.data.readers.pairs import refuse_boxes
from medcore.data.readers.quironhelico import is_quironhelico, read_quironhelico
from medcore.data.readers.segmentation import is_segmentation, read_segmentation
from medcore.errors import MedcoreError

Reader = Callable[..., Listing]
_TITLES = {
    "read_npz": "arrays", "read_folder": "one folder a class", "read_ham10000": "HAM10000", "read_hmnist": "table of "
    "pixels",
    "read_metadata": "table of images", "read_nct_crc": "NCT-CRC-HE", "read_quironhelico": "QuironHelico",
    "read_segmentation": "images with masks", "read_slides": "whole slides",
}  # fmt: skip


def detect(source: Path, options: dict[str, Any], problems: Problems) -> tuple[Reader, Path]:
    """The reader for a file or folder, and the path to give to it.

    Raises:
        MedcoreError: Nothing is there, no reader knows this kind of file, or it may be read in two ways.
    """
    from medcore.data.slides.reader import find_slides, read_slides

    if source.is_dir():
        return _detect_folder(source, options, problems)
    if not source.exists():
        raise MedcoreError(f"'{source}' does not exist")
    if find_slides(source):
        return read_slides, source
    ending = source.suffix.lower()
    if ending == ".npz":
        return read_npz, source
    if ending in TABLES and source.is_file():
        if is_hmnist(source):
            return read_hmnist, source
        return (read_ham10000, source.parent) if source == metadata_file(source.parent) else (read_metadata, source)
    ways = {".zip": "unpack it and name the folder", ".gz": "unpack it and name the folder",
            ".tar": "unpack it and name the folder", ".xlsx": "save the sheet as CSV", ".xls": "save the sheet as CSV",
            }  # fmt: skip
    way = ways.get(ending, "name a folder, a table (.csv, .tsv) or a .npz")
    raise MedcoreError(f"'{source}' is neither a folder, a .csv nor a .npz; {way}")


def _detect_folder(folder: Path, options: dict[str, Any], problems: Problems) -> tuple[Reader, Path]:
    """The first layout that fits, the most particular ones first."""
    from medcore.data.slides.reader import find_slides, read_slides

    if find_slides(folder):
        return read_slides, folder
    if "layout" in options or options.get("masks") == "none":
        return read_folder, folder
    if is_quironhelico(folder):
        return read_quironhelico, folder
    if metadata_file(folder):
        return read_ham10000, folder
    for name in METADATA:
        if (folder / name).is_file():
            return read_metadata, folder / name
    tree = scan(folder)
    if is_segmentation(tree, options.get("images"), options.get("masks")):
        return read_segmentation, folder
    if is_nct_crc(folder):
        return read_nct_crc, folder
    tables = [path for path in tree.tables if is_hmnist(path)]
    if tables:
        return read_hmnist, tables[0]
    refuse_boxes(tree)
    listing = [path for path in tree.tables if names_images(path) and "submission" not in path.stem.lower()]
    if listing:
        return read_metadata, _the_table(tree, listing, problems)
    filled = tree.filled()
    wrapped = len(filled) == 1 and not tree.images and not split_name(filled[0].name)
    if wrapped and (filled[0].filled() or filled[0].tables):
        problems.warn(f"the folder {filled[0].name}/ is the only one inside {tree.name}/: it is read in its place")
        return _detect_folder(filled[0].path, options, problems)
    return read_folder, folder


def _the_table(tree: Folder, tables: list[Path], problems: Problems) -> Path:
    """The one table that lists the images of a folder.

    Raises:
        MedcoreError: There are several, or class folders say the classes, too.
    """
    if len(tables) > 1:
        raise MedcoreError(
            f"'{tree.path}' has several tables that name its images ({listed([path.name for path in tables])}); say "
            f"which: "
            f"medcore data prepare '{tables[0]}'"
        )
    classes = [folder.name for folder in tree.filled() if not role_of(folder.name)]
    if len(classes) > 1 and not all(split_name(name) for name in classes):
        raise MedcoreError(
            f"'{tree.path}': the classes may be the folders {listed(classes)} or stand in {tables[0].name}, which "
            f"names the "
            f"images; say which: --layout class, or the table as the source ('{tables[0]}')"
        )
    problems.warn(f"{tables[0].name} is read as the table of the images")
    return tables[0]


def list_images(source: Path, problems: Problems, options: dict[str, Any], target: str | None = None) -> Listing:
    """List the images of a file or folder.

    Args:
        options: Options of the reader; one that it does not take is an error.
        target: The column of a grade or value, which a table may have in place of labels.

    Raises:
        MedcoreError: The source is not readable, or an option does not belong to its reader.
    """
    reader, path = detect(source, options, problems)
    problems.note(f"read as: {_TITLES.get(reader.__name__, reader.__name__)} ('{path.name}')")
    parameters = inspect.signature(reader).parameters.values()
    allowed = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for name in options:
        if name not in allowed:
            raise MedcoreError(
                f"option {name!r} does not belong to reading '{source}' ({reader.__name__}); it takes "
                f"{', '.join(allowed) or 'no options'}"
            )
    return reader(path, problems, **options, **({"target": target} if target and "target" in allowed else {}))
