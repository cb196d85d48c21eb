"""Host memory that a run keeps between its steps; and when memory runs out, which batch size would have fitted."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from medcore.errors import MedcoreError
from medcore.training import distributed

if TYPE_CHECKING:
    from medcore.training.batches import Batch
    from medcore.training.state import TrainState


# glibc's names for "blocks from this size on are mapped alone" and "free memory above this goes back"
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
WHILE_TRAINING = {MMAP_THRESHOLD: 1 << 30, TRIM_THRESHOLD: 1 << 30}
AFTERWARDS = {MMAP_THRESHOLD: 1 << 25, TRIM_THRESHOLD: 1 << 26}  # where glibc's own adaptation ends up


@contextlib.contextmanager
def kept_between_steps() -> Iterator[None]:
    """Have the C library keep what a step frees for the next step, and give it back at the end.

    Every step asks for the same megabytes again. Left alone, glibc hands them to the system after use, and each page
    that comes back costs a fault: a visible share of a small model's step and most of an augmentation's time. Other C
    libraries are left as they are.
    """
    library = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if library is None:
        yield
        return
    _tune(library, WHILE_TRAINING)
    try:
        yield
    finally:
        _tune(library, AFTERWARDS)
        library.malloc_trim(0)


def _tune(library: ctypes.CDLL, sizes: dict[int, int]) -> None:
    for name, size in sizes.items():
        library.mallopt(name, size)


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the host."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


@contextlib.contextmanager
def explained(state: TrainState) -> Iterator[None]:
    """Turn an out-of-memory error into one that names the largest batch that fits.

    Raises:
        MedcoreError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        cause = error.with_traceback(None)  # the traceback holds the tensors that filled the memory
    else:
        return
    size, pieces = state.config.batch_size, state.config.pieces
    here = state.batches.most_at_once
    text = f"out of memory with {here} images at once on {state.device} (batch_size={size}, pieces={pieces}). "
    if distributed.world() > 1:
        raise MedcoreError(text + f"Set pieces={2 * pieces}: the result stays the same") from cause
    fits = largest_that_fits(lambda images: _one_pass(state, images), here)
    if fits == 0:
        raise MedcoreError(text + "Not even one image fits: use smaller images or a smaller model") from cause
    raise MedcoreError(
        text + f"The largest number that fits is {fits}: set pieces={-(-size // fits)} (same result, less memory) "
        f"or batch_size={fits}"
    ) from cause


def largest_that_fits(attempt: Callable[[int], None], too_many: int) -> int:
    """The largest number below ``too_many`` for which ``attempt`` does not run out of memory, 0 for none."""
    low, high = 0, too_many  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            attempt(middle)
            low = middle
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            high = middle
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return low


def _one_pass(state: TrainState, images: int) -> None:
    batch = _shrunk(next(iter(state.batches.epoch(1, state.config.augment_at(1)))), images)
    state.optimiser.zero_grad(set_to_none=True)
    with state.precision.autocast(state.device):
        parts = state.objective.compute(state.model(state.precision.arrange(batch.images)), batch, 1)
    parts["loss"].backward()
    state.optimiser.zero_grad(set_to_none=True)


def _shrunk(batch: Batch, images: int) -> Batch:
    masks = None if batch.masks is None else batch.masks[:images]
    return type(batch)(batch.images[:images], batch.labels[:images], masks, batch.ids[:images])
