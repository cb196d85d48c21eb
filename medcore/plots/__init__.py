"""Every figure, one file per family.

A plot takes its data first and its options by keyword, draws into ``ax`` (or new Axes) and returns the Axes.
``show(axes, alt="…")`` puts it into a notebook with alt text and closes it.
"""

from medcore.plots.display import show

__all__ = ["show"]
