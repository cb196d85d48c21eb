"""A PatchSet on the disk: members of an uncompressed ``.npz``, mapped in place, checked, and written in chunks.

- An uncompressed zip member is a plain ``.npy`` at an offset, so ``numpy.memmap`` shows it without reading the file.
- Nothing here ever unpickles: an object array is refused by name.
- A file takes its name only when it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from medcore.data.card import Card
from medcore.data.options import MAX_PIXELS
from medcore.errors import MedcoreError

if TYPE_CHECKING:
    import pandas as pd

_LOCAL_HEADER_BYTES = 30  # fixed part of a zip local file header; name and extra field follow
CHUNK_BYTES = 16 << 20
MOST_MEMBERS = 1_000
MOST_META_BYTES = 256 << 20


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive; whatever turns out broken inside the block is a ``MedcoreError`` that names the file.

    Members are looked at before any is unpacked: names that stand twice or point elsewhere, sizes that lie.
    """
    try:
        if not path.is_file() and path.exists():
            raise MedcoreError(f"{path} is no regular file")  # a pipe would wait for ever
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
            yield archive
    except FileNotFoundError as error:
        raise MedcoreError(f"{path} does not exist") from error
    except MedcoreError:
        raise
    except Exception as error:  # a damaged file surfaces as anything from BadZipFile to tokenize.TokenError
        raise MedcoreError(f"{path} is not a readable .npz file ({error}); it may be damaged: make it anew") from error


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    entries, size = archive.infolist(), path.stat().st_size
    if len(entries) > MOST_MEMBERS:
        raise MedcoreError(f"{path} holds {len(entries):,} members, more than {MOST_MEMBERS:,}; it is not read")
    seen: set[str] = set()
    for entry in entries:
        name, where = entry.filename, f"{path}, member {entry.filename!r}"
        if name in seen:
            raise MedcoreError(f"{where} stands twice; make the file anew")
        if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
            raise MedcoreError(f"{where}: the name points outside of the file; it is not read")
        if entry.flag_bits & 1:
            raise MedcoreError(f"{where} is encrypted; store it without a password")
        # deflate packs 1,032 to 1 at most
        if entry.compress_size > size or entry.file_size > 1_100 * entry.compress_size + 1_100:
            raise MedcoreError(f"{where}: {entry.file_size:,} bytes cannot lie in a file of {size:,}; it is not read")
        seen.add(name)


def read_member(archive: zipfile.ZipFile, name: str, most_bytes: int, where: str) -> bytes:
    """All bytes of a member, refused before unpacking when they are more than ``most_bytes``."""
    entry = archive.getinfo(name)
    if entry.file_size > most_bytes:
        raise MedcoreError(f"{where} unpacks to {entry.file_size:,} bytes, more than {most_bytes:,}; it is not read")
    return archive.read(entry)  # zipfile stops at file_size, and then the CRC differs


def read_array(archive: zipfile.ZipFile, name: str, most_bytes: int, where: str) -> np.ndarray:
    """A whole ``.npy`` member in memory, its shape compared with its size first."""
    entry = archive.getinfo(name)
    with archive.open(entry) as member:
        shape, fortran, dtype = read_npy_header(member, where)
        count = math.prod(shape) * dtype.itemsize
        if count > most_bytes or count > entry.file_size:
            raise MedcoreError(f"{where}: shape {shape} of {dtype} does not fit ({entry.file_size:,} bytes); not read")
        data = member.read(count)
    if len(data) != count:
        raise MedcoreError(f"{where} ends early; copy the file again")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


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
    size = math.prod(shape) * dtype.itemsize
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
    if any(side < 0 for side in shape):
        raise MedcoreError(f"{where}: an array cannot have the shape {shape}; the file is damaged")
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


REQUIRED_COLUMNS = ("label", "patient", "split", "source")
TEXT_COLUMNS = ("patient", "split", "source")  # a patient called 7 is a name, not a number
SPLITS = ("train", "val", "test", "")
FINDING = (1, 0, -1, -2)  # present, absent, uncertain, not stated
TARGET = "measured"  # the column of what is measured in a set of the task ``regression``
Columns = dict[str, np.ndarray]


def finding_column(number: int) -> str:
    """The column that holds a finding of a set of the task ``findings``, by its place among the classes."""
    return f"finding_{number}"


def columns_from(table: pd.DataFrame | dict[str, Any], count: int, *, fill: bool = True) -> Columns:
    """Plain numpy columns: int64, float64, bool or str; a missing text is ``""``."""
    columns = {str(name): _plain(values) for name, values in dict(table).items()}
    columns |= {name: columns[name].astype(str) for name in TEXT_COLUMNS if name in columns}
    if fill:
        columns.setdefault("label", np.full(count, -1, dtype=np.int64))
        columns.setdefault("split", np.full(count, "", dtype=str))
        columns.setdefault("source", np.array([f"{row:06d}" for row in range(count)], dtype=str))
        columns.setdefault("patient", columns["source"])
    return columns


def _plain(values: Any) -> np.ndarray:
    import pandas as pd

    series = pd.Series(values)
    if series.dtype.kind == "b":
        return series.to_numpy(bool)
    if series.dtype.kind in "iu":
        return series.to_numpy(np.int64)
    if series.dtype.kind == "f":
        return series.to_numpy(np.float64)
    return np.array(["" if pd.isna(value) else str(value) for value in series], dtype=str)


def check_set(images: np.ndarray, columns: Columns, masks: np.ndarray | None, card: Card, where: str) -> None:
    """Raise a ``MedcoreError`` that begins with ``where`` unless images, masks, table and card fit together."""
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in (1, 3):
        raise MedcoreError(
            f"{where}: images must be uint8 of shape (N, H, W, 1 or 3), not {images.dtype} {images.shape}"
        )
    if masks is not None and (masks.dtype != np.uint8 or masks.shape != images.shape[:3]):
        raise MedcoreError(f"{where}: masks must be uint8 of shape {images.shape[:3]}, not {masks.dtype} {masks.shape}")
    if images.shape[1] * images.shape[2] > MAX_PIXELS:
        raise MedcoreError(f"{where}: images of {images.shape[2]}×{images.shape[1]} pixels; cut them into tiles")
    check_columns(columns, len(images), card, where)


def check_columns(columns: Columns, count: int, card: Card, where: str) -> None:
    """Raise a ``MedcoreError`` that begins with ``where`` unless the table has ``count`` valid rows."""
    for name in REQUIRED_COLUMNS:
        if name not in columns:
            raise MedcoreError(f"{where}: the table has no column {name!r}")
    for name, values in columns.items():
        if len(values) != count:
            raise MedcoreError(f"{where}: column {name!r} has {len(values)} rows for {count} images")
        if values.dtype.kind not in "biufU" or values.ndim != 1:
            raise MedcoreError(f"{where}: column {name!r} must be a row of numbers or texts, not {values.dtype}")
    for name in TEXT_COLUMNS:
        if columns[name].dtype.kind != "U":
            raise MedcoreError(f"{where}: column {name!r} must hold texts, not {columns[name].dtype}")
    labels = columns["label"]
    if labels.dtype != np.int64:
        raise MedcoreError(f"{where}: labels must be whole numbers (class indexes), not {labels.dtype}")
    if count and (labels.min() < -1 or labels.max() >= len(card.classes)):
        raise MedcoreError(
            f"{where}: labels reach from {labels.min()} to {labels.max()}, but there are "
            f"{len(card.classes)} classes ({', '.join(card.classes)})"
        )
    for name in [finding_column(k) for k in range(len(card.classes))] if card.task == "findings" else []:
        if name not in columns or columns[name].dtype.kind != "i" or not np.isin(columns[name], FINDING).all():
            raise MedcoreError(f"{where}: column {name!r} must hold 1, 0, -1 (uncertain) or -2 (not stated)")
    if card.task == "regression" and (TARGET not in columns or columns[TARGET].dtype.kind != "f"):
        raise MedcoreError(f"{where}: column {TARGET!r} must hold the values that are measured, NaN where unknown")
    sides = columns["split"]  # np.unique would import numpy.ma, which takes longer than everything else here
    strange = sorted(set(sides[np.logical_and.reduce([sides != side for side in SPLITS])].tolist()))
    if strange:
        raise MedcoreError(f"{where}: column 'split' holds {strange}; allowed are train, val, test or nothing")


class PatchSetWriter:
    """Write a set chunk by chunk in constant memory; the file appears only when the block ends well.

    Example:
        >>> with PatchSetWriter("set.npz", shape=(64, 64, 3), card=card) as writer:   # doctest: +SKIP
        ...     writer.add(images, rows=[{"label": 0, "patient": "P1", "source": "a.png"}, ...])
    """

    def __init__(self, path: str | Path, *, shape: tuple[int, int, int], card: Card, masks: bool = False) -> None:
        self.path, self.shape, self.card, self.masks = Path(path), shape, card, masks
        self._table: list[dict[str, Any]] = []

    def __enter__(self) -> PatchSetWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Pixels are spooled first: a .npy header needs the number of images, which is known only at the end.
        self._spools = [self.path.with_name(f".{self.path.name}.{kind}.part") for kind in ("images", "masks")]
        self._files = [open(spool, "wb") for spool in self._spools]
        return self

    def add(self, images: np.ndarray, rows: Sequence[dict[str, Any]], masks: np.ndarray | None = None) -> None:
        """Append images ``(n, H, W, C)`` uint8 with their table rows and masks ``(n, H, W)``.

        Raises:
            MedcoreError: The shapes do not fit the set or each other.
        """
        if images.dtype != np.uint8 or images.shape != (len(rows), *self.shape):
            raise MedcoreError(
                f"add: images of shape {images.shape} {images.dtype} for {len(rows)} rows of a set of "
                f"{self.shape} uint8"
            )
        if self.masks and (masks is None or masks.shape != (len(rows), *self.shape[:2])):
            raise MedcoreError(f"add: masks of shape {None if masks is None else masks.shape} do not fit the images")
        self._files[0].write(np.ascontiguousarray(images).data)
        if self.masks and masks is not None and masks.size:
            self._files[1].write(np.ascontiguousarray(masks, dtype=np.uint8).data)
        self._table.extend(rows)

    def __exit__(self, kind: object, *_: object) -> None:
        for file in self._files:
            file.close()
        try:
            if kind is None:
                self._finish()
        finally:
            for spool in self._spools:
                spool.unlink(missing_ok=True)

    def _finish(self) -> None:
        import pandas as pd

        count = len(self._table)
        images = _spooled(self._spools[0], (count, *self.shape))
        masks = _spooled(self._spools[1], (count, *self.shape[:2])) if self.masks else None
        columns = columns_from(pd.DataFrame(self._table), count)
        check_set(images, columns, masks, self.card, str(self.path))
        with atomic_path(self.path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            write_members(archive, count, images, masks, None, columns, self.card, None)


def read_meta(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    """``meta.json`` of a set: ``card``, a mapping, and ``store_sha256``, a text."""
    where = f"{path}, member 'meta.json'"
    meta = json.loads(read_member(archive, "meta.json", MOST_META_BYTES, where))
    if not (isinstance(meta, dict) and isinstance(meta.get("card"), dict)
            and isinstance(meta.get("store_sha256"), str)):  # fmt: skip
        raise MedcoreError(f"{where} has no card and checksum; make the set anew")
    return meta


def hash_store(images: np.ndarray, masks: np.ndarray | None) -> str:
    """SHA-256 (hex) over shape and bytes of images and masks, read in chunks."""
    return _hash_chunks(images, masks, None)


def _hash_chunks(images: np.ndarray, masks: np.ndarray | None, rows: np.ndarray | None) -> str:
    digest = hashlib.sha256()
    for array in (images, masks):
        if array is not None:
            count = len(array) if rows is None else len(rows)
            digest.update(repr((count, *array.shape[1:])).encode())
            for chunk in row_chunks(array, rows):
                digest.update(np.ascontiguousarray(chunk).data)
    return digest.hexdigest()


def write_members(
    archive: zipfile.ZipFile,
    count: int,
    images: np.ndarray,
    masks: np.ndarray | None,
    rows: np.ndarray | None,
    columns: Columns,
    card: Card,
    store_hash: str | None,
) -> None:
    """Write all members of a set: ``rows`` of the store (all when None), their table and card."""
    # The table first and the pixels last: a truncated file loses its zip directory and can never look whole.
    meta = {
        "format": "medcore PatchSet",
        "version": 1,
        "card": card.as_dict(),
        "store_sha256": store_hash or _hash_chunks(images, masks, rows),
    }
    archive.writestr(zipfile.ZipInfo("meta.json"), json.dumps(meta, ensure_ascii=False, indent=1))
    for name, values in columns.items():
        member = "labels" if name == "label" else f"table/{name}"
        write_array(archive, member, [np.asarray(values)], (count,), np.asarray(values).dtype)
    for name, array in (("masks", masks), ("images", images)):
        if array is not None:
            write_array(archive, name, row_chunks(array, rows), (count, *array.shape[1:]), array.dtype)


def _spooled(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.memmap(path, np.uint8, "r", 0, shape) if np.prod(shape) else np.empty(shape, np.uint8)
