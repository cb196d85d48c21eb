"""Readers: each turns one layout of files into a ``Listing``; ``detect`` finds out which layout a source has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medcore.data.readers.arrays import read_npz
from medcore.data.readers.folder import read_folder
from medcore.data.readers.ham10000 import metadata_file, read_ham10000
from medcore.data.readers.hmnist import is_hmnist, read_hmnist
from medcore.data.readers.listing import Listing, Problems
from medcore.data.readers.metadata import read_metadata
from medcore.data.readers.nct_crc import is_nct_crc, read_nct_crc
from medcore.data.readers.quironhelico import is_quironhelico, read_quironhelico
from medcore.data.readers.segmentation import is_segmentation, read_segmentation
from medcore.errors import MedcoreError

Reader = Callable[..., Listing]


def detect(source: Path) -> tuple[Reader, Path]:
    """The reader for a file or folder, and the path to give to it.

    Raises:
        MedcoreError: Nothing is there, or no reader knows this kind of file.
    """
    if source.is_dir():
        return _detect_folder(source)
    if not source.exists():
        raise MedcoreError(f"'{source}' does not exist")
    if source.suffix.lower() == ".npz":
        return read_npz, source
    if source.suffix.lower() == ".csv":
        if is_hmnist(source):
            return read_hmnist, source
        return (read_ham10000, source.parent) if source == metadata_file(source.parent) else (read_metadata, source)
    raise MedcoreError(f"'{source}' is neither a folder, a .csv nor a .npz; name one of these")


def _detect_folder(folder: Path) -> tuple[Reader, Path]:
    """The first layout that fits, the most particular ones first."""
    if is_quironhelico(folder):
        return read_quironhelico, folder
    if metadata_file(folder):
        return read_ham10000, folder
    if (folder / "metadata.csv").is_file():
        return read_metadata, folder / "metadata.csv"
    if is_segmentation(folder):
        return read_segmentation, folder
    if is_nct_crc(folder):
        return read_nct_crc, folder
    tables = [path for path in sorted(folder.glob("*.csv")) if is_hmnist(path)]
    if tables:
        return read_hmnist, tables[0]
    return read_folder, folder


def list_images(source: Path, problems: Problems, options: dict[str, Any]) -> Listing:
    """List the images of a file or folder.

    Args:
        source: The file or folder.
        problems: Collects exclusions and warnings.
        options: Options of the reader; one that it does not take is an error.

    Raises:
        MedcoreError: The source is not readable, or an option does not belong to its reader.
    """
    reader, path = detect(source)
    parameters = inspect.signature(reader).parameters.values()
    allowed = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for name in options:
        if name not in allowed:
            raise MedcoreError(
                f"option {name!r} does not belong to reading '{source}' ({reader.__name__}); it takes "
                f"{', '.join(allowed) or 'no options'}"
            )
    return reader(path, problems, **options)
