"""Working ahead: background threads make the next batches, a side stream uploads pixels to a GPU.

The loader: from a PatchSet to batches on the device.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from medcore.data.parallel import available_cores
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.training.augment.apply import apply_chosen, choose, part_of, to_float
from medcore.training.augment.recipe import Augment, Chosen
from medcore.training.randomness import permutation

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


DRAWN_TOGETHER = 8192  # images whose augmentation is drawn at once: a few megabytes


@dataclass
class Batch:
    """Images of one forward pass.

    Attributes:
        images: In [0, 1], on the device. **Shape** ``(B, C, H, W)`` float32.
        labels: Class indexes, on the device, -1 = unlabelled. **Shape** ``(B,)`` int64; of several findings an image
            ``(B, K)``, as in ``PatchSet.findings``; of a measured value ``(B,)`` float32.
        masks: Class of each pixel, 255 = ignore, on the device. **Shape** ``(B, H, W)`` int64; or None.
        ids: Rows of the set's store, on the host. **Shape** ``(B,)`` int64.
        weight: Factor of the loss whose gradients, averaged over processes and summed over the pieces of a step,
            make the mean over the step's images.
        closes_step: Whether the optimiser steps after this piece.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None
    ids: Tensor
    weight: float = 1.0
    closes_step: bool = True

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Piece:
    """Which images one forward pass of this process takes: positions in the view, and their gradient weight."""

    rows: Tensor
    weight: float
    closes_step: bool


def suitable_size(images: int, largest: int = 64) -> int:
    """Images per step, a power of two from 8 to ``largest``, so that a small set still gets a dozen steps per epoch.

    With 100 images a batch of 64 means two steps per epoch: a network without pretrained weights has then learnt
    little after 20 epochs (inner folds of 95 chest X-rays: balanced accuracy 0.54 beside 0.72 with batches of 8).
    """
    return min(largest, max(8, 2 ** int(math.log2(max(images, 12) / 12))))


def plan_pieces(order: Tensor, batch_size: int, *, pieces: int = 1, rank: int = 0, world: int = 1) -> list[Piece]:
    """Cut an order of samples into the forward passes of one process.

    Args:
        order: Positions in the order of visit. **Shape** ``(N,)`` int64.
        batch_size: Most images per step over all pieces and processes.
        pieces: Forward passes per step and process.

    Raises:
        MedcoreError: A step has fewer images than processes.
    """
    steps = torch.tensor_split(order, max(1, math.ceil(len(order) / batch_size)))
    plans: list[Piece] = []
    for step in steps:
        if len(step) < world:
            raise MedcoreError(f"batch_size={batch_size}: a step of {len(step)} images cannot serve {world} processes")
        mine = torch.tensor_split(step, world)[rank]
        parts = [part for part in torch.tensor_split(mine, pieces) if len(part)]
        plans += [
            Piece(part, len(part) * world / len(step), number == len(parts)) for number, part in enumerate(parts, 1)
        ]
    return plans


def together(lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Neighbours joined until they reach ``most``, as (first, last + 1)."""
    bounds, total = [0], 0
    for place, length in enumerate(lengths, 1):
        total += length
        if total >= most or place == len(lengths):
            bounds.append(place)
            total = 0
    return list(pairwise(bounds))


class Batches:
    """Batches of a set, epoch by epoch.

    Args:
        batch_size: Images per optimiser step over all pieces and processes.
        shuffle: Visit in a new order each epoch; else in the set's order.
        loader: ``memory`` (pixels on the device), ``stream`` (read from the file), ``auto`` (memory when it fits).
        memory_share: Share of the device's free memory that ``auto`` may fill.
        threads: Threads that make batches ahead (on a GPU, or with no core idle: that read ahead when streaming).

    Raises:
        MedcoreError: There are no images.
    """

    def __init__(
        self,
        patches: PatchSet,
        batch_size: int,
        device: torch.device,
        *,
        seed: int = 0,
        shuffle: bool = False,
        pieces: int = 1,
        loader: str = "auto",
        memory_share: float = 0.5,
        threads: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if len(patches) == 0:
            raise MedcoreError(f"set {patches.card.name!r}: there are no images to make batches of")
        self.patches, self.batch_size, self.device = patches, batch_size, device
        self.seed, self.shuffle, self.pieces, self.threads = seed, shuffle, pieces, threads
        self.rank, self.world = rank, world
        self.ids = torch.from_numpy(patches.index.copy())
        self._sizes = own_sizes(patches)
        wanted = patches.targets
        kind = np.float32 if wanted.dtype.kind == "f" else np.int64
        self.labels = torch.from_numpy(wanted.astype(kind)).to(device)
        needed = len(patches) * (math.prod(patches.shape) + (math.prod(patches.shape[:2]) if patches.has_masks else 0))
        fits = needed <= memory_share * free_memory(device)
        self.in_memory = loader == "memory" or (loader == "auto" and fits)
        if self.in_memory:
            # row by row: arrays made by a transpose keep its strides, and picking rows of such is many times slower
            self._images = torch.from_numpy(patches.take()).contiguous().to(device)
            self._masks = torch.from_numpy(patches.take_masks()).contiguous().to(device) if patches.has_masks else None

    def __len__(self) -> int:
        """Optimiser steps per epoch."""
        return max(1, math.ceil(len(self.ids) / self.batch_size))

    @property
    def most_at_once(self) -> int:
        """Images of the largest forward pass of this process."""
        pieces = plan_pieces(
            torch.arange(len(self.ids)), self.batch_size, pieces=self.pieces, rank=self.rank, world=self.world
        )
        return max(len(piece.rows) for piece in pieces)

    def epoch(self, number: int, augment: Augment | None = None) -> Iterator[Batch]:
        """The batches of one epoch, counted from 1."""
        order = permutation(self.ids, self.seed, number) if self.shuffle else torch.arange(len(self.ids))
        pieces = plan_pieces(order, self.batch_size, pieces=self.pieces, rank=self.rank, world=self.world)
        chosen = [] if augment is None else self._chosen(pieces, number, augment)
        if self.device.type == "cpu" and spare_cores() > 0:  # whole batches are made ahead on other threads
            stacks_of = self._reader()
            yield from read_ahead(
                lambda n: self._batch(pieces[n], pieces[n].rows, stacks_of(pieces[n]), augment, chosen and chosen[n]()),
                range(len(pieces)),
                self.threads,
            )
            return
        mine = to_device(torch.cat([piece.rows for piece in pieces]), self.device)  # one upload for the epoch
        rows_there = torch.split(mine, [len(piece.rows) for piece in pieces])
        for n, stacks in enumerate(self._stacks_there(pieces, rows_there)):
            yield self._batch(pieces[n], rows_there[n], stacks, augment, chosen and chosen[n]())

    def _batch(self, piece: Piece, rows: Tensor, stacks: Stacks, augment: Augment | None, chosen: Any) -> Batch:
        """Stored pixels as a batch; ``rows`` are the piece's rows on the device."""
        pixels, masks = stacks
        if augment is None:
            images = to_float(pixels)
        else:
            images, masks = apply_chosen(augment, pixels, masks, chosen, seed=self.seed)
        masks = None if masks is None else masks.long()
        return Batch(images, self.labels[rows], masks, self.ids[piece.rows], piece.weight, piece.closes_step)

    def _chosen(self, pieces: list[Piece], number: int, augment: Augment) -> list[Callable[[], Chosen]]:
        """What happens to the images of each piece, drawn for many pieces at once when the first of them is asked.

        A draw costs as much for thousands of images as for one batch: a fifth of what augmenting the batch costs.
        """

        @lru_cache(maxsize=2)
        def group(first: int, last: int) -> Chosen:
            rows = torch.cat([piece.rows for piece in pieces[first:last]])
            sizes = None if self._sizes is None else self._sizes[rows]
            shape, seed = self.patches.shape, self.seed
            return choose(augment, self.ids[rows], shape, self.device, seed=seed, epoch=number, sizes=sizes)

        def of_piece(first: int, last: int, start: int, stop: int) -> Callable[[], Chosen]:
            return lambda: part_of(group(first, last), slice(start, stop))

        found: list[Callable[[], Chosen]] = []
        for first, last in together([len(piece.rows) for piece in pieces], DRAWN_TOGETHER):
            ends = np.cumsum([0, *(len(piece.rows) for piece in pieces[first:last])]).tolist()
            found += [of_piece(first, last, *both) for both in pairwise(ends)]
        return found

    def _reader(self) -> Callable[[Piece], Stacks]:
        """What copies the pixels of a piece out of memory or of the file, for background threads."""
        if self.in_memory:
            return lambda piece: self._taken(piece.rows)
        store = as_tensor(self.patches.store)
        mask_store = None if self.patches.mask_store is None else as_tensor(self.patches.mask_store)

        def read(piece: Piece) -> Stacks:
            ids = self.ids[piece.rows]
            masks = None if mask_store is None else gather(mask_store, ids, self.device)
            return gather(store, ids, self.device), masks

        return read

    def _stacks_there(self, pieces: list[Piece], rows_there: Sequence[Tensor]) -> Iterator[Stacks]:
        if self.in_memory:
            return map(self._taken, rows_there)
        return upload(read_ahead(self._reader(), pieces, self.threads), self.device)

    def _taken(self, rows: Tensor) -> Stacks:
        return self._images.index_select(0, rows), None if self._masks is None else self._masks.index_select(0, rows)


def own_sizes(patches: PatchSet) -> Tensor | None:
    """Height and width of each image without its padding, None where nothing is padded. **Shape** ``(N, 2)``."""
    if not {"height", "width"} <= set(patches.columns):
        return None
    sizes = np.stack([patches.column("height"), patches.column("width")], 1).astype(np.int64)
    return torch.from_numpy(np.minimum(sizes, patches.shape[:2]))  # a column may tell of the image before resizing


def spare_cores() -> int:
    """Cores of this process that torch's kernels leave alone."""
    return available_cores() - torch.get_num_threads()


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A small host tensor on the device without waiting for it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # no such file outside of Linux: half of the memory is a careful guess
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
