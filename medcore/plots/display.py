"""Put a figure into a notebook with caption and alt text, as small as it can be without looking worse.

Vector figures become SVG while that is small; everything else is a PNG at twice its shown size, or a JPEG where
photographs make the PNG large. (WebP would be smaller still: JupyterLab and papermill carry it, but the stock
nbconvert templates drop it, so a plain ``jupyter nbconvert`` would lose the figure.)
"""

from __future__ import annotations

import base64
import html
import io
import os
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.text import Text

from medcore.errors import MedcoreError
from medcore.plots import style
from medcore.plots.numbers import drawn_numbers

SVG_LIMIT = 60_000  # bytes; a larger drawing loads and scrolls worse than its picture
PNG_LIMIT = 250_000  # bytes; above this a photographic figure is sent as JPEG
SCALE = 2  # picture pixels per shown pixel, for sharp text on high-density screens
STILL = "MEDCORE_RUN_DIR"  # set by `medcore reports`: what runs then is a report
PLACEHOLDERS = ("", "image", "figure", "plot", "no description has been provided for this image")


def show(figure_or_axes: Any, *, alt: str, caption: str) -> None:
    """Display a figure in the notebook with alt text and caption, then close it.

    Outside a notebook nothing is shown, and nothing fails.

    Args:
        figure_or_axes: a Figure, an Axes, or an array of Axes of one figure.
        alt: what the figure shows, for a reader who cannot see it: what is drawn and what it says.
        caption: what stands below it, in a report behind its number: what is shown, on which cases, how many. What
            bands and bars are is known to the plot that drew them (`style.note`) and added.

    Raises:
        MedcoreError: when `alt` or `caption` is empty or a placeholder.
    """
    check_words(alt=alt, caption=caption)
    figure = figure_of(figure_or_axes)
    try:
        send = front_end()
        if send is not None:
            data, metadata = bundle_of(figure, alt, caption)
            send(data, metadata=metadata, raw=True)
            send_caption(send, metadata)
    finally:
        plt.close(figure)


def send_caption(send: Callable[..., Any], metadata: dict[str, Any]) -> None:
    """The caption below a figure, for whoever reads the notebook itself; a report sets its own."""
    if STILL not in os.environ:
        ((_, facts),) = metadata.items()
        text = facts["caption"]
        send({"text/html": f"<em>{html.escape(text)}</em>", "text/plain": text}, metadata={}, raw=True)


def check_words(**words: str) -> None:
    """Refuse a description or caption that says nothing.

    Raises:
        MedcoreError: one is empty or a placeholder.
    """
    for name, text in words.items():
        if text.strip().rstrip(".").lower() in PLACEHOLDERS:
            raise MedcoreError(f"plots.show: {name} = {text!r}, but it must say what the figure shows.")


def figure_of(thing: Any) -> Figure:
    """The Figure behind a Figure, an Axes or any nesting of Axes.

    Raises:
        MedcoreError: when there is none.
    """
    while isinstance(thing, (np.ndarray, list, tuple)):
        thing = thing.flat[0] if isinstance(thing, np.ndarray) else thing[0]
    figure = thing.figure if isinstance(thing, (Axes, SubFigure)) else thing
    while isinstance(figure, SubFigure):
        figure = figure.figure
    if not isinstance(figure, Figure):
        raise MedcoreError(f"plots.show: needs a Figure or Axes, but got {type(thing).__name__}.")
    return figure


@style.styled
def encode(figure: Figure) -> tuple[str, bytes]:
    """The figure as (mime type, bytes), chosen by size and content."""
    photographic = any(True for _ in _images(figure.axes))
    if not photographic:
        drawing = _render(figure, "svg", metadata={"Date": None})
        if len(drawing) <= SVG_LIMIT:
            return "image/svg+xml", drawing
    picture = _render(figure, "png", dpi=SCALE * figure.dpi)
    if photographic and len(picture) > PNG_LIMIT:
        options = {"quality": 90, "subsampling": 1, "optimize": True}  # the report makes a lighter one of it
        return "image/jpeg", _render(figure, "jpeg", dpi=SCALE * figure.dpi, pil_kwargs=options)
    return "image/png", picture


def bundle_of(thing: Any, alt: str, caption: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A figure as a notebook output: content, and facts (description, caption, numbers, shown size), by MIME type.

    Names that no font of this machine can draw are numbers in the figure and stand in full in the description.
    """
    figure = figure_of(thing)
    numbers = drawn_numbers(figure)
    numbered = number_undrawable(figure)
    mime, content = encode(figure)
    alt = " ".join(alt.split())
    if numbered:
        names = ", ".join(f"{number} = {name}" for name, number in numbered.items())
        alt += f" (No font of this machine can draw these names; they stand as numbers: {names}.)"
    facts: dict[str, Any] = {"alt": alt, "caption": " ".join([*caption.split(), *style.notes_of(figure)])}
    facts |= {"numbers": numbers} if numbers else {}
    if mime == "image/svg+xml":
        data = content.decode()
    else:
        data = base64.b64encode(content).decode()
        width, height = figure.get_size_inches() * figure.dpi
        facts |= {"width": round(width), "height": round(height)}
    return {mime: data, "text/plain": alt}, {mime: facts}


@style.styled
def number_undrawable(figure: Figure) -> dict[str, str]:
    """Replace texts with characters that no font can draw by numbers in brackets; returns text to its number."""
    numbers: dict[str, str] = {}

    def drawable(text: str) -> str:
        if drawn_by_a_font(text):
            return text
        return numbers.setdefault(text, f"[{len(numbers) + 1}]")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that are missing: what is looked for here
        axes = [axis for ax in figure.findobj(Axes) for axis in (ax.xaxis, ax.yaxis)]
        for axis in axes:
            labels = [label.get_text() for label in axis.get_ticklabels()]
            if not all(drawn_by_a_font(label) for label in labels):
                axis.set_ticks(axis.get_ticklocs(), [drawable(label) for label in labels])
        for text in figure.findobj(Text):
            text.set_text(drawable(text.get_text()))
    return numbers


def drawn_by_a_font(text: str) -> bool:
    """Whether the fonts of the house style have every character."""
    return text.isascii() or all(ord(character) < 128 or ord(character) in characters() for character in text)


@cache
def characters() -> frozenset[int]:
    """Code points that the installed fonts of the house style can draw."""
    found: set[int] = set()
    for family in style.house_style()["font.sans-serif"]:
        try:
            path = font_manager.findfont(family, fallback_to_default=False)
        except ValueError:
            continue
        found |= set(font_manager.get_font(path).get_charmap())
    return frozenset(found)


def front_end() -> Callable[..., Any] | None:
    """IPython's display function, or None where nothing can be displayed."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return None
    return display if get_ipython() is not None else None


def _render(figure: Figure, kind: str, **options: Any) -> bytes:
    """The figure in a file format."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _images(axes: Iterable[Axes]) -> Iterable[Any]:
    """Pictures shown in any of the Axes."""
    for ax in axes:
        yield from ax.images
