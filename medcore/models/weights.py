"""Pretrained weights: from torchvision, from a local file, or from a checkpoint of ours; never a silent fallback.

    model = build_classifier("mobilenet_v2", classes=9, weights="weights/mobilenet_v2.pth")
    print(model.weights_report)

Files are read without pickle (``weights_only=True``, safetensors). What a file did not hold, or held too much, is an
error, except for the head, which is new whenever the classes are; the report says so.
"""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcore.errors import MedcoreError
from medcore.models.backbone import CLASSIFIER_NAMES, Backbone, OnBackbone, batch_norms
from medcore.models.encoder import PACKAGED, PREFIX, TimmBackbone, hub_file, packaged_file
from medcore.models.sealed import HEADER, MANIFEST, MODEL, read_sealed, read_tensors

HOW_TO_GO_ON = (
    "pass a local file (weights='path/to/weights.pth'), a checkpoint of ours, or weights=None for random weights"
)


@dataclass(frozen=True)
class WeightsReport:
    """What was loaded; kept as ``model.weights_report`` and shown in reports.

    Attributes:
        source: name or path.
        sha256: of the file.
        loaded: number of tensors taken over.
        new: keys that keep their random start (the head).
        ignored: keys of the file without a place in the model (its head).
        notes: decisions that a reader should know.
        learnt_from: what a checkpoint of ours was trained on (``data`` of its manifest), None for other weights.
    """

    source: str
    sha256: str
    loaded: int
    new: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    learnt_from: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        text = f"{self.loaded} tensors from {self.source}"
        return "; ".join([text, *self.notes])


def load_weights(model: OnBackbone, weights: str | PathLike[str]) -> WeightsReport:
    """Loads pretrained weights into a classifier: trunk always, head only where the classes agree.

    Args:
        weights: ``"imagenet"``, a ``.pth``/``.pt``/``.safetensors`` file, or a checkpoint folder of ours.

    Raises:
        MedcoreError: the weights cannot be had, are damaged, or belong to another architecture.
    """
    source = read_weights(weights, model.backbone.name)
    state = source.state
    ours = any(key.startswith("backbone.") for key in state)
    if not ours and isinstance(model.backbone, TimmBackbone):
        state = model.backbone.convert(model.backbone.packaged(state) if source.packaged else state)
    elif not ours:
        state = {our_key(key, model.backbone): value for key, value in state.items()}
    notes = [] if ours else _fit_stem(state, model)
    notes += model.backbone.origin() if isinstance(model.backbone, TimmBackbone) and not ours else []
    return _freeze_folded(model, _copy_into(model, state, source, notes))


def load_encoder(model: OnBackbone, weights: str | PathLike[str]) -> WeightsReport:
    """Loads pretrained weights into the trunk of a U-Net. See ``load_weights``."""
    backbone = model.backbone
    source = read_weights(weights, backbone.name)
    state = {our_key(key, backbone).removeprefix("backbone."): value for key, value in source.state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(("head.", "norm.", "normalise."))}
    return _freeze_folded(model, _copy_into(backbone, state, source, []))


def _freeze_folded(model: OnBackbone, report: WeightsReport) -> WeightsReport:
    if not has_folded_batch_norm(model.backbone):
        return report
    model.freeze_batch_norm()
    note = "batch norm is folded into the convolutions, so it is kept frozen"
    return replace(report, notes=(*report.notes, note))


@dataclass(frozen=True)
class Source:
    """A state dict in float32 and where it comes from; see :class:`WeightsReport`."""

    state: dict[str, Tensor]
    name: str
    sha256: str
    learnt_from: dict[str, Any] | None = None
    packaged: bool = False


def read_weights(weights: str | PathLike[str], name: str) -> Source:
    """The state dict behind a name or path.

    Args:
        weights: ``"imagenet"``, ``"hub"`` (timm), a file, or a checkpoint of ours (its folder, its run's folder, or its
            file of weights).

    Raises:
        MedcoreError: they cannot be had or read, are damaged, or hold numbers that are not finite.
    """
    foreign = name.startswith(PREFIX)
    if str(weights) == "imagenet" and name.removeprefix(PREFIX) in PACKAGED and foreign:
        path = packaged_file(name)
        return Source(_to_float(_read_file(path)), f"packaged ImageNet weights of {name}", _sha256(path), packaged=True)
    if foreign and str(weights) in ("imagenet", "hub"):
        path = hub_file(name)
        return Source(_to_float(_read_file(path)), f"the hub's weights of {name}", _sha256(path))
    if str(weights) == "imagenet":
        path = imagenet_file(name)
        return Source(_to_float(_read_file(path)), f"torchvision's ImageNet weights of {name}", _sha256(path))
    path = Path(weights)
    if (path / "checkpoints" / "best").is_dir():
        path = path / "checkpoints" / "best"
    if path.is_dir() or (path.name == MODEL and (path.parent / MANIFEST).exists()):
        return _read_checkpoint(path if path.is_dir() else path.parent, str(weights))
    if not path.exists():
        raise MedcoreError(f"weights={str(weights)!r}: no such file, and not the word 'imagenet'; {HOW_TO_GO_ON}")
    if not stat.S_ISREG(path.stat().st_mode):
        raise MedcoreError(f"weights={str(weights)!r}: no regular file; {HOW_TO_GO_ON}")
    return Source(_to_float(_read_file(path)), str(weights), _sha256(path))


def _read_checkpoint(folder: Path, source: str) -> Source:
    """A checkpoint of ours: no byte of its manifest or weights may have changed."""
    if not (folder / MODEL).exists() or not (folder / MANIFEST).exists():
        raise MedcoreError(f"weights={source!r}: no checkpoint of ours ({MODEL} and {MANIFEST})")
    manifest = read_sealed(folder)
    count, hashes, data = manifest.get("weights"), manifest.get("sha256"), manifest.get("data")
    if not isinstance(count, int) or not isinstance(hashes, dict) or not isinstance(data, dict):
        raise MedcoreError(f"{folder / MANIFEST}: its weights, sha256 or data are missing or of another type")
    digest = str(hashes.get(MODEL))
    return Source(_to_float(read_tensors(folder / MODEL, digest, 8 * count + HEADER)), source, digest, data)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def architecture_of(weights: str | PathLike[str]) -> str:
    """The name of the classifier that a weights file or a checkpoint folder of ours belongs to.

    Raises:
        MedcoreError: it cannot be read, or its tensors are of no classifier that we know.
    """
    source = read_weights(weights, "")
    state = source.state
    ours = any(key.startswith("backbone.") for key in state)
    for name in CLASSIFIER_NAMES:
        with torch.device("meta"):  # names without numbers
            backbone = Backbone(name)
        keys = [key if ours else our_key(key, backbone) for key in state]
        trunk = {key.removeprefix("backbone.") for key in keys if key.startswith("backbone.")}
        if not [key for key in trunk ^ set(backbone.state_dict()) if not _may_be_new(key)]:
            return name
    raise MedcoreError(
        f"weights {source.name!r} belong to no architecture that is known here ({', '.join(CLASSIFIER_NAMES)}); name "
        "the model yourself, or check the file"
    )


def has_folded_batch_norm(module: nn.Module) -> bool:
    """Whether batch norm was folded into the convolutions: every layer holds mean 0 and variance 1 exactly."""
    statistics = [
        (layer.running_mean, layer.running_var)
        for layer in batch_norms(module)
        if layer.running_mean is not None and layer.running_var is not None
    ]
    return bool(statistics) and all(not mean.any() and bool(var.eq(1).all()) for mean, var in statistics)


def imagenet_file(name: str) -> Path:
    """Torchvision's file of ImageNet weights in torch's cache, downloaded where it is missing, its hash checked.

    Raises:
        MedcoreError: there are none of that name, they cannot be downloaded, or the file does not have the hash that
            its name tells.
    """
    import torchvision

    try:
        url = torchvision.models.get_model_weights(name).DEFAULT.url
    except ValueError as error:
        raise MedcoreError(f"weights='imagenet': torchvision has none for {name!r}; {HOW_TO_GO_ON}") from error
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    told = re.search(r"-([0-9a-f]{8,})\.pth$", path.name)
    if told is None:
        raise MedcoreError(f"weights='imagenet': {path.name} does not tell its hash; {HOW_TO_GO_ON}")
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=told[1], progress=False)
        except (OSError, RuntimeError) as error:  # no network, a full disk, or a hash that does not match
            raise MedcoreError(f"weights='imagenet': {name} cannot be downloaded ({error}); {HOW_TO_GO_ON}") from error
    if not path.is_file() or not _sha256(path).startswith(told[1]):
        raise MedcoreError(f"{path}: its sha256 does not begin with {told[1]}; delete it to download it anew")
    return path


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        _refuse_packed(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MedcoreError:
        raise
    except Exception as error:  # torch and safetensors raise many types for damaged files
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
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


def _refuse_packed(path: Path) -> None:
    """PyTorch stores numbers as they are; a packed archive can unpack to a thousand times its size.

    Raises:
        MedcoreError: A member of the archive is compressed.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise MedcoreError(f"{path}: {len(packed)} members are compressed, which no torch.save writes; not read")


def _to_float(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bad = [key for key, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise MedcoreError(f"weights: {len(bad)} tensors are not finite (such as {bad[0]}); {HOW_TO_GO_ON}")
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


def _copy_into(module: nn.Module, state: dict[str, Tensor], source: Source, notes: list[str]) -> WeightsReport:
    own = module.state_dict()
    fits = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    wrong = [key for key in state if key not in fits and not key.startswith("head.")]
    missing = [key for key in own if key not in fits and not _may_be_new(key)]
    if wrong or missing:
        raise MedcoreError(
            f"weights {source.name!r} do not fit this model: {len(missing)} of its tensors are missing "
            f"({_some(missing)}), {len(wrong)} others are unknown or of another shape ({_some(wrong)}); "
            "choose the matching architecture"
        )
    module.load_state_dict(fits, strict=False)
    new = tuple(key for key in own if key not in fits and key.startswith("head."))
    ignored = tuple(key for key in state if key not in fits)
    if new:
        notes = [*notes, "the head is new (another number of classes) and has to be trained"]
    return WeightsReport(source.name, source.sha256, len(fits), new, ignored, tuple(notes), source.learnt_from)


def _may_be_new(key: str) -> bool:
    """The head may start anew; our normalisation is absent from foreign files; old files lack batch counts."""
    return key.startswith(("head.", "normalise.")) or key.endswith("num_batches_tracked")


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "") if keys else "none"
