"""Runs a model over images of any number, in order, in constant memory.

    probabilities = predict(model, ps)                        # a classifier: (N, K)
    features = stream(model.features, ps)                     # any function of a batch of images
    for part in stream_files(model, paths, size=(64, 64)): …  # image files, a batch at a time

While one batch is computed, the next is read on background threads. The batch size follows from the image size, and
is halved when the device runs out of memory.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from medcore.data.images import DecodeOptions, as_channels, decode
from medcore.data.patchset import PatchSet
from medcore.data.readers.series import Grey, greys_of
from medcore.data.sizes import pieces
from medcore.errors import MedcoreError
from medcore.models.classifier import Classifier
from medcore.models.unet import SegmentationModel
from medcore.training.device import Precision, choose_device, choose_precision

PIXELS_PER_BATCH = {"cpu": 2**20, "cuda": 2**24, "mps": 2**22}  # e.g. 256 images of 64 x 64 on a CPU
FILES_PER_JOB = 16  # handing one small file at a time to a thread costs a tenth of decoding it
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet may run starts with one of these
Function = Callable[[Tensor], Tensor]
T = TypeVar("T")


def predict(
    model: nn.Module,
    ps: PatchSet,
    *,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32+channels_last",
    temperature: float = 1.0,
    progress: bool = False,
) -> np.ndarray:
    """What a classifier or a segmentation model says about every image of a set, in the set's order.

    Args:
        model: a Classifier or a U-Net; put into evaluation mode.
        batch_size: images at a time; None chooses by the image size.
        device: where to compute; None stays where the model is.
        precision: as in ``TrainConfig``, e.g. ``"auto"`` for bf16 where it wins.
        temperature: divides a classifier's logits (calibration; found on validation data).

    Returns:
        Class probabilities (N, K) float32 of a classifier, class indexes (N, H, W) uint8 of a segmentation model.

    Raises:
        MedcoreError: the set does not fit the model, or the model is of another kind.
    """
    function = answer(model, temperature)
    return stream(
        function, ps, model=model, batch_size=batch_size, device=device, precision=precision, progress=progress
    )


def answer(model: nn.Module, temperature: float = 1.0) -> Function:
    """The function from images to answers: probabilities of a classifier, pixel classes of a segmentation model."""
    if not temperature > 0:
        raise MedcoreError(f"temperature={temperature}: must be above 0")
    if isinstance(model, Classifier):
        return lambda images: model.squash(model(images).float() / temperature)
    if isinstance(model, SegmentationModel):
        return lambda images: model(images).argmax(1).to(torch.uint8)  # type: ignore[union-attr]
    raise MedcoreError(
        f"predict: {type(model).__name__} is neither a classifier nor a segmentation model; "
        "for autoencoders use medcore.studies.anomaly.scores.score"
    )


@torch.no_grad()
def stream(
    function: Function,
    ps: PatchSet,
    *,
    model: nn.Module | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32+channels_last",
    progress: bool = False,
) -> np.ndarray:
    """Applies any function of image batches to a whole set, in order.

    Args:
        function: (B, C, H, W) float in [0, 1] on the device -> (B, …).
        model: the network inside of ``function``: put into evaluation mode and onto the device. None leaves that to
            the caller.
        batch_size: images at a time; None chooses by the image size.
        device: where to compute; None stays where the model is.

    Returns:
        One row per image: (N, …), of the function's type (bfloat16 as float32).
    """
    if len(ps) == 0:
        raise MedcoreError(f"set {ps.card.name!r}: there are no images to predict on; check the selection")
    place = place_model(model, device, precision)
    size = batch_size or auto_batch_size(ps.shape, place.device)
    result: np.ndarray | None = None
    done = 0
    chunks = ahead((ps.take(slice(i, i + size)) for i in range(0, len(ps), size)), depth=2)
    with tqdm(total=len(ps), disable=not progress, unit="image", leave=False) as bar:
        for pixels in chunks:
            part = place.run(function, pixels)
            if result is None:
                result = np.empty((len(ps), *part.shape[1:]), part.dtype)
            result[done : done + len(part)] = part
            done += len(part)
            bar.update(len(part))
    assert result is not None
    return result


@dataclass
class Place:
    """Where and how a batch is computed."""

    device: torch.device
    precision: Precision

    @torch.no_grad()
    def run(self, function: Function, pixels: np.ndarray) -> np.ndarray:
        """One chunk of uint8 images through the function, in halves when memory runs out.

        **Shape**: (B, H, W, C) uint8 -> (B, …).
        """
        try:
            with self.precision.autocast(self.device):
                values = function(self.arrange(pixels))
            return values.float().cpu().numpy() if values.dtype == torch.bfloat16 else values.cpu().numpy()
        except torch.OutOfMemoryError as error:
            if len(pixels) == 1:
                raise MedcoreError(
                    f"one image of {pixels.shape[1]}x{pixels.shape[2]} pixels does not fit into the device's memory; "
                    "use a smaller model or device='cpu'"
                ) from error
        half = len(pixels) // 2
        return np.concatenate([self.run(function, pixels[:half]), self.run(function, pixels[half:])])

    def arrange(self, pixels: np.ndarray) -> Tensor:
        """uint8 (B, H, W, C) -> float (B, C, H, W) in [0, 1] on the device, in the precision's layout."""
        images = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device).permute(0, 3, 1, 2)
        return self.precision.arrange(images.float().div_(255.0))


def place_model(model: nn.Module | None, device: str | torch.device | None, precision: str) -> Place:
    """Puts the model into evaluation mode, onto the device and into the precision's layout."""
    if device is None:
        tensor = next(itertools.chain(model.parameters(), model.buffers()), None) if model is not None else None
        place = torch.device("cpu") if tensor is None else tensor.device
    else:
        place = choose_device(str(device))
    chosen = choose_precision(precision, place, nn.Identity() if model is None else model)
    if model is not None:
        chosen.place(model, place).eval()
    return Place(place, chosen)


def auto_batch_size(shape: Sequence[int], device: torch.device) -> int:
    """Images at a time for images of (H, W, …): as many pixels as keep the device busy, 1 to 1024."""
    pixels = PIXELS_PER_BATCH.get(device.type, PIXELS_PER_BATCH["cpu"])
    return int(min(1024, max(1, pixels // (shape[0] * shape[1]))))


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items in the same order, the next ``depth`` of them made on one background thread."""
    iterator = iter(items)
    sentinel = object()
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future] = deque(pool.submit(next, iterator, sentinel) for _ in range(depth))
        while True:
            item = waiting.popleft().result()
            if item is sentinel:
                return
            waiting.append(pool.submit(next, iterator, sentinel))
            yield item


@dataclass
class FileBatch:
    """Answers for some image files.

    Attributes:
        paths: the files that were read, in the order asked for.
        values: (n, …), one row per file.
        pixels: (n, H, W, C) uint8, what the model saw.
        problems: files of this stretch that could not be read, with the reason.
    """

    paths: list[Path]
    values: np.ndarray
    pixels: np.ndarray
    problems: list[tuple[Path, str]] = field(default_factory=list)


def stream_files(
    model: nn.Module,
    paths: Iterable[str | PathLike[str]],
    *,
    shape: tuple[int, int, int],
    policy: str = "resize",
    function: Function | None = None,
    on_error: str = "raise",
    options: DecodeOptions | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32+channels_last",
    workers: int = 2,
) -> Iterator[FileBatch]:
    """Answers for image files, a batch at a time, in the order given.

    Args:
        paths: image files; may be a generator of millions. Slices of one DICOM series without a window share their
            grey scale only in a list.
        shape: height, width and channels that the model was trained on.
        policy: how other sizes are brought to it: ``resize``, ``fit``, ``crop`` or ``pad``.
        function: (B, C, H, W) -> (B, …); by default what ``predict`` gives.
        on_error: ``raise`` at the first unreadable file, or ``skip`` and list it in ``problems``.
        options: how deep pixels and DICOM windows become 8 bit; as in training.
        batch_size: images at a time; None chooses by the shape.
        device: where to compute; None stays where the model is.

    Raises:
        MedcoreError: an unknown policy or ``on_error``, or an unreadable file.
    """
    if on_error not in ("raise", "skip"):
        raise MedcoreError(f"on_error={on_error!r}: must be 'raise' or 'skip'")
    if policy not in ("resize", "fit", "crop", "pad"):
        raise MedcoreError(f"policy={policy!r}: must be resize, fit, crop or pad")
    place, function = place_model(model, device, precision), function or answer(model)
    size = batch_size or auto_batch_size(shape, place.device)

    listed = [Path(path) for path in paths] if isinstance(paths, Sequence) else []
    greys = greys_of(listed, options or DecodeOptions())  # one grey scale for the slices of a DICOM series

    def read(path: Path) -> np.ndarray | str:
        try:
            return read_image(path, shape, policy, options, greys.get(path))
        except MedcoreError as error:
            if on_error == "raise":
                raise
            return str(error)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for batch in _batched_reads(
            pool, read, (path if isinstance(path, Path) else Path(path) for path in paths), size
        ):
            good = [(path, pixels) for path, pixels in batch if not isinstance(pixels, str)]
            problems = [(path, pixels) for path, pixels in batch if isinstance(pixels, str)]
            pixels = np.stack([item for _, item in good]) if good else np.zeros((0, *shape), np.uint8)
            values = place.run(function, pixels) if good else np.zeros((0,), np.float32)
            yield FileBatch([path for path, _ in good], values, pixels, problems)


def _batched_reads(
    pool: ThreadPoolExecutor, read: Callable[[Path], np.ndarray | str], paths: Iterator[Path], size: int
) -> Iterator[list[tuple[Path, np.ndarray | str]]]:
    """Lists of ``size`` read files in order, with up to two further lists being decoded meanwhile."""

    def read_some(some: list[Path]) -> list[tuple[Path, np.ndarray | str]]:
        return [(path, read(path)) for path in some]

    def start() -> list[Future]:
        batch = list(itertools.islice(paths, size))
        return [pool.submit(read_some, batch[i : i + FILES_PER_JOB]) for i in range(0, len(batch), FILES_PER_JOB)]

    waiting = deque([start(), start()])
    while batch := waiting.popleft():
        waiting.append(start())
        yield [item for future in batch for item in future.result()]


def read_image(
    path: str | PathLike[str], shape: tuple[int, int, int], policy: str = "resize",
    options: DecodeOptions | None = None, shared: Grey | None = None,
) -> np.ndarray:  # fmt: skip
    """One image file as the model expects it. **Shape**: -> (H, W, C) uint8. ``shared`` as in ``greys_of``.

    Raises:
        MedcoreError: it cannot be read or brought to the shape; the message names the file.
    """
    height, width, channels = shape
    at_least = (height, width) if policy == "resize" else None  # as when a set is prepared
    decoded = as_channels(decode(path, options, at_least=at_least, shared=shared), channels)
    try:
        pixels, _, _ = next(iter(pieces(decoded.pixels, None, policy, (height, width))))
    except MedcoreError as error:
        raise MedcoreError(f"image '{path}' {error}") from error
    return pixels


def refuse_overwriting(outputs: Iterable[Path], inputs: Iterable[Path], *, overwrite: bool = False) -> None:
    """Raise before anything is written where an output would replace an input, or an existing file unasked.

    Inputs are known by their inode: a link to an image, under whatever name, is that image.

    Raises:
        MedcoreError: It would; the message names the file.
    """
    read = {_inode(path) for path in inputs}
    for path in outputs:
        if not os.path.lexists(path):
            continue
        if path.exists() and _inode(path) in read:
            raise MedcoreError(f"{for_terminal(path)} is an input and would be replaced; choose another --out")
        if not overwrite:
            raise MedcoreError(f"{for_terminal(path)} exists; choose another --out, or pass --overwrite to replace it")


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def utf8(name: object) -> str:
    """A name that UTF-8 can hold: bytes that are none (a zip of another system) become escapes."""
    text = str(name)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def for_terminal(name: object) -> str:
    """A name for a terminal: control characters are shown, not obeyed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in utf8(name))


def safe_cell(value: T) -> T | str:
    """A cell of a table: text that a spreadsheet would run as a formula gets a leading apostrophe."""
    if not isinstance(value, str):
        return value
    return "'" + utf8(value) if value.lstrip(" ")[:1] in FORMULA else utf8(value)
