"""The leakage audit: does any image, or its copy, stand on two sides of the split, and what gives the class away?

Looks for patients on two sides; exact copies (equal pixels, whatever the file format); near copies (flipped, turned,
recompressed, resized, slightly brighter); images that share a part (crops, overlapping windows, recoloured, inverted,
framed or slightly turned copies, halves of montages, neighbouring slices); augmented copies by name; copies with
different labels; broken images; and anything in the table, the files or simple statistics that tells the class.
Before it reports nothing, it says what it would have found: ``power`` is the share of copies of each kind, planted into
this very set, that it recognises; what it cannot see stands beside it by name.

    python -c "from medcore.data.audit.audit import audit; from medcore import read_set; print(audit(read_set('x')))"
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from medcore.data.audit import copies as duplicates
from medcore.data.audit import findings
from medcore.data.audit.findings import Finding
from medcore.data.audit.hashing import Description, content_images, describe_images, low_frequencies
from medcore.data.audit.links import exact_pairs, named_pairs, pair_relations, turned_exact_pairs
from medcore.data.audit.planted import UNSEEN, plant
from medcore.data.audit.shared import Learnt, find_shared, name_kinds, shared_like
from medcore.data.audit.shortcuts import CONSTANT
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.splits import SPLITS

PLANTED, PLANTED_OF_MANY, MANY = 6, 16, 2000  # images copied in every way to measure the power; of sets above MANY
MOST_TURNED = 20_000  # flat images compared by exact turns
EXAMPLES = 12  # of each finding in the results file
SHOWN = 3  # of each finding in print
RARELY = 0.5  # share of planted copies below which a kind is called unseen
PLAIN_PAIR = {"symmetry": 0, "agreement": 1.0, "overlap": 1.0, "scale": 1.0, "degrees": 0.0, "inverted": False}


@dataclass(frozen=True)
class Audit:
    """What the audit found.

    Attributes:
        findings: worst first.
        pairs: copies found, one row a pair: ``a``, ``b`` (rows of the set, a < b), ``kind`` (exact, near, altered,
            overlap, slice, named), ``symmetry`` (what brings b onto a), ``agreement``, ``overlap`` (share
            of the smaller image), ``scale``, ``degrees``, ``inverted``, ``across`` (split), ``same_group`` (patient).
        images: how many images were looked at.
        flat: how many of them hold too little detail to be compared with others.
        power: planted kind of copy to (found, planted).
        sides: images on each side of the split that was judged; empty without a split.
        seconds: how long it took.
        set_name: of the set.
        fingerprint: of the set.
    """

    findings: list[Finding]
    pairs: pd.DataFrame
    images: int
    flat: int
    power: dict[str, tuple[int, int]] = field(default_factory=dict)
    sides: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    set_name: str = ""
    fingerprint: str = ""

    @property
    def verdict(self) -> str:
        """``leakage``, ``warnings`` or ``passed``."""
        severities = {finding.severity for finding in self.findings}
        return "leakage" if "leakage" in severities else "warnings" if "warning" in severities else "passed"

    @property
    def passed(self) -> bool:
        """Whether no leakage was found."""
        return self.verdict != "leakage"

    @property
    def unseen(self) -> list[str]:
        """Kinds of copies that this audit does not find in this set, and those it never looks for."""
        missed = [
            f"{kind} ({found} of {count})" for kind, (found, count) in self.power.items() if found < RARELY * count
        ]
        return [*missed, *UNSEEN] if self.power else []

    def table(self) -> pd.DataFrame:
        """One row per finding: severity, finding, count, and what it means."""
        rows = [(one.severity, one.kind, one.count, one.message) for one in self.findings]
        return pd.DataFrame(rows, columns=["severity", "finding", "count", "what it means"])

    def pair_table(self, ps: PatchSet) -> pd.DataFrame:
        """Every pair with file names, patients, sides and classes, those across the split first."""
        return findings.pair_table(ps, self.pairs)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types, with a few examples of each finding."""
        return {
            "verdict": self.verdict,
            "passed": self.passed,
            "findings": [
                {"severity": one.severity, "finding": one.kind, "count": one.count, "message": one.message}
                for one in self.findings
            ],
            "examples": {one.kind: one.examples[:EXAMPLES] for one in self.findings if one.examples},
            "images": self.images,
            "sides": self.sides,
            "too_flat_to_compare": self.flat,
            "power": {name: {"found": found, "planted": count} for name, (found, count) in self.power.items()},
            "unseen": self.unseen,
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        sides = ", ".join(f"{side} {count:,}" for side, count in self.sides.items()) or "no split"
        lines = [f"audit of {self.images:,} images ({sides}): {self.verdict}"]
        for one in self.findings:
            lines.append(f"  {one.severity:<8} {one.kind}: {one.message}")
            lines += [f"           {findings.example_line(example)}" for example in one.examples[:SHOWN]]
            lines += [f"           … and {one.count - SHOWN:,} more"] * (one.count > SHOWN and bool(one.examples))
        if self.power:
            found, planted = (sum(numbers) for numbers in zip(*self.power.values(), strict=True))
            lines.append(f"  power: {found} of {planted} copies planted into this set were recognised, of these kinds:")
            lines.append("    " + "; ".join(f"{kind} {hit}/{of}" for kind, (hit, of) in self.power.items()))
            lines.append(f"  not seen here or not looked for: {'; '.join(self.unseen)}")
        return "\n".join(lines)


def audit(
    ps: PatchSet, *, near: bool = True, shortcuts: bool = True, seed: int = 0, step: Callable[[str], None] | None = None
) -> Audit:
    """Look for leakage, conflicts, broken images and shortcuts.

    Args:
        ps: the set, with its split (an unassigned set is searched for copies between patients).
        near: look for near copies (flips, turns, recompression, resizing), not only for equal pixels.
        shortcuts: measure what colour, size and source alone tell about the class.
        seed: of the samples; the findings on copies do not depend on it in practice.
        step: called with the name of each step as it starts, for a progress display.

    Returns:
        Findings, pairs of copies and the verdict.
    """
    begun = time.perf_counter()
    say = step or (lambda name: None)
    say("reading every image")
    description = describe_images(ps)
    say("looking for copies and shared parts")
    pairs, flat, power = _all_pairs(ps, description, near=near, seed=seed)
    say("looking for shortcuts and broken images")
    found = [
        *findings.patient_findings(ps),
        *findings.copy_findings(ps, pairs),
        *findings.broken_findings(ps, description.statistics),
        *(findings.shortcut_findings(ps, description.statistics, seed=seed) if shortcuts else []),
        *findings.flat_findings(ps, flat),
    ]
    found.sort(key=lambda one: findings.SEVERITIES.index(one.severity))
    sides = {side: int((ps.splits == side).sum()) for side in SPLITS if (ps.splits == side).any()}
    seconds = time.perf_counter() - begun
    return Audit(found, pairs, len(ps), int(flat.sum()), power, sides, seconds, ps.card.name, ps.fingerprint)


def _all_pairs(
    ps: PatchSet, description: Description, *, near: bool, seed: int
) -> tuple[pd.DataFrame, np.ndarray, dict[str, tuple[int, int]]]:
    """Copies and shared parts, each pair once; which images are too flat; and the power of the search."""
    constant = description.statistics["widest range"].to_numpy(dtype=float) <= CONSTANT
    parts, flat = [exact_pairs(description.digests, constant).assign(kind="exact")], np.zeros(len(ps), bool)
    power: dict[str, tuple[int, int]] = {}
    if near and len(ps) > 1:
        comparer, rng = _comparer(ps, description, seed)
        close, flat = duplicates.find_copies(comparer, description.frequencies, description.detail)
        turned = turned_exact_pairs(ps, np.flatnonzero(flat & ~constant)[:MOST_TURNED])
        parts += [close.assign(kind="near"), turned.assign(kind="near")]
        shared, learnt = find_shared(ps, pd.concat(parts), seed=seed)
        parts.append(shared.assign(kind="shared"))
        power = _power(ps, description, comparer, learnt, flat, rng)
    parts.append(named_pairs(ps).assign(kind="named", symmetry=-1, agreement=np.nan))
    columns = ["a", "b", "kind", *PLAIN_PAIR]
    full = [part.assign(**{key: PLAIN_PAIR[key] for key in PLAIN_PAIR if key not in part})[columns] for part in parts]
    pairs = pd.concat([part for part in full if len(part)] or full[:1], ignore_index=True)
    low, high = pairs[["a", "b"]].min(axis=1), pairs[["a", "b"]].max(axis=1)
    pairs = pairs.assign(a=low, b=high).drop_duplicates(["a", "b"], ignore_index=True)  # exact before near, named last
    same = description.digests[pairs["a"].to_numpy(dtype=int)] == description.digests[pairs["b"].to_numpy(dtype=int)]
    pairs = pairs[~(pairs["kind"].isin(["near", "shared"]) & same)]  # further pairs of an exact group say nothing new
    pairs = pairs.astype({"a": int, "b": int, "symmetry": int, "inverted": bool}).reset_index(drop=True)
    return pair_relations(ps, pairs.assign(kind=name_kinds(ps, pairs))), flat, power


def _comparer(ps: PatchSet, description: Description, seed: int) -> tuple[duplicates.Comparer, np.random.Generator]:
    """What copying does to some images of the set."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(ps), min(duplicates.SAMPLE, len(ps)), replace=False))
    return duplicates.learn_comparer(description.frequencies, content_images(ps, rows), rows), rng


def _power(
    ps: PatchSet, description: Description, comparer: duplicates.Comparer, learnt: Learnt, flat: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, tuple[int, int]]:  # fmt: skip
    """Plant copies of random images of this set and count which would be recognised."""
    usable = np.flatnonzero(~flat)
    if not len(usable):
        return {}
    rows = rng.choice(usable, min(PLANTED if len(ps) <= MANY else PLANTED_OF_MANY, len(usable)), replace=False)
    images, truth = plant(content_images(ps, rows), rng)
    first, second = (np.array([pair[end] for pair in truth]) for end in (0, 1))
    table = pd.DataFrame({"label": np.zeros(len(images), int)})
    planted = PatchSet.from_arrays(images, table, Card(name="planted", classes=["any"]))
    shared = shared_like(planted, np.stack([first, second], axis=1), learnt)
    hits = set(zip(shared["a"], shared["b"], strict=True))
    frequencies = low_frequencies(images, description.frequencies.shape[1])
    detail = np.resize(description.detail[rows], len(images))  # of the originals; copies are compared as they are
    close = duplicates.recognised(comparer, frequencies[first], frequencies[second], detail[first])
    power: dict[str, tuple[int, int]] = {}
    for (a, b, kind), near in zip(truth, close, strict=True):
        found, count = power.get(kind, (0, 0))
        power[kind] = (found + bool(near or (a, b) in hits), count + 1)
    return power
