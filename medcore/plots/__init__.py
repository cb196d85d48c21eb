"""Every figure, one file per family.

A plot takes its data first and its options by keyword, draws into ``ax`` (or new Axes) and returns the Axes.
``show(axes, alt="…")`` puts it into a notebook with alt text and closes it; ``explore`` adds controls in JupyterLab.
"""

from medcore.plots.display import show
from medcore.plots.interactive import Choice, Slider, explore

__all__ = ["Choice", "Slider", "explore", "show"]
