"""Pretrained weights: from torchvision, from a local file, or from a checkpoint of ours; never a silent fallback.

    model = build_classifier("mobilenet_v2", classes=9, weights="weights/mobilenet_v2.pth")
    print(model.weights_report)

Files are read without pickle (``weights_only=True``, safetensors). What a file did not hold, or held too much, is an
error, except for the head, which is new whenever the classes are; the report says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from medcore.errors import MedcoreError
from medcore.models.backbone import CLASSIFIER_NAMES, Backbone, OnBackbone, batch_norms

HOW_TO_GO_ON = (
    "pass a local file (weights='path/to/weights.pth'), a checkpoint of ours, or weights=None for random weights"
)


@dataclass(frozen=True)
class WeightsReport:
    """What was loaded; kept as ``model.weights_report`` and shown in reports.

    Attributes:
        source: name or path.
        sha256: of the file, empty for weights that torchvision verified itself.
        loaded: number of tensors taken over.
        new: keys that keep their random start (the head).
        ignored: keys of the file without a place in the model (its head).
        notes: decisions that a reader should know.
    """

    source: str
    sha256: str
    loaded: int
    new: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.loaded} tensors from {self.source}"
        return "; ".join([text, *self.notes])


def load_weights(model: OnBackbone, weights: str | PathLike[str]) -> WeightsReport:
    """Loads pretrained weights into a classifier: trunk always, head only where the classes agree.

    Args:
        model: changed in place.
        weights: ``"imagenet"``, a ``.pth``/``.pt``/``.safetensors`` file, or a checkpoint folder of ours.

    Raises:
        MedcoreError: the weights cannot be had, are damaged, or belong to another architecture.
    """
    state, source, digest = read_weights(weights, model.backbone.name)
    ours = any(key.startswith("backbone.") for key in state)
    if not ours:
        state = {our_key(key, model.backbone): value for key, value in state.items()}
    notes = [] if ours else _fit_stem(state, model)
    return _freeze_folded(model, _copy_into(model, state, source, digest, notes))


def load_encoder(model: OnBackbone, weights: str | PathLike[str]) -> WeightsReport:
    """Loads pretrained weights into the trunk of a U-Net. See ``load_weights``."""
    backbone = model.backbone
    state, source, digest = read_weights(weights, backbone.name)
    state = {our_key(key, backbone).removeprefix("backbone."): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(("head.", "norm.", "normalise."))}
    return _freeze_folded(model, _copy_into(backbone, state, source, digest, []))


def _freeze_folded(model: OnBackbone, report: WeightsReport) -> WeightsReport:
    if not has_folded_batch_norm(model.backbone):
        return report
    model.freeze_batch_norm()
    note = "batch norm is folded into the convolutions, so it is kept frozen"
    return replace(report, notes=(*report.notes, note))


def read_weights(weights: str | PathLike[str], name: str) -> tuple[dict[str, Tensor], str, str]:
    """The state dict behind a name or path, in float32.

    Args:
        weights: ``"imagenet"``, a file, or a checkpoint folder of ours.
        name: the architecture, for ``"imagenet"``.

    Returns:
        tensors by key, where they came from, sha256 of the file ("" where torchvision checked it).

    Raises:
        MedcoreError: they cannot be had or read.
    """
    if str(weights) == "imagenet":
        return _to_float(_download(name)), f"torchvision's ImageNet weights of {name}", ""
    path = Path(weights)
    if path.is_dir():
        path = _checked_model_file(path)
    if not path.is_file():
        raise MedcoreError(f"weights={str(weights)!r}: no such file, and not the word 'imagenet'; {HOW_TO_GO_ON}")
    return _to_float(_read_file(path)), str(weights), hashlib.sha256(path.read_bytes()).hexdigest()


def architecture_of(weights: str | PathLike[str]) -> str:
    """The name of the classifier that a weights file or a checkpoint folder of ours belongs to.

    Raises:
        MedcoreError: it cannot be read, or its tensors are of no classifier that we know.
    """
    state, source, _ = read_weights(weights, "")
    ours = any(key.startswith("backbone.") for key in state)
    for name in CLASSIFIER_NAMES:
        with torch.device("meta"):  # names without numbers
            backbone = Backbone(name)
        keys = [key if ours else our_key(key, backbone) for key in state]
        trunk = {key.removeprefix("backbone.") for key in keys if key.startswith("backbone.")}
        if not [key for key in trunk ^ set(backbone.state_dict()) if not _may_be_new(key)]:
            return name
    raise MedcoreError(
        f"weights {source!r} belong to no architecture that is known here ({', '.join(CLASSIFIER_NAMES)}); name the "
        "model yourself, or check the file"
    )


def has_folded_batch_norm(module: nn.Module) -> bool:
    """Whether batch norm was folded into the convolutions: every layer holds mean 0 and variance 1 exactly."""
    statistics = [
        (layer.running_mean, layer.running_var)
        for layer in batch_norms(module)
        if layer.running_mean is not None and layer.running_var is not None
    ]
    return bool(statistics) and all(not mean.any() and bool(var.eq(1).all()) for mean, var in statistics)


def _download(name: str) -> dict[str, Tensor]:
    try:
        return dict(torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True))
    except ValueError as error:
        raise MedcoreError(f"weights='imagenet': torchvision has none for {name!r}; {HOW_TO_GO_ON}") from error
    except (OSError, RuntimeError) as error:  # no network, a full disk, or a hash that does not match
        raise MedcoreError(f"weights='imagenet': {name} cannot be downloaded ({error}); {HOW_TO_GO_ON}") from error


def _checked_model_file(folder: Path) -> Path:
    """The model file of a checkpoint of ours, after comparing it with the hash in the manifest."""
    path, manifest = folder / "model.safetensors", folder / "manifest.json"
    if not path.is_file() or not manifest.is_file():
        raise MedcoreError(f"weights={str(folder)!r}: no checkpoint of ours (model.safetensors and manifest.json)")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found not in manifest.read_text(encoding="utf-8"):
        raise MedcoreError(f"{path}: sha256 {found[:12]}… is not the one in manifest.json; the file is damaged")
    return path


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many types for damaged files
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise MedcoreError(
            f"{path}: cannot be read as weights ({reason}). Only plain tensors are read, never pickled code; "
            "save it again with torch.save(model.state_dict(), path)"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise MedcoreError(f"{path}: holds no state dict (names and tensors); save model.state_dict()")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _to_float(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def our_key(key: str, backbone: Backbone) -> str:
    """A torchvision key as our classifier names it."""
    if key.startswith(("fc.", "classifier.")):
        if backbone.name == "convnext_tiny" and key.startswith("classifier.0."):
            return "norm." + key.rsplit(".", 1)[1]
        return "head." + key.rsplit(".", 1)[1]
    return "backbone." + key.removeprefix(backbone.architecture.prefix)


def _fit_stem(state: dict[str, Tensor], model: OnBackbone) -> list[str]:
    """Adapts three-channel first convolutions to other channel counts; returns what to tell."""
    stem = model.backbone.stem
    key = "backbone." + next(name for name, layer in model.backbone.named_modules() if layer is stem) + ".weight"
    in_channels = int(model.spec["args"]["in_channels"])
    if key in state and state[key].shape[1] == 3 and stem.in_channels != 3:
        mean = state[key].mean(dim=1, keepdim=True) * (3.0 / stem.in_channels)
        state[key] = mean.repeat(1, stem.in_channels, 1, 1)
        return [f"the first convolution was averaged over RGB and repeated for {stem.in_channels} channels"]
    return ["grey images are replicated to three channels"] if in_channels == 1 else []


def _copy_into(
    module: nn.Module, state: dict[str, Tensor], source: str, digest: str, notes: list[str]
) -> WeightsReport:
    own = module.state_dict()
    fits = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    wrong = [key for key in state if key not in fits and not key.startswith("head.")]
    missing = [key for key in own if key not in fits and not _may_be_new(key)]
    if wrong or missing:
        raise MedcoreError(
            f"weights {source!r} do not fit this model: {len(missing)} of its tensors are missing ({_some(missing)}), "
            f"{len(wrong)} others are unknown or of another shape ({_some(wrong)}); choose the matching architecture"
        )
    module.load_state_dict(fits, strict=False)
    new = tuple(key for key in own if key not in fits and key.startswith("head."))
    ignored = tuple(key for key in state if key not in fits)
    if new:
        notes = [*notes, "the head is new (another number of classes) and has to be trained"]
    return WeightsReport(source, digest, len(fits), new, ignored, tuple(notes))


def _may_be_new(key: str) -> bool:
    """The head may start anew; our normalisation is absent from foreign files; old files lack batch counts."""
    return key.startswith(("head.", "normalise.")) or key.endswith("num_batches_tracked")


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "") if keys else "none"
