"""Where sets, downloads and runs live on this machine.

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
