"""A limited set keeps the proportions, the order and the seed, and says that it is limited."""

import numpy as np

from medcore.data.card import Card
from medcore.data.load import limit_images
from medcore.data.patchset import PatchSet


def patches() -> PatchSet:
    rng = np.random.default_rng(0)
    table = {
        "label": rng.choice(3, 600, p=[0.7, 0.2, 0.1]),
        "split": rng.choice(["train", "val", "test"], 600, p=[0.6, 0.2, 0.2]),
        "patient": rng.integers(0, 20, 600).astype(str),
    }
    return PatchSet.from_arrays(np.zeros((600, 4, 4, 1), np.uint8), table, Card("toy", classes=["a", "b", "c"]))


def test_every_split_and_class_is_cut_alike() -> None:
    ps = patches()
    small = limit_images(ps, 150, seed=1)
    assert len(small) == 150
    for split in ("train", "val", "test"):
        for label in range(3):
            whole = np.sum((ps.splits == split) & (ps.labels == label))
            kept = np.sum((small.splits == split) & (small.labels == label))
            assert abs(kept - whole / 4) <= 2
    assert (np.diff(small.index) > 0).all()
    assert "150 of 600" in small.card.warnings[-1]


def test_the_seed_decides_and_a_large_limit_changes_nothing() -> None:
    ps = patches()
    assert limit_images(ps, 99, seed=1).fingerprint == limit_images(ps, 99, seed=1).fingerprint
    assert limit_images(ps, 99, seed=1).fingerprint != limit_images(ps, 99, seed=2).fingerprint
    assert limit_images(ps, 600) is ps and limit_images(ps, None) is ps
