"""What a data source names: a set that is known, or a file or folder that is there. Light: no arrays, no PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

from medcore.data import info
from medcore.data.paths import data_home
from medcore.errors import MedcoreError


def is_phantom(source: str | os.PathLike[str]) -> bool:
    """Whether the source names a set that is drawn, not read."""
    card = info.CARDS.get(os.fspath(source))
    return card is not None and card.synthetic


def find_source(source: str | os.PathLike[str]) -> Path:
    """The file or folder that a source means; a known name means the set below ``data_home()``.

    Raises:
        MedcoreError: Neither a path nor a known set, or a known set that is not on this machine.
    """
    name = os.fspath(source)
    if not name:
        raise MedcoreError("the data source is empty; name a set, a folder, a metadata.csv or a .npz")
    path = Path(name).expanduser()
    if name not in info.CARDS:
        if path.exists():
            return path
        known = ", ".join(info.CARDS)
        raise MedcoreError(f"'{name}' is neither an existing file or folder nor a known set ({known})")
    for candidate in (data_home() / name / f"{name}.npz", data_home() / f"{name}.npz", data_home() / name, path):
        if candidate.exists():
            return candidate
    facts = info.CARDS[name]
    remedy = f"run: medcore data fetch {name}" if facts.files else facts.how
    raise MedcoreError(
        f"the set {name!r} is not on this machine (looked in '{data_home() / name}'); {remedy}. Expected layout:\n"
        f"{facts.layout}"
    )
