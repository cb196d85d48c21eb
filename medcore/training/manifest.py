"""What a checkpoint says of itself: a strict model of its manifest.

``Manifest`` refuses what cannot be right (types, ranges, numbers that are not finite, class lists of another length,
files outside of the folder), so that a checkpoint from a stranger is one clear line instead of a traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from torch import nn

import medcore
from medcore.data.images import DecodeOptions
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.models.sealed import MANIFEST
from medcore.training.config import TrainConfig
from medcore.training.device import Precision, usable_threads
from medcore.training.objectives import Objective
from medcore.training.seen import describe_sides, earlier_trainings, unpack_hashes

FORMAT = 1
RANDOMNESS = "counter-based: a function of (seed, epoch, sample id); nothing to store"
LARGEST, LONGEST = 1 << 20, 4096  # an architecture's numbers and lists: enough for any network of ours
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Packed = Annotated[str, Field(default="")]


class Strict(BaseModel):
    """No conversions, no unknown names, finite numbers only."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ArchitectureFacts(Strict):
    """What ``medcore.models.build`` needs; numbers and lists are bounded, so that building cannot hang."""

    family: Annotated[str, Field(max_length=100)]
    args: dict[str, JsonValue]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        for name, value in self.args.items():
            numbers = value if isinstance(value, list) else [value]
            if len(numbers) > LONGEST or any(isinstance(n, (int, float)) and abs(n) > LARGEST for n in numbers):
                raise ValueError(f"args.{name} is larger than any network needs")
            if any(isinstance(n, (list, dict)) for n in numbers):
                raise ValueError(f"args.{name} must be a plain value or a list of such")
        return self


class Side(Strict):
    """One side of the training data."""

    images: Annotated[int, Field(ge=0)]
    patients: Annotated[int, Field(ge=0)]
    fingerprint: Hash
    rows_sha256: Hash
    content_hashes: Packed
    patient_hashes: Packed

    @model_validator(mode="after")
    def _whole_numbers(self) -> Self:
        _raise_value_error(unpack_hashes, self.content_hashes)
        _raise_value_error(unpack_hashes, self.patient_hashes)
        return self


class Training(Strict):
    """The sides of one training; see ``seen.py``."""

    name: str
    salt: Annotated[str, Field(max_length=64, default="")]
    train: Side
    validation: Side


class TrainingData(Training):
    """The sides of this training, and of those that its first weights come from."""

    earlier: list[Training] = []


class Normalisation(Strict):
    """Per channel, in units of [0, 1]."""

    mean: Annotated[list[float], Field(min_length=1, max_length=64)]
    std: Annotated[list[Positive], Field(min_length=1, max_length=64)]


class Monitor(Strict):
    """The column that picks the best epoch."""

    name: str
    mode: Literal["min", "max"]
    best_epoch: Annotated[int, Field(ge=0)]


class FeatureSpace(Strict):
    """Class centres in feature space; see ``evaluation/features.py``."""

    centres: Annotated[list[list[float]], Field(min_length=1)]
    spread: Annotated[list[Positive], Field(min_length=1)]
    limit: Positive

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if any(len(centre) != len(self.spread) for centre in self.centres):
            raise ValueError("centres and spread differ in length")
        return self


class FamiliarityFacts(Strict):
    """Where training images lie."""

    features: FeatureSpace
    pixels: FeatureSpace


class Tiling(Strict):
    """How a segmentation model is applied to images of any size."""

    factor: Annotated[float, Field(gt=0, le=64)] = 1.0
    tile: Annotated[int, Field(ge=8, le=16384)] = 256
    turns: Literal[1, 2, 8] = 1
    pixel_size_um: Positive | None = None
    tolerance: Positive | None = None


class Rejection(Strict):
    """Below which largest probability no answer is given; see ``evaluation/selective.py``."""

    threshold: float
    chosen_for: str
    chosen_on: Literal["train", "val", "train+val"]
    coverage: Share
    error: Share | None


class Conformal(Strict):
    """Limits of the sets of plausible classes; see ``evaluation/selective.py``."""

    coverage: Annotated[float, Field(gt=0, lt=1)]
    limits: list[Share]
    classes: list[str]
    patients: list[Annotated[int, Field(ge=0)]]
    by_class: bool
    chosen_on: Literal["train", "val", "train+val"]

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if not len(self.limits) == len(self.classes) == len(self.patients):
            raise ValueError("limits, classes and patients differ in length")
        return self


class Point(Strict):
    """A threshold and what it was chosen on; see ``evaluation/thresholds.py``."""

    threshold: float
    rule: str
    chosen_on: Literal["train", "val", "train+val"]
    n: Annotated[int, Field(ge=0)]
    sensitivity: Share
    specificity: Share
    positives: Annotated[int, Field(ge=0)] = 0
    patients: Annotated[int, Field(ge=0)] = 0
    note: str = ""


class LogisticCurve(Strict):
    """Score to probability; see ``calibration.Logistic``."""

    slope: Annotated[float, Field(ge=0)]
    offset: float
    chosen_on: str
    n: Annotated[int, Field(ge=0)]


class Detection(Strict):
    """How an autoencoder or VAE is used as a detector."""

    kind: str
    abnormal: Annotated[list[str], Field(min_length=1)]
    point: Point
    probability: LogisticCurve


class Extra(BaseModel):
    """Facts found after training; further names are free."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    temperature: Annotated[float, Field(gt=0, le=1e4)] = 1.0
    threshold: float | None = None
    thresholds: dict[str, float] | None = None  # of findings, by name
    familiarity: FamiliarityFacts | None = None
    segmentation: Tiling = Tiling()
    rejection: dict[str, Rejection] = {}
    conformal: Conformal | None = None
    detection: Detection | None = None
    development: dict[str, JsonValue] = {}


class Files(BaseModel):
    """The sha256 of the two files of a checkpoint, and of its model card: these, and no others."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: Hash = Field(alias="model.safetensors")
    state: Hash = Field(alias="state.safetensors")
    card: Hash | None = Field(default=None, alias="MODEL_CARD.md")
    page: Hash | None = Field(default=None, alias="MODEL_CARD.html")


class Manifest(Strict):
    """``manifest.json`` of a checkpoint."""

    format: Annotated[int, Field(ge=1)]
    medcore: str
    torch: str
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    architecture: ArchitectureFacts
    weights: Annotated[int, Field(ge=0)]
    weights_from: dict[str, JsonValue] | None = None
    classes: Annotated[list[str], Field(max_length=100_000)]
    task: str
    objective: dict[str, JsonValue]
    image_shape: tuple[Annotated[int, Field(ge=1, le=65536)], ...]
    preprocessing: dict[str, JsonValue]
    normalisation: Normalisation | None
    config: dict[str, JsonValue]
    precision: dict[str, JsonValue]
    randomness: str
    data: TrainingData
    epoch: Annotated[int, Field(ge=0)]
    step: Annotated[int, Field(ge=0)]
    metrics: dict[str, float | int | str | None]
    monitor: Monitor
    history: list[dict[str, float | int | str | None]]
    tables: dict[str, list[JsonValue]]
    created: str
    extra: Extra = Extra()
    failed: dict[str, JsonValue] | None = None
    sha256: Files
    manifest_sha256: Hash

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if len(self.image_shape) != 3:
            raise ValueError("image_shape must be height, width, channels")
        count = self.architecture.args.get("classes")
        if isinstance(count, int) and count != len(self.classes):
            raise ValueError(f"classes has {len(self.classes)} names, but the network {count} outputs")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes names one twice")
        if self.extra.conformal is not None and self.extra.conformal.classes != self.classes:
            raise ValueError("extra.conformal.classes are not the classes")
        _raise_value_error(TrainConfig.from_dict, self.config)
        _raise_value_error(decode_options, self.preprocessing)
        _raise_value_error(precision_of, self.precision)
        return self


def _raise_value_error(function: Any, value: Any) -> None:
    """Our own checks inside of pydantic's."""
    try:
        function(value)
    except (MedcoreError, TypeError) as error:
        raise ValueError(str(error)) from error


def check_manifest(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The manifest as it is, once it is known to be right.

    Raises:
        MedcoreError: A field is missing, unknown, of the wrong type or out of range; or the format is newer.
    """
    path, version = folder / MANIFEST, manifest.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise MedcoreError(f"{path} has format {version}; this medcore reads up to {FORMAT}: update it")
    try:
        # JSON has lists only; pydantic's strict mode takes them for tuples when it reads JSON itself
        Manifest.model_validate({**manifest, "image_shape": tuple(manifest.get("image_shape") or ())})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its fields"
        value = "" if first["type"] == "missing" else f" = {str(first.get('input'))[:60]!r}"
        raise MedcoreError(
            f"{path}: {where}{value}: {first['msg']} ({error.error_count()} faults in all); "
            "it was not written by this version of medcore, or was edited"
        ) from error
    except (TypeError, RecursionError) as error:
        raise MedcoreError(f"{path} cannot be read as a manifest ({error})") from error
    return manifest


def precision_of(values: Mapping[str, Any]) -> Precision:
    """The precision of a manifest.

    Raises:
        MedcoreError: A field is unknown or of another kind.
    """
    precision = Precision(**values)
    right = precision.dtype in ("fp32", "bf16") and precision.layout in ("contiguous", "channels_last")
    if not right or not isinstance(precision.compiled, bool):
        raise MedcoreError(f"precision {dict(values)}: unknown")
    return precision


def facts_of(
    model: nn.Module,
    objective: Objective,
    config: TrainConfig,
    precision: Precision,
    train: PatchSet,
    validation: PatchSet,
) -> dict[str, Any]:
    """What identifies a run, for its manifest: a resume compares these."""
    report = getattr(model, "weights_report", None)
    return {
        "medcore": medcore.__version__,
        "torch": torch.__version__,
        "threads": config.threads or usable_threads(),
        "architecture": getattr(model, "spec", None) or {"family": type(model).__name__, "args": {}},
        "weights": sum(weight.numel() for weight in model.parameters()),
        "weights_from": None if report is None else {"source": report.source, "sha256": report.sha256},
        "classes": list(getattr(objective, "classes", None) or train.classes),
        "task": objective.task,
        "objective": objective.describe(),
        "image_shape": list(train.shape),
        "preprocessing": preprocessing_of(train),
        "normalisation": normalisation_of(model),
        "config": config.to_dict(),
        "precision": precision.to_dict(),
        "randomness": RANDOMNESS,
        "data": describe_sides(train, validation, earlier_trainings(model)),
    }


DECODING = tuple(field.name for field in fields(DecodeOptions))
POLICIES = ("resize", "fit", "crop", "pad", "tile")


def preprocessing_of(patches: PatchSet) -> dict[str, Any]:
    """How files became the pixels of a set, so that new files are read alike: size policy and decoding options."""
    recipe = patches.card.recipe | patches.card.recipe.get("decoding", {})
    size = {} if patches.card.pixel_size_um is None else {"pixel_size_um": patches.card.pixel_size_um}
    keys = ("policy", "overlap", "target", *DECODING)
    return {key: recipe[key] for key in keys if recipe.get(key) is not None} | size


def decode_options(preprocessing: Mapping[str, Any]) -> DecodeOptions:
    """The decoding options of a checkpoint.

    Raises:
        MedcoreError: The policy is unknown, or a range cannot be one.
    """
    if preprocessing.get("policy", "resize") not in POLICIES:
        raise MedcoreError(f"preprocessing.policy={preprocessing['policy']!r}: one of {', '.join(POLICIES)}")
    return DecodeOptions(**{name: preprocessing[name] for name in DECODING if preprocessing.get(name) is not None})


def normalisation_of(model: nn.Module) -> dict[str, list[float]] | None:
    """Mean and standard deviation per channel of the model's first layer, in units of [0, 1]."""
    for module in model.modules():
        if type(module).__name__ == "Normalise":
            mean, std = getattr(module, "mean"), getattr(module, "std")  # noqa: B009
            return {"mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
    return None
