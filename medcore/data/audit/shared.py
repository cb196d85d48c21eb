"""Images that share a part: changed copies, overlapping windows, halves of montages, neighbouring slices.

Keypoints propose placements (`matching`), the pixels judge them (`registration`), with limits learnt from the set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from medcore.data.audit.keypoints import Whitening, find_keypoints, learn_whitening
from medcore.data.audit.matching import propose_placements
from medcore.data.audit.registration import common_image, copies_among, learn_limit, measure_placements
from medcore.data.patchset import PatchSet
from medcore.data.splits import group_names

SAME_SCALE, SAME_TURN = 0.04, 1.5  # how far size (share) and turn (degrees) may be off in an overlap
ALL, SAME_PIXELS = 0.9, 0.99  # overlap that counts as the whole image; agreement from which slices are copies
NUMBER = r"^(?P<before>.*?)(?P<number>\d+)(?P<after>\D*)$"  # the last number of a file name
NEIGHBOURS = 5  # slices or frames that lie so close are neighbours


@dataclass(frozen=True)
class Learnt:
    """What was learnt from a set to find shared parts in it.

    Attributes:
        whitening: of the patches.
        common: what all images share. **Shape** ``(H, W)``.
        limit: least evidence for a pair.
        images: in the set.
    """

    whitening: Whitening
    common: np.ndarray
    limit: float
    images: int


def find_shared(ps: PatchSet, known: pd.DataFrame, *, seed: int = 0) -> tuple[pd.DataFrame, Learnt]:
    """Pairs that share a part.

    Args:
        known: pairs already found, columns ``a`` and ``b``.

    Returns:
        Pairs (columns of ``registration.COLUMNS``), and what was learnt.
    """
    whitening = learn_whitening(ps)
    keypoints = find_keypoints(ps, whitening)
    codes = known["a"].to_numpy(dtype=np.int64) * len(ps) + known["b"].to_numpy(dtype=np.int64)
    placements = propose_placements(keypoints, seed=seed, known=codes)
    common = common_image(ps)
    measured = measure_placements(ps, keypoints, placements, common)
    learnt = Learnt(whitening, common, learn_limit(measured, group_names(ps)), len(ps))
    return copies_among(measured, learnt.limit), learnt


def shared_like(planted: PatchSet, pairs: np.ndarray, learnt: Learnt) -> pd.DataFrame:
    """Which of some pairs (n, 2) of planted images are found, by what was learnt from the set that they come from."""
    keypoints = find_keypoints(planted, learnt.whitening)
    wanted = pairs.min(axis=1) * len(planted) + pairs.max(axis=1)
    placements = propose_placements(keypoints, known=wanted, only=True, images=learnt.images)
    return copies_among(measure_placements(planted, keypoints, placements, learnt.common), learnt.limit)


def name_kinds(ps: PatchSet, pairs: pd.DataFrame) -> pd.Series:
    """Each pair is as found, or: ``slice`` (neighbours in a series), ``overlap`` (shifted windows), ``altered``."""
    upright = pairs["symmetry"].eq(0) & ~pairs["inverted"].astype(bool)
    still = pairs["scale"].sub(1).abs().le(SAME_SCALE) & pairs["degrees"].abs().le(SAME_TURN)
    whole = pairs["overlap"].ge(ALL)
    kind = pairs["kind"].where(pairs["kind"].ne("shared"), "altered")
    kind = kind.mask(pairs["kind"].eq("shared") & still & ~whole, "overlap")
    slices = upright & still & whole & pairs["kind"].isin(["shared", "near"]) & pairs["agreement"].lt(SAME_PIXELS)
    return kind.mask(slices & _are_neighbours(ps, pairs), "slice")


def _are_neighbours(ps: PatchSet, pairs: pd.DataFrame) -> np.ndarray:
    """Whether two images are of one patient and their file names differ in one number, by a few."""
    a, b = pairs["a"].to_numpy(dtype=int), pairs["b"].to_numpy(dtype=int)
    parts = pd.Series(ps.column("source").astype(str)).str.extract(NUMBER)
    number = pd.to_numeric(parts["number"], errors="coerce").to_numpy(dtype=float)
    stem = (parts["before"].fillna("") + "/" + parts["after"].fillna("")).to_numpy(dtype=str)
    groups = ps.patients.astype(str) if ps.card.patients_known else np.full(len(ps), "")
    apart = np.abs(number[a] - number[b])
    return (stem[a] == stem[b]) & (groups[a] == groups[b]) & (apart >= 1) & (apart <= NEIGHBOURS)
