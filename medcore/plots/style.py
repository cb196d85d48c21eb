"""One look for every figure: the style file, the palette, and the few helpers that all plots share.

The palette is Okabe and Ito's, extended to twelve so that the nine tissue classes stay apart. Every pair keeps its
distance also for protan, deutan and tritan viewers (the test simulates all three).

**Reference**: Okabe & Ito 2008, *Color Universal Design*; Machado et al. 2009, doi:10.1109/TVCG.2009.113.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.typing import ColorType

P = ParamSpec("P")
T = TypeVar("T")

STYLE_FILE = Path(__file__).with_name("medcore.mplstyle")
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#1A1A1A",
    "#F0E442",
    "#882255",
    "#C4C4C4",
    "#7B3F00",
    "#4D004B",
)
INK, MUTED, FAINT = "#1A1A1A", "#777777", "#DDDDDD"
CONTRAST = 3.5  # to white, of coloured words and thin lines
NOTES = "medcore_notes"  # where a figure keeps what its caption must say
WIDTH = 7.2  # inches; the text column of a report and of a notebook

SEQUENTIAL = "cividis"  # perceptually even, and readable without red-green vision
DIVERGING = "RdBu_r"
SPLIT_COLOURS = {"train": "#4477AA", "val": "#DDAA33", "test": "#BB5566", "unassigned": "#BBBBBB"}


def use() -> None:
    """Switch matplotlib to the house style for this process: for figures of your own; ours bring it along."""
    plt.style.use(STYLE_FILE)


def styled(plot: Callable[P, T]) -> Callable[P, T]:
    """Draw a figure in the house style, whatever style is in force, and leave that in force afterwards."""

    @wraps(plot)
    def drawn(*args: P.args, **options: P.kwargs) -> T:
        with mpl.rc_context(house_style()):
            return plot(*args, **options)

    return drawn


@cache
def house_style() -> mpl.RcParams:
    """The settings of the style file."""
    return mpl.rc_params_from_file(STYLE_FILE, use_default_template=False)


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """The colour of each class: by its place in the set's class list, so the same in every figure.

    Args:
        classes: all classes of the set, in the set's order (not only those in the figure).

    Returns:
        Class name to hex colour; beyond twelve classes the colours repeat, lighter.
    """
    colours = {}
    for number, name in enumerate(classes):
        colour = PALETTE[number % len(PALETTE)]
        for _ in range(number // len(PALETTE)):
            colour = lighten(colour, 0.45)
        colours[name] = colour
    return colours


def lighten(colour: str, amount: float = 0.6) -> str:
    """Mix a colour with white; `amount` 0 leaves it, 1 is white."""
    mixed = np.asarray(to_rgb(colour)) * (1 - amount) + amount
    return "#" + "".join(f"{round(255 * part):02X}" for part in mixed)


def luminance(colour: ColorType) -> float:
    """Relative luminance, 0 (black) to 1 (white), as in WCAG 2."""
    channels = np.asarray(to_rgb(colour), dtype=float)
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def line_colour(colour: str) -> str:
    """A colour dark enough for text and thin lines on white: yellow, orange and light grey are not."""
    channels = np.asarray(to_rgb(colour))
    while 1.05 / (luminance(tuple(channels)) + 0.05) < CONTRAST:
        channels = channels * 0.97
    return "#" + "".join(f"{round(255 * part):02X}" for part in channels)


def new_axes(ax: Axes | None = None, *, width: float = WIDTH, height: float = 3.4) -> Axes:
    """The given Axes, or those of a new figure of `width` × `height` inches."""
    if ax is not None:
        return ax
    return plt.subplots(figsize=(width, height))[1]


def note(ax: Axes, text: str) -> None:
    """Remember what a caption must say of this figure, such as what a band is and how it was made."""
    notes: dict[str, None] = vars(ax.get_figure(root=True)).setdefault(NOTES, {})
    notes |= {text: None} if text else {}


def notes_of(figure: Figure) -> list[str]:
    """What the plots of a figure have to say in its caption, each once."""
    return list(vars(figure).get(NOTES, {}))


def bare(ax: Axes) -> None:
    """Take ticks and frame away: for pictures and diagrams."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def spread_apart(positions: Sequence[float], gap: float) -> np.ndarray:
    """Move positions apart until neighbours are at least `gap` apart, as little as possible; order is kept."""
    wanted = np.asarray(positions, dtype=float)
    order = np.argsort(wanted, kind="stable")
    offsets = np.arange(len(wanted)) * gap
    # Pool neighbours that collide into blocks around their mean (isotonic regression of position − offset).
    blocks: list[list[float]] = []
    for value in wanted[order] - offsets:
        blocks.append([value, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            blocks[-1] = [
                (blocks[-1][0] * blocks[-1][1] + mean * count) / (blocks[-1][1] + count),
                blocks[-1][1] + count,
            ]
    placed = np.concatenate([[mean] * int(count) for mean, count in blocks]) + offsets if blocks else wanted
    result = np.empty_like(wanted)
    result[order] = placed
    return result


def label_ends(
    ax: Axes, labels: Sequence[str], heights: Sequence[float], colours: Sequence[str], *, gap: float = 0.055
) -> None:
    """Write labels at the right border, beside the ends of their lines, without overlap.

    Args:
        ax: where; its y limits must be final.
        heights: y (data units) where each line ends.
        gap: smallest distance between labels, as a share of the axis height.
    """
    low, high = ax.get_ylim()
    places = spread_apart([(height - low) / (high - low) for height in heights], gap)
    places = places - max(0.0, places.max(initial=0) - 1.0)
    for text, place, colour in zip(labels, places, colours, strict=True):
        ax.annotate(
            text,
            (1.0, place),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=line_colour(colour),
            fontsize=8.5,
            fontweight="bold",
            annotation_clip=False,
        )


def reference_lines(ax: Axes, lines: Sequence[tuple[str, float, str]]) -> None:
    """Dashed lines across the Axes, each (name, height, colour) named at its right end; y limits must be final."""
    for _, height, colour in lines:
        ax.axhline(height, color=line_colour(colour), lw=1.1, ls=(0, (4, 2)), zorder=1)
    names, heights, colours = zip(*lines, strict=True)
    label_ends(ax, names, heights, colours, gap=0.075)


def scale_bar(
    ax: Axes,
    pixel_size_um: float | None,
    *,
    image_width: float,
    right: float,
    bottom: float,
) -> None:
    """Draw a scale bar of a round length, about a quarter of an image wide; nothing when the size is unknown.

    Args:
        ax: image Axes in pixel coordinates (y grows downwards).
        pixel_size_um: micrometres per pixel, or None.
        image_width: width of one image, pixels.
        right: x of the right end of the bar, pixels.
        bottom: y of the lower border of the bar, pixels.
    """
    if not pixel_size_um:
        return
    length_um = round_length(0.3 * image_width * pixel_size_um)
    length, thick = length_um / pixel_size_um, max(image_width * 0.02, 0.6)
    ax.add_patch(
        Rectangle((right - length, bottom - thick), length, thick, color="white", ec="black", lw=0.4, zorder=5)
    )
    name = f"{length_um:g} µm" if length_um < 1000 else f"{length_um / 1000:g} mm"
    ax.text(
        right - length / 2,
        bottom - thick * 1.6,
        name,
        ha="center",
        va="bottom",
        fontsize=8,
        color="black",
        zorder=6,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
    )


def round_length(length: float) -> float:
    """The largest of 1, 2, 5 × 10ⁿ that is not above `length`."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(power * max(step for step in (1, 2, 5) if step * power <= length * (1 + 1e-9)))
