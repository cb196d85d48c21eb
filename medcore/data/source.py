"""Where sets, downloads and runs live on this machine, and which file or folder a data source means.

Light: no arrays, no PyTorch.
"""

from __future__ import annotations

import os
from pathlib import Path

from medcore.data import datasets
from medcore.errors import MedcoreError


def repository_root() -> Path | None:
    """The folder of the checkout that this package runs from; None for an installed copy."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "notebooks").is_dir() and (root / "pyproject.toml").is_file() else None


def data_home() -> Path:
    """The folder for prepared sets and downloads, created when missing.

    ``MEDCORE_DATA`` names it; else it is ``data/`` of the checkout, else ``~/.cache/medcore``.
    """
    named = os.environ.get("MEDCORE_DATA")
    root = repository_root()
    home = Path(named) if named else root / "data" if root else Path.home() / ".cache" / "medcore"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MedcoreError(
            f"the data folder '{home}' cannot be made ({error.strerror}); set MEDCORE_DATA to another folder"
        ) from error
    return home


def reports_home() -> Path:
    """The folder that runs are written to: ``MEDCORE_REPORTS``, else ``reports/`` of the checkout or here."""
    named = os.environ.get("MEDCORE_REPORTS")
    root = repository_root()
    return Path(named) if named else (root or Path.cwd()) / "reports"


SLIDE_PHANTOM = "phantom-slides"  # whole slides, which notebook 08 draws


def is_phantom(source: str | os.PathLike[str]) -> bool:
    """Whether the source names a set that is drawn, not read."""
    card = datasets.CARDS.get(os.fspath(source))
    return os.fspath(source) == SLIDE_PHANTOM or (card is not None and card.synthetic)


def find_source(source: str | os.PathLike[str]) -> Path:
    """The file or folder that a source means; a known name means the set below ``data_home()``.

    Raises:
        MedcoreError: Neither a path nor a known set, or a known set that is not on this machine.
    """
    name = os.fspath(source)
    if not name:
        raise MedcoreError("the data source is empty; name a set, a folder, a metadata.csv or a .npz")
    path = Path(name).expanduser()
    if name not in datasets.CARDS:
        if path.exists():
            return path
        known = ", ".join(datasets.CARDS)
        raise MedcoreError(f"'{name}' is neither an existing file or folder nor a known set ({known})")
    for candidate in (data_home() / name / f"{name}.npz", data_home() / f"{name}.npz", data_home() / name, path):
        if candidate.exists():
            return candidate
    facts = datasets.CARDS[name]
    remedy = f"run: medcore data fetch {name}" if facts.files else facts.how
    raise MedcoreError(
        f"the set {name!r} is not on this machine (looked in '{data_home() / name}'); {remedy}. Expected layout:\n"
        f"{facts.layout}"
    )
