"""Features of images: computed once and kept, and how far a new image lies from the training images.

    store = features(patches, build_classifier("timm:tf_efficientnet_lite0", 2, weights="imagenet"))
    store.values                    # (N, D) float32, memory-mapped, in the set's order; again: out of the store at once

- A store is known by the set, the encoder, its weights and the precision; what was cut off goes on where it stopped.
- A hash of it stands beside it; a store that does not match (a flipped bit, another file) is computed anew, and said.
- ``Familiarity`` is the distance to the nearest class centre, in units of the spread within classes, so that two
  classes far apart do not make everything between them look usual. Pixel statistics (colour, contrast, sharpness)
  catch what a network has learnt to ignore.

**Reference** Lee et al. 2018, arXiv:1807.03888 (class centres with a shared spread; here with a diagonal one).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor
from tqdm.auto import tqdm

from medcore.data.integrity import content_hashes
from medcore.data.npzfile import read_npy_header
from medcore.data.patchset import PatchSet
from medcore.data.source import data_home
from medcore.errors import MedcoreError
from medcore.evaluation.predict import ahead, auto_batch_size, place_model, stream
from medcore.evaluation.scores import refuse_test_data
from medcore.models.classifier import Classifier
from medcore.models.sealed import jsonable, read_regular

MOST_NOTE = 1 << 24  # bytes of what stands beside a store
AT_ONCE = 4096  # images between two notes of how far a store is


@dataclass(frozen=True)
class FeatureStore:
    """Features of a set on the disk.

    Attributes:
        values: Memory-mapped. **Shape** ``(N, D)`` float32.
        path: The file, an ordinary ``.npy``.
        facts: The set, encoder, weights and precision they belong to.
        reused: How many of the rows were there before.
    """

    values: np.ndarray
    path: Path
    facts: dict[str, Any]
    reused: int


def features(
    patches: PatchSet,
    encoder: Classifier,
    *,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32+channels_last",
    home: Path | None = None,
    progress: bool = False,
) -> FeatureStore:
    """Features of every image of a set, computed once; memory holds a few batches, whatever the number of images.

    Args:
        encoder: A classifier with pretrained weights, put into evaluation mode; features are what its head sees.
        batch_size: Images at a time; None chooses by the image size.
        device: Where to compute; None stays where the encoder is.
        home: Where stores are kept; ``features`` of the data folder by default.

    Raises:
        MedcoreError: There are no images, or a disk that cannot be written.

    Warns:
        UserWarning: A store was not what had been written there, and was computed anew.
    """
    if not len(patches):
        raise MedcoreError(f"set {patches.card.name!r}: there are no images to encode; check the selection")
    place = place_model(encoder, device, precision)
    width = place.run(encoder.features, patches.take([0])).shape[1]
    facts = jsonable(
        {
            "set": patches.fingerprint,
            "images": len(patches),
            "encoder": encoder.spec,
            "weights_sha256": weights_hash(encoder),
            "precision": str(place.precision),
            "width": width,
        }
    )
    home = data_home() / "features" if home is None else home
    path = home / f"{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]}.npy"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            reused = len(patches)
            if not _is_whole(path, facts):
                reused = _fill(path, facts, patches, place, encoder.features, batch_size, progress)
    except OSError as error:
        raise MedcoreError(f"{path} cannot be written ({error.strerror}); make room, what is done is kept") from error
    return FeatureStore(np.load(path, mmap_mode="r", allow_pickle=False), path, facts, reused)


def _fill(
    path: Path,
    facts: dict[str, Any],
    patches: PatchSet,
    place: Any,
    function: Callable[[Tensor], Tensor],
    batch_size: int | None,
    progress: bool,
) -> int:
    """Compute what is missing; returns how many rows were there."""
    part, note = path.with_suffix(".part"), path.with_suffix(".json")
    shape = (len(patches), facts["width"])
    done = _rows_done(part, note, facts, shape)
    if not done:
        part.unlink(missing_ok=True)  # a link is not written through
    values = np.lib.format.open_memmap(part, "r+" if done else "w+", np.float32, shape)
    size = batch_size or auto_batch_size(patches.shape, place.device)
    starts = range(done, len(patches), size)
    chunks = ahead((patches.take(slice(start, start + size)) for start in starts), depth=2)
    noted = done
    with tqdm(total=len(patches), initial=done, disable=not progress, unit="image", leave=False) as bar:
        for start, pixels in zip(starts, chunks, strict=True):
            values[start : start + len(pixels)] = place.run(function, pixels)
            bar.update(len(pixels))
            if start + len(pixels) - noted >= AT_ONCE:
                values.flush()
                noted = start + len(pixels)
                _write_note(note, facts, noted)
    values.flush()
    del values
    os.replace(part, path)
    _write_note(note, facts, len(patches), content_hashes(path.parent, [path])[0])
    return done


def _is_whole(path: Path, facts: dict[str, Any]) -> bool:
    """Whether a store is there, of the right shape, and of the content that it was written with."""
    if not os.path.lexists(path):
        return False
    known = _read_note(path.with_suffix(".json"), facts)
    whole = (
        _has_shape(path, (facts["images"], facts["width"]))
        and known.get("hash", "") == content_hashes(path.parent, [path])[0]
    )
    if not whole:
        warnings.warn(f"{path} is not what was written there, and is computed anew", stacklevel=4)
    return whole


def _has_shape(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a regular file is a ``.npy`` array of this shape and float32."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with open(path, "rb") as file:
            found = read_npy_header(file, str(path))
            return found == (shape, False, np.float32) and path.stat().st_size == file.tell() + 4 * math.prod(shape)
    except MedcoreError:
        return False


def _rows_done(part: Path, note: Path, facts: dict[str, Any], shape: tuple[int, int]) -> int:
    """Rows of an unfinished store that are certain to be on the disk."""
    done = _read_note(note, facts).get("done") if _has_shape(part, shape) else 0
    return done if isinstance(done, int) and 0 <= done <= shape[0] else 0


def _read_note(note: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """What stands beside a store of these facts; empty for any other."""
    try:
        known = json.loads(read_regular(note, MOST_NOTE))
    except (MedcoreError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) and known.get("facts") == facts else {}


def _write_note(note: Path, facts: dict[str, Any], done: int, content: str = "") -> None:
    temporary = note.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"facts": facts, "done": done, "hash": content}, indent=1), encoding="utf-8")
    os.replace(temporary, note)


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights by name, wherever they came from (hex)."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith("head."):  # a new head changes no feature
            digest.update(name.encode() + str(tuple(value.shape)).encode())
            digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


TYPICAL = 0.99  # share of the validation images that counts as usual


@dataclass
class Space:
    """Class centres and the spread within classes.

    Attributes:
        centres: **Shape** ``(K, D)``.
        spread: **Shape** ``(D,)``.
        limit: Mean squared z-score that 99 % of the validation images stay below.
    """

    centres: list[list[float]]
    spread: list[float]
    limit: float = 1.0

    @classmethod
    def learn(cls, values: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> Space:
        """Centres and spread of training values; the limit from held-out ones."""
        present = np.unique(labels)
        centres = np.stack([values[labels == k].mean(0) for k in present])
        inside = np.concatenate([values[labels == k] - values[labels == k].mean(0) for k in present])
        spread = inside.std(0) + 0.05 * values.std(0) + 1e-6  # a feature that never varies must not decide alone
        space = cls(_rounded(centres), _rounded(spread))
        space.limit = float(np.quantile(space.distance(torch.from_numpy(held_out)).numpy(), TYPICAL))
        return space

    def distance(self, values: Tensor) -> Tensor:
        """Mean squared z-score to the nearest centre in units of the limit. **Shape** ``(B, D) -> (B,)``."""
        spread = torch.tensor(self.spread, dtype=torch.float32, device=values.device)
        centres = torch.tensor(self.centres, dtype=torch.float32, device=values.device) / spread
        return torch.cdist(values.float() / spread, centres).square().amin(1) / (len(self.spread) * self.limit)


@dataclass
class Familiarity:
    """Where training images lie, in features and in pixel statistics."""

    features: Space
    pixels: Space

    @classmethod
    def learn(
        cls, model: Classifier, train: PatchSet, validation: PatchSet,
        known: Callable[[PatchSet], np.ndarray] | None = None,
    ) -> Familiarity:  # fmt: skip
        """From labelled training images; validation images say how far usual ones lie. Neither may be marked test.

        Args:
            known: Features of images under the model, where they are known already.
        """
        for images in (train, validation):
            refuse_test_data(images, "what is familiar")
        seen = known or (lambda images: stream(model.features, images, model=model))
        plain = lambda images: stream(pixel_features, images, model=model)  # noqa: E731
        return cls(*(Space.learn(of(train), train.labels, of(validation)) for of in (seen, plain)))

    def distance(self, features: Tensor, images: Tensor) -> Tensor:
        """The larger of both distances; above 1 is unusual. **Shape** ``(B, D), (B, C, H, W) -> (B,)``."""
        return torch.maximum(self.features.distance(features), self.pixels.distance(pixel_features(images)))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any] | None) -> Familiarity | None:
        """The inverse of ``as_dict``; None stays None."""
        return cls(Space(**stored["features"]), Space(**stored["pixels"])) if stored else None


def pixel_features(images: Tensor) -> Tensor:
    """Mean and spread of each channel, and the log sharpness. **Shape** ``(B, C, H, W) -> (B, 2C + 1)``."""
    planes = images.float().flatten(2)  # (B, C, HW), a copy of channels-last images: reductions run four times faster
    means = planes.mean(2)
    spreads = torch.linalg.vector_norm(planes - means[:, :, None], dim=2) / (planes.shape[2] - 1) ** 0.5
    grey = planes.mean(1).view(-1, *images.shape[2:])
    edges = grey - _three_by_three(grey) / _three_by_three(torch.ones_like(grey[:1]))
    sharpness = edges.square_().mean((1, 2)).add(1e-6).log()
    return torch.cat([means, spreads, sharpness[:, None]], dim=1)


def _three_by_three(planes: Tensor) -> Tensor:
    """Sum over each pixel and its up to eight neighbours. **Shape** ``(B, H, W)`` -> the same."""
    padded = F.pad(planes, (1, 1, 1, 1))
    rows = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


def _rounded(values: np.ndarray) -> Any:
    """Five significant digits are plenty, and keep the manifest small."""
    magnitude = 10.0 ** (4 - np.floor(np.log10(np.maximum(np.abs(values), 1e-12))))
    return (np.round(values * magnitude) / magnitude).tolist()
