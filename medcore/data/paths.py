"""Where prepared sets, downloads and runs live on this machine."""

from __future__ import annotations

import os
from pathlib import Path


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
    home.mkdir(parents=True, exist_ok=True)
    return home


def reports_home() -> Path:
    """The folder that runs are written to: ``MEDCORE_REPORTS``, else ``reports/`` of the checkout or here."""
    named = os.environ.get("MEDCORE_REPORTS")
    root = repository_root()
    return Path(named) if named else (root or Path.cwd()) / "reports"
