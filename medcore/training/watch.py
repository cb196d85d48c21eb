"""Notices a loss that is NaN or infinite, without making the host wait for the device at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from medcore.training import distributed

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
