"""Correct a split that leaks, or labels that a person found wrong, and the ``medcore audit`` command behind it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from medcore.data.audit.audit import Audit, audit
from medcore.data.audit.links import linked_groups
from medcore.data.audit.pictures import name_cell, write_findings
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.readers.tables import read_table
from medcore.data.splits import SPLITS, assign_splits, group_names
from medcore.errors import MedcoreError

UNLABELLED = "unlabelled"  # in a review: the label is taken away


def fix_splits(ps: PatchSet, audited: Audit) -> PatchSet:
    """Bring everything that belongs together to one side of the split. No image is dropped.

    Patients linked by a copied image become one group. A group on two sides moves, whole, to the side that already
    holds most of its images (to train when equal, so that no contaminated image stays in the test part). A set
    without a split gets one.

    Args:
        ps: the set that was audited.

    Returns:
        The set with a corrected ``split`` column and a ``linked`` column, which later splits and folds keep whole;
        ``card.recipe["split_fixed"]`` counts what moved.

    Raises:
        MedcoreError: when the audit is of another set.
    """
    if audited.fingerprint and audited.fingerprint != ps.fingerprint:
        raise MedcoreError(
            f"fix_splits: the audit is of another state of {audited.set_name!r}; audit this set again first."
        )
    linked = linked_groups(group_names(ps), audited.pairs)
    fixed = ps.with_columns(linked=linked)
    if not (ps.splits != "").any():
        return assign_splits(fixed)
    sides = _one_side_each(linked, ps.splits)
    moved = sides != ps.splits
    ways = pd.Series(
        [f"{old or 'unassigned'} to {new}" for old, new in zip(ps.splits[moved], sides[moved], strict=True)]
    )
    recipe = {
        "images_moved": int(moved.sum()),
        "groups_moved": len(set(linked[moved])),
        "from_to": {str(way): int(count) for way, count in ways.value_counts().items()},
    }
    note = f"The split was corrected: {recipe['images_moved']} images of {recipe['groups_moved']} linked groups moved."
    card = replace(ps.card, recipe={**ps.card.recipe, "split_fixed": recipe}, warnings=[*ps.card.warnings, note])
    return fixed.with_split(sides).with_card(card)


def correct_labels(ps: PatchSet, review: Path) -> PatchSet:
    """Give images the labels that a person wrote into the column ``correct`` of a review.

    An empty cell leaves a label as it is, a class name replaces it, ``unlabelled`` takes it away. No image is dropped.

    Args:
        ps: The set that was reviewed, as it was then.
        review: A table with at least ``row`` (of the set's store), ``label`` (as it was) and ``correct``.

    Returns:
        The set with corrected labels; ``card.recipe["labels"]`` lists each review with its hash and what it changed.

    Raises:
        MedcoreError: A column is missing, a row is not in the set, stands twice or had another label, or a class does
            not exist.
    """
    table = read_table(review)
    missing = [name for name in ("row", "label", "correct") if name not in table.header]
    if missing:
        raise MedcoreError(f"{review} has no column {missing[0]!r}; `medcore audit DATA --labels RUN --out FILE.csv`")
    place = {str(row): position for position, row in enumerate(ps.index)}
    codes = {UNLABELLED: -1} | {name_cell(name): number for number, name in enumerate(ps.classes)}
    labels, seen, changes = ps.labels.copy(), set(), []
    for n, (row, label, correct) in enumerate(zip(*map(table.column, ("row", "label", "correct")), strict=True)):
        at = place.get(row)
        if at is None or at in seen:
            raise MedcoreError(
                f"{table.place(n)}: row {row[:60]!r} {'stands twice' if at in seen else 'is not in the set'}"
            )
        seen.add(at)
        if codes.get(label) != ps.labels[at]:
            raise MedcoreError(
                f"{table.place(n)}: the label is {label[:60]!r}, but {ps.label_names[at]!r} in set {ps.card.name!r}: "
                "the review is of another state of the set"
            )
        if correct and correct not in codes:
            raise MedcoreError(f"{table.place(n)}: correct={correct[:60]!r} must be empty or one of {', '.join(codes)}")
        if correct and codes[correct] != ps.labels[at]:
            labels[at] = codes[correct]
            changes.append(f"{label} to {correct}")
    return ps.with_columns(label=labels).with_card(_reviewed(ps.card, review, len(seen), changes, len(ps)))


def _reviewed(card: Card, review: Path, looked_at: int, changes: list[str], images: int) -> Card:
    """The card with one more review of labels."""
    facts = {
        "review": review.name,
        "sha256": hashlib.sha256(review.read_bytes()).hexdigest(),
        "looked_at": looked_at,
        "changed": len(changes),
        "from_to": dict(Counter(changes)),
    }
    note = f"Labels were corrected by review: {len(changes)} of {images} changed, {looked_at} looked at."
    recipe = {**card.recipe, "labels": [*card.recipe.get("labels", []), facts]}
    return replace(card, recipe=recipe, warnings=[*card.warnings, note])


def audit_main(
    source: str | Path, fix: bool = False, fixed: str | Path | None = None, table: str | Path | None = None
) -> int:
    """Audit a set, print what was found, and correct its split if asked to.

    Args:
        source: a set's name, folder, ``metadata.csv`` or ``.npz``.
        fix: write a copy with a corrected split.
        fixed: where; by default beside the prepared sets as ``<name>-fixed.npz``.
        table: write all pairs to this ``.csv``, and a page with pictures beside it.

    Returns:
        Exit code: 0 when there is no leakage (any more), 1 when there is.

    Raises:
        MedcoreError: a file that is no earlier result would be replaced.
    """
    from medcore.data.load import read_set

    path = Path(fixed) if fixed else None
    if path and Path(source).exists() and path.exists() and path.samefile(source):
        raise MedcoreError(f"--out {path} is the set itself: choose another name for the corrected one")
    ps = read_set(source)
    audited = audit(ps, step=lambda name: print(f"… {name}", flush=True))
    print(audited)
    if table:
        page = write_findings(ps, audited, Path(table))
        print(f"{len(audited.pairs):,} pairs in {table}, with pictures in {page}")
    if not fix:
        return 0 if audited.passed else 1
    path = path or _default_path(ps)
    corrected = fix_splits(ps, audited).save(path)
    again = audit(corrected)
    moved = corrected.card.recipe.get("split_fixed", {}).get("images_moved", 0)
    print(f"corrected split: {moved} images moved, none dropped; {len(corrected):,} images in {path}\n{again}")
    return 0 if again.passed else 1


def _one_side_each(linked: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """The side of each row after every linked group has gone where most of it is; blanks stay blank if all are."""
    counts = pd.crosstab(linked, pd.Categorical(splits, categories=SPLITS), dropna=False)
    counts = counts.reindex(columns=SPLITS, fill_value=0)
    home = counts.idxmax(axis=1).where(counts.sum(axis=1) > 0, "")  # the first of equals: train, val, test
    return home.loc[linked].to_numpy(dtype=str)


def _default_path(ps: PatchSet) -> Path:
    from medcore.data.source import data_home

    folder = data_home() / "prepared"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{ps.card.name}-fixed.npz"
