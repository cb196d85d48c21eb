"""Images as a model reconstructs them: pixels, maps of its errors, and how good it is (PSNR, SSIM)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import nn

from medcore.data.patchset import PatchSet
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import mean_interval
from medcore.evaluation.predict import stream
from medcore.metrics.similarity import psnr, ssim
from medcore.studies.anomaly.scores import error_map, reconstruct, reconstruction_of
from medcore.training.augment.apply import to_float

QUALITIES = ("psnr", "ssim")


def error_maps(model: nn.Module, pixels: np.ndarray, kind: str) -> np.ndarray:
    """Where a model fails on some images. **Shape** ``(n, H, W, C)`` uint8 -> ``(n, H, W)`` float32."""
    return error_map(model, _on_device(model, pixels), kind).cpu().numpy()


def reconstruct_pixels(model: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """What a model makes of some images. **Shape** ``(n, H, W, C)`` uint8 -> the same, float32 in [0, 1]."""
    picture = reconstruction_of(reconstruct(model, _on_device(model, pixels)))
    return picture.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def _on_device(model: nn.Module, pixels: np.ndarray) -> torch.Tensor:
    images = to_float(torch.from_numpy(np.ascontiguousarray(pixels)))
    return images.to(next(model.parameters()).device)


def reconstruction_quality(model: nn.Module, ps: PatchSet) -> dict[str, np.ndarray]:
    """How well each image of a set is reconstructed: ``psnr`` (dB) and ``ssim``, each **shape** ``(N,)``."""

    def both(images: torch.Tensor) -> torch.Tensor:
        picture = reconstruction_of(reconstruct(model, images)).clamp(0, 1)
        return torch.stack([psnr(images.float(), picture), ssim(images.float(), picture)], dim=1)

    return dict(zip(QUALITIES, stream(both, ps, model=model).T, strict=True))


def quality_table(models: Mapping[str, nn.Module], ps: PatchSet) -> pd.DataFrame:
    """How well models reconstruct the same images: mean PSNR (dB) and SSIM with patient-level intervals.

    Returns:
        Estimates in the columns ``psnr`` and ``ssim``: a row per model, and one for what the first adds to each other,
        image by image; then ``weights``, how many the model has.
    """
    quality = {name: reconstruction_quality(model, ps) for name, model in models.items()}
    split, (first, *others) = "+".join(np.unique(ps.splits)), quality

    def mean(values: np.ndarray, name: str) -> Estimate:
        return mean_interval(values, ps.patients, name=name, unit=ps.card.case, split=split, bounds=None)

    table = {
        kind: {name: mean(values[kind], kind) for name, values in quality.items()}
        | {f"{first} minus {other}": mean(quality[first][kind] - quality[other][kind], f"{kind}_difference")
           for other in others}
        for kind in QUALITIES
    }  # fmt: skip
    sizes = {name: f"{sum(weight.numel() for weight in model.parameters()):,}" for name, model in models.items()}
    return pd.DataFrame(table).assign(weights=pd.Series(sizes)).fillna({"weights": ""}).rename_axis("model")
