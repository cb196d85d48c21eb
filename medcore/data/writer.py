"""Writing PatchSets: members in a fixed order, in chunks, atomically."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medcore.data import npzfile
from medcore.data.card import Card
from medcore.data.columns import Columns, check_set, columns_from
from medcore.errors import MedcoreError


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
        count = len(self._table)
        images = _spooled(self._spools[0], (count, *self.shape))
        masks = _spooled(self._spools[1], (count, *self.shape[:2])) if self.masks else None
        columns = columns_from(pd.DataFrame(self._table), count)
        check_set(images, columns, masks, self.card, str(self.path))
        with npzfile.atomic_path(self.path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            write_members(archive, count, images, masks, None, columns, self.card, None)


def hash_store(images: np.ndarray, masks: np.ndarray | None) -> str:
    """SHA-256 (hex) over shape and bytes of images and masks, read in chunks."""
    return _hash_chunks(images, masks, None)


def _hash_chunks(images: np.ndarray, masks: np.ndarray | None, rows: np.ndarray | None) -> str:
    digest = hashlib.sha256()
    for array in (images, masks):
        if array is not None:
            count = len(array) if rows is None else len(rows)
            digest.update(repr((count, *array.shape[1:])).encode())
            for chunk in npzfile.row_chunks(array, rows):
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
        npzfile.write_array(archive, member, [np.asarray(values)], (count,), np.asarray(values).dtype)
    for name, array in (("masks", masks), ("images", images)):
        if array is not None:
            npzfile.write_array(archive, name, npzfile.row_chunks(array, rows), (count, *array.shape[1:]), array.dtype)


def _spooled(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.memmap(path, np.uint8, "r", 0, shape) if np.prod(shape) else np.empty(shape, np.uint8)
