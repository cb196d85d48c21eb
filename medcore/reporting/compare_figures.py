"""The two figures of a comparison: learning curves in one plot, and the images on which two runs disagree."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from medcore.plots import style
from medcore.plots.display import encode, figure_of
from medcore.plots.images import image_grid
from medcore.reporting.compare import Compared, in_order_of, not_paired
from medcore.reporting.figures import figure_fragment
from medcore.reporting.narrative import Narrative

SHOWN = 12  # images on which the two disagree
COLUMNS = 6


def curves(runs: list[Compared]) -> dict[str, str]:
    """Validation curves of all runs in one figure, ``{"html": …, "said": …}``."""
    tables = {run.label: table for run in runs if (table := history(run.folder)) is not None}
    if len(tables) < 2:
        return {"html": "", "said": "Fewer than two of the runs left a history.csv, so there are no curves to overlay."}
    chosen = _columns(list(tables.values()))
    if not chosen:
        return {"html": "", "said": "The runs recorded no validation curve of the same name."}
    axes = _overlaid(tables, chosen)
    names = " and ".join(name.removeprefix("val_").replace("_", " ") for name in chosen)
    alt = f"Curves over the epochs, one line for each of {', '.join(tables)}: {names} on validation data."
    return {"html": fragment(axes, alt, 1), "said": ""}


def history(folder: Path) -> pd.DataFrame | None:
    """The learning curve that a run left, None when there is none that can be read."""
    for place in (folder, folder / "training"):
        try:
            table = pd.read_csv(place / "history.csv")
        except (OSError, ValueError):
            continue
        if "epoch" in table and len(table):
            return table
    return None


def _columns(tables: list[pd.DataFrame]) -> list[str]:
    """The validation loss and the first validation metric that all have."""
    names = [str(name) for name in tables[0].columns]
    shared = [name for name in names if name.startswith("val_") and all(name in table for table in tables)]
    return shared[:2]


@style.styled
def _overlaid(tables: dict[str, pd.DataFrame], columns: list[str]) -> Any:
    _, axes = plt.subplots(1, len(columns), figsize=(style.WIDTH, 2.8), squeeze=False)
    colours = style.class_colours(list(tables))
    for ax, column in zip(axes[0], columns, strict=True):
        for label, table in tables.items():
            ax.plot(table["epoch"], table[column], color=style.line_colour(colours[label]), marker=".", label=label)
        ax.set(xlabel="epoch", ylabel=column.removeprefix("val_").replace("_", " ") + ", validation")
    axes[0][0].legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
    return axes


def disagreements(runs: list[Compared]) -> dict[str, str]:
    """Test images that one of the first two runs names rightly and the other wrongly."""
    first, second = runs[:2]
    reason = not_paired(second, first)
    if reason:
        return {"html": "", "said": f"Not shown: {reason}."}
    assert first.scores is not None and second.scores is not None
    if first.scores.score.ndim == 1:
        return {"html": "", "said": "Not shown: one score per case names no class."}
    other = in_order_of(first.scores, second.scores)
    right, wrong = first.scores.predicted == first.scores.truth, other.predicted == first.scores.truth
    rows = np.flatnonzero(right != wrong)
    counts = f"{first.label} alone is right in {int((right & ~wrong).sum())}, {second.label} alone in "
    counts += f"{int((wrong & ~right).sum())} of {len(right)} cases."
    if not len(rows):
        return {"html": "", "said": f"The two are right and wrong in the same cases. {counts}"}
    rows = rows[np.argsort(-np.abs(first.scores.score - other.score).max(axis=1)[rows])][:SHOWN]
    try:
        images = _pixels(first, rows)
    except (MedcoreError, OSError) as error:
        return {"html": "", "said": f"{counts} The images are not shown: {error}."}
    titles = [_caption(first, other, int(row)) for row in rows]
    alt = f"Test images on which {first.label} and {second.label} disagree, each with truth and both answers."
    grid = image_grid(images, titles=titles, columns=COLUMNS)
    return {"html": fragment(grid, alt, 2), "said": f"{counts} Above each image: truth, first, second."}


def _caption(first: Compared, other: Any, row: int) -> str:
    assert first.scores is not None
    names = first.scores.classes
    answers = (first.scores.truth[row], first.scores.predicted[row], other.predicted[row])
    return "\n".join(names[int(number)][:14] for number in answers)


def _pixels(run: Compared, rows: np.ndarray) -> np.ndarray:
    """The images of some test cases, read from the run's data again.

    Raises:
        MedcoreError: The data cannot be read, or are not those that the run saw.
    """
    from medcore.data.load import load

    assert run.scores is not None and run.scores.ids is not None
    known = run.results["parameters"]
    options = {key: known[key] for key in ("size", "on_error", "seed") if known.get(key) is not None}
    patches = load(known["data"], progress=False, **options)
    ids = run.scores.ids
    if ids.max(initial=-1) >= len(patches.store):
        raise MedcoreError("the data have fewer images than when the run was made")
    if not np.array_equal(patches.labels[ids], run.scores.truth):
        raise MedcoreError("the data have other labels than when the run was made")
    return np.stack([np.asarray(patches.store[i]) for i in ids[rows]])


def fragment(axes: Any, alt: str, number: int) -> str:
    """A figure as a part of a page, with its number."""
    figure = figure_of(axes)
    mime, content = encode(figure)
    plt.close(figure)
    data = content.decode() if mime == "image/svg+xml" else base64.b64encode(content).decode()
    width, height = figure.get_size_inches() * figure.dpi
    facts = {"alt": alt, "width": round(width), "height": round(height)}
    return figure_fragment({mime: data}, {mime: facts}, Narrative(figures=number - 1))
