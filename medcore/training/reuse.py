"""Train a model, or find the one that was trained just so before.

    trained = fit_or_reuse(spec, Reconstruction("mse"), train, validation, config)
    trained.model, trained.reused, trained.made, trained.sha256

Equal means: the same images on both sides (fingerprints), architecture, objective and every field of the config that
can change a weight. Models are kept in ``models/<key>`` of the data folder as ordinary checkpoints, so a run that was
killed goes on where it stopped. ``retrain=True`` trains anew.

Go on from a checkpoint with other classes: everything but the head is kept, and it is said what was replaced.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from medcore.data.patchset import PatchSet
from medcore.data.source import data_home
from medcore.errors import MedcoreError
from medcore.models import build
from medcore.models.sealed import MODEL, put_weights
from medcore.training import checkpoint
from medcore.training.config import WITHOUT_EFFECT, TrainConfig
from medcore.training.device import usable_threads
from medcore.training.fit import fit
from medcore.training.objectives import Objective


@dataclass(frozen=True)
class Trained:
    """A model and where it comes from.

    Attributes:
        reused: Whether it was found rather than trained now.
        made: When its checkpoint was written (UTC, ISO 8601).
        sha256: Of its weights.
    """

    model: nn.Module
    reused: bool
    made: str
    sha256: str
    folder: Path

    def __str__(self) -> str:
        how = "reused, trained" if self.reused else "trained now,"
        return f"{type(self.model).__name__} {how} {self.made[:16].replace('T', ' ')} UTC, sha256 {self.sha256[:12]}"


def fit_or_reuse(
    spec: Mapping[str, Any],
    objective: Objective,
    train: PatchSet,
    validation: PatchSet,
    config: TrainConfig,
    *,
    retrain: bool = False,
    progress: bool = False,
    home: Path | None = None,
) -> Trained:
    """Train the model that ``spec`` describes, unless an equal one is there.

    Args:
        spec: ``model.spec``; its first weights follow from ``config.seed``.
        validation: Images that pick the best epoch.
        retrain: Forget the one that is there.
        home: Where models are kept; ``models`` of the data folder by default.

    Raises:
        MedcoreError: As ``fit``; or the model that is there is damaged (``retrain=True`` replaces it).
    """
    home = data_home() / "models" if home is None else home
    folder = home / model_key(spec, objective, train, validation, config)
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if retrain:
            shutil.rmtree(folder, ignore_errors=True)
        complete = (folder / DONE).is_file()
        if not complete:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                model = build(spec)
            fit(model, objective, train, validation, config, out=folder, progress=progress, resume=True)
            (folder / DONE).touch()
        return _found(folder, reused=complete)


DONE = "complete"


def _found(folder: Path, *, reused: bool) -> Trained:
    loaded = checkpoint.load_checkpoint(folder)
    written = (loaded.path / checkpoint.MODEL).stat().st_mtime
    made = datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")
    return Trained(loaded.model, reused, made, loaded.manifest["sha256"][checkpoint.MODEL], folder)


def model_key(
    spec: Mapping[str, Any], objective: Objective, train: PatchSet, validation: PatchSet, config: TrainConfig
) -> str:
    """A name for everything that decides the weights (hex, 20 characters)."""
    # more epochs are another model here: its schedule differs
    ignored = WITHOUT_EFFECT - {"epochs"}
    choices = {name: value for name, value in config.to_dict().items() if name not in ignored}
    facts = {
        "spec": dict(spec),
        "objective": objective.describe(),
        "config": choices | {"threads": config.threads or usable_threads()},
        "train": train.fingerprint,
        "validation": validation.fingerprint,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:20]


HEADS = ("head", "heads")  # what the models of medcore call their last layers


def fine_tune(path: str | Path, classes: Sequence[str]) -> tuple[nn.Module, str]:
    """A model for new classes that starts from the weights of a checkpoint.

    Args:
        path: A run's folder or a checkpoint.
        classes: The new class names, in the order of the new labels.

    Returns:
        The model, in evaluation mode, and a sentence that says what was kept and what starts anew. With the very
        classes of the checkpoint the head is kept as well.

    Raises:
        MedcoreError: The checkpoint cannot be read, or its model has no classes.
    """
    folder = checkpoint.find(path, "best")
    weights, manifest = checkpoint.read_checkpoint(folder)
    old, new = list(manifest["classes"]), [str(name) for name in classes]
    spec = copy.deepcopy(manifest["architecture"])
    if "classes" not in spec["args"]:
        raise MedcoreError(f"{folder}: a {spec['family']} has no classes to replace; load() it and train on")
    if old == new:
        loaded = checkpoint.load_checkpoint(folder)
        return loaded.model, f"all weights come from {folder}: the classes are the same ({', '.join(new)})"
    spec["args"]["classes"] = len(new)
    model = build(spec)
    state = model.state_dict()
    kept = {name: value for name, value in weights.items() if name.split(".")[0] not in HEADS}
    anew = sorted(set(state) - set(kept))
    put_weights(model, {**{name: state[name] for name in anew}, **kept}, folder / MODEL)
    note = (
        f"{len(kept)} tensors come from {folder}; the head was replaced and starts at random ({', '.join(anew)}): "
        f"{len(old)} classes ({', '.join(old)}) became {len(new)} ({', '.join(new)})"
    )
    model.learnt_from = manifest["data"]  # type: ignore[assignment]
    return model.eval(), note
