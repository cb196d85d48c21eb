"""One process, or several under ``torchrun``: who am I, and sums over all of us.

    torchrun --nproc-per-node=2 -m medcore train classifier --data phantom-crc --out runs/a

Without torchrun's environment everything here is a no-op.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medcore.training.device import choose_device


def rank() -> int:
    """Number of this process, 0 for the one that writes."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """The elementwise sum over all processes, the same on each. **Shape** any."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def barrier() -> None:
    """Wait for all processes."""
    if world() > 1:
        dist.barrier()


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as it is called in training: averages gradients over processes where there are several."""
    if world() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


@contextmanager
def session(name: str) -> Iterator[torch.device]:
    """The device of this process."""
    yield choose_device(name)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Algorithms that give the same bits each time, for a GPU; put back afterwards."""
    yield
