"""From pairs and statistics to findings: what was found, how bad it is, and what it means for a result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from medcore.data.audit.hashing import SYMMETRIES
from medcore.data.audit.shortcuts import CORNERS, broken_images, column_scores, cue_table, cue_values, shortcut_score
from medcore.data.patchset import PatchSet
from medcore.data.splits import SPLITS, group_names, unit_of
from medcore.data.targets import in_thirds

SHARED = ("altered", "overlap", "slice")  # kinds that are found by a part of the image
DOUBTFUL = 0.1  # share of pairs with different labels from which on a shared part need not be shared tissue
MARKS = "what they share may be marks of an instrument or texture; look at the pictures before you believe either."
SEVERITIES = ("leakage", "warning", "info")
SHORTCUT = 0.4  # share of the way from chance to perfect at which a shortcut becomes a warning
SHOWN = 50  # examples kept in a finding
KINDS = {
    "exact": "exact copies",
    "near": "near copies",
    "altered": "altered copies",
    "overlap": "overlapping images",
    "slice": "neighbouring slices or frames",
    "named": "augmented copies",
}
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
    if placed.empty and len(ps):
        text = "The set has no split yet: nothing could be judged across its sides, only copies between its images."
        found.append(Finding("no split", "info", len(ps), text))
    if not ps.card.patients_known:
        text = "No patients are known: images of one patient may stand on both sides, and nobody can check."
        found.append(Finding("patients unknown", "warning", len(ps), text))
    return found


def copy_findings(ps: PatchSet, pairs: pd.DataFrame) -> list[Finding]:
    """Copies across the split, between patients, inside a patient; copies whose labels disagree."""
    found, doubted = [], []
    unit = "linked group" if "linked" in ps.columns else unit_of(ps)
    for kind, name in KINDS.items():
        part = pairs[pairs["kind"] == kind]
        across = part[part["across"]]
        between = part[~part["across"] & ~part["same_group"]]
        inside = part[~part["across"] & part["same_group"]]
        severity, meaning = "leakage", _sides_between(ps, across)
        differing = _share_in_conflict(ps, across)
        if kind in SHARED and differing > DOUBTFUL:
            doubted.append(kind)
            severity, meaning = "warning", f"{differing:.0%} of them have different labels: {MARKS}"
        found += _pair_finding(ps, across, f"{name} across the split", severity, meaning)
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
    conflicting = _conflicting(ps, pairs[~pairs["kind"].isin(doubted)])
    text = "The same picture has two labels: one is wrong, or the class cannot be seen in it."
    return found + _pair_finding(ps, conflicting, "copies with different labels", "warning", text)


def _share_in_conflict(ps: PatchSet, pairs: pd.DataFrame) -> float:
    """Share of labelled pairs whose labels differ: of true copies hardly any do."""
    first, second = (ps.labels[pairs[end].to_numpy(dtype=int)] for end in "ab")
    known = (first >= 0) & (second >= 0)
    return float((first != second)[known].mean()) if known.any() else 0.0


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
    """How far simple statistics, corners, files and columns alone tell the class, each finding, or a value."""
    if ps.card.task == "findings":
        return [one for k in range(len(ps.classes)) for one in _shortcuts_of(ps, k, statistics, seed)]
    if ps.card.task == "regression":
        return _named(shortcut_findings(in_thirds(ps), statistics, seed=seed), f"the third of {ps.classes[0]}")
    if len(set(ps.labels) - {-1}) < 2:
        return []
    cues, single = cue_values(ps, statistics), cue_table(ps, statistics)
    families: dict[str, tuple[str, list[str]]] = {
        "class told by simple statistics": ("colour, contrast, sharpness, size", [str(name) for name in cues]),
        "class told by the corners": ("marks and contrast in the corners", [name for name in CORNERS if name in cues]),
    }
    found = []
    for kind, (what, names) in families.items():
        score = shortcut_score(ps, cues[names], seed=seed)
        best = single[single["cue"].isin(names)].head(3)
        if score is None:
            continue
        telling = "; ".join(f"{row.cue} for {row['class']}, AUROC {row.auroc:.2f}" for _, row in best.iterrows())
        text = (
            f"A few numbers per image ({what}) reach {score[0]:.0%} balanced accuracy on unseen {unit_of(ps)}s "
            f"(chance {score[1]:.0%}). Most telling: {telling}."
        )
        strong = _strength(*score) >= SHORTCUT
        if strong or kind == "class told by simple statistics":
            severity = "warning" if strong else "info"
            found.append(Finding(kind, severity, 1, text, examples=_records(best)))
    for row in column_scores(ps, seed=seed).to_dict("records"):
        name, reached, chance = row["column"], row["balanced_accuracy"], row["chance"]
        if _strength(reached, chance) >= SHORTCUT:
            text = (
                f"The {name} alone tells the class of unseen {unit_of(ps)}s with {reached:.0%} balanced accuracy "
                f"(chance {chance:.0%}): whatever goes along with it, a model may learn instead."
            )
            found.append(Finding(f"class told by {name}", "warning", 1, text))
    return found


def _shortcuts_of(ps: PatchSet, number: int, statistics: pd.DataFrame, seed: int) -> list[Finding]:
    """What alone tells one of several findings an image; the images where it is not known play no part."""
    name, card = ps.classes[number], replace(ps.card, task="classification", classes=["absent", "present"], abnormal=[])
    stated = np.maximum(ps.findings[:, number], -1)
    return _named(shortcut_findings(ps.with_card(card).with_columns(label=stated), statistics, seed=seed), name)


def _named(found: list[Finding], name: str) -> list[Finding]:
    """Findings that say what is told in place of "the class"."""
    return [
        replace(
            one,
            kind=f"{name} {one.kind.removeprefix('class ')}",
            message=one.message.replace("tells the class", f"tells {name}"),
        )
        for one in found
    ]


def _strength(reached: float, chance: float) -> float:
    """Share of the way from chance to perfect."""
    return (reached - chance) / (1 - chance)


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
    """Copies with two different labels; overlapping images and neighbouring slices may well have two."""
    if pairs.empty:
        return pairs
    a, b = ps.labels[pairs["a"].to_numpy(dtype=int)], ps.labels[pairs["b"].to_numpy(dtype=int)]
    return pairs[(a >= 0) & (b >= 0) & (a != b) & ~pairs["kind"].isin(["overlap", "slice"])]


def how_alike(pair: Mapping[Any, Any]) -> str:
    """What brings one image of a pair onto the other, in a few words."""
    if pair["kind"] == "named":
        return "by name"
    words = [] if pair["symmetry"] == 0 else [SYMMETRIES[int(pair["symmetry"])]]
    if pair["kind"] in ("altered", "overlap", "slice"):
        words += [f"{pair['overlap']:.0%} shared"] * (pair["overlap"] < 0.95)
        words += [f"size × {pair['scale']:.2f}"] * (abs(pair["scale"] - 1) > 0.03)
        words += [f"turned by {pair['degrees']:.0f}°"] * (abs(pair["degrees"]) >= 1)
        words += ["bright for dark"] * bool(pair["inverted"])
    return ", ".join(words) or SYMMETRIES[0]


def example_line(example: Mapping[str, Any]) -> str:
    """An example as one line of text."""
    if "file_a" in example:
        files = [f"{example[f'file_{end}']} ({example[f'side_{end}'] or 'no side'})" for end in "ab"]
        text = f"{' | '.join(files)}: {example['how']}"
    else:
        values = {key: " and ".join(value) if isinstance(value, list) else value for key, value in example.items()}
        text = ", ".join(f"{key}: {value}" for key, value in values.items())
    return printable(text)


def printable(text: str) -> str:
    """The text with line breaks, escapes and half characters shown, not obeyed."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def pair_table(ps: PatchSet, pairs: pd.DataFrame) -> pd.DataFrame:
    """All pairs with file names, patients, sides and classes: what ``findings.csv`` holds."""
    table = pd.DataFrame({"kind": pairs["kind"], "across_split": pairs["across"], "same_group": pairs["same_group"]})
    columns = {"file": ps.column("source"), "group": group_names(ps), "side": ps.splits, "class": ps.label_names}
    for letter in "ab":
        rows = pairs[letter].to_numpy(dtype=int)
        for name, values in {**columns, "row": np.arange(len(ps))}.items():
            table[f"{name}_{letter}"] = values[rows]
    table["how"] = [how_alike(pair) for pair in pairs.to_dict("records")]
    for name in ("agreement", "overlap", "scale", "degrees", "inverted"):
        table[name] = pairs[name]
    order = table["across_split"].map({True: 0, False: 1}) * 2 + table["same_group"]
    return table.iloc[np.argsort(order.to_numpy(), kind="stable")].round(3)


def _pair_examples(ps: PatchSet, pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """A few pairs as plain values."""
    unit = unit_of(ps)
    examples = []
    for row in pair_table(ps, pairs).to_dict("records"):
        example: dict[str, Any] = {"how": row["how"]}
        if row["kind"] not in ("exact", "named"):
            example["agreement"] = float(row["agreement"])
        for letter in "ab":
            names = {"file": "file", unit: "group", "side": "side", "class": "class"}
            example |= {f"{name}_{letter}": str(row[f"{source}_{letter}"]) for name, source in names.items()}
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
