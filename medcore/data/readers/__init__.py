"""Readers: each turns one layout of files into a ``Listing``; ``detect`` finds out which layout a folder has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medcore.data.readers.arrays import read_npz
from medcore.data.readers.folder import read_folder
from medcore.data.readers.listing import Listing, Problems
from medcore.data.readers.metadata import read_metadata
from medcore.errors import MedcoreError

Reader = Callable[..., Listing]


def detect(source: Path) -> tuple[Reader, Path]:
    """The reader for a file or folder, and the path to give to it.

    Raises:
        MedcoreError: Nothing is there, or no reader knows this kind of file.
    """
    if source.is_dir():
        if (source / "metadata.csv").is_file():
            return read_metadata, source / "metadata.csv"
        return read_folder, source
    if not source.exists():
        raise MedcoreError(f"'{source}' does not exist")
    if source.suffix.lower() == ".npz":
        return read_npz, source
    if source.suffix.lower() == ".csv":
        return read_metadata, source
    raise MedcoreError(f"'{source}' is neither a folder, a .csv nor a .npz; name one of these")


def read(source: Path, problems: Problems, options: dict[str, Any]) -> Listing:
    """List the images of a file or folder.

    Args:
        source: The file or folder.
        problems: Collects exclusions and warnings.
        options: Options of the reader; one that it does not take is an error.

    Raises:
        MedcoreError: The source is not readable, or an option does not belong to its reader.
    """
    reader, path = detect(source)
    allowed = [name for name, parameter in inspect.signature(reader).parameters.items()
               if parameter.kind is parameter.KEYWORD_ONLY]  # fmt: skip
    for name in options:
        if name not in allowed:
            raise MedcoreError(
                f"option {name!r} does not belong to reading '{source}' ({reader.__name__}); it takes "
                f"{', '.join(allowed) or 'no options'}"
            )
    return reader(path, problems, **options)
