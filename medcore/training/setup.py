"""Before the first step: check the inputs, place everything on the device, go back to the last checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused
from medcore.training import checkpoint, distributed
from medcore.training.batches import Batches
from medcore.training.config import TrainConfig
from medcore.training.history import History
from medcore.training.objectives import Objective
from medcore.training.precision import Precision, choose_precision
from medcore.training.state import TrainState, facts_of


def prepare(
    model: nn.Module,
    objective: Objective,
    train: PatchSet,
    validation: PatchSet,
    config: TrainConfig,
    device: torch.device,
    out: str | Path | None,
    resume: bool,
) -> TrainState:
    """Check the inputs, place everything on the device, and go back to the last checkpoint if asked to."""
    monitor = config.monitor or objective.monitor
    refuse_test_data(train, validation, monitor)
    warn_of_shared_patients(train, validation)
    objective.begin(train, device)
    precision = choose_precision(config.precision, device, model)
    folder, last = Path(out) if out is not None else None, None
    if folder is not None:
        last = last_checkpoint(folder, resume)
    if last is not None and config.precision == "auto":  # a resume repeats the choice
        precision = Precision(**checkpoint.read_manifest(last)["precision"])
    history = History(monitor, direction(monitor, objective), out=folder, precision=precision.to_dict())
    batches = training_batches(train, config, device)
    facts = facts_of(model, objective, config, precision, train, validation)
    state = TrainState(model, objective, config, device, precision, batches, history, facts)
    if last is not None:
        state.restore(last)
        state.show(history.last_epoch)
    return state


def direction(monitor: str, objective: Objective) -> str:
    """Which way a column is better: parts of the loss are best when small, metrics when large."""
    if monitor == objective.monitor:
        return objective.mode
    return "min" if monitor.removeprefix("val_") in objective.parts else "max"


def refuse_test_data(train: PatchSet, validation: PatchSet, monitor: str) -> None:
    """Raise when anything from a test set could be learnt from or choose."""
    for name, patches in (("train", train), ("validation", validation)):
        if (patches.splits == "test").any():
            count = int((patches.splits == "test").sum())
            raise TestDataRefused(f"{name}: {count} images are marked 'test'; pass them as test= for the curve only")
    if not monitor.startswith("val_"):
        raise TestDataRefused(f"monitor={monitor!r}: only a column of the validation set (val_…) may pick an epoch")


def warn_of_shared_patients(train: PatchSet, validation: PatchSet) -> None:
    """Say so when patients stand on both sides: the chosen epoch then knows the patients already."""
    shared = set(train.patients.tolist()) & set(validation.patients.tolist())
    if shared:
        warnings.warn(
            f"{len(shared)} {train.card.group}(s) are in train and in validation (such as {min(shared)!r}): validation "
            "will flatter the model; split by patient with assign_splits()",
            stacklevel=4,
        )


def last_checkpoint(out: Path, resume: bool) -> Path | None:
    """Where to continue: the latest complete epoch. A folder with a run in it is not overwritten unasked."""
    folder = out / "checkpoints"
    out.mkdir(parents=True, exist_ok=True)
    distributed.barrier()
    if distributed.rank() == 0:
        checkpoint.sweep(folder)
    epochs = checkpoint.epochs_in(folder)
    if epochs and not resume:
        raise MedcoreError(f"out={out}: there is a run of {epochs[-1]} epochs; pass resume=True, or another folder")
    return folder / checkpoint.epoch_name(epochs[-1]) if epochs else None


def training_batches(train: PatchSet, config: TrainConfig, device: torch.device) -> Batches:
    """Batches of the set that is learnt from, in a new order each epoch."""
    return Batches(
        train,
        config.batch_size,
        device,
        seed=config.seed,
        shuffle=True,
        pieces=config.pieces,
        loader=config.loader,
        memory_share=config.memory_share,
        threads=config.loader_threads,
        rank=distributed.rank(),
        world=distributed.world(),
    )


def evaluation_batches(patches: PatchSet, state: TrainState) -> Batches:
    """Batches of a set that is only measured: whole images, fewer at once where training sees crops of them."""
    config = state.config
    seen = config.augment.crop if config.augment and config.augment.crop else 0
    share = min(1.0, seen**2 / (patches.shape[0] * patches.shape[1])) if seen else 1.0
    return Batches(
        patches,
        max(distributed.world(), int(config.batch_size * share)),
        state.device,
        loader=config.loader,
        memory_share=config.memory_share,
        threads=config.loader_threads,
        rank=distributed.rank(),
        world=distributed.world(),
    )
