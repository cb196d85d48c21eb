"""fit: one training loop for every task.

    history = fit(model, Classification(classes), train, validation, TrainConfig(epochs=20), out="runs/a")
    history.table                                   # one row per epoch
    fit(..., out="runs/a", resume=True)             # continues after a kill, to the same weights bit for bit

- The objective brings loss and metrics, the config everything else: there is no branch per task below.
- Validation picks the best epoch. A test set, when given, is measured after every epoch for the curve, and nothing
  that chooses ever sees it.
- After the run the model holds the best epoch's weights.
- A run is resumed from the end of its last complete epoch; the epoch that was cut off is repeated exactly.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.training import distributed
from medcore.training.batches import Batch, Batches
from medcore.training.config import TrainConfig
from medcore.training.device import fixed_threads, kept_between_steps
from medcore.training.failures import explained, stop_if_bad
from medcore.training.history import History
from medcore.training.objectives import Objective
from medcore.training.progress import Display
from medcore.training.randomness import model_randomness
from medcore.training.state import TrainState, evaluation_batches, one_writer, prepare_run


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
        validation: Images that pick the best epoch.
        test: Images that are measured after each epoch for the curve only.
        out: Folder for ``history.csv`` and ``checkpoints/``; None writes nothing.
        tracker: None, ``"tensorboard"``, ``"wandb"``, ``"mlflow"``, or a tracker of one's own.
        progress: Show a progress bar and a line per epoch.
        resume: Continue the run in ``out`` where there is one.

    Returns:
        The course of the run.

    Raises:
        TestDataRefused: Test images stand where the model learns or is chosen, or ``monitor`` names a test column.
        MedcoreError: The data, config or folder cannot be used; another process trains into ``out``; a loss became NaN
            or infinite; memory or disk ran out.
    """
    config = config or TrainConfig()
    with distributed.session(config.device) as device, one_writer(out):
        state = prepare_run(model, objective, (train, validation, test), config, device, out, resume)
        evaluated = {"val": validation} | ({"test": test} if test is not None else {})
        loaders = {name: evaluation_batches(patches, state) for name, patches in evaluated.items()}
        with (
            Display(state, tracker, show=progress) as display,
            fixed_threads(state.facts["threads"]),
            distributed.deterministic(config.deterministic, device),
            distributed.synced_batch_norm(model),
            kept_between_steps(),
            explained(state),
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


def keep(
    model: nn.Module, objective: Objective, train: PatchSet, validation: PatchSet, config: TrainConfig, *,
    out: str | Path,
) -> History:  # fmt: skip
    """Measure a model that has learnt otherwise, and write it as the one epoch of a run.

    Args:
        train: Images that it has learnt from.
        config: Where and how it is evaluated; nothing is trained.
        out: Folder for ``history.csv`` and ``checkpoints/``.
    """
    config = replace(config, epochs=1, frozen_epochs=0, augment_until=None)
    with distributed.session(config.device) as device, one_writer(out):
        state = prepare_run(model, objective, (train, validation, None), config, device, out, resume=False)
        with Display(state, None, show=False) as display:
            close_epoch(state, 1, {"epoch": 1}, {"val": evaluation_batches(validation, state)}, display)
    return state.history


def train_epoch(state: TrainState, epoch: int, display: Display) -> dict[str, Any]:
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


def measure_loss(state: TrainState, loader: Batches, epoch: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Loss and metrics on a set, in its order, without augmentation (call inside ``state.evaluating``)."""
    totals = Totals(state.objective, state.device)
    for batch in loader.epoch(epoch):
        with state.precision.autocast(state.device):
            output = state.model(state.precision.arrange(batch.images))
            totals.add(state.objective.compute(output, batch, epoch), output, batch)
    return totals.result()


def close_epoch(
    state: TrainState, epoch: int, row: dict[str, Any], loaders: dict[str, Batches], display: Display
) -> None:
    """Measure, record, save and show an epoch."""
    tables: dict[str, dict[str, Any]] = {}
    with state.evaluating():
        for name, loader in loaders.items():
            metrics, tables[name] = measure_loss(state, loader, epoch)
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


def sums_dtype(device: torch.device) -> torch.dtype:
    """float64 wherever there is one: counts of pixels pass 2**24 quickly."""
    return torch.float32 if device.type == "mps" else torch.float64


class Totals:
    """The sums of one epoch on one set of images.

    Args:
        objective: Names the loss parts and the further sums it needs.
    """

    def __init__(self, objective: Objective, device: torch.device) -> None:
        dtype = sums_dtype(device)
        self.objective = objective
        self.parts = torch.zeros(len(objective.parts), dtype=dtype, device=device)
        self.samples = 0  # known on the host: sizes of batches are
        self.sums = {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in objective.sums().items()}

    @torch.no_grad()
    def add(self, parts: dict[str, Tensor], output: Any, batch: Batch) -> None:
        """Add a batch: loss parts (means over its samples) and whatever the objective counts."""
        self.parts += torch.stack([parts[name].detach() for name in self.objective.parts]).to(self.parts) * len(batch)
        self.samples += len(batch)
        self.objective.count(self.sums, output, batch)

    def result(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Means and metrics of the epoch over all processes, and tables such as the confusion matrix."""
        device, dtype = self.parts.device, self.parts.dtype
        count = torch.tensor([self.samples], dtype=dtype, device=device)
        pieces = [count, self.parts, *self.sums.values()]
        flat = distributed.sum_over_processes(torch.cat([piece.flatten() for piece in pieces])).cpu().double()
        split = torch.split(flat, [piece.numel() for piece in pieces])
        samples = max(float(split[0]), 1.0)
        means = {name: float(value) / samples for name, value in zip(self.objective.parts, split[1], strict=True)}
        shaped = zip(self.sums, split[2:], strict=True)
        sums = {name: values.reshape(self.sums[name].shape).numpy() for name, values in shaped}
        return means | self.objective.metrics(sums, samples), self.objective.tables(sums)
