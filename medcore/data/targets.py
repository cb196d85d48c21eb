"""Images with a grade or a measured value in place of a class: which column says it, and what its cells mean.

read_set("metadata.csv", grade="isup")     # ordered classes; ``labels`` are their places, lowest first
read_set("metadata.csv", value="age")      # ``values``: a number an image, NaN where it is not known
question_views(patches)                    # the same images asked one plain question at a time
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.card import Card
from medcore.data.npzfile import TARGET, Columns
from medcore.data.patchset import PatchSet
from medcore.data.readers.arrays import is_patchset
from medcore.data.readers.listing import Listing, listed
from medcore.data.readers.tables import is_missing
from medcore.errors import MedcoreError

MOST_GRADES = 20  # more different ones are measured
LARGEST = 1e6  # a checkpoint keeps mean and spread of the values, and no larger number
TABLES = (".csv", ".tsv", ".tab", ".xlsx")
CODES = (9, 99, 999, 9999, -1, -9, -99, -999)  # for "not known" in questionnaires
NUMBERED = re.compile(r"(\D*?)\s*(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Asked:
    """Which column is asked for, as what, and the grades from lowest to highest where they were named."""

    task: str
    column: str
    order: tuple[str, ...] = ()

    @classmethod
    def pop(cls, options: dict[str, Any]) -> Asked | None:
        """Take ``grade`` or ``value`` (and the order ``classes`` of grades) out of the options of reading.

        Raises:
            MedcoreError: Both are asked for, or findings with one of them.
        """
        grade, value = options.pop("grade", None), options.pop("value", None)
        if grade is None and value is None:
            return None
        if (grade is not None and value is not None) or "findings" in options:
            raise MedcoreError("grade, value and findings are three questions; read one of them (--grade, --value)")
        if grade is None:
            return cls("regression", str(value))
        return cls("ordinal", str(grade), tuple(options.pop("classes", ())))

    def of(self, columns: Columns, card: Card) -> tuple[Columns, Card]:
        """The columns and the card of a set that answers this question.

        Raises:
            MedcoreError: The column is not there, or does not hold what is asked for.
        """
        again = card.task == "regression" and self.column not in card.classes  # another column of a set of values
        name = self.column if again or TARGET not in columns else TARGET
        if name not in columns:
            raise MedcoreError(f"set {card.name!r} has no column {self.column!r}; it has {', '.join(sorted(columns))}")
        where, cells = f"set {card.name!r}, column {self.column!r}", np.asarray(columns[name])
        if name == "label":
            cells = np.array([*card.classes, ""])[cells]
        kept = {key: values for key, values in columns.items() if key != TARGET}
        if self.task == "ordinal":
            texts = _texts(cells)
            names = _in_order(texts, self.order, where)
            place = {grade: number for number, grade in enumerate(names)}
            labels = np.array([place.get(text, -1) for text in texts], dtype=np.int64)
            said = f"{len(names)} grades, {' < '.join(names)}; {int((labels < 0).sum())} images have none"
            found = {"label": labels}
        else:
            names, values = [self.column], _numbers(cells, where)
            known = values[np.isfinite(values)]
            said = f"a measured value, {known.min():g} to {known.max():g}; {len(values) - len(known)} images have none"
            found = {"label": np.full(len(values), -1, dtype=np.int64), TARGET: values}
        said = f"column {self.column!r} is read as {said}"
        recipe = {**card.recipe, "target": self.column}
        facts: dict[str, Any] = {"task": self.task, "classes": names, "abnormal": [], "recipe": recipe}
        return kept | found, replace(card, **facts, reading=[*card.reading, said])

    def of_listing(self, listing: Listing) -> Listing:
        """The listing of a source that answers this question; its masks play no part."""
        if listing.rows is not None:
            listing.rows.columns, listing.card = self.of(listing.rows.columns, listing.card)
            listing.rows.masks = None
        else:
            names = dict.fromkeys(name for item in listing.items for name in item.columns)
            table = {name: np.array([item.columns.get(name, "") for item in listing.items]) for name in names}
            made, listing.card = self.of(table, listing.card)
            for row, item in enumerate(listing.items):
                item.columns = {name: values[row].item() for name, values in made.items()}
                item.mask, item.mask_label, item.parts = None, None, ()
        listing.problems.note(listing.card.reading[-1])
        listing.mask_rule = None
        return listing

    def of_set(self, ps: PatchSet) -> PatchSet:
        """A made set that answers this question, in memory; its masks play no part."""
        columns, card = self.of({name: ps.column(name) for name in ps.columns}, ps.card)
        return PatchSet(ps.store, columns, card, index=ps.index)


def asked_again(manifest: dict[str, Any], source: Path) -> dict[str, Any]:
    """The options of ``read_set`` by which a cohort is asked what a model was trained on; none where it says so itself.

    Args:
        manifest: Of a checkpoint: ``task``, ``classes`` and ``preprocessing``.
        source: As for ``read_set``.
    """
    task, classes = manifest.get("task"), list(manifest.get("classes", ()))
    if task == "findings":
        table = source.suffix.lower() in TABLES or any((source / f"metadata{ending}").is_file() for ending in TABLES)
        return {"findings": classes} if table else {}
    column = manifest.get("preprocessing", {}).get("target")
    own = source.suffix == ".npz" and source.is_file() and is_patchset(source)
    if column is None or (own and PatchSet.open(source).card.task == task):
        return {}
    return {"value": column} if task == "regression" else {"grade": column, "classes": classes}


def _texts(cells: np.ndarray) -> list[str]:
    """Cells as names, numbers without a trailing ``.0``; missing ones empty."""
    if cells.dtype.kind == "f":
        return ["" if np.isnan(cell) else f"{cell:g}" for cell in cells]
    return ["" if is_missing(text) else text.strip() for text in map(str, cells.tolist())]


def _in_order(texts: Sequence[str], order: Sequence[str], where: str) -> list[str]:
    names = sorted(set(texts) - {""})
    strange = [name for name in names if order and name not in order]
    if strange or len(set(order)) < len(order):
        raise MedcoreError(f"{where}: {listed(strange or list(order))} against the order {', '.join(order)} "
                           "(--classes); name every grade once")  # fmt: skip
    if not 2 <= len(names) <= MOST_GRADES:
        raise MedcoreError(f"{where} holds {len(names)} different grades ({listed(names, 5)}); from 2 to {MOST_GRADES} "
                           "can be told apart. A number that is measured is read with --value")  # fmt: skip
    if order:
        return list(order)
    found = [NUMBERED.fullmatch(name) for name in names]
    if not all(found) or len({match[1] for match in found if match}) > 1:
        raise MedcoreError(f"{where}: the grades {listed(names, 8)} say no order; name all of them from the lowest to "
                           "the highest: --classes LOW,…,HIGH (in Python classes=[…])")  # fmt: skip
    places = [float(match[2]) for match in found if match]
    return [names[k] for k in np.argsort(places, kind="stable")]


def _numbers(cells: np.ndarray, where: str) -> np.ndarray:
    if cells.dtype.kind not in "iufb":
        odd = next((text for text in map(str, cells.tolist()) if not is_missing(text) and not _a_number(text)), "")
        raise MedcoreError(f"{where} holds {odd!r}, which is no number; write numbers, or nothing where it is unknown")
    values = cells.astype(np.float64)
    known = np.unique(values[~np.isnan(values)])
    if len(known) < 2 or not np.isfinite(known).all() or np.abs(known).max() > LARGEST:
        raise MedcoreError(f"{where} must hold two or more different numbers from {-LARGEST:g} to {LARGEST:g}, not "
                           f"{listed([f'{value:g}' for value in known[[0, -1]]] if len(known) else [])}")  # fmt: skip
    for end, rest in ((known[0], known[1:]), (known[-1], known[:-1])):
        gap = np.abs(rest - end).min()
        if end in CODES and len(rest) > 2 and gap > np.ptp(rest):
            raise MedcoreError(f"{where}: {end:g} lies far from all other values ({rest[0]:g} to {rest[-1]:g}) and may "
                               "mean 'not known'; empty these cells")  # fmt: skip
    return values


def _a_number(text: str) -> bool:
    try:
        return np.isfinite(float(text.replace(",", ".")))
    except ValueError:
        return False


def in_thirds(ps: PatchSet) -> PatchSet:
    """A set of measured values with the classes ``low``, ``middle`` and ``high``: thirds of its values."""
    card = replace(ps.card, task="classification", classes=["low", "middle", "high"], abnormal=[])
    return ps.with_card(card).with_columns(label=bands(ps.values, 3))


def bands(values: np.ndarray, count: int) -> np.ndarray:
    """Which of ``count`` bands of about equally many values each lies in, -1 for NaN. **Shape** ``(N,)`` int64."""
    known = np.isfinite(values)
    edges = np.quantile(values[known], np.linspace(0, 1, count + 1)[1:-1]) if known.any() else np.zeros(count - 1)
    return np.where(known, np.searchsorted(edges, values, side="left"), -1).astype(np.int64)


def strata(ps: PatchSet) -> np.ndarray:
    """What splits are balanced by: label, rarest finding that is there, or fifth of the values. **Shape** ``(N,)``."""
    if ps.card.task == "regression":
        return bands(ps.values, 5)
    if ps.card.task != "findings":
        return ps.labels
    present = ps.shown
    rarest = np.argsort(present.sum(axis=0), kind="stable")
    return np.where(present.any(axis=1), rarest[present[:, rarest].argmax(axis=1)], -1)
