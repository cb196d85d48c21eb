"""What the notebooks take: types, ranges and profiles of their parameters; names and defaults stand in their cells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from medcore.errors import MedcoreError

Profile = Literal["smoke", "quick", "full"]
PROFILE_VARIABLE = "MEDCORE_PROFILE"
SOURCES = ("data", "weights", "peer_weights", "encoder_weights", "model")  # parameters that may be paths

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=10)]
Window = Annotated[list[float], Field(min_length=2, max_length=2)]
Share = Annotated[float, Field(ge=0, le=1)]
Classifier = Literal[
    "small_cnn", "resnet18", "resnet50", "densenet121", "efficientnet_b0", "efficientnet_b3", "mobilenet_v2",
    "convnext_tiny",
]  # fmt: skip
Timm = Annotated[str, Field(pattern=r"^timm:[\w.]+$")]  # any image model of timm
Encoder = Literal[
    "small", "resnet18", "resnet34", "resnet50", "densenet121", "efficientnet_b0", "efficientnet_b3", "mobilenet_v2"
]
Augmentation = Literal["none", "flips", "tissue", "ihc", "skin", "xray"]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
Rule = Annotated[
    str,
    Field(pattern=r"^(?i:youden|(sensitivity|specificity)\s*>=\s*(0?\.\d+|1(\.0*)?)|cost\s+[0-9.]+\s*:\s*[0-9.]+)$"),
]
SegmentationLoss = Annotated[str, Field(pattern=r"^(ce|dice|focal)(\+(ce|dice|focal))*$")]
Keep = Annotated[str, Field(pattern=r"^(all|best\+last|[1-9]\d*)$")]


def _there(value: str) -> str:
    if value not in ("imagenet", "hub", "random") and not Path(value).expanduser().exists():
        raise ValueError("should be imagenet, hub, random, or a file or checkpoint folder that exists")
    return value


Weights = Annotated[str, AfterValidator(_there)]


def _a_model(value: str) -> str:
    if value and not Path(value).expanduser().is_dir():
        raise ValueError("should be a model folder or a run that exists, or empty")
    return value


class Parameters(BaseModel):
    """What every notebook takes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())
    profiles: ClassVar[dict[str, dict[str, Any]]] = {}

    data: str
    profile: Profile | None
    seed: Annotated[int, Field(ge=0)]
    device: Device
    on_error: Literal["raise", "skip"]

    @property
    def active_profile(self) -> str:
        """The profile in force: the parameter, else ``MEDCORE_PROFILE``, else ``quick``."""
        name = self.profile or os.environ.get(PROFILE_VARIABLE) or "quick"
        if name not in get_args(Profile):
            raise MedcoreError(f"{PROFILE_VARIABLE}={name!r}: a profile is one of {', '.join(get_args(Profile))}")
        return name

    def resolved(self) -> Self:
        """A copy in which the profile has filled every parameter that was left as ``None``."""
        chosen = self.suggested()
        filled = {name: value for name, value in chosen.items() if getattr(self, name) is None}
        return type(self).model_validate({**self.model_dump(), **filled, "profile": self.active_profile})

    def suggested(self) -> dict[str, Any]:
        """What the profile takes for parameters that were not given."""
        return self.profiles.get(self.active_profile, {})

    def changed(self) -> list[str]:
        """Names whose value differs from the notebook's default."""
        fields = type(self).model_fields
        return [name for name, value in self.model_dump().items() if value != fields[name].default]


class FirstNetworkParameters(Parameters):
    """00: what a network is, from an array of numbers to a training."""

    size: Annotated[int, Field(ge=8, le=128)]
    classes: Annotated[list[str], Field(min_length=2, max_length=2)] | None
    limit: Count | None
    epochs: Count | None
    lr: Rate
    profiles: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"limit": 80, "epochs": 3},
        "quick": {"limit": 360, "epochs": 40},
        "full": {"limit": 400, "epochs": 60},
    }


class PreprocessingParameters(Parameters):
    """01: what is in a set, and how it is split."""

    size: Annotated[int, Field(ge=8, le=4096)] | None
    window: Window | None
    limit: Count | None
    demo_epochs: Annotated[int, Field(ge=0)] | None
    folds: Annotated[int, Field(ge=2, le=20)] | None
    profiles: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"size": 32, "limit": 180, "demo_epochs": 1, "folds": 2},
        "quick": {"demo_epochs": 16, "folds": 2, "limit": 4000},
        "full": {"demo_epochs": 30, "folds": 5},
    }


class AutoencoderParameters(Parameters):
    """02: an autoencoder as a detector of what is not normal."""

    size: Annotated[int, Field(ge=16, le=256)] | None
    limit: Count | None
    abnormal: list[str]
    learn: list[str]
    bottleneck: Count | None
    loss: Literal["mse", "l1", "ssim", "mixed"] | None
    epochs: Count | None
    images_seen: Count | None
    batch_size: Count | None
    lr: Rate | None
    scores: list[str]
    rule: Rule
    short_epochs: Count | None
    bottlenecks: list[Count] | None
    folds: Annotated[int, Field(ge=0, le=20)] | None
    peer: Classifier | Timm | Literal[""]
    peer_weights: Weights
    retrain: bool
    profiles: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"size": 32, "bottleneck": 8, "loss": "mse", "epochs": 1, "batch_size": 32, "lr": 2e-3,
                  "limit": 300, "short_epochs": 1, "bottlenecks": [4], "folds": 2},
        "quick": {"size": 64, "bottleneck": 32, "loss": "mixed", "images_seen": 24_000, "batch_size": 16, "lr": 2e-3,
                  "short_epochs": 4, "bottlenecks": [8, 32, 120], "folds": 3},
        "full": {"size": 128, "bottleneck": 120, "loss": "mixed", "epochs": 100, "batch_size": 32, "lr": 1e-3,
                 "short_epochs": 25, "bottlenecks": [8, 32, 120, 256], "folds": 5},
    }  # fmt: skip


class VariationalAutoencoderParameters(Parameters):
    """03: a VAE, its latent space, and what it detects."""

    size: Annotated[int, Field(ge=16, le=256)] | None
    limit: Count | None
    abnormal: list[str]
    learn: list[str]
    latent_size: Count | None
    loss: Literal["mse", "l1", "ssim", "mixed"] | None
    beta: Annotated[float, Field(ge=0)] | None
    kl_warmup: Annotated[float, Field(ge=0)] | None
    epochs: Count | None
    images_seen: Count | None
    batch_size: Count | None
    lr: Rate | None
    scores: list[str]
    rule: Rule
    retrain: bool
    profiles: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"size": 32, "latent_size": 16, "loss": "mse", "beta": 1.0, "kl_warmup": 1.0, "epochs": 1,
                  "batch_size": 32, "lr": 1e-3, "limit": 300},
        "quick": {"size": 64, "latent_size": 120, "loss": "mixed", "beta": 0.5, "kl_warmup": 4.0,
                  "images_seen": 24_000, "batch_size": 16, "lr": 2e-3},
        "full": {"size": 128, "latent_size": 120, "loss": "mixed", "beta": 0.5, "kl_warmup": 10.0, "epochs": 100,
                 "batch_size": 32, "lr": 1e-3},
    }  # fmt: skip


class PatientDiagnosisParameters(Parameters):
    """04: from windows to a patient's diagnosis."""

    size: Annotated[int, Field(ge=16, le=256)] | None
    epochs: Count | None
    bottleneck: Count | None
    most_windows: Annotated[int, Field(ge=8)] | None
    folds: Annotated[int, Field(ge=3, le=20)] | None
    repeats: Annotated[int, Field(ge=1, le=100)] | None
    rule: Rule
    attention_epochs: Count | None
    encoder: Classifier | Timm | Literal[""]
    encoder_weights: Weights
    limit: Count | None
    retrain: bool
    profiles: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"size": 16, "epochs": 1, "bottleneck": 4, "most_windows": 60, "folds": 3, "repeats": 2,
                  "attention_epochs": 2, "limit": 10},
        "quick": {"size": 64, "epochs": 12, "bottleneck": 32, "most_windows": 240, "folds": 5, "repeats": 5,
                  "attention_epochs": 60},
        "full": {"size": 128, "epochs": 100, "bottleneck": 120, "most_windows": 20_000, "folds": 10, "repeats": 10,
                 "attention_epochs": 200},
    }  # fmt: skip


class PatchClassificationParameters(Parameters):
    """06: patches into classes."""

    model: Classifier | Timm | None
    weights: Weights | None
    encoder: Classifier | Timm | Literal[""]
    encoder_weights: Weights
    encoder_side: Annotated[int, Field(ge=16, le=1024)] | None
    encoder_epochs: Annotated[int, Field(ge=0)] | None
    stain: Literal["", "macenko"]
    size: Annotated[int, Field(ge=16, le=1024)] | None
    window: Window | None
    epochs: Count | None
    batch_size: Count | None
    lr: Rate | None
    augment: Augmentation | None
    augment_until: Annotated[int, Field(ge=0)] | None
    keep: Keep
    limit: Count | None
    repeats: Annotated[int, Field(ge=0, le=20)] | None
    subgroups: list[str]
    tracker: Literal["tensorboard", "wandb", "mlflow"] | None
    variant_epochs: Annotated[int, Field(ge=0)] | None
    variant_images: Count | None
    folds: Annotated[int, Field(ge=2, le=20)] | None
    fold_epochs: Annotated[int, Field(ge=0)] | None
    fold_images: Count | None
    architectures: list[Classifier] | None
    robustness_images: Count | None
    profiles: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"model": "small_cnn", "size": 32, "epochs": 1, "batch_size": 32, "lr": 2e-3, "augment_until": 1,
                  "limit": 180, "repeats": 1, "variant_epochs": 1, "folds": 2, "fold_epochs": 1, "architectures": [],
                  "robustness_images": 20, "encoder_side": 48, "encoder_epochs": 0},
        "quick": {"model": "small_cnn", "epochs": 20, "lr": 2e-3, "augment_until": 17, "repeats": 0,
                  "variant_epochs": 4, "variant_images": 500, "folds": 3, "fold_epochs": 10, "fold_images": 2500,
                  "architectures": ["mobilenet_v2"], "robustness_images": 300, "encoder_epochs": 0},
        "full": {"model": "efficientnet_b3", "weights": "imagenet", "size": 224, "epochs": 20, "lr": 3e-4,
                 "augment_until": 12, "repeats": 2, "variant_epochs": 10, "folds": 5, "fold_epochs": 10,
                 "architectures": ["resnet50", "densenet121", "convnext_tiny"], "robustness_images": 2000,
                 "encoder_epochs": 10},
    }  # fmt: skip
    fine_tuning: ClassVar[dict[str, Any]] = {
        "model": "mobilenet_v2", "epochs": 14, "lr": 1e-3, "augment_until": 12, "variant_epochs": 2,
        "variant_images": 300, "fold_epochs": 8, "architectures": [],
    }  # fmt: skip

    def suggested(self) -> dict[str, Any]:
        """As in every notebook; pretrained weights bring their own model, and ``quick`` then fine-tunes it."""
        chosen = super().suggested()
        if self.weights in (None, "random"):
            return chosen
        if self.active_profile == "quick":
            chosen = chosen | self.fine_tuning
        if self.model is None and self.weights != "imagenet":
            from medcore.models.weights import architecture_of

            chosen = chosen | {"model": architecture_of(str(self.weights))}
        return chosen


class SegmentationParameters(Parameters):
    """05: a class for every pixel."""

    model: Encoder | None
    weights: Weights | None
    longest_side: Annotated[int, Field(ge=32, le=16384)] | None
    crop: Annotated[int, Field(ge=32, le=2048)] | None
    epochs: Count | None
    batch_size: Count | None
    lr: Rate | None
    schedule: Literal["constant", "exponential", "cosine", "one-cycle"] | None
    loss: SegmentationLoss
    class_weights: Literal["balanced", "none"]
    deep_supervision: bool
    turns: Literal[1, 2, 8] | None
    tolerance: Annotated[float, Field(gt=0)] | None
    ablation_epochs: Annotated[int, Field(ge=0)] | None
    limit: Count | None
    profiles: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"model": "small", "weights": "random", "longest_side": 96, "crop": 64, "epochs": 1, "batch_size": 4,
                  "lr": 2e-3, "schedule": "one-cycle", "turns": 1, "ablation_epochs": 1, "limit": 12},
        "quick": {"model": "small", "weights": "random", "longest_side": 384, "crop": 160, "epochs": 80,
                  "batch_size": 8, "lr": 2e-3, "schedule": "one-cycle", "turns": 8, "ablation_epochs": 12},
        "full": {"model": "resnet50", "weights": "imagenet", "crop": 320, "epochs": 90, "batch_size": 16, "lr": 3e-4,
                 "schedule": "exponential", "turns": 8, "ablation_epochs": 20},
    }  # fmt: skip


class ExternalValidationParameters(Parameters):
    """07: a frozen model on another cohort."""

    model: Annotated[str, AfterValidator(_a_model)]
    seen: Literal["refuse", "count", "leave-out"]
    other_patients: bool
    positive: list[str]
    rule: Rule
    subgroups: list[str]
    folds: Annotated[int, Field(ge=2, le=20)]
    limit: Count | None
    size: Annotated[int, Field(ge=16, le=256)] | None
    epochs: Count | None
    profiles: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"limit": 200, "size": 32, "epochs": 1},
        "quick": {"limit": 1500, "size": 64, "epochs": 12},
        "full": {"size": 128, "epochs": 30},
    }


class WholeSlideParameters(Parameters):
    """08: whole slides, their tiles, and an answer per slide."""

    slides: Annotated[int, Field(ge=4, le=999)] | None
    side: Annotated[int, Field(ge=1024, le=65_536)] | None
    mpp: Annotated[float, Field(gt=0, le=50)]
    size: Annotated[int, Field(ge=16, le=1024)]
    overlap: Annotated[int, Field(ge=0)]
    tissue: Share
    model: Classifier | Timm
    encoder: Classifier | Timm
    weights: Weights
    epochs: Count | None
    attention_epochs: Count | None
    profiles: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"slides": 8, "side": 1024, "epochs": 1, "attention_epochs": 2},
        "quick": {"slides": 24, "side": 2048, "epochs": 12, "attention_epochs": 100},
        "full": {"slides": 60, "side": 8192, "epochs": 30, "attention_epochs": 200},
    }  # fmt: skip


class TargetParameters(Parameters):
    """09: several findings, a grade or a measured value an image."""

    findings: list[str]
    grade: str
    value: str
    classes: list[str]
    model: Classifier | Timm | None
    weights: Weights | None
    size: Annotated[int, Field(ge=16, le=1024)] | None
    epochs: Count | None
    batch_size: Count | None
    lr: Rate | None
    augment: Augmentation | None
    limit: Count | None
    subgroups: list[str]
    profiles: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"model": "small_cnn", "size": 32, "epochs": 1, "batch_size": 32, "lr": 2e-3, "limit": 200},
        "quick": {"model": "small_cnn", "epochs": 24, "lr": 5e-3},
        "full": {"model": "densenet121", "weights": "imagenet", "size": 224, "epochs": 20, "lr": 3e-4},
    }


# where a notebook's cell has no such line
COMMON = {"data": "phantom-crc", "profile": None, "seed": 0, "device": "auto", "on_error": "raise"}
SCHEMAS: dict[str, type[Parameters]] = {
    "00_first_network": FirstNetworkParameters,
    "01_preprocessing": PreprocessingParameters,
    "02_autoencoder": AutoencoderParameters,
    "03_vae": VariationalAutoencoderParameters,
    "04_patient_diagnosis": PatientDiagnosisParameters,
    "05_segmentation": SegmentationParameters,
    "06_patch_classification": PatchClassificationParameters,
    "07_external_validation": ExternalValidationParameters,
    "08_whole_slides": WholeSlideParameters,
    "09_findings_and_grades": TargetParameters,
}
