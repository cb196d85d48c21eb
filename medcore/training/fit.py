"""fit: one training loop for every task.

    history = fit(model, Classification(classes), train, validation, TrainConfig(epochs=20), out="runs/a")
    history.table                                   # one row per epoch
    fit(..., out="runs/a", resume=True)             # continues after a kill, to the same weights bit for bit

- The objective brings loss and metrics, the config everything else: there is no branch per task below.
- Validation picks the best epoch. A test set, when given, is measured after every epoch for the curve, and nothing
  that chooses ever sees it.
- After the run the model holds the best epoch's weights.
- A run is resumed from the end of its last complete epoch; the epoch that was cut off is repeated exactly.

Before the first step: check the inputs, place everything on the device, go back to the last checkpoint.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused
from medcore.training import checkpoint, distributed, memory
from medcore.training.batches import Batches
from medcore.training.config import TrainConfig
from medcore.training.device import Precision, choose_precision
from medcore.training.history import History
from medcore.training.objectives import Objective
from medcore.training.progress import Progress
from medcore.training.randomness import model_randomness
from medcore.training.state import TrainState, facts_of
from medcore.training.totals import Totals


def fit(
    model: nn.Module,
    objective: Objective,
    train: PatchSet,
    validation: PatchSet,
    config: TrainConfig | None = None,
    *,
    test: PatchSet | None = None,
    out: str | Path | None = None,
    tracker: Any = None,
    progress: bool = True,
    resume: bool = False,
) -> History:
    """Train a model.

    Args:
        model: Takes images (B, C, H, W) in [0, 1]; is changed in place and ends with the best epoch's weights.
        objective: Loss and metrics of the task.
        train: Images to learn from.
        validation: Images that pick the best epoch.
        config: Every other choice.
        test: Images that are measured after each epoch for the curve only.
        out: Folder for ``history.csv`` and ``checkpoints/``; None writes nothing.
        tracker: None, ``"tensorboard"``, ``"wandb"``, ``"mlflow"``, or a tracker of one's own.
        progress: Show a progress bar and a line per epoch.
        resume: Continue the run in ``out`` where there is one.

    Returns:
        The course of the run.

    Raises:
        TestDataRefused: Test images stand where the model learns or is chosen, or ``monitor`` names a test column.
        MedcoreError: The data, config or folder cannot be used; a loss became NaN or infinite.
    """
    config = config or TrainConfig()
    with distributed.session(config.device) as device:
        state = prepare(model, objective, train, validation, config, device, out, resume)
        evaluated = {"val": validation} | ({"test": test} if test is not None else {})
        loaders = {name: evaluation_batches(patches, state) for name, patches in evaluated.items()}
        with (
            Progress(state, tracker, show=progress) as display,
            distributed.deterministic(config.deterministic, device),
            distributed.synced_batch_norm(model),
            memory.kept_between_steps(),
            memory.explained(state),
        ):
            for epoch in range(state.history.last_epoch + 1, config.epochs + 1):
                if stopped_early(state.history, config):
                    break
                with model_randomness(config.seed, epoch, distributed.rank(), device):
                    row = train_epoch(state, epoch, display)
                    close_epoch(state, epoch, row, loaders, display)
        state.history.stopped = state.history.stopped or f"all {config.epochs} epochs done"
        distributed.barrier()
        state.restore_best()
    return state.history


def train_epoch(state: TrainState, epoch: int, display: Progress) -> dict[str, Any]:
    """Visit every training image once; returns the first columns of the epoch's row."""
    start = time.perf_counter()
    state.enter_epoch(epoch)
    state.watch.start()
    totals = Totals(state.objective, state.device)
    for batch in state.batches.epoch(epoch, state.config.augment_at(epoch)):
        with state.forward_context(batch):
            output = state.network(state.precision.arrange(batch.images))
            parts = state.objective.compute(output, batch, epoch)
        (parts["loss"] * batch.weight).backward()
        totals.add(parts, output, batch)
        state.watch.look(parts["loss"], batch.ids)
        if batch.closes_step:
            state.take_step()
            display.advance()
            stop_if_bad(state, epoch, state.watch.first_bad())
    stop_if_bad(state, epoch, state.watch.first_bad(wait=True))
    means, _ = totals.result()
    row = {"epoch": epoch} | {f"train_{name}": value for name, value in means.items()}
    return row | {"lr": state.optimiser.param_groups[-1]["lr"], "seconds": time.perf_counter() - start}


def evaluate(state: TrainState, loader: Batches, epoch: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Loss and metrics on a set, in its order, without augmentation (call inside ``state.evaluating``)."""
    totals = Totals(state.objective, state.device)
    for batch in loader.epoch(epoch):
        with state.precision.autocast(state.device):
            output = state.model(state.precision.arrange(batch.images))
            totals.add(state.objective.compute(output, batch, epoch), output, batch)
    return totals.result()


def close_epoch(
    state: TrainState, epoch: int, row: dict[str, Any], loaders: dict[str, Batches], display: Progress
) -> None:
    """Measure, record, save and show an epoch."""
    tables: dict[str, dict[str, Any]] = {}
    with state.evaluating():
        for name, loader in loaders.items():
            metrics, tables[name] = evaluate(state, loader, epoch)
            row |= {f"{name}_{key}": value for key, value in metrics.items()}
        if state.history.monitor not in row:
            known = ", ".join(key for key in row if key.startswith("val_"))
            raise MedcoreError(f"monitor={state.history.monitor!r}: there is no such column; choose one of {known}")
        if state.history.add(row):
            state.history.tables = tables["val"]
            state.remember_best()
    state.save(epoch)
    display.epoch_done(tables["val"])


def stopped_early(history: History, config: TrainConfig) -> bool:
    """Whether the monitor has not improved for ``patience`` epochs."""
    if config.patience is None or history.epochs_without_gain < config.patience:
        return False
    history.stopped = f"stopped after epoch {history.last_epoch}: no better {history.monitor} for {config.patience}"
    return True


def stop_if_bad(state: TrainState, epoch: int, batch: int | None) -> None:
    """End the run when a loss was NaN or infinite, with the state saved and the images named."""
    if batch is None:
        return
    ids = distributed.joined_lists(state.watch.seen[batch].tolist())
    where = f"epoch {epoch}, batch {batch + 1} of the epoch"
    saved = ""
    if state.folder is not None and distributed.rank() == 0:
        manifest = state.manifest(epoch) | {"failed": {"epoch": epoch, "batch": batch + 1, "ids": ids}}
        target = state.folder / f"failed-{checkpoint.epoch_name(epoch)}"
        checkpoint.write_checkpoint(target, state.weights(), state.tensors(), manifest)
        saved = f" The weights before that step are in {target}."
    raise MedcoreError(
        f"the loss became NaN or infinite in {where}; its images are rows {ids} of the set.{saved} "
        "Look at these images, lower learning_rate, set clip_norm=1, or use precision='fp32'"
    )


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
