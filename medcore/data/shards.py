"""Shards: ``set-00000.npz, set-00001.npz, …``, each a PatchSet of the same kind, are one set in the order of numbers.

python -c "from medcore.data.shards import find_shards, stack; print(stack(find_shards('folder/')))"
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.card import Card
from medcore.data.integrity import open_checked
from medcore.data.npzfile import Columns, forget
from medcore.data.options import DecodeOptions
from medcore.data.patchset import PatchSet
from medcore.data.readers.arrays import is_patchset
from medcore.data.readers.files import is_hidden
from medcore.data.readers.listing import listed
from medcore.errors import MedcoreError

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})\.npz")
_SAME_FACTS = ("classes", "task", "abnormal", "pixel_size_um", "group", "case", "patients_known", "synthetic",
               "licence", "citation", "homepage")  # fmt: skip
_SAME_RECIPE = ("policy", "overlap", "target", "mask_rule", "rescaled", "decoding",
                *(field.name for field in fields(DecodeOptions)))  # fmt: skip


def find_shards(source: Path) -> list[Path]:
    """The shards that a folder holds, or that begin with this first one, in order; [] for any other source.

    Raises:
        MedcoreError: A number is missing, or the folder holds other sets beside them.
    """
    first = None if source.is_dir() else _NAME.fullmatch(source.name)
    if not source.is_dir() and (first is None or int(first["number"]) or not source.is_file()):
        return []
    folder = source.parent if first else source
    files = sorted(path for path in folder.glob("*.npz") if path.is_file() and not is_hidden(path.name))
    stems = {path: found["stem"] for path in files if (found := _NAME.fullmatch(path.name))}
    shards = [path for path in stems if first is None or stems[path] == first["stem"]]
    if not shards or not is_patchset(shards[0]):
        return []
    others = [path.name for path in files if path not in shards or stems[path] != stems[shards[0]]]
    if others and first is None:
        raise MedcoreError(
            f"'{folder}' holds shards ({shards[0].name}, …) and other sets ({listed(others)}); name the first shard "
            f"of the one that is meant, as in '{shards[0]}', or move the others"
        )
    numbers = {int(path.name[-9:-4]) for path in shards}
    if missing := sorted(set(range(max(numbers))) - numbers):
        names = listed([f"{stems[shards[0]]}-{number:05d}.npz" for number in missing])
        raise MedcoreError(f"'{folder}': {names} is missing among its {len(shards)} shards; copy all of them")
    return shards


def stack(shards: list[Path]) -> PatchSet:
    """One set of several shards: tables and cards joined, pixels left in the files; ``save`` streams them into one.

    Raises:
        MedcoreError: A shard is damaged, or differs from the first in shape, classes, columns or how it was made.
    """
    parts = [open_checked(path) for path in shards]
    for path, part in zip(shards[1:], parts[1:], strict=True):
        _compare(f"shard '{path}'", part, shards[0].name, parts[0])
    columns: Columns = {name: np.concatenate([part.column(name) for part in parts]) for name in parts[0].columns}
    masks = [part.mask_store for part in parts if part.mask_store is not None]
    store: Any = _Stacked([part.store for part in parts])
    return PatchSet(store, columns, _joined_card(shards, parts), mask_store=_Stacked(masks) if masks else None)  # type: ignore[arg-type]


def _compare(where: str, part: PatchSet, name: str, first: PatchSet) -> None:
    """Raise where a shard is of another kind than the first one."""
    pairs: dict[str, tuple[Any, Any]] = {
        "images of (height, width, channels)": (part.shape, first.shape),
        "masks": (part.has_masks, first.has_masks),
        "columns": (_kinds(part), _kinds(first)),
    }
    pairs |= {fact: (getattr(part.card, fact), getattr(first.card, fact)) for fact in _SAME_FACTS}
    pairs |= {key: (part.card.recipe.get(key), first.card.recipe.get(key)) for key in _SAME_RECIPE}
    for what, (here, there) in pairs.items():
        if here != there:
            raise MedcoreError(f"{where} has other {what} than {name}: {here}, not {there}; they are parts of one set")


def _kinds(part: PatchSet) -> dict[str, str]:
    kinds = {"b": "bool", "U": "text"}
    return {name: kinds.get(part.column(name).dtype.kind, "number") for name in sorted(part.columns)}


def _joined_card(shards: list[Path], parts: list[PatchSet]) -> Card:
    """The first card with what happened in every shard; facts of the making that differ stand under ``shards``."""
    cards = [part.card for part in parts]
    recipe = {key: value for key, value in cards[0].recipe.items() if all(c.recipe.get(key) == value for c in cards)}
    recipe["scaled_or_cut"] = any(card.recipe.get("scaled_or_cut", True) for card in cards)
    if all("source_size" in card.recipe for card in cards):
        extents = np.array([card.recipe["source_size"] for card in cards])
        recipe["source_size"] = [*extents[:, :2].min(axis=0).tolist(), *extents[:, 2:].max(axis=0).tolist()]
    recipe["shards"] = [
        {"file": path.name, "images": len(part), "fingerprint": part.fingerprint}
        | {key: value for key, value in part.card.recipe.items() if key not in recipe}
        for path, part in zip(shards, parts, strict=True)
    ]
    shared = sum(count - 1 for count in Counter(n for part in parts for n in set(part.column("source"))).values())
    warnings = list(dict.fromkeys(text for card in cards for text in card.warnings))
    if shared:
        warnings.append(
            f"{shared} names of images (column source) stand in several shards and count as the same image there; if "
            "they are different ones, make the shards anew with names, and patients, of their own"
        )
    counts = Counter[str]()
    for card in cards:
        counts.update(card.conversions)
    total = sum(len(part) for part in parts)
    line = f"{len(parts)} shards ({shards[0].name} to {shards[-1].name}) are read as one set of {total:,} images"
    same_name = len({card.name for card in cards}) == 1
    return replace(
        cards[0],
        name=cards[0].name if same_name else shards[0].name[: -len("-00000.npz")],
        title=cards[0].title if same_name else f"Images of {len(parts)} shards",
        recipe=recipe,
        conversions=dict(sorted(counts.items())),
        excluded=[{**entry, "shard": path.name} for path, c in zip(shards, cards, strict=True) for entry in c.excluded],
        warnings=warnings,
        reading=[line, *dict.fromkeys(text for card in cards for text in card.reading)],
    )


class _Stacked:
    """Arrays of the files one after the other, read slice by slice: what writing a set needs of an array."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays, self.dtype = arrays, arrays[0].dtype
        self.ends = np.cumsum([len(array) for array in arrays])
        self.shape = (int(self.ends[-1]), *arrays[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        pieces = [
            array[max(0, start - end + len(array)) : stop - end + len(array)]
            for array, end in zip(self.arrays, self.ends, strict=True)
            if end > start and end - len(array) < stop
        ]
        joined = np.concatenate(pieces) if pieces else np.empty((0, *self.shape[1:]), self.dtype)
        for array in self.arrays:
            forget(array)
        return joined
