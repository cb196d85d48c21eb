"""Procedural image sets with known truth: the embedded default of every lesson and test."""

from __future__ import annotations

from collections.abc import Callable

from medcore.data.patchset import PatchSet
from medcore.data.phantoms.crc import make_crc
from medcore.data.phantoms.derm import make_derm

PHANTOMS: dict[str, Callable[..., PatchSet]] = {"phantom-crc": make_crc, "phantom-derm": make_derm}

__all__ = ["PHANTOMS", "make_crc", "make_derm"]
