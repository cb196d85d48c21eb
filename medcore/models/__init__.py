"""What each network is; nothing about training it.

Every network takes images (B, C, H, W) in [0, 1] and normalises them itself (its first layer is ``Normalise``), so
that a checkpoint needs nothing beside it. Every network carries ``spec``, plain JSON from which ``build`` makes
the same network again with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from medcore.errors import MedcoreError

if TYPE_CHECKING:
    from torch import nn

# family -> where its class lives; imported on use, so that `import medcore.models` stays cheap
FAMILIES: dict[str, tuple[str, str]] = {
    "classifier": ("medcore.models.classifier", "Classifier"),
    "dense_autoencoder": ("medcore.models.autoencoder", "DenseAutoencoder"),
    "conv_autoencoder": ("medcore.models.autoencoder", "ConvAutoencoder"),
    "vae": ("medcore.models.vae", "VAE"),
    "unet": ("medcore.models.unet", "UNet"),
    "small_unet": ("medcore.models.unet", "SmallUNet"),
}


def build(spec: Mapping[str, Any]) -> nn.Module:
    """Makes the network that ``spec`` describes, with random weights.

    Args:
        spec: ``{"family": one of FAMILIES, "args": keyword arguments}`` as found in ``model.spec``.

    Raises:
        MedcoreError: the family is unknown, or the arguments do not fit it.
    """
    family = spec.get("family")
    if family not in FAMILIES:
        raise MedcoreError(f"spec: unknown model family {family!r}; known are {', '.join(FAMILIES)}")
    module, name = FAMILIES[family]
    model_class = getattr(import_module(module), name)
    try:
        return model_class(**spec.get("args", {}))
    except TypeError as error:
        raise MedcoreError(
            f"spec: the arguments {dict(spec.get('args', {}))} do not fit the family {family!r} ({error}); "
            "was the checkpoint written by another version of medcore?"
        ) from error


__all__ = ["FAMILIES", "build"]
