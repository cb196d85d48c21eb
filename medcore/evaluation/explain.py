"""Where a classifier looks: Grad-CAM, and the test that tells a map of the model from a picture of edges.

    maps = grad_cam(model, pixels, classes)           # (B, H, W), 0 to 1
    change = randomisation_check(model, pixels, classes)

A class-activation map is believed only if it changes when the model's weights are randomised (Adebayo et al. 2018);
some published methods return nearly the same picture for an untrained network.

Reference: Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74; Adebayo et al. 2018, arXiv:1810.03292.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medcore.data.sizes import resize_maps
from medcore.errors import MedcoreError
from medcore.models.classifier import Classifier


def grad_cam(model: Classifier, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """How much each place speaks for a class.

    Args:
        model: A classifier; put into evaluation mode.
        pixels: uint8. **Shape** ``(B, H, W, C)``.
        classes: The class asked about, per image. **Shape** ``(B,)``.

    Returns:
        Maps from 0 (nothing) to 1 (the strongest place of that image). **Shape** ``(B, H, W)`` float32.

    Raises:
        MedcoreError: There are not as many classes as images.
    """
    if len(pixels) != len(classes):
        raise MedcoreError(f"grad_cam: {len(classes)} classes for {len(pixels)} images")
    model.eval()
    device = next(model.parameters()).device
    images = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).float() / 255
    with torch.enable_grad():
        maps = model.feature_maps(images).detach().requires_grad_(True)
        chosen = model.classify_maps(maps).gather(1, torch.as_tensor(np.asarray(classes), device=device)[:, None])
        (gradient,) = torch.autograd.grad(chosen.sum(), maps)
    heat = F.relu((gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1, keepdim=True))
    heat = resize_maps(heat, images.shape[2:])[:, 0]
    return _scaled(heat).cpu().numpy()


def _scaled(heat: Tensor) -> Tensor:
    top = heat.flatten(1).amax(1)[:, None, None]
    return torch.where(top > 0, heat / top.clamp_min(1e-12), torch.zeros_like(heat))


def randomised(model: Classifier, *, seed: int = 0) -> Classifier:
    """A copy of the model whose convolutions and linear layers have fresh random weights."""
    copied = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in copied.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.reset_parameters()
    return copied


def randomisation_check(
    model: Classifier, pixels: np.ndarray, classes: np.ndarray, *, seed: int = 0
) -> tuple[float, np.ndarray]:
    """How alike the maps stay when the weights are randomised.

    Args:
        pixels: uint8. **Shape** ``(B, H, W, C)``.
        classes: The class asked about. **Shape** ``(B,)``.

    Returns:
        Median rank correlation of the two maps (1 = the maps do not depend on what was learnt, about 0 = they do;
        a flat map counts as 0), and the maps of the randomised model ``(B, H, W)``.
    """
    device = next(model.parameters()).device
    before = grad_cam(model, pixels, classes)
    after = grad_cam(randomised(model.cpu(), seed=seed).to(device), pixels, classes)
    model.to(device)
    pairs = zip(before, after, strict=True)
    return float(np.median([_rank_correlation(one, other) for one, other in pairs])), after


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one.ravel(), other.ravel()).statistic)


def heatmap_overlay(model: Classifier, pixels: np.ndarray, classes: np.ndarray, *, opacity: float = 0.5) -> np.ndarray:
    """Images under their maps, for files. **Shape** ``(B, H, W, C) -> (B, H, W, 3)`` uint8."""
    from matplotlib import colormaps

    heat = grad_cam(model, pixels, classes)
    colours = 255 * colormaps["inferno"](heat)[..., :3]
    base = np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels
    strength = opacity * heat[..., None]
    return ((1 - strength) * base + strength * colours).round().astype(np.uint8)
