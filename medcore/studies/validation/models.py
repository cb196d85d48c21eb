"""``medcore.load``: a model folder of any task, ready to predict and to be evaluated.

    model = medcore.load("reports/a/04_patient_diagnosis")
    model.predict("new_windows/")                # what the task answers
    found = model.evaluate(model.read("cohort_b"))
    found.estimates                              # with intervals over patients

Nothing is chosen here: weights, pixels, temperature, thresholds, aggregation and tiling are those of the folder.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from medcore.models.sealed import read_sealed
from medcore.training import checkpoint

if TYPE_CHECKING:
    from medcore.studies.validation.frozen import Frozen


def load(path: str | PathLike[str], which: str | int = "best", *, device: str | None = None) -> Frozen:
    """The model of a run, a model folder or a checkpoint.

    Args:
        path: A run's folder, its ``model`` or ``checkpoints`` folder, or one checkpoint.
        which: ``best``, ``last`` or an epoch.
        device: ``cpu``, ``cuda``, ``mps``; None stays on the CPU.

    Raises:
        MedcoreError: Nothing is there, a byte changed, or it is an autoencoder without a threshold.
    """
    from medcore.studies.validation import frozen

    folder = checkpoint.find(Path(path), which)
    kind = frozen.KINDS[task_of(folder)]
    return kind(folder, device)


def task_of(folder: Path) -> str:
    """``classification``, ``findings``, ``ordinal``, ``regression``, ``segmentation``, ``anomaly`` or ``diagnosis``.

    Raises:
        MedcoreError: The manifest is missing or damaged.
    """
    manifest = read_sealed(folder)
    if manifest.get("task") in ("diagnosis", "findings", "ordinal", "regression"):
        return str(manifest["task"])
    family = str((manifest.get("architecture") or {}).get("family"))
    return "segmentation" if "unet" in family else "classification" if family == "classifier" else "anomaly"
