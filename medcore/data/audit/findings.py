"""From pairs and statistics to findings: what was found, how bad it is, and what it means for a result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from medcore.data.audit.hashing import SYMMETRIES
from medcore.data.audit.shortcuts import broken_images, cue_table, shortcut_score, source_association
from medcore.data.patchset import PatchSet
from medcore.data.splits import SPLITS, group_names, unit_of

SEVERITIES = ("leakage", "warning", "info")
SHORTCUT = 0.4  # share of the way from chance to perfect at which a shortcut becomes a warning
ASSOCIATION = 0.5  # Cramér's V at which a source becomes a warning
SHOWN = 50  # examples kept in a finding
BROKEN = {
    "constant": ("warning", "one value everywhere; such images teach nothing"),
    "narrow range": ("info", "all values within 8 grey levels; empty, or badly scaled"),
    "dead channel": ("warning", "one colour channel is constant while others vary"),
    "clipped channel": ("warning", "one colour channel sits at its end in more than half of the pixels"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: what, in a few words; the same words for the same thing in every set.
        severity: ``leakage`` (a result on this split cannot be believed), ``warning`` or ``info``.
        count: how many patients, pairs or images.
        message: what it means, in one or two sentences.
        rows: rows of the set. **Shape** ``(n,)``, or ``(n, 2)`` for pairs.
        examples: a few, as plain values with file names.
    """

    kind: str
    severity: str
    count: int
    message: str
    rows: np.ndarray = field(repr=False, default_factory=lambda: np.zeros(0, int))
    examples: list[dict[str, Any]] = field(repr=False, default_factory=list)


def patient_findings(ps: PatchSet) -> list[Finding]:
    """Patients on two sides, or no patients at all."""
    groups, unit = group_names(ps), unit_of(ps)
    frame = pd.DataFrame({"group": groups, "side": ps.splits})
    placed = frame[frame["side"] != ""].drop_duplicates()
    torn = sorted(placed["group"][placed["group"].duplicated()].unique())
    found = []
    if torn:
        rows = np.flatnonzero(np.isin(groups, torn))
        sides = {name: placed["side"][placed["group"] == name] for name in torn[:SHOWN]}
        examples = [{unit: name, "sides": _ordered(where)} for name, where in sides.items()]
        text = (
            f"{len(torn):,} {_many(unit, len(torn))} ({len(rows):,} images) stand on more than one side of the split."
        )
        found.append(Finding(f"{unit} on two sides", "leakage", len(torn), text, rows, examples))
    if not ps.card.patients_known:
        text = "No patients are known: images of one patient may stand on both sides, and nobody can check."
        found.append(Finding("patients unknown", "warning", len(ps), text))
    return found


def copy_findings(ps: PatchSet, pairs: pd.DataFrame) -> list[Finding]:
    """Copies across the split, between patients, inside a patient; copies whose labels disagree."""
    found = []
    names = {"exact": "exact copies", "near": "near copies", "named": "augmented copies"}
    unit = "linked group" if "linked" in ps.columns else unit_of(ps)
    for kind, name in names.items():
        part = pairs[pairs["kind"] == kind]
        across = part[part["across"]]
        between = part[~part["across"] & ~part["same_group"]]
        inside = part[~part["across"] & part["same_group"]]
        found += _pair_finding(ps, across, f"{name} across the split", "leakage", _sides_between(ps, across))
        found += _pair_finding(
            ps,
            between,
            f"{name} between {unit}s",
            "warning",
            f"They may be one {unit} under two names; any new split must keep them together.",
        )
        found += _pair_finding(
            ps, inside, f"{name} within one {unit}", "info", "They count more than once, but cannot leak."
        )
    conflicting = _conflicting(ps, pairs)
    text = "The same picture has two labels: one is wrong, or the class cannot be seen in it."
    return found + _pair_finding(ps, conflicting, "copies with different labels", "warning", text)


def broken_findings(ps: PatchSet, statistics: pd.DataFrame) -> list[Finding]:
    """Images that cannot be right."""
    found = []
    for kind, rows in broken_images(statistics).items():
        severity, text = BROKEN[kind]
        found.append(
            Finding(f"{kind} images", severity, len(rows), f"{text[0].upper()}{text[1:]}.", rows, _files(ps, rows))
        )
    return found


def shortcut_findings(ps: PatchSet, statistics: pd.DataFrame, *, seed: int = 0) -> list[Finding]:
    """How far colour, contrast, size and source alone tell the class."""
    if len(set(ps.labels) - {-1}) < 2:
        return []
    found = []
    score = shortcut_score(ps, statistics, seed=seed)
    if score is not None:
        reached, chance = score
        best = cue_table(ps, statistics).head(3)
        telling = "; ".join(f"{row.cue} for {row['class']}, AUROC {row.auroc:.2f}" for _, row in best.iterrows())
        text = (
            f"A few numbers per image (colour, contrast, sharpness, size) reach {reached:.0%} balanced accuracy on "
            f"unseen {unit_of(ps)}s (chance {chance:.0%}). Most telling: {telling}."
        )
        severity = "warning" if (reached - chance) / (1 - chance) >= SHORTCUT else "info"
        found.append(Finding("class told by simple statistics", severity, 1, text, examples=_records(best)))
    for column, strength in source_association(ps):
        if strength >= ASSOCIATION:
            text = f"Column '{column}' goes along with the class (Cramér's V {strength:.2f}): a model may learn it."
            found.append(Finding("class told by source", "warning", 1, text))
    return found


def flat_findings(ps: PatchSet, flat: np.ndarray) -> list[Finding]:
    """Images that could not be compared."""
    rows = np.flatnonzero(flat)
    if not len(rows):
        return []
    text = f"{len(rows):,} of {len(ps):,} images hold so little detail that only equal pixels can be told from chance."
    return [Finding("images too flat to compare", "info", len(rows), text, rows, _files(ps, rows))]


def _pair_finding(ps: PatchSet, pairs: pd.DataFrame, kind: str, severity: str, meaning: str) -> list[Finding]:
    """A finding about pairs, or none."""
    if pairs.empty:
        return []
    images = len(set(pairs["a"]) | set(pairs["b"]))
    text = f"{len(pairs):,} {_many('pair', len(pairs))} of {images:,} images. {meaning}"
    rows = pairs[["a", "b"]].to_numpy(dtype=int)
    return [Finding(kind, severity, len(pairs), text, rows, _pair_examples(ps, pairs.head(SHOWN)))]


def _sides_between(ps: PatchSet, pairs: pd.DataFrame) -> str:
    """Between which sides the pairs lie, and what that spoils."""
    ends = [ps.splits[pairs[end].to_numpy(dtype=int)] for end in "ab"]
    ways = pd.Series([" and ".join(_ordered(both)) for both in zip(*ends, strict=True)]).value_counts()
    counts = ", ".join(f"{count:,} between {way}" for way, count in ways.items())
    return f"{counts}: a result on one side is not independent of the other."


def _conflicting(ps: PatchSet, pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs of equal or nearly equal pixels with two different labels."""
    if pairs.empty:
        return pairs
    a, b = ps.labels[pairs["a"].to_numpy(dtype=int)], ps.labels[pairs["b"].to_numpy(dtype=int)]
    return pairs[(a >= 0) & (b >= 0) & (a != b)]


def _pair_examples(ps: PatchSet, pairs: pd.DataFrame) -> list[dict[str, Any]]:
    source, groups, names = ps.column("source"), group_names(ps), ps.label_names
    examples = []
    for pair in pairs.to_dict("records"):
        example: dict[str, Any] = {"how": SYMMETRIES[pair["symmetry"]] if pair["symmetry"] >= 0 else "by name"}
        if pair["kind"] == "near":
            example["agreement"] = round(float(pair["agreement"]), 3)
        for letter in "ab":
            row = int(pair[letter])
            example |= {
                f"file_{letter}": str(source[row]),
                f"{unit_of(ps)}_{letter}": str(groups[row]),
                f"side_{letter}": str(ps.splits[row]),
                f"class_{letter}": str(names[row]),
            }
        examples.append(example)
    return examples


def _files(ps: PatchSet, rows: np.ndarray) -> list[dict[str, Any]]:
    source = ps.column("source")
    return [{"file": str(source[row]), "class": str(ps.label_names[row])} for row in rows[:SHOWN]]


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.round(4).to_dict("records")]


def _ordered(sides: Iterable[str]) -> list[str]:
    return sorted(sides, key=SPLITS.index)


def _many(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
