"""What a choice is worth: the same small training with and without it, measured on validation patients."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd
import torch

from medcore.data.patchset import PatchSet
from medcore.models.unet import build_unet
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Segmentation


def segmentation_ablation(
    encoder: str,
    train: PatchSet,
    validation: PatchSet,
    config: TrainConfig,
    *,
    loss: str = "ce+dice",
    **options: Any,
) -> pd.DataFrame:
    """Deep supervision on and off, class weights on and off: four trainings from the same first weights.

    Args:
        encoder: As for ``build_unet``.
        train: Images to learn from.
        validation: Images that the Dice is measured on.
        config: Of each training; its seed also decides the first weights.
        loss: As for ``Segmentation``.
        **options: Further arguments of ``build_unet``.

    Returns:
        One row per training: ``deep supervision``, ``class weights``, ``validation Dice`` (of the best epoch).
    """
    rows = []
    for deep, weights in product((True, False), ("balanced", None)):
        torch.manual_seed(config.seed)
        network = build_unet(encoder, len(train.classes), deep_supervision=deep, **options)
        objective = Segmentation(train.classes, loss=loss, class_weights=weights)
        history = fit(network, objective, train, validation, config, progress=False)
        best = float(history.table["val_dice"].max())
        rows.append({"deep supervision": deep, "class weights": weights or "none", "validation Dice": best})
    return pd.DataFrame(rows)
