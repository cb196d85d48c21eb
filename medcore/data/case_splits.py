"""Splits for sets of few, large images: shares are counted in patients, not in images.

Eighty images of fifteen patients, split by images, can leave a test part of one patient with sixteen images, which says
nothing about patients. Here every patient counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from medcore.data.patchset import PatchSet
from medcore.data.splits import assign_splits, group_names, split_groups, unit_of


def split_cases(
    ps: PatchSet, *, fractions: Sequence[float] = (0.6, 0.15, 0.25), seed: int = 0, stratify: str = "grade"
) -> PatchSet:
    """Give every image a side, with shares of the patients.

    Args:
        ps: The set. A published split with all three sides is kept as it is.
        fractions: Shares of train, val and test, summing to 1.
        seed: The same seed and set give the same split.
        stratify: Column whose values are spread evenly (a patient has its commonest one); unused when it is not there.

    Raises:
        MedcoreError: There are fewer patients than sides.
    """
    if {"train", "val", "test"} <= set(ps.splits):
        return assign_splits(ps, seed=seed)
    groups = group_names(ps)
    names = np.unique(groups)
    values = ps.column(stratify).astype(str) if stratify in ps.columns else np.full(len(ps), "")
    commonest = pd.Series(values).groupby(groups).agg(lambda part: part.mode()[0]).loc[names]
    kinds = np.unique(commonest.to_numpy(dtype=str), return_inverse=True)[1]
    side_of = dict(zip(names, split_groups(kinds, names, fractions=fractions, seed=seed), strict=True))
    given = ps.with_split(np.array([side_of[name] for name in groups]))
    how = f"shares of the {unit_of(ps)}s, drawn by {unit_of(ps)}"
    marked = assign_splits(given, seed=seed)  # changes no side: adds the cautions and the recipe
    recipe = {**marked.card.recipe, "split": {**marked.card.recipe["split"], "how": how, "fractions": list(fractions)}}
    return marked.with_card(replace(marked.card, recipe=recipe))
