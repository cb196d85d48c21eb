"""Notices a loss that is NaN or infinite, without making the host wait for the device at every step.

Everything a training run holds between two epochs, and how it goes into a checkpoint and comes back.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import medcore
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.training import checkpoint, distributed
from medcore.training.batches import Batch, Batches
from medcore.training.config import WITHOUT_EFFECT, TrainConfig
from medcore.training.device import Precision
from medcore.training.history import History
from medcore.training.objectives import Objective
from medcore.training.optim import Ema, make_optimiser, schedule_factor, set_learning_rate

LOOK_EVERY = 32  # steps between two looks at a GPU's flag


class Watch:
    """Remembers the first bad forward pass of an epoch, and keeps the optimiser from stepping from there on.

    The flag lives on the device. On the CPU it is read at once; on a GPU its copy is read when it has arrived,
    some steps later. The weights stay those before the bad step in both cases.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start()

    def start(self) -> None:
        """Begin an epoch."""
        self.bad = torch.zeros((), device=self.device)
        self.first = torch.full((), -1, dtype=torch.int64, device=self.device)
        self.seen: list[Tensor] = []  # ids of every batch so far, on the host
        self._arriving: tuple[Tensor, torch.cuda.Event] | None = None

    def look(self, value: Tensor, ids: Tensor | None = None) -> None:
        """Take note of a loss (with its batch's ids) or of a gradient's norm."""
        if ids is not None:
            self.seen.append(ids)
        bad = (~torch.isfinite(value.detach())).to(self.bad.dtype)
        self.first = torch.where((self.first < 0) & (bad > 0), len(self.seen) - 1, self.first)
        self.bad = torch.maximum(self.bad, bad)

    def guard(self, optimiser: torch.optim.Optimizer) -> None:
        """Let the fused optimiser skip its step where the flag of any process is up, on the device."""
        if distributed.world() > 1:
            distributed.max_over_processes(self.bad)
            self.first = torch.where((self.first < 0) & (self.bad > 0), len(self.seen) - 1, self.first)
        optimiser.grad_scale = None  # type: ignore[attr-defined]
        optimiser.found_inf = self.bad  # type: ignore[attr-defined]

    def first_bad(self, *, wait: bool = False) -> int | None:
        """Number of the first bad batch of the epoch, from 0; None when none is known yet."""
        if self.device.type != "cuda" or wait:
            first = int(self.first)
            return first if first >= 0 else None
        if distributed.world() > 1:
            return None  # all processes must stop at the same step: they look at the end of the epoch
        if self._arriving is None and len(self.seen) % LOOK_EVERY == 0:
            copy = torch.empty((), dtype=torch.int64, pin_memory=True).copy_(self.first, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._arriving = (copy, event)
        if self._arriving is not None and self._arriving[1].query():
            first = int(self._arriving[0])
            self._arriving = None
            return first if first >= 0 else None
        return None


RANDOMNESS = "counter-based: a function of (seed, epoch, sample id); nothing to store"


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
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
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
        checkpoint.save(self.folder, epoch, weights, self.tensors(), self.manifest(epoch))
        self.show(epoch)

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
        checkpoint.put_weights(self.model, weights, folder / checkpoint.MODEL)
        if self.ema:
            for average, name in zip(self.ema.average, self.model.state_dict(), strict=True):
                average.copy_(weights[name])
            live = {name[5:]: value for name, value in tensors.items() if name.startswith("live/")}
            checkpoint.put_weights(self.model, live, folder / checkpoint.STATE)
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
        if manifest[field_name] != checkpoint.plain_json(facts[field_name]):
            differing.append(f"{field_name} ({manifest[field_name]} there, {facts[field_name]} here)")
    for name in ("train", "validation"):
        there, here = manifest["data"][name], facts["data"][name]
        if there["fingerprint"] != here["fingerprint"]:
            differing.append(f"{name} images ({there['images']} there, {here['images']} here, other fingerprint)")
    mine = checkpoint.plain_json(facts["config"])
    for name, value in manifest["config"].items():
        if name not in WITHOUT_EFFECT and mine.get(name) != value:
            differing.append(f"config.{name} ({value!r} there, {mine.get(name)!r} here)")
    if differing:
        raise MedcoreError(
            f"resume: {folder} belongs to another run. Different: {'; '.join(differing)}. "
            "Set them back, or choose another folder for a new run"
        )
