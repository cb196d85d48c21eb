"""Figures to touch in JupyterLab: a slider moves, the figure follows. In a report the same figure stands still.

    explore(partial(operating_point, scores), threshold=Slider(0, 1, 0.5), alt="…", caption="…")

Where nothing can be dragged (``medcore reports``, papermill with a run folder, no ipywidgets) the figure is shown as
``plots.show`` shows it, with every control at its start. Where something can, the still figure is stored beside the
control, so that a saved notebook shows it wherever it is opened.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt

from medcore.errors import MedcoreError
from medcore.plots.display import STILL, bundle_of, check_words, figure_of, front_end, send_caption, show


@dataclass(frozen=True)
class Slider:
    """A number to drag.

    Attributes:
        low: Its left end.
        high: Its right end.
        start: Where it stands first, and in a report.
        step: The smallest move; by default a hundredth of the range.
    """

    low: float
    high: float
    start: float
    step: float | None = None

    def __post_init__(self) -> None:
        """Refuse a start outside the range."""
        if not self.low <= self.start <= self.high or self.low == self.high:
            raise MedcoreError(
                f"Slider: start {self.start:g} must lie in {self.low:g}…{self.high:g}, a range with room."
            )


@dataclass(frozen=True)
class Choice:
    """One of several things; the first in a report unless `start` says another."""

    options: Sequence[Any]
    start: Any = None

    def __post_init__(self) -> None:
        """Refuse no options, and a start that is none of them."""
        options = list(self.options)
        if not options or (self.start is not None and self.start not in options):
            raise MedcoreError(f"Choice: start {self.start!r} must be one of the options {options}.")


def explore(draw: Callable[..., Any], *, alt: str, caption: str, **controls: Slider | Choice) -> None:
    """Show a figure that follows its controls, or stands still where there are none.

    Args:
        draw: makes the figure from the controls' values, given by name; returns a Figure or Axes.
        alt: what the figure shows, as for `plots.show`.
        caption: what stands below the figure in a report, as for `plots.show`.
        controls: a `Slider` or `Choice` for each argument of `draw` that may be changed.

    Raises:
        MedcoreError: when `alt` or `caption` says nothing or no control is given.
    """
    check_words(alt=alt, caption=caption)
    if not controls:
        raise MedcoreError("explore: no control was given; use plots.show for a figure that never changes.")
    still = draw(**{name: start_of(control) for name, control in controls.items()})
    send = front_end() if can_be_touched() else None
    if send is None:
        show(still, alt=alt, caption=caption)
        return
    data, metadata = bundle_of(still, alt, caption)
    plt.close(figure_of(still))
    send({**data, **panel(draw, alt, controls)._repr_mimebundle_()}, metadata=metadata, raw=True)
    send_caption(send, metadata)


def can_be_touched() -> bool:
    """Whether controls make sense: a person's own kernel, and ipywidgets is there."""
    return STILL not in os.environ and importlib.util.find_spec("ipywidgets") is not None


def start_of(control: Slider | Choice) -> Any:
    """The value that a control stands on first."""
    if isinstance(control, Choice) and control.start is None:
        return next(iter(control.options))
    return control.start


def panel(draw: Callable[..., Any], alt: str, controls: dict[str, Slider | Choice]) -> Any:
    """Controls above the figure that follows them, as an ipywidgets box."""
    import ipywidgets

    picture = ipywidgets.HTML()
    handles = {name: _handle(name, control) for name, control in controls.items()}

    def redraw(_: Any = None) -> None:
        picture.value = image_tag(draw(**{name: handle.value for name, handle in handles.items()}), alt)

    for handle in handles.values():
        handle.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*handles.values(), picture])


def image_tag(thing: Any, alt: str) -> str:
    """A figure as an HTML image with its description; the figure is closed."""
    data, metadata = bundle_of(thing, alt, alt)
    plt.close(figure_of(thing))
    ((mime, facts),) = metadata.items()
    content = base64.b64encode(data[mime].encode()).decode() if mime == "image/svg+xml" else data[mime]
    width = f' width="{facts["width"]}"' if "width" in facts else ""
    return f'<img alt="{html.escape(facts["alt"])}"{width} src="data:{mime};base64,{content}">'


def _handle(name: str, control: Slider | Choice) -> Any:
    """The ipywidgets control; it answers when it is let go, because drawing takes longer than a pixel of dragging."""
    import ipywidgets

    label = name.replace("_", " ")
    if isinstance(control, Choice):
        return ipywidgets.Dropdown(options=list(control.options), value=start_of(control), description=label)
    step = control.step or (control.high - control.low) / 100
    return ipywidgets.FloatSlider(
        min=control.low,
        max=control.high,
        value=control.start,
        step=step,
        description=label,
        continuous_update=False,
        readout_format=".3g",
    )
