"""What a choice is worth: the same small training with and without it, and with another seed for the noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from medcore.data.patchset import PatchSet
from medcore.models.unet import build_unet
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Segmentation

BOTH = "both"
SMALLEST = 32  # side of a window, pixels
VARIANTS: dict[str, dict[str, Any]] = {
    BOTH: {},
    "no deep supervision": {"deep": False},
    "no class weights": {"weights": None},
    "both, another seed": {"seed": 1},
}


def segmentation_ablation(
    encoder: str,
    train: PatchSet,
    validation: PatchSet,
    config: TrainConfig,
    *,
    loss: str = "ce+dice",
    **options: Any,
) -> pd.DataFrame:
    """Train with deep supervision and class weights, without each, and with both from another seed.

    Args:
        encoder: As for ``build_unet``.
        train: Images to learn from.
        validation: Images that the Dice is measured on.
        config: Of each training; its seed also decides the first weights. Windows are three fifths of its crop.
        loss: As for ``Segmentation``.
        **options: Further arguments of ``build_unet``.

    Returns:
        By variant: ``validation Dice`` (after the last epoch) and its ``difference`` to the first row. The last row's
        difference is what a seed alone does.
    """
    if config.augment is not None and config.augment.crop:
        config = replace(config, augment=replace(config.augment, crop=max(SMALLEST, config.augment.crop * 3 // 5)))
    found = {
        name: _validation_dice(encoder, train, validation, config, loss, options, **changes)
        for name, changes in VARIANTS.items()
    }
    table = pd.DataFrame({"validation Dice": found}).rename_axis("trained with")
    table["difference"] = table["validation Dice"] - found[BOTH]
    return table


def said_of(table: pd.DataFrame, patients: int, unit: str, epochs: int) -> str:
    """What an ablation shows, in words: effects are held against what another seed changes.

    Args:
        table: Of :func:`segmentation_ablation`.
        patients: On how many the Dice was measured.
        unit: What they are.
        epochs: Of each training.
    """
    *effects, noise = table["difference"].abs().iloc[1:]
    beyond = "that is more than one repetition shows as noise" if max(effects) > 2 * noise else "neither stands out"
    return (
        f"Leaving one of the two out changes the Dice on {patients} validation {unit}s by up to {max(effects):.3f}; "
        f"another seed alone changes it by {noise:.3f}. After {epochs} epochs {beyond}."
    )


def _validation_dice(
    encoder: str,
    train: PatchSet,
    validation: PatchSet,
    config: TrainConfig,
    loss: str,
    options: dict[str, Any],
    *,
    deep: bool = True,
    weights: str | None = "balanced",
    seed: int = 0,
) -> float:
    config = replace(config, seed=config.seed + seed)
    torch.manual_seed(config.seed)
    network = build_unet(encoder, len(train.classes), deep_supervision=deep, **options)
    objective = Segmentation(train.classes, loss=loss, class_weights=weights)
    history = fit(network, objective, train, validation, config, progress=False)
    return float(history.table["val_dice"].iloc[-1])
