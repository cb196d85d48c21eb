"""The table of a PatchSet as plain numpy columns, and the rules that every set must keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from medcore.data.card import Card
from medcore.errors import MedcoreError

REQUIRED_COLUMNS = ("label", "patient", "split", "source")
TEXT_COLUMNS = ("patient", "split", "source")  # a patient called 7 is a name, not a number
SPLITS = ("train", "val", "test", "")
Columns = dict[str, np.ndarray]


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
    check_columns(columns, len(images), card, where)


def check_columns(columns: Columns, count: int, card: Card, where: str) -> None:
    """Raise a ``MedcoreError`` that begins with ``where`` unless the table has ``count`` valid rows."""
    for name in REQUIRED_COLUMNS:
        if name not in columns:
            raise MedcoreError(f"{where}: the table has no column {name!r}")
    for name, values in columns.items():
        if len(values) != count:
            raise MedcoreError(f"{where}: column {name!r} has {len(values)} rows for {count} images")
    labels = columns["label"]
    if labels.dtype != np.int64:
        raise MedcoreError(f"{where}: labels must be whole numbers (class indexes), not {labels.dtype}")
    if count and (labels.min() < -1 or labels.max() >= len(card.classes)):
        raise MedcoreError(
            f"{where}: labels reach from {labels.min()} to {labels.max()}, but there are "
            f"{len(card.classes)} classes ({', '.join(card.classes)})"
        )
    strange = sorted(set(np.unique(columns["split"])) - set(SPLITS))
    if strange:
        raise MedcoreError(f"{where}: column 'split' holds {strange}; allowed are train, val, test or nothing")
