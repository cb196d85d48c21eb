"""Predictor: a checkpoint put to use on new images, from Python or by ``medcore predict``.

    predictor = medcore.load("reports/a/06_patch_classification")
    for batch in predictor.predict("new_images/"):
        batch.labels, batch.confidence, batch.unusual

- A checkpoint is enough: architecture, classes, normalisation, image size, preprocessing and temperature are inside.
- ``equip`` adds, after training, what only the data can tell: the temperature (from validation images) and where the
  training images lie in feature space, so that images unlike them are noticed.
"""

from __future__ import annotations

import glob
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcore.data.images import SUFFIXES
from medcore.data.patchset import PatchSet
from medcore.data.readers.files import image_files
from medcore.data.readers.joined import refuse_channels
from medcore.data.remote import find_source
from medcore.data.slides.reader import find_slides
from medcore.data.source import is_phantom
from medcore.errors import MedcoreError
from medcore.evaluation.features import Familiarity
from medcore.evaluation.predict import FileBatch, ahead, auto_batch_size, place_model, stream_files
from medcore.metrics.confusion import median_grade
from medcore.models.backbone import fold_batch_norm
from medcore.models.classifier import Classifier
from medcore.training import checkpoint
from medcore.training.manifest import decode_options
from medcore.training.seen import Seen, pixel_hashes


@dataclass
class Predictions:
    """Answers for one stretch of images.

    Attributes:
        images: Paths or ids, in the order asked for.
        probabilities: Calibrated where the checkpoint has a temperature. **Shape** ``(n, K)``.
        distance: Distance from the training images, 1 = as far as 99 % of the validation images reach; None
            where the checkpoint does not know. **Shape** ``(n,)``.
        problems: Files that could not be read, with the reason (``on_error="skip"``).
        pixels: What the model saw. **Shape** ``(n, H, W, C)`` uint8.
        seen: Whether the model was trained or chosen on an image or its patient. **Shape** ``(n,)`` bool.
        thresholds: Of each finding, from which probability on it is called present; None for one class an image, whose
            probabilities sum to 1. **Shape** ``(K,)``.
        task: What is asked: ``classification``, ``findings``, ``ordinal``, or ``regression``, where ``probabilities``
            hold the value in its unit.
    """

    images: list[str]
    probabilities: np.ndarray
    classes: list[str]
    distance: np.ndarray | None
    problems: list[tuple[str, str]]
    pixels: np.ndarray
    seen: np.ndarray
    answered: Callable[[np.ndarray], np.ndarray] | None = None
    plausible: Callable[[np.ndarray], np.ndarray] | None = None
    thresholds: np.ndarray | None = None
    task: str = "classification"

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each image; of findings those at or above their thresholds, ``a|b``; median grade."""
        if self.thresholds is not None:
            return ["|".join(itertools.compress(self.classes, row)) for row in self.probabilities >= self.thresholds]
        if not len(self.images):
            return []
        if self.task == "regression":
            return [f"{value:.6g}" for value in self.probabilities[:, 0]]
        called = median_grade(self.probabilities) if self.task == "ordinal" else self.probabilities.argmax(1)
        return [self.classes[k] for k in called]

    @property
    def abstains(self) -> np.ndarray | None:
        """Whether no answer is given, by the first rule that was chosen; None without one. **Shape** ``(n,)`` bool."""
        return None if self.answered is None else ~self.answered(self.probabilities)

    @property
    def sets(self) -> list[list[str]] | None:
        """The classes that stay plausible for each image; None where no limits were chosen."""
        if self.plausible is None:
            return None
        return [[self.classes[k] for k in np.flatnonzero(row)] for row in self.plausible(self.probabilities)]

    @property
    def confidence(self) -> np.ndarray:
        """The probability of that class, 0 to 1. **Shape** ``(n,)``."""
        return self.probabilities.max(1) if len(self.images) else np.zeros(0)

    @property
    def unusual(self) -> np.ndarray:
        """Whether an image looks unlike the training images. **Shape** ``(n,)`` bool."""
        return np.zeros(len(self.images), bool) if self.distance is None else self.distance > 1

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """The k most likely classes of each image with their probabilities."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        shares = np.take_along_axis(self.probabilities, order, axis=1)
        rows = zip(order.tolist(), shares.tolist(), strict=True)
        return [[(self.classes[c], share) for c, share in zip(*row, strict=True)] for row in rows]


class Predictor:
    """A classifier out of a checkpoint.

    Attributes:
        model: In evaluation mode, its batch norm folded into the convolutions; to train it on, ``checkpoint.load``.
        manifest: Everything the checkpoint says of itself.
        seen: What it was trained on.
    """

    def __init__(self, loaded: checkpoint.Loaded, device: str | None = None) -> None:
        self._accept(loaded)
        self.model, self.manifest, self.path = loaded.model, loaded.manifest, loaded.path
        self.model.eval()
        if isinstance(self.model, Classifier):
            fold_batch_norm(self.model)
        self.device = device
        self.seen = Seen.of(loaded.manifest)
        self._familiar = Familiarity.from_dict(loaded.manifest.get("extra", {}).get("familiarity"))

    def _accept(self, loaded: checkpoint.Loaded) -> None:
        if not isinstance(loaded.model, Classifier):
            raise MedcoreError(
                f"{loaded.path} holds a {loaded.manifest['architecture']['family']}, not a classifier; medcore.load "
                "opens every model folder"
            )

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the probabilities."""
        return list(self.manifest["classes"])

    @property
    def temperature(self) -> float:
        """What logits are divided by; 1 when the checkpoint was never calibrated."""
        return float(self.manifest.get("extra", {}).get("temperature", 1.0))

    @property
    def thresholds(self) -> np.ndarray | None:
        """Of each finding, where the model tells several an image: chosen on validation images, else 0.5."""
        if not (isinstance(self.model, Classifier) and self.model.several):
            return None
        chosen = self.manifest.get("extra", {}).get("thresholds") or {}
        return np.array([chosen.get(name, 0.5) for name in self.classes])

    def predict(
        self,
        images: PatchSet | np.ndarray | str | PathLike[str] | Sequence[str | PathLike[str]],
        *,
        on_error: str = "raise",
        batch_size: int | None = None,
    ) -> Iterator[Predictions]:
        """Answer for images, a batch at a time, in order and in constant memory.

        Args:
            images: A PatchSet, uint8 pixels ``(N, H, W, C)``, a file, a folder, a glob, or a list of files.
            on_error: ``raise`` at an unreadable file, or ``skip`` it and list it in ``problems``.
            batch_size: Images at a time; None chooses.

        Raises:
            MedcoreError: There are no images, one cannot be read, or their shape does not fit the model.
        """
        if isinstance(images, np.ndarray):
            yield from self._arrays(_as_batches(images, self._batch(batch_size)), map(str, range(len(images))))
        elif isinstance(images, PatchSet):
            self._check_shape(images.shape)
            names, known = images.column("source").tolist(), self.seen.patients(images)
            yield from self._arrays(images.chunks(self._batch(batch_size)), names, known)
        else:
            yield from self._files(find_images(images), on_error, batch_size)

    def overlays(self, batch: Predictions, *, opacity: float = 0.5) -> np.ndarray:
        """Images under the Grad-CAM map of their predicted class. **Shape** ``(n, H, W, 3)`` uint8."""
        assert isinstance(self.model, Classifier)
        from medcore.evaluation.explain import heatmap_overlay

        return heatmap_overlay(self.model, batch.pixels, batch.probabilities.argmax(1), opacity=opacity)

    def probabilities(self, patches: PatchSet) -> np.ndarray:
        """Class probabilities of every image of a set, in its order. **Shape** ``(N, K)``."""
        return np.concatenate([batch.probabilities for batch in self.predict(patches)])

    def _arrays(
        self, batches: Iterable[np.ndarray], names: Iterable[str], known: np.ndarray | None = None
    ) -> Iterator[Predictions]:
        place, names, done = place_model(self.model, self.device, self._precision), iter(names), 0
        for pixels in ahead(batches, depth=2):
            self._check_shape(pixels.shape[1:])
            found = self._predictions(
                list(itertools.islice(names, len(pixels))), place.run(self._answer, pixels), pixels, []
            )
            if known is not None:
                found.seen |= known[done : done + len(pixels)]
            done += len(pixels)
            yield found

    def _batch(self, asked: int | None) -> int:
        return asked or auto_batch_size(self._shape, torch.device(self.device or "cpu"))

    def _files(self, paths: list[Path], on_error: str, batch_size: int | None) -> Iterator[Predictions]:
        recipe = self.manifest["preprocessing"]
        batches: Iterator[FileBatch] = stream_files(
            self.model,
            paths,
            shape=self._shape,
            policy=recipe.get("policy", "resize"),
            options=decode_options(recipe),
            function=self._answer,
            on_error=on_error,
            batch_size=batch_size,
            device=self.device,
            precision=self._precision,
        )
        for batch in batches:
            problems = [(str(path), reason) for path, reason in batch.problems]
            yield self._predictions([str(path) for path in batch.paths], batch.values, batch.pixels, problems)

    @property
    def _shape(self) -> tuple[int, int, int]:
        height, width, channels = self.manifest["image_shape"]
        return height, width, channels

    @property
    def _precision(self) -> str:
        return "fp32+channels_last"

    def _answer(self, images: Tensor) -> Tensor:
        """Probabilities and, in the last column, the feature distance. **Shape** ``(B, C, H, W) -> (B, K + 1)``."""
        assert isinstance(self.model, Classifier)
        features = self.model.features(images).float()
        probabilities = self.model.squash(self.model.head(features.to(images.dtype)).float() / self.temperature)
        known = self._familiar
        distance = known.distance(features, images) if known else probabilities.new_full((len(images),), -1)
        return torch.cat([probabilities, distance[:, None]], dim=1)

    def _predictions(
        self, names: list[str], values: np.ndarray, pixels: np.ndarray, problems: list[tuple[str, str]]
    ) -> Predictions:
        values = values if len(names) else np.zeros((0, len(self.classes) + 1), np.float32)
        distance = values[:, -1] if self._familiar else None
        seen = self.seen.contents(pixel_hashes(pixels))
        rules = abstention_rules(self.manifest)
        return Predictions(
            names, values[:, :-1], self.classes, distance, problems, pixels, seen, *rules, self.thresholds,
            str(self.manifest.get("task", "classification")),
        )  # fmt: skip

    def _check_shape(self, shape: Sequence[int]) -> None:
        if tuple(shape) != self._shape:
            raise MedcoreError(
                f"images have the shape {tuple(shape)}, but {self.path.name} was trained on {self._shape} (height, "
                "width, channels); prepare the set with that size, or give image files, which are brought to it"
            )


def abstention_rules(manifest: dict[str, Any]) -> tuple[Any, Any]:
    """When a checkpoint gives no answer (its first rule), and which classes stay plausible; None where it says nothing.

    Returns:
        Two functions of probabilities ``(n, K)``: to ``(n,)`` bool and to ``(n, K)`` bool.
    """
    extra = manifest.get("extra", {})
    if not extra.get("rejection") and not extra.get("conformal"):
        return None, None
    from medcore.evaluation.selective import ConformalRule, RejectionRule

    rejection = next(iter(extra.get("rejection", {}).values()), None)
    limits = extra.get("conformal")
    return (
        RejectionRule(**rejection).answers if rejection else None,
        ConformalRule.from_dict(limits).sets if limits else None,
    )


def load_predictor(path: str | PathLike[str], which: str | int = "best", *, device: str | None = None) -> Predictor:
    """A classifier ready to predict.

    Args:
        path: A run's folder, its ``checkpoints`` folder, or one checkpoint.
        which: ``best``, ``last`` or an epoch.
        device: ``cpu``, ``cuda``, ``mps``; None stays on the CPU.

    Raises:
        MedcoreError: Nothing is there, a byte changed, or it is not a classifier.
    """
    return Predictor(checkpoint.load_checkpoint(Path(path), which), device)


def read_as_trained(manifest: dict[str, Any], source: str | PathLike[str], *, on_error: str = "raise") -> PatchSet:
    """A set whose files become pixels as those of a checkpoint's training did: size, policy, window, range, channels.

    Raises:
        MedcoreError: It cannot be read so.
    """
    height, width, channels = manifest["image_shape"]
    recipe = manifest["preprocessing"]
    from medcore.data.load import own_set, read_set  # with its readers and libraries, which new images do not need
    from medcore.data.targets import asked_again

    source = source if is_phantom(source) else find_source(source)
    own = own_set(source)
    asked = asked_again(manifest, own or Path(source))
    if is_phantom(source):
        if height != width:
            raise MedcoreError(
                f"{source}: phantoms are square, but the checkpoint was trained on {width}×{height} pixels"
            )
        patches = read_set(source, size=height, **asked)
    elif own:
        patches = read_set(own, on_error=on_error, **asked)
    else:
        patches = read_set(
            source,
            size=(height, width),
            channels=channels,
            policy=recipe.get("policy", "resize"),
            overlap=recipe.get("overlap", 0),
            mpp=recipe.get("pixel_size_um") if find_slides(find_source(source)) else None,
            on_error=on_error,
            **decode_options(recipe).to_dict(),
            **asked,
        )
    if patches.shape != (height, width, channels):
        raise MedcoreError(
            f"{source}: its images have the shape {patches.shape}, but the checkpoint was trained on "
            f"{(height, width, channels)} (height, width, channels); prepare the set with that size from the originals"
        )
    return patches


def equip(
    run: str | PathLike[str], model: Classifier, train: PatchSet, validation: PatchSet,
    known: Callable[[PatchSet], np.ndarray] | None = None, /, **extra: Any,
) -> None:  # fmt: skip
    """Write into a checkpoint how far from the training images an image may lie in feature space, and further facts.

    Args:
        run: A run's folder (its best checkpoint) or one checkpoint.
        model: The model of that checkpoint.
        train: Training images: the centre and spread of the features.
        validation: Validation images: how far usual images lie.
        known: Features of images under the model, where they are known already.
        **extra: Further facts, such as ``temperature`` and ``threshold``.
    """
    familiarity = Familiarity.learn(model, train, validation, known)
    checkpoint.annotate(Path(run), familiarity=familiarity.as_dict(), **extra)


def find_images(images: str | PathLike[str] | Sequence[str | PathLike[str]]) -> list[Path]:
    """Image files of a file, a folder (with its subfolders, sorted), a glob or a list, in that order.

    Raises:
        MedcoreError: There is none, or a named file does not exist.
    """
    found: list[Path] = []
    for item in [images] if isinstance(images, (str, PathLike)) else images:
        path = Path(item)
        if path.is_dir():
            found += image_files(path)
        elif path.is_file():
            found.append(path)
        else:
            matches = sorted(Path(match) for match in glob.glob(str(item), recursive=True))
            if not matches:
                raise MedcoreError(f"image '{item}' does not exist (no file, folder or glob of that name)")
            found += [match for match in matches if match.is_file()]
    if not found:
        named = images if isinstance(images, (str, PathLike)) else ", ".join(map(str, images))
        raise MedcoreError(f"no images in {named}; supported are {', '.join(sorted(SUFFIXES))}")
    refuse_channels(found)
    return found


def _as_batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    if images.ndim != 4 or images.dtype != np.uint8:
        raise MedcoreError(f"images must be uint8 of shape (N, H, W, C), not {images.dtype} {images.shape}")
    return (images[start : start + size] for start in range(0, len(images), size))
