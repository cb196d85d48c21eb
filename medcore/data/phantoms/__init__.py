"""Procedural image sets with known truth: the embedded default of every lesson and test."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from medcore.data.patchset import PatchSet
from medcore.data.phantoms.crc import make_crc
from medcore.data.phantoms.derm import make_derm
from medcore.data.phantoms.glands import make_glands
from medcore.data.phantoms.helico import make_helico
from medcore.data.phantoms.xray import make_xray

PHANTOMS: dict[str, Callable[..., PatchSet]] = {
    "phantom-crc": make_crc,
    "phantom-derm": make_derm,
    "phantom-helico": make_helico,
    "phantom-glands": make_glands,
    "phantom-xray": make_xray,
}
# the same sets as a second hospital would have made them: other patients, stain, scanner, blur and prevalence
PHANTOMS |= {f"{name}-b": partial(maker, hospital="b") for name, maker in PHANTOMS.items()}

__all__ = ["PHANTOMS", "make_crc", "make_derm", "make_glands", "make_helico", "make_xray"]
