"""``medcore compare RUN RUN …``: finished runs side by side on one page.

Parameters that differ; metrics beside each other; where the runs answered for the same cases, a paired test over
the patients; learning curves in one plot; the images on which two runs disagree.

A run's answers are its ``predictions.npz``: ``probabilities (N, K)``, ``truth (N,)``, ``patient (N,)`` and
``ids (N,)``, rows of the set's store; the classes stand in ``results.json``.

The two figures of a comparison: learning curves in one plot, and the images on which two runs disagree.
"""

from __future__ import annotations

import base64
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from medcore.data.load import read_set
from medcore.errors import MedcoreError
from medcore.evaluation.comparison import judged
from medcore.evaluation.estimate import metric_name
from medcore.evaluation.intervals import paired_difference
from medcore.evaluation.scores import Folds, Scores
from medcore.plots import style
from medcore.plots.display import encode, figure_of
from medcore.plots.images import image_grid
from medcore.reporting.figures import figure_fragment
from medcore.reporting.folders import read_mark, write_page
from medcore.reporting.report import render
from medcore.reporting.results import Results, read_results
from medcore.reporting.sanitise import Narrative
from medcore.reporting.wording import moment, shown

PAGE = "compare.html"
READINGS = {
    "gain": "Better than the first, beyond what chance in the choice of patients explains.",
    "loss": "Worse than the first, beyond what chance in the choice of patients explains.",
    "open": "These cases do not show a difference.",
}
PREDICTIONS = "predictions.npz"


@dataclass(frozen=True)
class Compared:
    """One run of a comparison.

    Attributes:
        label: What it is called on the page: as short as it can be without being mistaken.
        folder: Where it stands.
        results: What it recorded.
        scores: Its answers, None when it left none.
        why_not: Why there are none.
    """

    label: str
    folder: Path
    results: Results
    scores: Scores | None
    why_not: str = ""


def compare_runs(folders: list[Path], out: Path, *, test: bool = True) -> Path:
    """Write one page about several finished runs.

    Args:
        folders: Their folders, the one to compare with first.
        test: Also show what was measured on test cases; False while something is still being chosen.

    Raises:
        MedcoreError: Fewer than two runs, or one that cannot be read.
    """
    if len(folders) < 2:
        raise MedcoreError("compare: name at least two folders of finished runs, such as reports/a/06_x reports/b/06_x")
    runs = read_runs(folders)
    values = {
        "runs": [_head(run, out) for run in runs],
        "parameters": differing_parameters(runs),
        "metrics": metric_rows(runs) if test else validation_rows(runs),
        "tests": paired_tests(runs) if test else [],
        "curves": curves(runs),
        "disagreements": disagreements(runs) if test else None,
    }
    return write_page(out / PAGE, render("compare.html.j2", **values))


def read_runs(folders: list[Path]) -> list[Compared]:
    """Runs with their answers, labelled by what tells their folders apart.

    Raises:
        MedcoreError: A run cannot be read.
    """
    runs = []
    for label, folder in zip(labels([folder.resolve() for folder in folders]), folders, strict=True):
        results = read_results(folder)
        scores, why_not = read_scores(folder / PREDICTIONS, results)
        runs.append(Compared(label, folder, results, scores, why_not))
    return runs


def labels(folders: list[Path]) -> list[str]:
    """Short names of folders: their own names, or their parents' where those differ; numbered when both are equal."""
    for candidate in ([f.name for f in folders], [f.parent.name for f in folders], [str(f) for f in folders]):
        if len(set(candidate)) == len(folders):
            return candidate
    return [f"{number} {folder.parent.name}" for number, folder in enumerate(folders, 1)]


def read_scores(path: Path, results: Results) -> tuple[Scores | None, str]:
    """A run's answers for its test cases, or None with the reason."""
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in ("probabilities", "truth", "patient", "ids")}
            folds = Folds(file["folds_score"], file["folds_fold"]) if "folds_score" in file else None
        headline, classes = results.metrics[0], tuple(results.data.classes)
        split = np.full(len(held["truth"]), headline.split)
        truth, score, patient, ids = (held[name] for name in ("truth", "probabilities", "patient", "ids"))
        return Scores(truth, score, patient, split, classes, ids, headline.unit, folds), ""
    except FileNotFoundError:
        return None, f"it left no {PREDICTIONS}"
    except (KeyError, IndexError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile, MedcoreError) as error:
        return None, f"its {PREDICTIONS} cannot be used ({error})"


def differing_parameters(runs: list[Compared]) -> list[dict[str, Any]]:
    """Parameters, data and code that are not the same in all runs."""
    held = [run.results.parameters | _circumstances(run.results) for run in runs]
    names = dict.fromkeys(name for values in held for name in values)
    rows = [{"name": name, "values": [shown(values.get(name)) for values in held]} for name in names]
    return [row for row in rows if len(set(row["values"])) > 1]


def _circumstances(results: Results) -> dict[str, Any]:
    return {
        "notebook": results.notebook,
        "data fingerprint": results.data.fingerprint[:16],
        "commit": results.environment.get("commit"),
        "device": results.environment.get("device"),
    }


def metric_rows(runs: list[Compared]) -> list[dict[str, Any]]:
    """Every metric with the value that each run reached."""
    tables = [{(row.name, row.unit, row.split): str(row) for row in run.results.metrics} for run in runs]
    keys = dict.fromkeys(key for table in tables for key in table)
    return [
        {
            "name": metric_name(key[0]),
            "where": " ".join(key[1:]),
            "values": [table.get(key, "–") for table in tables],
        }
        for key in keys
    ]


def validation_rows(runs: list[Compared]) -> list[dict[str, Any]]:
    """The validation metrics that choices may be based on, with the value that each run reached."""
    found = [run.results.validation for run in runs]
    names = dict.fromkeys(one.name for one in found if one.name)
    return [
        {
            "name": metric_name(name.removeprefix("val_")),
            "where": "validation",
            "values": [shown(one.value) if one.name == name else "–" for one in found],
        }
        for name in names
    ]


def paired_tests(runs: list[Compared]) -> list[dict[str, str]]:
    """For each later run: how it differs from the first on the same cases, or why that cannot be said."""
    first = runs[0]
    metric = first.results.metrics[0].name if first.results.metrics else ""
    return [{"who": run.label, "metric": metric_name(metric), **_paired(run, first, metric)} for run in runs[1:]]


def _paired(run: Compared, first: Compared, metric: str) -> dict[str, str]:
    reason = not_paired(run, first)
    if reason:
        return {"text": "", "said": f"No paired test: {reason}."}
    assert run.scores is not None and first.scores is not None
    try:
        difference = paired_difference(run.scores, in_order_of(run.scores, first.scores), metric)
    except MedcoreError as error:
        return {"text": "", "said": f"No paired test: {error}."}
    note = difference.note if difference.low is not None else ""
    return {"text": str(difference), "said": f"{READINGS[judged(difference)]} {note}".strip()}


def not_paired(run: Compared, first: Compared) -> str:
    """Why two runs cannot be compared case by case; empty when they can."""
    for one in (run, first):
        if one.scores is None:
            return f"{one.label}: {one.why_not}"
    assert run.scores is not None and first.scores is not None
    if run.scores.classes != first.scores.classes:
        return "the classes are not the same"
    mine, other = np.sort(np.asarray(run.scores.ids)), np.sort(np.asarray(first.scores.ids))
    if not np.array_equal(mine, other):
        return "the test cases are not the same"
    ordered = in_order_of(run.scores, first.scores)
    same = np.array_equal(run.scores.truth, ordered.truth) and np.array_equal(run.scores.patient, ordered.patient)
    return "" if same else "the same rows hold other cases"


def in_order_of(wanted: Scores, scores: Scores) -> Scores:
    """The cases of ``scores`` in the order of ``wanted``; both hold the same ids."""
    assert wanted.ids is not None and scores.ids is not None
    return scores.select(np.argsort(scores.ids)[np.argsort(np.argsort(wanted.ids))])


def _head(run: Compared, out: Path) -> dict[str, str]:
    results = run.results
    report = run.folder / "report.html"
    return {
        "label": run.label,
        "title": results.title or results.notebook,
        "status": results.status,
        "when": moment(results.started),
        "data": results.data.name,
        "href": quote(os.path.relpath(report, out).replace(os.sep, "/")) if report.exists() else "",
    }


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
    assert run.scores is not None and run.scores.ids is not None
    known = run.results.parameters
    options = {key: known[key] for key in ("size", "on_error", "seed") if known.get(key) is not None}
    patches = read_set(read_mark(run.folder).get("data") or known["data"], progress=False, **options)
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
