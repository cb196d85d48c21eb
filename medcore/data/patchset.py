"""PatchSet: images, table and card of one data set in a single uncompressed ``.npz``.

- Anybody can read it: ``numpy.load(path)["images"]``; keys are ``images``, ``labels``, ``masks`` (if any), one
  ``table/<column>`` each and ``meta.json``.
- Opening maps the pixels in place: milliseconds, whatever the size. A selection is an index, not a copy.
- ``fingerprint`` names the content (pixels, masks, table, classes); ``verify`` finds any damage.

    python -c "from medcore.data.patchset import PatchSet; print(PatchSet.open('data/prepared/x.npz'))"
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcore.data import npzfile
from medcore.data.card import Card
from medcore.data.npzfile import (
    SPLITS,
    TARGET,
    Columns,
    PatchSetWriter,
    check_columns,
    check_set,
    columns_from,
    finding_column,
    hash_store,
    read_meta,
    write_members,
)
from medcore.errors import MedcoreError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PatchSet", "PatchSetWriter"]


class PatchSet:
    """A data set, or a view of some of its rows, with pixels left on the disk until asked for.

    Make one with :meth:`open`, :meth:`from_arrays` or ``medcore.data.load.read_set``.

    Attributes:
        store: All pixels of the file, uint8. **Shape** ``(M, H, W, C)``, usually memory-mapped.
        mask_store: All masks, uint8 class indexes with 255 = ignore. **Shape** ``(M, H, W)``; None without masks.
        index: Which rows of the store this view shows, in order. **Shape** ``(N,)`` int64.
        card: What the set is.
        path: The file, None for a set in memory.
    """

    def __init__(
        self,
        store: np.ndarray,
        columns: Columns,
        card: Card,
        *,
        mask_store: np.ndarray | None = None,
        index: np.ndarray | None = None,
        path: Path | None = None,
        store_hash: str | None = None,
    ) -> None:
        self.store, self.mask_store, self.card, self.path = store, mask_store, card, path
        self.index = np.arange(len(store), dtype=np.int64) if index is None else index
        self._columns = columns
        self._store_hash = store_hash

    @classmethod
    def open(cls, path: str | Path) -> PatchSet:
        """Open a set without reading its pixels.

        Raises:
            MedcoreError: The file is missing, damaged, compressed, holds Python objects or is no PatchSet.
        """
        path = Path(path)
        with npzfile.open_zip(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if "meta.json" not in members or "images" not in members:
                raise MedcoreError(
                    f"{path} is not a PatchSet (no 'images' and 'meta.json'); `medcore data prepare` or load() make one"
                )
            meta = read_meta(archive, path)
            arrays = {name: npzfile.map_member(path, info) for name, info in members.items() if name != "meta.json"}
            columns = {
                name.removeprefix("table/"): array for name, array in arrays.items() if name.startswith("table/")
            } | {"label": arrays["labels"]}
            card, store_hash = Card.from_dict(meta["card"]), meta["store_sha256"]
            check_set(arrays["images"], columns, arrays.get("masks"), card, str(path))
        return cls(arrays["images"], columns, card, mask_store=arrays.get("masks"), path=path, store_hash=store_hash)

    @classmethod
    def from_arrays(
        cls,
        images: np.ndarray,
        table: pd.DataFrame | dict[str, Any],
        card: Card,
        masks: np.ndarray | None = None,
    ) -> PatchSet:
        """Make a set in memory.

        Args:
            images: uint8. **Shape** ``(N, H, W, C)`` with C 1 or 3, or ``(N, H, W)`` for grey.
            table: At least ``label``; ``patient``, ``split`` and ``source`` are filled when missing.
            masks: Class indexes, 255 = ignore. **Shape** ``(N, H, W)``.

        Raises:
            MedcoreError: Shapes, dtypes, labels or splits do not fit together.
        """
        images = images[..., None] if images.ndim == 3 else images
        columns = columns_from(table, len(images))
        check_set(images, columns, masks, card, f"set {card.name!r}")
        return cls(images, columns, card, mask_store=masks)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width (pixels) and channels of every image."""
        height, width, channels = self.store.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> list[str]:
        """Class names; a label is an index into them."""
        return self.card.classes

    @property
    def labels(self) -> np.ndarray:
        """Class indexes, -1 where unlabelled. **Shape** ``(N,)`` int64."""
        return np.asarray(self._columns["label"])

    @property
    def findings(self) -> np.ndarray:
        """What each image shows: 1 present, 0 absent, -1 uncertain, -2 not stated. **Shape** ``(N, K)`` int64.

        Raises:
            MedcoreError: The set has one label an image.
        """
        if self.card.task != "findings":
            raise MedcoreError(f"set {self.card.name!r} has one label an image, not several findings")
        return np.stack([self.column(finding_column(k)) for k in range(len(self.classes))], axis=1)

    @property
    def values(self) -> np.ndarray:
        """What is measured in each image, NaN where it is not known. **Shape** ``(N,)`` float64.

        Raises:
            MedcoreError: The set has no measured value.
        """
        if self.card.task != "regression":
            raise MedcoreError(f"set {self.card.name!r} has no measured value")
        return self.column(TARGET)

    @property
    def targets(self) -> np.ndarray:
        """What a network learns: labels ``(N,)``, findings ``(N, K)`` or float values ``(N,)``, by the set's task."""
        task = self.card.task
        return self.findings if task == "findings" else self.values if task == "regression" else self.labels

    @property
    def shown(self) -> np.ndarray:
        """Which classes or findings an image has, or that it has a value. **Shape** ``(N, K)`` bool."""
        if self.card.task == "regression":
            return np.isfinite(self.values)[:, None]
        several = self.card.task == "findings"
        return self.findings == 1 if several else self.labels[:, None] == np.arange(len(self.classes))

    @property
    def label_names(self) -> np.ndarray:
        """Class names, ``""`` where unlabelled. **Shape** ``(N,)`` str."""
        return np.array([*self.classes, ""])[self.labels]

    @property
    def patients(self) -> np.ndarray:
        """The unit that must not stand on two sides of a split. **Shape** ``(N,)`` str."""
        return np.asarray(self._columns["patient"])

    @property
    def splits(self) -> np.ndarray:
        """``train``, ``val``, ``test`` or ``""``. **Shape** ``(N,)`` str."""
        return np.asarray(self._columns["split"])

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns."""
        return list(self._columns)

    def column(self, name: str) -> np.ndarray:
        """One column of the table. **Shape** ``(N,)``.

        Raises:
            MedcoreError: There is no such column.
        """
        if name not in self._columns:
            raise MedcoreError(f"set {self.card.name!r} has no column {name!r}; it has {', '.join(self.columns)}")
        return np.asarray(self._columns[name])

    @cached_property
    def table(self) -> pd.DataFrame:
        """The table of this view, one row per image, in order."""
        import pandas as pd

        return pd.DataFrame({name: np.asarray(values) for name, values in self._columns.items()})

    @property
    def has_masks(self) -> bool:
        """Whether there is a mask for every image."""
        return self.mask_store is not None

    def take(self, rows: np.ndarray | Sequence[int] | slice | None = None) -> np.ndarray:
        """Pixels of some rows of this view (all by default), copied into memory. **Shape** ``(n, H, W, C)``."""
        return np.array(self.store[self._rows(rows)])

    def take_masks(self, rows: np.ndarray | Sequence[int] | slice | None = None) -> np.ndarray:
        """Masks of some rows of this view, copied into memory. **Shape** ``(n, H, W)``.

        Raises:
            MedcoreError: The set has no masks.
        """
        if self.mask_store is None:
            raise MedcoreError(f"set {self.card.name!r} has no masks")
        return np.array(self.mask_store[self._rows(rows)])

    def chunks(self, size: int = 256) -> Iterator[np.ndarray]:
        """All pixels of this view in order, ``size`` images at a time."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))
            npzfile.forget(self.store)

    def _rows(self, rows: np.ndarray | Sequence[int] | slice | None) -> np.ndarray:
        if rows is None:
            return self.index
        return self.index[rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)]

    def select(self, rows: np.ndarray | Sequence[int] | Sequence[bool]) -> PatchSet:
        """A view of some rows, by a boolean mask of length N or by row numbers; no pixel is copied."""
        chosen = np.asarray(rows)
        if chosen.dtype == bool and len(chosen) != len(self):
            raise MedcoreError(f"select: a mask of length {len(chosen)} does not fit {len(self)} images")
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        columns = {name: np.asarray(values)[chosen] for name, values in self._columns.items()}
        return self._view(columns, self.index[chosen])

    def where(self, **conditions: Any) -> PatchSet:
        """A view of the rows whose columns have the given value, or one of the given values.

        ``label`` takes class names or indexes: ``ps.where(split="train", label=["mel", "bcc"])``.

        Raises:
            MedcoreError: A column or class does not exist.
        """
        keep = np.ones(len(self), dtype=bool)
        for name, wanted in conditions.items():
            values = list(wanted) if isinstance(wanted, (list, tuple, set, np.ndarray)) else [wanted]
            if name == "label":
                values = [self._class_index(value) for value in values]
            keep &= np.isin(self.column(name), values)
        return self.select(keep)

    def _class_index(self, label: Any) -> int:
        if isinstance(label, str):
            if label not in self.classes:
                raise MedcoreError(f"label {label!r} is not among the classes {', '.join(self.classes)}")
            return self.classes.index(label)
        return int(label)

    def with_split(self, split: np.ndarray | Sequence[str]) -> PatchSet:
        """The same view with another split column (``train``, ``val``, ``test`` or ``""``)."""
        return self.with_columns(split=np.asarray(split, dtype=str))

    def with_columns(self, **columns: Any) -> PatchSet:
        """The same view with columns replaced or added; no pixel is copied."""
        merged = self._columns | columns_from(columns, len(self), fill=False)
        check_columns(merged, len(self), self.card, f"set {self.card.name!r}")
        return self._view(merged, self.index)

    def with_card(self, card: Card) -> PatchSet:
        """The same view with another card."""
        check_columns(self._columns, len(self), card, f"set {card.name!r}")
        view = self._view(self._columns, self.index)
        view.card = card
        return view

    def _view(self, columns: Columns, index: np.ndarray) -> PatchSet:
        view = PatchSet(
            self.store,
            columns,
            self.card,
            mask_store=self.mask_store,
            index=index,
            path=self.path,
            store_hash=self._store_hash,
        )
        view._parent = self  # the hash of the store is computed once for all views
        return view

    _parent: PatchSet | None = None

    @property
    def store_hash(self) -> str:
        """SHA-256 of all pixels and masks of the store (hex)."""
        if self._store_hash is None:
            self._store_hash = self._parent.store_hash if self._parent else hash_store(self.store, self.mask_store)
        return self._store_hash

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels, masks, selected rows, table and class names (hex, 64 characters)."""
        digest = hashlib.sha256(self.store_hash.encode())
        digest.update(json.dumps(self.classes).encode())
        digest.update(np.ascontiguousarray(self.index).tobytes())
        for name in sorted(self._columns):
            digest.update(name.encode() + b"\0")
            digest.update("\x1f".join(map(str, np.asarray(self._columns[name]).tolist())).encode("utf-8", "replace"))
        return digest.hexdigest()

    def save(self, path: str | Path) -> PatchSet:
        """Write this view to a file of its own, atomically and in constant memory, and open it."""
        path = Path(path)
        rows = None if len(self) == len(self.store) and np.array_equal(self.index, np.arange(len(self))) else self.index
        same = rows is None and self._store_hash is not None
        with (
            npzfile.atomic_path(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            write_members(
                archive,
                len(self),
                self.store,
                self.mask_store,
                rows,
                self._columns,
                self.card,
                self._store_hash if same else None,
            )
        return PatchSet.open(path)

    def verify(self) -> None:
        """Read everything and compare with the checksums.

        Raises:
            MedcoreError: A byte of the file changed since it was written.
        """
        if self.path is None:
            return
        with npzfile.open_zip(self.path) as archive:
            for entry in archive.infolist():
                if entry.filename in ("images.npy", "masks.npy"):  # their SHA-256 is compared below
                    continue
                with archive.open(entry) as member:
                    while member.read(npzfile.CHUNK_BYTES):  # raises where the CRC differs
                        pass
            stored = read_meta(archive, self.path)["store_sha256"]
        if hash_store(self.store, self.mask_store) != stored:
            raise MedcoreError(f"{self.path} is damaged: its pixels do not match their SHA-256; make it anew")

    def export_medmnist(self, path: str | Path) -> None:
        """Write the labelled rows in MedMNIST's layout: ``train_images``, ``train_labels (N, 1)``, ``val_...``."""
        with npzfile.atomic_path(Path(path)) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for split in ("train", "val", "test"):
                rows = self.index[(self.splits == split) & (self.labels >= 0)]
                labels = self.labels[(self.splits == split) & (self.labels >= 0)][:, None].astype(np.uint8)
                shape = self.shape if self.shape[2] > 1 else self.shape[:2]
                pixels = (chunk.reshape(-1, *shape) for chunk in npzfile.row_chunks(self.store, rows))
                npzfile.write_array(archive, f"{split}_images", pixels, (len(rows), *shape), np.dtype(np.uint8))
                npzfile.write_array(archive, f"{split}_labels", [labels], labels.shape, labels.dtype)

    def __repr__(self) -> str:
        height, width, channels = self.shape
        card = self.card
        unit = card.group if card.patients_known else "image (no patients known)"
        kind = {"findings": "findings", "ordinal": "grades", "regression": "values"}.get(card.task, "classes")
        counts = ", ".join(f"{name} {count}" for name, count in zip(self.classes, self.shown.sum(axis=0), strict=True))
        if self.has_masks and (self.labels < 0).all():
            counts = f"{', '.join(self.classes)} (of pixels)"
        sides = ", ".join(
            f"{side or 'unassigned'} {int((self.splits == side).sum())}"
            for side in SPLITS
            if (self.splits == side).any()
        )
        lines = [
            f"PatchSet {card.name!r}: {card.title}" + ("  [synthetic phantom]" if card.synthetic else ""),
            f"  {len(self):,} images, {height}×{width}×{channels} uint8, {len(np.unique(self.patients)):,} × {unit}",
        ]
        lines += [f"  {kind}: {counts}"] if counts else []
        lines += [f"  splits: {sides}"] if sides else []
        lines += [f"  licence: {card.licence}"]
        lines += [f"  excluded: {len(card.excluded)}"] if card.excluded else []
        lines += [f"  warning: {text}" for text in card.warnings]
        return "\n".join(lines)
