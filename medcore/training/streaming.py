"""Working ahead: background threads make the next batches, a side stream uploads pixels to a GPU."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")
Stacks = tuple[Tensor, Tensor | None]  # pixels and masks


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Call ``read`` on background threads, a few items ahead, and hand the results out in order.

    torch's kernels run on one core within them: each would bring its own team of threads, and spinning teams on the
    same cores slow each other down.
    """
    waiting: deque[Future[Result]] = deque()
    ours = torch.get_num_threads()
    with ThreadPoolExecutor(threads, "medcore-loader", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the caller may stop in the middle of an epoch
            for future in waiting:
                future.cancel()
            torch.set_num_threads(ours)  # the setting is per thread, but new threads take the last one made anywhere


def gather(store: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Copy rows of a file into a buffer, pinned when it goes to a GPU. torch's copy lets other threads run."""
    buffer = torch.empty((len(rows), *store.shape[1:]), dtype=store.dtype, pin_memory=device.type == "cuda")
    return torch.index_select(store, 0, rows, out=buffer)


def as_tensor(store: np.ndarray) -> Tensor:
    """A tensor over the memory map itself. Nothing ever writes to it, hence no warning that it is read-only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(store)


def upload(stacks: Iterator[Stacks], device: torch.device) -> Iterator[Stacks]:
    """Bring buffers to the device; on a GPU the next one is under way while the current one is used.

    torch's allocators keep a pinned buffer until its copy is done, and a GPU block until both streams are.
    """
    if device.type != "cuda":
        yield from ((pixels.to(device), None if masks is None else masks.to(device)) for pixels, masks in stacks)
        return
    side = torch.cuda.Stream(device)
    under_way: deque[tuple[Stacks, torch.cuda.Event]] = deque()
    for pixels, masks in stacks:
        with torch.cuda.stream(side):
            there = pixels.to(device, non_blocking=True)
            masks_there = None if masks is None else masks.to(device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(side)
        under_way.append(((there, masks_there), arrived))
        if len(under_way) > 1:
            yield _take_over(*under_way.popleft(), device)
    while under_way:
        yield _take_over(*under_way.popleft(), device)


def _take_over(stacks: Stacks, arrived: torch.cuda.Event, device: torch.device) -> Stacks:
    current = torch.cuda.current_stream(device)
    current.wait_event(arrived)
    for stack in stacks:
        if stack is not None:
            stack.record_stream(current)
    return stacks
