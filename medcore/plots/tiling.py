"""Where cutting an image into tiles changes the answer."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np

from medcore.plots import style


@style.styled
def tiling_artefacts(image: np.ndarray, whole: np.ndarray, tiled: Mapping[str, np.ndarray]) -> np.ndarray:
    """The image, and for each way of tiling how far its probability lies from that of the whole image.

    Args:
        image: uint8. **Shape** ``(H, W, C)``.
        whole: Probability of one class from the image in one piece, 0…1. **Shape** ``(H, W)``.
        tiled: Name of a way to the probability that it gives. **Shape** ``(H, W)`` each.

    Returns:
        The Axes, one for the image and one per way.
    """
    panels = 1 + len(tiled)
    height = style.WIDTH / panels * image.shape[0] / image.shape[1] + 0.75
    figure, axes = plt.subplots(1, panels, figsize=(style.WIDTH, height), squeeze=False)
    grey = image.shape[2] == 1
    axes[0, 0].imshow(image[..., 0] if grey else image, cmap="gray" if grey else None)
    axes[0, 0].set_title("image", fontsize=8, pad=3)
    gaps = {name: np.abs(values - whole) for name, values in tiled.items()}
    top = max(float(np.percentile(gap, 99.9)) for gap in gaps.values()) or 1.0
    for ax, (name, gap) in zip(axes[0, 1:], gaps.items(), strict=True):
        drawn = ax.imshow(gap, cmap="magma", vmin=0, vmax=top)
        ax.set_title(f"{name}\nmean difference {gap.mean():.3f}", fontsize=8, pad=3)
    for ax in axes[0]:
        style.bare(ax)
    bar = figure.colorbar(drawn, ax=list(axes[0, 1:]), shrink=0.85, pad=0.02)
    bar.set_label("difference of probability", fontsize=7.5)
    bar.ax.tick_params(labelsize=7)
    return axes[0]
