"""What a checkpoint says of itself, and whether a run may be resumed from it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

import medcore
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.training import checkpoint
from medcore.training.config import WITHOUT_EFFECT, TrainConfig
from medcore.training.device import Precision
from medcore.training.objectives import Objective

RANDOMNESS = "counter-based: a function of (seed, epoch, sample id); nothing to store"


def facts_of(
    model: nn.Module,
    objective: Objective,
    config: TrainConfig,
    precision: Precision,
    train: PatchSet,
    validation: PatchSet,
) -> dict[str, Any]:
    """What identifies a run, for its manifest: a resume compares these."""
    return {
        "medcore": medcore.__version__,
        "torch": torch.__version__,
        "architecture": getattr(model, "spec", None) or {"family": type(model).__name__, "args": {}},
        "weights": sum(weight.numel() for weight in model.parameters()),
        "classes": list(getattr(objective, "classes", None) or train.classes),
        "task": objective.task,
        "objective": objective.describe(),
        "image_shape": list(train.shape),
        "preprocessing": preprocessing_of(train),
        "normalisation": normalisation_of(model),
        "config": config.to_dict(),
        "precision": precision.to_dict(),
        "randomness": RANDOMNESS,
        "data": {"name": train.card.name, "train": side(train), "validation": side(validation)},
    }


def preprocessing_of(patches: PatchSet) -> dict[str, Any]:
    """How files became the pixels of a set, so that new files are read alike: size policy, grey range, DICOM window."""
    recipe = patches.card.recipe
    return {key: recipe[key] for key in ("policy", "value_range", "window") if recipe.get(key)}


def side(patches: PatchSet) -> dict[str, Any]:
    """Size and identity of one side of a split."""
    return {
        "images": len(patches),
        "patients": len(set(patches.patients.tolist())),
        "fingerprint": patches.fingerprint,
        "rows_sha256": hashlib.sha256(patches.index.tobytes()).hexdigest(),
    }


def normalisation_of(model: nn.Module) -> dict[str, list[float]] | None:
    """Mean and standard deviation per channel of the model's first layer, in units of [0, 1]."""
    for module in model.modules():
        if type(module).__name__ == "Normalise":
            mean, std = getattr(module, "mean"), getattr(module, "std")  # noqa: B009
            return {"mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
    return None


def refuse_other_run(manifest: dict[str, Any], facts: dict[str, Any], folder: Path) -> None:
    """Raise unless a checkpoint belongs to this very run, but for fields that cannot change a weight."""
    differing = []
    for field_name in ("architecture", "objective", "precision"):
        if manifest[field_name] != checkpoint.jsonable(facts[field_name]):
            differing.append(f"{field_name} ({manifest[field_name]} there, {facts[field_name]} here)")
    for name in ("train", "validation"):
        there, here = manifest["data"][name], facts["data"][name]
        if there["fingerprint"] != here["fingerprint"]:
            differing.append(f"{name} images ({there['images']} there, {here['images']} here, other fingerprint)")
    mine = checkpoint.jsonable(facts["config"])
    for name, value in manifest["config"].items():
        if name not in WITHOUT_EFFECT and mine.get(name) != value:
            differing.append(f"config.{name} ({value!r} there, {mine.get(name)!r} here)")
    if differing:
        raise MedcoreError(
            f"resume: {folder} belongs to another run. Different: {'; '.join(differing)}. "
            "Set them back, or choose another folder for a new run"
        )
