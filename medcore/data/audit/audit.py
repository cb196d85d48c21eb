"""The leakage audit: does any image, or its copy, stand on two sides of the split, and what gives the class away?

Looks for patients on two sides; exact copies (equal pixels, whatever the file format); near copies (flipped, turned,
recompressed, resized, slightly brighter); augmented copies by name; copies with different labels; broken images; and
colour, size or source statistics that tell the class. Before it reports nothing, it says what it would have found:
``power`` is the share of copies, planted into this very set, that it recognises.

    python -c "from medcore.data.audit.fix import audit_main; audit_main('phantom-crc')"
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
from medcore.data.audit.hashing import Description, apply_symmetry, content_images, describe, low_frequencies
from medcore.data.audit.links import exact_pairs, named_pairs, pair_relations, turned_exact_pairs
from medcore.data.audit.shortcuts import CONSTANT
from medcore.data.patchset import PatchSet

PLANTED = 200  # copies planted to measure the power
MOST_TURNED = 20_000  # flat images compared by exact turns
EXAMPLES = 12  # of each finding in the results file


@dataclass(frozen=True)
class Audit:
    """What the audit found.

    Attributes:
        findings: worst first.
        pairs: copies found, one row a pair: ``a``, ``b`` (rows of the set, a < b), ``kind`` (exact, near, named),
            ``symmetry`` (what brings b onto a), ``agreement``, ``difference``, ``across`` (the split),
            ``same_group`` (patient).
        images: how many images were looked at.
        flat: how many of them hold too little detail to be compared with others.
        power: planted manipulation to (found, planted).
        seconds: how long it took.
        set_name: of the set.
        fingerprint: of the set.
    """

    findings: list[Finding]
    pairs: pd.DataFrame
    images: int
    flat: int
    power: dict[str, tuple[int, int]] = field(default_factory=dict)
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

    def table(self) -> pd.DataFrame:
        """One row per finding: severity, finding, count, and what it means."""
        rows = [(one.severity, one.kind, one.count, one.message) for one in self.findings]
        return pd.DataFrame(rows, columns=["severity", "finding", "count", "what it means"])

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
            "too_flat_to_compare": self.flat,
            "power": {name: {"found": found, "planted": count} for name, (found, count) in self.power.items()},
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        lines = [f"audit of {self.images:,} images: {self.verdict}"]
        lines += [f"  {one.severity:<8} {one.kind}: {one.message}" for one in self.findings]
        if self.power:
            found, planted = (sum(numbers) for numbers in zip(*self.power.values(), strict=True))
            lines.append(f"  power: {found} of {planted} copies planted into this set were recognised")
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
    description = describe(ps)
    say("looking for copies")
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
    return Audit(
        found, pairs, len(ps), int(flat.sum()), power, time.perf_counter() - begun, ps.card.name, ps.fingerprint
    )


def _all_pairs(
    ps: PatchSet, description: Description, *, near: bool, seed: int
) -> tuple[pd.DataFrame, np.ndarray, dict[str, tuple[int, int]]]:
    """Exact, near and named copies, each pair once; which images are too flat; and the power of the search."""
    constant = description.statistics["widest range"].to_numpy(dtype=float) <= CONSTANT
    exact = exact_pairs(description.digests, constant).assign(kind="exact", symmetry=0, agreement=1.0, difference=0.0)
    parts, flat = [exact], np.zeros(len(ps), bool)
    power: dict[str, tuple[int, int]] = {}
    if near and len(ps) > 1:
        close, flat, power = _near_pairs(ps, description, seed)
        turned = turned_exact_pairs(ps, np.flatnonzero(flat & ~constant)[:MOST_TURNED])
        parts += [close.assign(kind="near"), turned.assign(kind="near", agreement=1.0, difference=0.0)]
    parts.append(named_pairs(ps).assign(kind="named", symmetry=-1, agreement=np.nan, difference=np.nan))
    pairs = pd.concat([part for part in parts if len(part)] or [parts[0]], ignore_index=True)
    low, high = pairs[["a", "b"]].min(axis=1), pairs[["a", "b"]].max(axis=1)
    pairs = pairs.assign(a=low, b=high).drop_duplicates(["a", "b"], ignore_index=True)  # exact before near before named
    same = description.digests[pairs["a"].to_numpy(dtype=int)] == description.digests[pairs["b"].to_numpy(dtype=int)]
    pairs = pairs[~((pairs["kind"] == "near") & same)]  # further pairs of an exact group say nothing new
    return pair_relations(ps, pairs.reset_index(drop=True)), flat, power


def _near_pairs(
    ps: PatchSet, description: Description, seed: int
) -> tuple[pd.DataFrame, np.ndarray, dict[str, tuple[int, int]]]:
    """Near copies, flat images, and the power."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(ps), min(duplicates.SAMPLE, len(ps)), replace=False))
    comparer = duplicates.learn_comparer(description.frequencies, content_images(ps, rows), rows)
    pairs, flat = duplicates.find_copies(comparer, description.frequencies, description.detail)
    return pairs, flat, _power(ps, description, comparer, flat, rng)


def _power(
    ps: PatchSet, description: Description, comparer: duplicates.Comparer, flat: np.ndarray, rng: np.random.Generator
) -> dict[str, tuple[int, int]]:
    """Plant copies of random images of this set and count which would be recognised."""
    usable = np.flatnonzero(~flat)
    if not len(usable):
        return {}
    power = {}
    for name, copied in MANIPULATIONS.items():
        rows = rng.choice(usable, min(PLANTED // len(MANIPULATIONS), len(usable)), replace=False)
        images = content_images(ps, rows)
        copies = low_frequencies(copied(images, rng), description.frequencies.shape[1])
        hit = duplicates.recognised(comparer, description.frequencies[rows], copies, description.detail[rows])
        power[name] = (int(hit.sum()), len(rows))
    return power


def _flipped_or_turned(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image in a random other position (square images; others only flipped)."""
    numbers = rng.integers(1, 8 if images.shape[1] == images.shape[2] else 4, len(images))
    return np.stack([apply_symmetry(image, number) for image, number in zip(images, numbers, strict=True)])


def _brightened(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image 5 grey levels brighter or darker."""
    shift = rng.choice([-5, 5], (len(images), 1, 1, 1))
    return np.clip(images.astype(np.int16) + shift, 0, 255).astype(np.uint8)


MANIPULATIONS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "flipped or turned": _flipped_or_turned,
    "JPEG quality 30": lambda images, rng: duplicates.recompressed(images, 30),
    "JPEG quality 75": lambda images, rng: duplicates.recompressed(images, 75),
    "resized to half": lambda images, rng: duplicates.scaled_and_back(images, 0.5),
    "resized to double": lambda images, rng: duplicates.scaled_and_back(images, 2.0),
    "5 grey levels brighter or darker": _brightened,
    "flipped, halved and JPEG 50": lambda images, rng: duplicates.recompressed(
        duplicates.scaled_and_back(_flipped_or_turned(images, rng), 0.5), 50
    ),
}
