"""Networks in a picture: autoencoder, variational autoencoder, U-Net, drawn from their real sizes.

A block's height follows the side of its feature maps and its width the number of channels (both on a root scale).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from medcore.plots import style

ENCODER, DECODER, LATENT, DATA = "#4477AA", "#CC6677", "#DDAA33", "#999999"
GAP, PILL = 0.5, 1.4  # between blocks; width of a bottleneck


@style.styled
def autoencoder_diagram(
    stages: Sequence[tuple[int, int]],
    *,
    latent: int,
    variational: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Input, encoder, bottleneck, decoder, output.

    Args:
        stages: (channels, side in pixels) of the input and after each encoder stage, as in
            ``[(3, 64), (32, 32), (64, 16), (128, 8)]``; the decoder is drawn as the mirror image.
        variational: draw mean and log-variance and the sampling step.
    """
    ax = style.new_axes(ax, height=2.9)
    top = max(side for _, side in stages)
    edges = _blocks(ax, 0.0, stages, top, [DATA, *[ENCODER] * (len(stages) - 1)])
    place = edges[-1] + GAP
    start = place
    if variational:
        for height, name in ((0.36, "mean μ"), (-0.36, "log σ²")):
            _pill(ax, place, height, f"{name}\n{latent}")
            _arrow(ax, (edges[-1] + 0.06, 0.4 * height), (place - 0.05, height))
            _arrow(ax, (place + PILL + 0.05, height), (place + PILL + GAP - 0.06, 0.25 * height))
        place += PILL + GAP
    else:
        _arrow(ax, (edges[-1] + 0.06, 0), (place - 0.05, 0))
    _pill(ax, place, 0.0, f"z = μ + σ·ε\n{latent}" if variational else f"code z\n{latent}")
    _arrow(ax, (place + PILL + 0.05, 0), (place + PILL + GAP - 0.06, 0))
    first = place + PILL + GAP
    back = _blocks(ax, first, stages[::-1], top, [*[DECODER] * (len(stages) - 1), DATA])
    _captions(ax, [("input", 0.1), ("encoder", (edges[0] + edges[-1] + GAP) / 2)])
    _captions(ax, [("bottleneck", (start + place + PILL) / 2), ("decoder", (first + back[-2]) / 2)])
    _captions(ax, [("output", back[-1] - 0.1)])
    return _finish(ax, back[-1])


def network_diagram(spec: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """An autoencoder or a VAE as its ``spec`` describes it."""
    stages, latent = _stages_of(spec)
    return autoencoder_diagram(stages, latent=latent, variational=spec["family"] == "vae", ax=ax)


def network_text(spec: Mapping[str, Any]) -> str:
    """What ``network_diagram`` shows, for readers who cannot see it."""
    stages, latent = _stages_of(spec)
    shown = ", ".join(f"{side}² × {channels}" for channels, side in stages)
    middle = "mean and log-variance of a code" if spec["family"] == "vae" else "a bottleneck"
    return f"Diagram: encoder of {len(stages) - 1} stages ({shown}), {middle} of {latent} numbers, mirrored decoder."


def _stages_of(spec: Mapping[str, Any]) -> tuple[list[tuple[int, int]], int]:
    """(channels, side) of the input and after each stage, and the length of the code."""
    args = spec["args"]
    side = args["image_size"][0]
    stages = [(args["in_channels"], side)] + [(c, side // 2 ** (n + 1)) for n, c in enumerate(args["widths"])]
    return stages, args["latent" if spec["family"] == "vae" else "bottleneck"]


@style.styled
def unet_diagram(
    levels: Sequence[tuple[int, int]],
    *,
    classes: int,
    in_channels: int = 3,
    deep_supervision: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """The U: encoder down the left, decoder up the right, skip connections across.

    Args:
        levels: (channels, side) of each level, finest first, as in ``[(32, 256), (64, 128), (128, 64), (256, 32)]``.
        deep_supervision: how many coarser levels give an auxiliary output.
    """
    depth = len(levels)
    ax = style.new_axes(ax, height=0.78 * depth + 0.5)
    widest = 2 * depth + 1.0
    for level, (channels, side) in enumerate(levels):
        y = -float(level)
        width = 0.55 + 0.12 * level
        left, right = 0.9 + level, widest - level
        if level < depth - 1:
            _box(ax, left, y, width, ENCODER, f"{channels}")
            _box(ax, right, y, width, DECODER, f"{channels}")
            _arrow(ax, (left + width / 2 + 0.05, y), (right - width / 2 - 0.05, y), colour="#888888", dashed=True)
            _arrow(ax, (left + 0.1, y - 0.24), (left + 0.9, y - 0.76))
            _arrow(ax, (right - 0.9, y - 0.76), (right - 0.1, y - 0.24))
            if 0 < level <= deep_supervision:
                _arrow(ax, (right + width / 2 + 0.02, y), (right + width / 2 + 0.4, y), colour=LATENT)
                ax.text(right + width / 2 + 0.45, y, f"auxiliary\n{classes} classes", fontsize=8, va="center")
        else:
            _box(ax, (left + right) / 2, y, right - left + width, LATENT, f"{channels}")
        ax.text(-1.6, y, f"{side} × {side}", ha="left", va="center", fontsize=8, color="#555555")
    _box(ax, 0.0, 0.0, 0.42, DATA, f"{in_channels}")
    _box(ax, widest + 0.9, 0.0, 0.42, DATA, f"{classes}")
    _arrow(ax, (0.24, 0), (0.6, 0))
    _arrow(ax, (widest + 0.3, 0), (widest + 0.66, 0))
    for x, name in ((0.0, "image"), (1.1, "encoder"), (widest - 0.15, "decoder"), (widest + 0.95, "logits")):
        ax.text(x, 0.38, name, ha="center", va="bottom", fontsize=8.5, fontweight="bold")
    ax.text(widest / 2 + 0.4, 0.08, "skip connections", ha="center", va="bottom", fontsize=8, color="#666666")
    ax.text(-1.6, 0.38, "pixels", ha="left", va="bottom", fontsize=8, color="#555555")
    ax.text(
        widest + 1.2,
        -depth + 1,
        "numbers in the boxes:\nchannels",
        ha="right",
        fontsize=8,
        color="#666666",
        va="center",
    )
    ax.set(xlim=(-1.65, widest + 1.4), ylim=(-depth + 0.45, 0.62))
    style.bare(ax)
    return ax


def _blocks(ax: Axes, left: float, stages: Sequence[tuple[int, int]], top: int, colours: Sequence[str]) -> list[float]:
    """A row of stages with arrows between them and their sizes below; returns their right edges."""
    edges: list[float] = []
    for (channels, side), colour in zip(stages, colours, strict=True):
        if edges:
            _arrow(ax, (edges[-1] + 0.06, 0), (edges[-1] + GAP - 0.06, 0))
            left = edges[-1] + GAP
        height = 1.9 * float(np.sqrt(side / top))
        width = 0.16 + 0.05 * float(np.sqrt(channels))
        ax.add_patch(Rectangle((left, -height / 2), width, height, color=style.lighten(colour, 0.25), ec="white", lw=1))
        ax.text(left + width / 2, -height / 2 - 0.07, f"{side}²\n×{channels}", ha="center", va="top", fontsize=8)
        edges.append(left + width)
    return edges


def _pill(ax: Axes, left: float, y: float, text: str) -> None:
    """The bottleneck, or one of its parts."""
    shape = FancyBboxPatch(
        (left + 0.05, y - 0.19), PILL - 0.1, 0.38, boxstyle="round,pad=0.05", color=style.lighten(LATENT, 0.35)
    )
    ax.add_patch(shape)
    ax.text(left + PILL / 2, y, text, ha="center", va="center", fontsize=8)


def _box(ax: Axes, x: float, y: float, width: float, colour: str, inside: str) -> None:
    """A level of the U with its channels."""
    ax.add_patch(Rectangle((x - width / 2, y - 0.2), width, 0.4, color=style.lighten(colour, 0.35), ec="white"))
    ax.text(x, y, inside, ha="center", va="center", fontsize=8)


def _arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], *, colour: str = "#555555", dashed: bool = False
) -> None:
    line = (0, (3, 2)) if dashed else "solid"
    arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, shrinkA=0, shrinkB=0, color=colour)
    arrow.set(linestyle=line, linewidth=1)
    ax.add_patch(arrow)


def _captions(ax: Axes, names: Sequence[tuple[str, float]]) -> None:
    for name, x in names:
        ax.text(x, 1.12, name, ha="center", va="bottom", fontsize=8.5, fontweight="bold")


def _finish(ax: Axes, right: float) -> Axes:
    ax.set(xlim=(-0.35, right + 0.35), ylim=(-1.45, 1.4))
    style.bare(ax)
    return ax
