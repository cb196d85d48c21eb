"""A smaller set for a quick look, drawn fairly and said aloud."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from medcore.data.patchset import PatchSet


def limit_images(patches: PatchSet, limit: int | None, *, seed: int = 0) -> PatchSet:
    """At most ``limit`` images, with every split, class and patient cut in about the same proportion.

    Args:
        patches: The set.
        limit: Most images to keep; None keeps all.
        seed: The same seed keeps the same images.

    Returns:
        A view in the original order; its card says how many were kept.
    """
    if limit is None or len(patches) <= limit:
        return patches
    rng = np.random.default_rng(seed)
    keys = pd.DataFrame({"split": patches.splits, "label": patches.labels, "patient": patches.patients})
    order = rng.permutation(len(patches))
    # Within each cell of the table the k-th drawn image gets the rank k / size: cutting at one rank cuts all alike.
    cells = keys.iloc[order].groupby(["split", "label"], sort=False)
    rank = (cells.cumcount() + rng.random(len(order))) / cells["patient"].transform("size")
    kept = np.sort(order[np.argsort(rank.to_numpy(), kind="stable")[:limit]])
    note = f"Only {limit:,} of {len(patches):,} images are used (parameter limit)."
    card = replace(patches.card, warnings=[*patches.card.warnings, note])
    return patches.select(kept).with_card(card)
