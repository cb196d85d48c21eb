"""What ends a run early: a loss that is NaN or infinite, and memory that runs out; both name what to do.

When memory runs out, ``explained`` tries how many images would have fitted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from medcore.errors import MedcoreError
from medcore.training import checkpoint, distributed
from medcore.training.batches import Batch
from medcore.training.state import TrainState


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
