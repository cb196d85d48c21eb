"""Which images belong together: by patient, by being copies of each other, by their names.

An augmented copy (``00045_Aug5.jpg``) belongs to its original, wherever that lies.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from medcore.data.audit.hashing import apply_symmetry
from medcore.data.patchset import PatchSet
from medcore.data.splits import group_names

COPY_NAME = re.compile(r"^(?P<base>.+?)[ _.-]?\(?(?:aug(?:mented)?|copy|dup(?:licate)?|[hv]?flip(?:ped)?|rot(?:ated)?)"
                       r"[ _-]?\d*\)?$", re.IGNORECASE)  # fmt: skip


def exact_pairs(digests: np.ndarray, constant: np.ndarray) -> pd.DataFrame:
    """Links between images with equal pixels: each to the first of its kind. Constant images are left out.

    Args:
        digests: one per image. **Shape** ``(N,)``.
        constant: images of one single value, which are equal without being copies. **Shape** ``(N,)`` bool.

    Returns:
        Columns ``a`` (the first) and ``b``.
    """
    rows = np.flatnonzero(~constant)
    codes = pd.factorize(digests[rows])[0]
    first = pd.Series(rows).groupby(codes).transform("first").to_numpy()
    later = first != rows
    return pd.DataFrame({"a": first[later], "b": rows[later]})


def turned_exact_pairs(ps: PatchSet, rows: np.ndarray) -> pd.DataFrame:
    """Links between images that are pixel-exact flips or turns of each other: for those too flat to compare.

    Args:
        rows: which images to look at (few: each is read and turned eight times).

    Returns:
        Columns ``a``, ``b`` and ``symmetry`` (what brings b onto a); equal images are left out.
    """
    seen: dict[bytes, int] = {}
    found = []
    for row in rows:
        image = ps.take([row])[0]
        versions = [apply_symmetry(image, number) for number in range(8)]
        keys = [version.tobytes() for version in versions if version.shape == image.shape]
        numbers = [number for number, version in enumerate(versions) if version.shape == image.shape]
        original = next((seen[key] for key in keys if key in seen), None)
        if original is None:
            seen[keys[0]] = int(row)
        elif keys[0] not in seen:
            number = next(number for key, number in zip(keys, numbers, strict=True) if key in seen)
            found.append((original, int(row), number))
    return pd.DataFrame(found, columns=["a", "b", "symmetry"]).astype(int)


def named_pairs(ps: PatchSet) -> pd.DataFrame:
    """Links between an augmented copy and its original, from the ``copy_of`` column or from file names.

    Copies whose original is not in the set are linked to the first of them.

    Returns:
        Columns ``a`` (the original, or the first copy) and ``b`` (the copy).
    """
    keys, is_copy = _original_keys(ps)
    first: dict[str, int] = {}
    for row in [*np.flatnonzero(~is_copy), *np.flatnonzero(is_copy)]:
        first.setdefault(keys[row], int(row))
    copies = [(first[keys[row]], int(row)) for row in np.flatnonzero(is_copy) if first[keys[row]] != row]
    return pd.DataFrame(copies, columns=["a", "b"]).astype(int)


def linked_groups(groups: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
    """Join groups that share a copied image (connected components).

    Args:
        groups: (N,) the patient of each row.
        pairs: columns ``a`` and ``b``, rows that belong together.

    Returns:
        (N,) a name for each row's component: that of its first group, in order of appearance.
    """
    codes, names = pd.factorize(np.asarray(groups, dtype=object))
    parent = list(range(len(names)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    ends = [codes[pairs[end].to_numpy(dtype=int)].tolist() for end in "ab"]
    for a, b in zip(*ends, strict=True):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([names[root(code)] for code in codes.tolist()], dtype=str)


def pair_relations(ps: PatchSet, pairs: pd.DataFrame) -> pd.DataFrame:
    """Add to pairs whether they cross the split (``across``) and whether it is the same patient (``same_group``)."""
    a, b = pairs["a"].to_numpy(dtype=int), pairs["b"].to_numpy(dtype=int)
    groups, sides = group_names(ps), ps.splits
    across = (sides[a] != sides[b]) & (sides[a] != "") & (sides[b] != "")
    return pairs.assign(across=across, same_group=groups[a] == groups[b])


def _original_keys(ps: PatchSet) -> tuple[np.ndarray, np.ndarray]:
    """(what each row is a version of, whether it is a copy). **Shape** two of ``(N,)``."""
    source = pd.Series(ps.column("source").astype(str))
    if "copy_of" in ps.columns:
        copy_of = pd.Series(ps.column("copy_of").astype(str))
        if (copy_of != "").any():
            return copy_of.where(copy_of != "", source).to_numpy(dtype=str), (copy_of != "").to_numpy()
    stem = source.str.rsplit("/", n=1).str[-1].str.replace(r"\.[A-Za-z]{2,5}$", "", regex=True)
    folder = source.str.rsplit("/", n=1).str[0].where(source.str.contains("/"), "")
    match = stem.str.extract(COPY_NAME)["base"]
    is_copy = match.notna() & stem.ne("")
    base = match.where(is_copy, stem)
    key = folder + "/" + base
    # The original of a copy may lie in another folder (train/ and test/): then its name must be the only one.
    originals = pd.Series(key[~is_copy].to_numpy(), index=base[~is_copy]).groupby(level=0).agg(["first", "nunique"])
    alone = originals.loc[originals["nunique"] == 1, "first"]
    here = key.isin(set(key[~is_copy]))
    elsewhere = base.map(alone)
    return key.where(here | ~is_copy | elsewhere.isna(), elsewhere).to_numpy(dtype=str), is_copy.to_numpy()
