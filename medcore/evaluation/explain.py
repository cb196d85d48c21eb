"""Which part of the picture spoke for a class (Grad-CAM), and the check that the map depends on the weights at all.

    maps = grad_cam(model, images, target=labels)           # (B, H, W) in [0, 1]
    table = randomisation_check(model, images)              # similarity of maps while layers lose their weights

A saliency map that stays the same after the weights were randomised shows edges of the picture, not reasons of the
model: run the check before believing a map.
"""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from medcore.errors import MedcoreError
from medcore.models.classifier import Classifier


def grad_cam(model: Classifier, images: Tensor, target: Tensor | int | None = None) -> Tensor:
    """Where the last feature maps speak for a class.

    Args:
        model: a classifier; used in evaluation mode, its gradients are left untouched.
        images: (B, C, H, W) in [0, 1], on the model's device.
        target: class index per image (B,), one for all, or None for the predicted class.

    Returns:
        (B, H, W), each map scaled to a maximum of 1 (all 0 where nothing speaks for the class).

    Raises:
        MedcoreError: a class that the model does not have.

    **Reference**: Selvaraju et al. 2017, arXiv:1610.02391.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            maps = model.feature_maps(images)
        with torch.enable_grad():
            maps = maps.detach().requires_grad_(True)
            logits = model.classify_maps(maps)
            chosen = logits.gather(1, _targets(target, logits).unsqueeze(1)).sum()
            (gradient,) = torch.autograd.grad(chosen, maps)
    finally:
        model.train(was_training)
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # (B, D, 1, 1): what one more of each map is worth
    cam = F.relu((weights * maps.detach()).sum(1, keepdim=True)).float()
    cam = F.interpolate(cam, size=images.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)
    return cam / cam.flatten(1).amax(1).clamp_min(1e-12).view(-1, 1, 1)


def _targets(target: Tensor | int | None, logits: Tensor) -> Tensor:
    if target is None:
        return logits.argmax(1)
    wanted = torch.as_tensor(target, device=logits.device).expand(len(logits))
    if bool((wanted < 0).any() | (wanted >= logits.shape[1]).any()):
        raise MedcoreError(f"target={target}: this model has the classes 0 to {logits.shape[1] - 1}")
    return wanted.long()


def randomisation_check(model: Classifier, images: Tensor, *, stages: int = 5, seed: int = 0) -> pd.DataFrame:
    """How much the maps change while the layers lose their weights, from the head downwards.

    Args:
        model: a trained classifier; not changed.
        images: (B, C, H, W) in [0, 1]; the maps are those of the classes that the trained model predicts.
        stages: steps in which the layers are randomised (cascading); 1 randomises all at once.
        seed: of the random weights.

    Returns:
        One row per stage: ``layers`` (share randomised, 0 to 1), ``similarity`` (Spearman correlation of the maps with
        the trained model's, a mean over images; 0 where a map is constant), ``spread`` (its standard deviation). The
        first row is the trained model itself. A similarity that stays high condemns the method, not the model.

    **Reference**: Adebayo et al. 2018, arXiv:1810.03292.
    """
    with torch.no_grad():
        target = copy.deepcopy(model).eval()(images).argmax(1)
    original = grad_cam(model, images, target).cpu().numpy()
    work = copy.deepcopy(model)
    layers = [layer for layer in work.modules() if hasattr(layer, "reset_parameters")][::-1]  # head first
    bounds = np.linspace(0, len(layers), min(stages, len(layers)) + 1).round().astype(int)
    rows = [{"layers": 0.0, "similarity": 1.0, "spread": 0.0}]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start, stop in zip(bounds, bounds[1:], strict=False):
            for layer in layers[start:stop]:
                _randomise(layer)
            values = _similarities(original, grad_cam(work, images, target).cpu().numpy())
            rows.append({"layers": stop / len(layers), "similarity": values.mean(), "spread": values.std()})
    return pd.DataFrame(rows)


def _randomise(layer: nn.Module) -> None:
    device = next(layer.parameters(), torch.empty(0)).device
    layer.cpu().reset_parameters()  # type: ignore[operator]
    layer.to(device)


def _similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    pairs = zip(first.reshape(len(first), -1), second.reshape(len(second), -1), strict=True)
    return np.array([spearmanr(a, b).statistic if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0 for a, b in pairs])
