"""Optimisers, learning-rate schedules, the moving average of weights, and the watch over losses that are not finite.

A schedule is a pure function of the step, so a resumed run needs no scheduler state. Optimisers are torch's fused
ones: they skip a step on the device when its loss was not finite, without the host having to look.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medcore.training import distributed
from medcore.training.config import TrainConfig


def make_optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a run. Biases and normalisation weights (one axis) are not pulled towards zero.

    A model that offers ``parameter_groups(lr, backbone_factor)`` decides which weights are its backbone.
    """
    _spare_the_compiler()
    groups = []
    for group in _groups_of(model, config):
        for decay, pulled in ((config.weight_decay, True), (0.0, False)):
            weights = [weight for weight in group["params"] if (weight.ndim > 1) == pulled]
            if weights:
                groups.append({"params": weights, "lr": group["lr"], "peak": group["lr"], "weight_decay": decay})
    if config.optimiser == "sgd":
        momentum = config.momentum
        return torch.optim.SGD(groups, config.learning_rate, momentum, nesterov=momentum > 0, fused=True)
    kind = torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, config.learning_rate, fused=True)


def _spare_the_compiler() -> None:
    """Leave out the wrapper of ``add_param_group`` that loads ``torch.compile``: seconds, for what only it needs."""
    plain = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    plain.__dict__.setdefault("__dynamo_disable", plain)


def take_step(optimiser: torch.optim.Optimizer) -> None:
    """One step, and the gradients let go: ``step`` and ``zero_grad`` without wrappers that load ``torch.compile``."""
    with torch.no_grad():
        inspect.unwrap(type(optimiser).step)(optimiser)  # type: ignore[call-arg]
    for group in optimiser.param_groups:
        for weight in group["params"]:
            weight.grad = None


def _groups_of(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    named_groups = getattr(model, "parameter_groups", None)
    if config.backbone_share != 1 and named_groups is not None:
        return [group for group in named_groups(config.learning_rate, config.backbone_share) if group["params"]]
    return [{"params": list(model.parameters()), "lr": config.learning_rate}]


def schedule_factor(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step as a share of the largest.

    Args:
        step: Optimiser steps done before this one, from 0.
        steps_per_epoch: Optimiser steps of an epoch.

    **Reference** cosine: Loshchilov and Hutter 2017, arXiv:1608.03983; one-cycle: Smith and Topin 2018,
    arXiv:1708.07120 (30 % rise from 1/25, cosine on both sides).
    """
    total = config.epochs * steps_per_epoch
    if config.schedule == "exponential":
        return config.decay ** (step / steps_per_epoch)
    if config.schedule == "cosine":
        warmup = min(config.warmup_epochs * steps_per_epoch, total - 1)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return _cosine(1.0, config.final_share, (step - warmup) / max(total - 1 - warmup, 1))
    if config.schedule == "one-cycle":
        peak = 0.3 * (total - 1)
        if step < peak:
            return _cosine(1 / 25, 1.0, step / max(peak, 1))
        return _cosine(1.0, config.final_share, (step - peak) / max(total - 1 - peak, 1))
    return 1.0


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def set_learning_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to its own largest rate times ``factor``."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


class Ema:
    """Exponential moving average of all weights and buffers of a model.

    Args:
        decay: Share of the old average kept per step; early steps keep less, (1 + t) / (10 + t).

    **Reference** Polyak and Juditsky 1992, doi:10.1137/0330046.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = [tensor.detach() for tensor in model.state_dict(keep_vars=True).values()]
        self.average = [tensor.clone() for tensor in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the model after its ``step``-th step, counted from 1."""
        keep = min(self.decay, (1 + step) / (10 + step))
        pairs = list(zip(self.average, self.live, strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([average for average, _ in floating], [live for _, live in floating], 1 - keep)
        for average, live in pairs:
            if not average.is_floating_point():
                average.copy_(live)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model holds the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, live in zip(self.average, self.live, strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)


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
