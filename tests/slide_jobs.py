"""A job whose process ends, in a module that costs a worker little to import."""

import os

from medcore.data.slides.tiles import SlideResult, SlideTask, cut_slide


def dies_once(task: SlideTask) -> SlideResult:
    """Cuts a slide; the first time that the second one is cut, its process ends."""
    mark = task.target.parent / "died"
    if task.row.path.name == "b.tiff" and not mark.exists():
        mark.touch()
        os._exit(1)
    return cut_slide(task)
