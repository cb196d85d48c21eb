"""Uncompressed ``.npz`` files: members memory-mapped in place, written as a stream and atomically.

An uncompressed zip member is a plain ``.npy`` at an offset, so ``numpy.memmap`` can show it without reading
the file. Nothing here ever unpickles: an object array is refused by name.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from medcore.errors import MedcoreError

_LOCAL_HEADER_BYTES = 30  # fixed part of a zip local file header; name and extra field follow
CHUNK_BYTES = 16 << 20


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive; whatever turns out broken inside the block is a ``MedcoreError`` that names the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError as error:
        raise MedcoreError(f"{path} does not exist") from error
    except MedcoreError:
        raise
    except Exception as error:  # a damaged file surfaces as anything from BadZipFile to tokenize.TokenError
        raise MedcoreError(f"{path} is not a readable .npz file ({error}); it may be damaged: make it anew") from error


def map_member(path: Path, info: zipfile.ZipInfo) -> np.ndarray:
    """Memory-map one ``.npy`` member of an archive, read-only.

    Raises:
        MedcoreError: The member is compressed, holds Python objects or does not fit into the file.
    """
    where = f"{path}, member {info.filename!r}"
    if info.compress_type != zipfile.ZIP_STORED:
        raise MedcoreError(f"{where} is compressed and cannot be memory-mapped; read it with a reader instead")
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER_BYTES)
        if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
            raise MedcoreError(f"{where}: broken zip header; the file is damaged, make it anew")
        name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
        start = info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        file.seek(start)
        shape, fortran, dtype = read_npy_header(file, where)
        offset = file.tell()
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if offset - start + size != info.file_size or offset + size > path.stat().st_size:
        raise MedcoreError(f"{where}: {info.file_size} bytes do not hold an array of shape {shape}; damaged file")
    if size == 0:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def read_npy_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype of a ``.npy`` stream; refuses Python objects."""
    try:
        version = npy.read_magic(file)
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = reader(file)
    except Exception as error:  # NumPy parses the header as Python text: damage has many types
        raise MedcoreError(f"{where}: not a .npy array ({error})") from error
    if dtype.hasobject:
        raise MedcoreError(f"{where} holds Python objects (pickle), which may run code; it is not read")
    return shape, fortran, dtype


def write_array(
    archive: zipfile.ZipFile, name: str, chunks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype
) -> None:
    """Write one ``.npy`` member from chunks along the first axis, in constant memory."""
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    info = zipfile.ZipInfo(f"{name}.npy")  # a fixed date: equal content gives an equal file
    with archive.open(info, "w", force_zip64=True) as member:
        npy.write_array_header_2_0(member, header)
        for chunk in chunks:
            member.write(np.ascontiguousarray(chunk, dtype).data)


def row_chunks(array: np.ndarray, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Pieces of about 16 MiB along the first axis; ``rows`` picks and orders them."""
    count = len(array) if rows is None else len(rows)
    per_row = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
    step = max(1, CHUNK_BYTES // per_row)
    for start in range(0, count, step):
        yield array[start : start + step] if rows is None else array[rows[start : start + step]]
        forget(array)


def forget(array: np.ndarray) -> None:
    """Let the pages of a memory-mapped array go, so that reading a large file through does not fill the memory."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its name only when the block ends well.

    The data is flushed to the disk before the rename, so a crash leaves the old file or the new one, never half.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
