"""Everything a training run holds between two steps: how it is made, goes into a checkpoint and comes back.

``prepare_run`` checks the inputs, places everything on the device and goes back to the last checkpoint.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused
from medcore.models.sealed import put_weights
from medcore.training import checkpoint, distributed
from medcore.training.batches import Batch, Batches
from medcore.training.config import TrainConfig, other_conditions, refuse_other_run
from medcore.training.device import Precision, choose_precision
from medcore.training.history import History
from medcore.training.manifest import facts_of
from medcore.training.objectives import Objective
from medcore.training.optim import Ema, Watch, make_optimiser, schedule_factor, set_learning_rate, take_step
from medcore.training.seen import refuse_seen


@dataclass
class TrainState:
    """A run between two steps. ``network`` is what is called: the model, compiled or wrapped for many processes."""

    model: nn.Module
    objective: Objective
    config: TrainConfig
    device: torch.device
    precision: Precision
    batches: Batches
    history: History
    facts: dict[str, Any]
    optimiser: torch.optim.Optimizer = field(init=False)
    ema: Ema | None = field(init=False)
    watch: Watch = field(init=False)
    network: Any = field(init=False)
    step: int = 0
    backbone_frozen: bool = False
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Place the model and make what trains it."""
        self.precision.place(self.model, self.device)
        self.optimiser = make_optimiser(self.model, self.config)
        self.ema = Ema(self.model, self.config.ema_decay) if self.config.ema_decay else None
        self.watch = Watch(self.device)
        self.network = self._wrap()

    def _wrap(self) -> Any:
        network = distributed.wrap(self.model, self.device)
        return torch.compile(network) if self.precision.compiled else network

    @property
    def folder(self) -> Path | None:
        """Where checkpoints go."""
        return self.history.out / "checkpoints" if self.history.out else None

    def enter_epoch(self, epoch: int) -> None:
        """Training mode, with the backbone frozen or let loose as the config says."""
        self.model.train()
        if not self.config.frozen_epochs:
            return
        model: Any = self.model
        frozen = epoch <= self.config.frozen_epochs
        if not hasattr(model, "freeze_backbone"):
            raise MedcoreError(f"frozen_epochs={self.config.frozen_epochs}: {type(model).__name__} has no backbone")
        if frozen != self.backbone_frozen:
            model.freeze_backbone() if frozen else model.unfreeze_backbone()
            self.backbone_frozen = frozen
            self.network = self._wrap()  # DistributedDataParallel must know which weights learn

    def forward_context(self, batch: Batch) -> AbstractContextManager:
        """Autocast; and no exchange of gradients before the last piece of a step."""
        context = self.precision.autocast(self.device)
        if distributed.world() > 1 and not batch.closes_step:
            return _both(context, self.network.no_sync())
        return context

    def take_step(self) -> None:
        """Clip, step at the schedule's rate unless the loss went bad, follow with the average."""
        if self.config.clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
            self.watch.look(norm)
        set_learning_rate(self.optimiser, schedule_factor(self.config, self.step, len(self.batches)))
        self.watch.guard(self.optimiser)
        take_step(self.optimiser)
        self.step += 1
        if self.ema:
            self.ema.update(self.step)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode with the averaged weights, if there are any."""
        self.model.eval()
        with torch.no_grad(), self.ema.in_place() if self.ema else nullcontext():
            yield

    def weights(self) -> dict[str, Tensor]:
        """The weights to use (call inside ``evaluating``)."""
        return self.model.state_dict()

    def remember_best(self) -> None:
        """Keep a copy of the weights in memory, where no checkpoint does."""
        if self.folder is None:
            self.best_weights = {name: value.detach().clone() for name, value in self.weights().items()}

    def restore_best(self) -> None:
        """Put the best epoch's weights into the model."""
        weights = self.best_weights
        if self.folder is not None and self.history.best_epoch:
            weights, _ = checkpoint.read_checkpoint(self.folder / checkpoint.epoch_name(self.history.best_epoch))
        if weights:
            self.model.load_state_dict(weights)

    def save(self, epoch: int) -> None:
        """Write the checkpoint of an epoch (rank 0 only), then the links, then delete what is not kept."""
        if self.folder is None or distributed.rank() != 0:
            return
        with self.evaluating():
            weights = {name: value.detach().clone() for name, value in self.weights().items()}
        try:
            checkpoint.save(self.folder, epoch, weights, self.tensors(), self.manifest(epoch))
            self.show(epoch)
        except OSError as error:
            raise MedcoreError(
                f"{self.folder}: epoch {epoch} cannot be written ({error.strerror}); every earlier checkpoint there is "
                "whole. Make room, then go on with resume (--resume)"
            ) from error

    def show(self, epoch: int) -> None:
        """Point ``last`` and ``best`` to their epochs and apply the retention policy."""
        if self.folder is None or distributed.rank() != 0:
            return
        checkpoint.point(self.folder, "last", epoch)
        checkpoint.point(self.folder, "best", self.history.best_epoch)
        checkpoint.retain(self.folder, self.config.keep, self.history.best_epoch)
        self.history.write()

    def tensors(self) -> dict[str, Tensor]:
        """Optimiser state, and the raw weights where the saved ones are averages."""
        tensors = {}
        for number, weight in enumerate(_weights_of(self.optimiser)):
            for name, value in self.optimiser.state.get(weight, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser/{number:05d}/{name}"] = value
        if self.ema:
            tensors |= {f"live/{name}": value for name, value in self.model.state_dict().items()}
        return tensors

    def manifest(self, epoch: int) -> dict[str, Any]:
        """What the checkpoint says of itself."""
        return {
            **self.facts,
            "epoch": epoch,
            "step": self.step,
            "metrics": self.history.rows[-1] if self.history.rows else {},
            "monitor": {"name": self.history.monitor, "mode": self.history.mode, "best_epoch": self.history.best_epoch},
            "history": self.history.rows,
            "tables": self.history.tables,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "extra": {},
        }

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint of the same run.

        Raises:
            MedcoreError: A byte changed, or the run differs in a field that changes the weights.
        """
        weights, manifest = checkpoint.read_checkpoint(folder)
        tensors, _ = checkpoint.read_checkpoint(folder, checkpoint.STATE)
        refuse_other_run(manifest, self.facts, folder)
        put_weights(self.model, weights, folder / checkpoint.MODEL)
        if self.ema:
            for average, name in zip(self.ema.average, self.model.state_dict(), strict=True):
                average.copy_(weights[name])
            live = {name[5:]: value for name, value in tensors.items() if name.startswith("live/")}
            put_weights(self.model, live, folder / checkpoint.STATE)
        self._restore_optimiser(tensors)
        self.step = int(manifest["step"])
        self.history.rows = [dict(row) for row in manifest["history"]]
        self.history.best_epoch = int(manifest["monitor"]["best_epoch"])
        self.history.tables = {name: _array(table) for name, table in manifest["tables"].items()}
        self._say_if_stretched(int(manifest["config"]["epochs"]))

    def _say_if_stretched(self, before: int) -> None:
        now, schedule = self.config.epochs, self.config.schedule
        if before != now and schedule in ("cosine", "one-cycle"):
            note = f"resumed to {now} epochs instead of {before}: the {schedule} schedule is stretched from here on"
            self.history.notes.append(note)
            warnings.warn(note, stacklevel=2)

    def _restore_optimiser(self, tensors: dict[str, Tensor]) -> None:
        weights = _weights_of(self.optimiser)
        for key, value in tensors.items():
            if not key.startswith("optimiser/"):
                continue
            _, number, name = key.split("/")
            weight = weights[int(number)]
            # the fused kernels read moments in the memory order of their weight
            like = weight if value.shape == weight.shape else torch.empty(value.shape, device=self.device)
            kept = torch.empty_like(like, dtype=value.dtype, requires_grad=False)
            self.optimiser.state[weight][name] = kept.copy_(value)


def _array(table: Any) -> Any:
    import numpy as np

    return np.asarray(table)


def _weights_of(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimiser.param_groups for weight in group["params"]]


@contextmanager
def _both(first: AbstractContextManager, second: AbstractContextManager) -> Iterator[None]:
    with first, second:
        yield


@contextmanager
def one_writer(out: str | Path | None) -> Iterator[None]:
    """Hold a run's folder, so that two processes never write into one. The lock of a dead process holds nobody.

    Raises:
        MedcoreError: Another process trains into this folder, or it cannot be written.
    """
    if out is None or distributed.rank() != 0:
        yield
        return
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        lock = FileLock(Path(out) / ".training.lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise MedcoreError(f"out={out}: another process trains into this folder; wait, or choose another") from error
    except OSError as error:
        raise MedcoreError(f"out={out}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield
    finally:
        lock.release()


Sides = tuple[PatchSet, PatchSet, PatchSet | None]  # train, validation, test


def prepare_run(
    model: nn.Module,
    objective: Objective,
    sides: Sides,
    config: TrainConfig,
    device: torch.device,
    out: str | Path | None,
    resume: bool,
) -> TrainState:
    """Check the inputs, place everything on the device, and go back to the last checkpoint if asked to."""
    train, validation, test = sides
    monitor = config.monitor or objective.monitor
    check_sides(train, validation, monitor)
    notes = refuse_seen(model, validation, test, config.seen)
    objective.begin(train, device)
    precision = choose_precision(config.precision, device, model)
    folder, last = Path(out) if out is not None else None, None
    if folder is not None:
        last = last_checkpoint(folder, resume, notes)
    manifest = None if last is None else checkpoint.read_manifest(last)
    if manifest is not None and config.precision == "auto":  # a resume repeats the choice
        precision = Precision(**manifest["precision"])
    history = History(monitor, direction(monitor, objective), out=folder, precision=precision.to_dict(), notes=notes)
    batches = training_batches(train, config, device)
    facts = facts_of(model, objective, config, precision, train, validation)
    if manifest is not None:
        notes += other_conditions(manifest, facts)
        facts["threads"] = config.threads or manifest.get("threads") or facts["threads"]
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


def check_sides(train: PatchSet, validation: PatchSet, monitor: str) -> None:
    """Raise when anything from a test set could be learnt from or choose; warn of patients on both sides."""
    for name, patches in (("train", train), ("validation", validation)):
        if (patches.splits == "test").any():
            count = int((patches.splits == "test").sum())
            raise TestDataRefused(f"{name}: {count} images are marked 'test'; pass them as test= for the curve only")
    if not monitor.startswith("val_"):
        raise TestDataRefused(f"monitor={monitor!r}: only a column of the validation set (val_…) may pick an epoch")
    shared = set(train.patients.tolist()) & set(validation.patients.tolist())
    if shared:
        warnings.warn(
            f"{len(shared)} {train.card.group}(s) are in train and in validation (such as {min(shared)!r}): validation "
            "will flatter the model; split by patient with assign_splits()",
            stacklevel=4,
        )


def last_checkpoint(out: Path, resume: bool, notes: list[str]) -> Path | None:
    """Where to continue: the latest epoch that is whole, as is the best one it names. None for a new run.

    Raises:
        MedcoreError: There is a run and ``resume`` was not asked for, or no checkpoint of it can be read.
    """
    folder = out / "checkpoints"
    distributed.barrier()
    if distributed.rank() == 0:
        checkpoint.clear_leftovers(folder)
    epochs = checkpoint.epochs_in(folder)
    if epochs and not resume:
        raise MedcoreError(f"out={out}: there is a run of {epochs[-1]} epochs; pass resume=True, or another folder")
    reasons: list[str] = []
    for epoch in reversed(epochs):
        path = folder / checkpoint.epoch_name(epoch)
        try:
            best = checkpoint.verify(path)["monitor"]["best_epoch"]
            if best != epoch:
                checkpoint.verify(folder / checkpoint.epoch_name(best))
        except MedcoreError as error:
            reasons.append(str(error))
            continue
        if reasons:
            notes.append(f"resumed from epoch {epoch}, because {reasons[0]}")
            warnings.warn(notes[-1], stacklevel=5)
        return path
    if reasons:
        raise MedcoreError(f"resume: no checkpoint in {folder} can be read; {reasons[0]}")
    return None


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
