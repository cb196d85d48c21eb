"""``medcore sweep``: a search over any notebook parameters, judged by the notebook's own validation metric.

- Every trial is an ordinary run in a folder of its own, named by its values: an interrupted sweep goes on where it was.
- The objective is ``results.validation``, recorded from validation data; test metrics are never read.
- Grid by default; with ``trials`` a random or TPE search (Optuna, extra ``sweep``) over the listed values.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medcore.data.npzfile import atomic_path
from medcore.errors import MedcoreError
from medcore.reporting.parameters import validate
from medcore.reporting.results import Results, Validation, read_results

TABLE = "trials.csv"


def read_axes(pairs: Sequence[str]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """``NAME=V1,V2`` gives an axis of the search, ``NAME=V`` a fixed parameter.

    Raises:
        MedcoreError: A pair has no ``=``, or nothing is varied.
    """
    axes: dict[str, list[Any]] = {}
    fixed: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise MedcoreError(f"-p {pair!r}: expected NAME=V1,V2 (a search) or NAME=V (fixed)")
        values = [text] if text.startswith("[") else [part.strip() for part in text.split(",")]
        if len(values) > 1:
            axes[name] = values
        else:
            fixed[name] = text
    if not axes:
        raise MedcoreError("nothing is varied: give a parameter several values, as in -p lr=1e-3,3e-4")
    return axes, fixed


def grid(axes: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination, the last axis varying fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def trial_folder(out: Path, values: dict[str, Any], fixed: dict[str, Any]) -> Path:
    """A folder named by what it tries, so that the same trial is found again."""
    shown = "-".join(f"{name}={value}" for name, value in values.items())
    clean = "".join(char if char.isalnum() or char in "=-._" else "_" for char in shown)[:60]
    digest = hashlib.sha256(json.dumps([values, fixed], sort_keys=True, default=str).encode()).hexdigest()[:8]
    return out / f"{clean}-{digest}"


def finished(folder: Path, stem: str) -> Results | None:
    """The results of a trial that ended well; None otherwise."""
    try:
        results = read_results(folder / stem)
    except MedcoreError:
        return None
    return results if results.status == "ok" else None


def run_trial(notebook: Path, values: dict[str, Any], fixed: dict[str, Any], out: Path) -> dict[str, Any]:
    """Run one trial, or find it done; returns its row of the table."""
    from medcore.reporting.runner import run_notebooks

    folder = trial_folder(out, values, fixed)
    results = finished(folder, notebook.stem)
    if results is None:
        run_notebooks({notebook: validate(notebook, fixed | values)}, out=folder, progress=False)
        results = finished(folder, notebook.stem)
    found = results.validation if results else Validation()
    status = "ok" if results else "failed"
    if results and not found.name:
        raise MedcoreError(f"{notebook.stem} records no validation metric (run.validated): it cannot be searched over")
    row = {"status": status, "metric": found.name, "value": found.value, "mode": found.mode}
    return values | row | {"seconds": results.seconds if results else None, "folder": folder.name}


def _trial(call: tuple[Path, dict[str, Any], dict[str, Any], Path]) -> dict[str, Any]:
    return run_trial(*call)


def run_sweep(
    notebook: Path,
    axes: dict[str, list[Any]],
    fixed: dict[str, Any],
    out: Path,
    *,
    trials: int | None = None,
    sampler: str = "tpe",
    jobs: int = 1,
    engine: str = "loky",
    seed: int = 0,
) -> pd.DataFrame:
    """Run a search and write ``trials.csv`` after every trial, best first.

    Args:
        axes: Parameter to the values that may be tried.
        fixed: Parameters that every trial shares.
        trials: Number of trials of a random or TPE search; None tries the whole grid.
        jobs: Trials side by side (grid only: a TPE search learns from one trial to the next).

    Raises:
        MedcoreError: A parameter is unknown or a value wrong (before anything runs).
    """
    combinations = grid(axes)
    for values in combinations:
        validate(notebook, fixed | values)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    if trials is None:
        from medcore.training.distributed import run_jobs

        calls = [(notebook, values, fixed, out) for values in combinations]
        results: Iterator[dict[str, Any]] = (row for _, row in run_jobs(_trial, calls, engine=engine, jobs=jobs))
    else:
        results = _searched(notebook, axes, fixed, out, trials, sampler, seed)
    for row in results:
        rows.append(row)
        table = ranked(rows)
        with atomic_path(out / TABLE) as temporary:
            table.to_csv(temporary, index=False)
    return table


def _searched(
    notebook: Path, axes: dict[str, list[Any]], fixed: dict[str, Any], out: Path, trials: int, sampler: str, seed: int
) -> Iterator[dict[str, Any]]:
    try:
        import optuna
    except ImportError:
        raise MedcoreError(
            "--trials needs Optuna: pip install 'medcore[sweep]', or leave it out for the grid"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    if sampler not in samplers:
        raise MedcoreError(f"--sampler {sampler!r}: choose tpe or random")
    study = optuna.create_study(sampler=samplers[sampler](seed=seed))
    done: dict[str, dict[str, Any]] = {}
    for _ in range(trials):
        trial = study.ask()
        values = {name: trial.suggest_categorical(name, list(choices)) for name, choices in axes.items()}
        row = run_trial(notebook, values, fixed, out)
        if row["value"] is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, row["value"] if row["mode"] == "min" else -row["value"])
        if row["folder"] not in done:
            done[row["folder"]] = row
            yield row


def ranked(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Trials with the best validation value first, failed ones last."""
    table = pd.DataFrame(rows)
    best_low = (table["mode"] == "min").any()
    return table.sort_values("value", ascending=bool(best_low), na_position="last", kind="stable", ignore_index=True)
