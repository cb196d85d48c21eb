"""Case mix: what a cohort consists of, small enough to travel in a model folder, and two cohorts side by side.

facts = describe_mix(patches)            # shares, means and spreads: no name, no image
mix_table(facts, describe_mix(cohort_b))
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from medcore.data.patchset import PatchSet
from medcore.data.splits import group_names, unit_of

TOLD = ("diagnosis", "sex", "age", "site", "scanner", "localization", "grade", "dx_type", "stain", "hospital")
MOST_VALUES = 12  # of a column of names; more would name patients
MOST_IMAGES = 400  # whose colours are looked at, drawn evenly


def describe_mix(patches: PatchSet) -> dict[str, Any]:
    """Counts, class shares, colours, sharpness and the columns that say who the patients are, as plain JSON types.

    A value that fewer than two patients have is not told: it could name one.
    """
    count = len(patches)
    known = patches.labels[patches.labels >= 0]
    shares = np.bincount(known, minlength=len(patches.classes)) / max(1, len(known))
    rows = np.unique(np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(int))
    pixels = patches.take(rows).astype(np.float32)
    means = pixels.mean((1, 2))
    grey = pixels.mean(3)
    edges = np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey, axis=2)).mean((1, 2))
    names = ("red", "green", "blue") if patches.shape[2] == 3 else ("grey",)
    values = {f"mean {name}": means[:, k] for k, name in enumerate(names)} | {"mean step between pixels": edges}
    return {
        "unit": unit_of(patches),
        "images": count,
        "patients": len(set(group_names(patches).tolist())),
        "size": list(patches.shape[:2]),
        "classes": dict(zip(patches.classes, shares.round(4).tolist(), strict=True)) if len(known) else {},
        "pixels": {name: [round(float(v.mean()), 2), round(float(v.std()), 2)] for name, v in values.items() if len(v)},
        "columns": {name: _told(patches, name) for name in TOLD if name in patches.columns},
    }


def _told(patches: PatchSet, name: str) -> dict[str, float]:
    """Shares of the values of a column over patients, or mean and standard deviation of numbers."""
    first = pd.DataFrame({"patient": group_names(patches), "value": patches.column(name)}).drop_duplicates("patient")
    if first["value"].dtype.kind in "if":
        numbers = first["value"].to_numpy(dtype=float)
        numbers = numbers[np.isfinite(numbers)]
        return (
            {"mean": round(float(numbers.mean()), 2), "SD": round(float(numbers.std()), 2)} if len(numbers) > 1 else {}
        )
    counts = first["value"].astype(str).replace("", "unknown").value_counts()
    if len(counts) > MOST_VALUES:
        return {}
    return {str(value): round(n / len(first), 4) for value, n in counts.items() if n > 1}


def mix_table(development: dict[str, Any], cohort: dict[str, Any]) -> pd.DataFrame:
    """Two descriptions side by side: a row per fact, columns ``development`` and ``this cohort``."""
    one, other = _flat(development), _flat(cohort)
    rows = {name: [one.get(name, "–"), other.get(name, "–")] for name in dict.fromkeys([*one, *other])}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["development", "this cohort"])


def _flat(facts: dict[str, Any]) -> dict[str, str]:
    if not facts:
        return {}
    found = {"images": str(facts["images"]), f"{facts['unit']}s": str(facts["patients"]),
             "height × width": " × ".join(map(str, facts["size"]))}  # fmt: skip
    found |= {f"class {name}": f"{100 * share:.1f} %" for name, share in facts["classes"].items()}
    found |= {f"{name} (mean ± SD)": f"{mean:.1f} ± {spread:.1f}" for name, (mean, spread) in facts["pixels"].items()}
    for column, values in facts["columns"].items():
        if set(values) == {"mean", "SD"}:
            found[f"{column} (mean ± SD)"] = f"{values['mean']:.1f} ± {values['SD']:.1f}"
        else:
            found |= {f"{column}: {value}": f"{100 * share:.1f} %" for value, share in values.items()}
    return found
