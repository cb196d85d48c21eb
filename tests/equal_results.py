"""Are two folders of reports equal in every number? For refactorings: run both at the same seed and thread count.

    OMP_NUM_THREADS=1 medcore reports --profile smoke --out before     # on the old commit
    OMP_NUM_THREADS=1 medcore reports --profile smoke --out after      # on the new one
    python tests/equal_results.py before after                         # exit code 1 where a number differs

Compared are metrics, baselines and the validation metric of every ``results.json`` by (method, metric, unit, split).
``DELIBERATE`` names what may differ, with the reason; ``SPLITS`` and ``IMAGES`` what only changed its name.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

FAIR = "the class shares are divided out of a baseline where the network's loss weighs the classes equally"
PAIRED = "the paired difference stands for every metric, to the baseline chosen on validation data, also over folds"
# (notebook or "*", metric, method or "*") -> why it may differ from dd6de99
DELIBERATE: dict[tuple[str, str], str] = {
    ("06_patch_classification", "mean colour"): FAIR,
    ("06_patch_classification", "size and brightness"): FAIR,
    ("06_patch_classification", "colour histogram"): FAIR,
    ("06_patch_classification", "brier"): "the temperature is fitted on float64 logits",
    ("*", "calibration_error"): "freed of the part that chance alone makes, and the root of a mean square",
    ("*", "calibration_slope"): "new, as reviewers ask for it",
    ("*", "calibration_intercept"): "new, as reviewers ask for it",
    ("06_patch_classification", "balanced_accuracy_over_seeds"): "new: the spread over trainings",
    ("02_autoencoder", "*"): "shares of the split are counted in lesions; trivial scores have a sign from validation",
    ("03_vae", "*"): "as 02, and the convolutional autoencoder of the same loss is a rival",
    ("04_patient_diagnosis", "auroc_difference"): "new: paired, to the trivial rule and to ABMIL",
    ("04_patient_diagnosis", "val_auroc"): "new: what a search may choose by",
    ("*", "balanced_accuracy_difference"): PAIRED,
    ("*", "accuracy_difference"): PAIRED,
    ("06_patch_classification", "auroc_difference"): PAIRED,
}
DELIBERATE |= {
    ("05_segmentation", "Otsu on haematoxylin"): "Otsu's threshold by scikit-image: the centre of a bin, not its edge",
    ("05_segmentation", "everything is foreground"): "new: every metric of the rules, the foreground's among them",
    ("05_segmentation", "validation"): "new: the metric on validation data that a sweep searches by",
}
DELIBERATE |= {
    ("05_segmentation", name): "new: the foreground as one class leads, paired with the rule chosen on validation data"
    for name in ("foreground_nsd", "foreground_hd95_um", "foreground_dice_difference", "foreground_nsd_difference",
                 "foreground_hd95_um_difference")
}  # fmt: skip
# only the value is compared: limits are Wilson's with an effective number of cases, which cover near 0 and 1 too
LIMITS = (
    "accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "macro_f1", "mcc", "kappa",
    "quadratic_kappa",
)  # fmt: skip
SPLITS = {("01_preprocessing", "val"): "folds"}  # its images were predicted in folds, not a validation part
IMAGES = ("image", "patch", "window")  # the set's card says which; a photograph was called a patch
NEARLY = 1e-9


def rows(results: dict) -> dict[tuple, dict]:
    """Every estimate of a run by what it says."""
    found: dict[tuple, dict] = {}
    for row in [{**row, "baseline": ""} for row in results["metrics"] + results.get("differences", [])] + results[
        "baselines"
    ]:
        unit = "image" if row["unit"] in IMAGES else row["unit"]
        split = SPLITS.get((results["notebook"], row["split"]), row["split"])
        key = (row["baseline"], row["name"], unit, split, row["n"])
        while key in found:
            key = (*key, "again")
        found[key] = row
    validation = results.get("validation") or {}
    if validation.get("name"):
        found["validation", validation["name"]] = {"value": validation["value"], "low": None, "high": None}
    return found


def equal(first: float | None, second: float | None) -> bool:
    """Both absent, or equal up to rounding of sums."""
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=NEARLY, abs_tol=NEARLY)


def differences(before: Path, after: Path) -> list[str]:
    """One line for each number that differs without a reason in ``DELIBERATE``."""
    lines = []
    for path in sorted(before.glob("*/results.json")):
        name = path.parent.name
        other = after / name / "results.json"
        if not other.exists():
            lines.append(f"{name}: no results after")
            continue
        old, new = (rows(json.loads(p.read_text(encoding="utf-8"))) for p in (path, other))
        for key in sorted(old.keys() | new.keys(), key=str):
            if any((book, metric) in DELIBERATE for book in ("*", name) for metric in ("*", *key[:2])):
                continue
            if key not in old or key not in new:
                lines.append(f"{name} {key}: only {'after' if key in new else 'before'}")
                continue
            parts = ("value",) if key[1] in LIMITS else ("value", "low", "high")
            if not all(equal(old[key][part], new[key][part]) for part in parts):
                shown = [[each[key][part] for part in ("value", "low", "high")] for each in (old, new)]
                lines.append(f"{name} {key}: {shown[0]} -> {shown[1]}")
    return lines


if __name__ == "__main__":
    found = differences(Path(sys.argv[1]), Path(sys.argv[2]))
    print("\n".join(found) or "equal")
    sys.exit(bool(found))
