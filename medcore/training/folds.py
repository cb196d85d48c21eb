"""Cross-validation over folds of patients: every fold a run of its own, side by side and resumable.

    result = cross_validate(lambda: build_classifier("small_cnn", 2), Classification(classes), patches, config, k=5)
    result.table      # one row per fold: best epoch and its validation metrics
    result.summary    # mean, standard deviation, lowest and highest over the folds

The folds' validation images choose each fold's best epoch, so their metrics flatter a little; a test set that no
fold has seen is what the final word needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from medcore.data.integrity import open_checked
from medcore.data.patchset import PatchSet
from medcore.data.splits import patient_folds
from medcore.errors import MedcoreError, TestDataRefused
from medcore.training.config import TrainConfig
from medcore.training.distributed import run_jobs
from medcore.training.fit import fit
from medcore.training.objectives import Objective

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CrossValidation:
    """What the folds gave.

    Attributes:
        table: One row per fold: sizes, best epoch, its validation columns, seconds, folder of its checkpoints.
        monitor: The column that picked each fold's best epoch.
    """

    table: pd.DataFrame
    monitor: str

    @property
    def summary(self) -> pd.DataFrame:
        """Mean, standard deviation (n − 1), lowest and highest of every validation column over the folds."""
        import pandas as pd

        values = self.table[[name for name in self.table if str(name).startswith("val_")]].astype(float)
        return pd.DataFrame({"mean": values.mean(), "sd": values.std(), "low": values.min(), "high": values.max()})

    def __repr__(self) -> str:
        row = self.summary.loc[self.monitor]
        return f"{len(self.table)} folds: {self.monitor} {row['mean']:.3f} ± {row['sd']:.3f} (mean ± SD over folds)"


@dataclass(frozen=True)
class FoldTask:
    """One fold as it travels to another process: a set on the disk goes as its path, never as pixels."""

    number: int
    make_model: Callable[[], nn.Module]
    objective: Objective
    source: Path | PatchSet
    index: np.ndarray
    columns: dict[str, np.ndarray]
    train: np.ndarray
    validation: np.ndarray
    config: TrainConfig
    out: Path | None
    resume: bool

    def patches(self) -> PatchSet:
        """The view that was cut into folds."""
        if isinstance(self.source, PatchSet):
            return self.source
        whole = open_checked(self.source)
        return PatchSet(
            whole.store,
            self.columns,
            whole.card,
            mask_store=whole.mask_store,
            index=self.index,
            path=whole.path,
            store_hash=whole.store_hash,
        )


def cross_validate(
    make_model: Callable[[], nn.Module],
    objective: Objective,
    patches: PatchSet,
    config: TrainConfig | None = None,
    *,
    k: int = 5,
    jobs: int = 1,
    engine: str = "loky",
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> CrossValidation:
    """Train and validate on k folds of patients.

    Args:
        make_model: Makes a fresh model; its first weights follow ``config.seed``, alike in every fold.
        objective: Loss and metrics of the task.
        patches: Images without any marked ``test``.
        config: Every other choice; its seed also cuts the folds.
        jobs: Folds at a time; each gets its share of the cores.
        engine: ``loky`` here, ``dask`` or ``ray`` on a cluster.
        out: Folder that gets ``fold-1`` … and ``folds.csv``; None writes nothing.
        resume: Go on with what is in ``out``; finished folds are not trained again.
        progress: Show a bar over all folds and a line per fold.

    Raises:
        TestDataRefused: Test images are among them.
        MedcoreError: There are fewer patients than folds, or a fold failed (the message names it).
    """
    import pandas as pd

    config = config or TrainConfig()
    if (patches.splits == "test").any():
        raise TestDataRefused("cross_validate: some images are marked 'test'; leave them out with where(split=…)")
    tasks = make_tasks(make_model, objective, patches, config, k, None if out is None else Path(out), resume)
    rows: list[dict[str, Any]] = [{}] * k
    bar = tqdm(total=k, unit="fold", ascii=True, leave=False, disable=not progress)
    with bar:
        for number, row in run_jobs(run_fold, tasks, jobs=jobs, engine=engine):
            rows[number] = row
            bar.update()
            if progress:
                bar.write(_line(row, k, config.monitor or objective.monitor))
    result = CrossValidation(pd.DataFrame(rows), config.monitor or objective.monitor)
    if out is not None:
        result.table.to_csv(Path(out) / "folds.csv", index=False)
    return result


def make_tasks(
    make_model: Callable[[], nn.Module],
    objective: Objective,
    patches: PatchSet,
    config: TrainConfig,
    k: int,
    out: Path | None,
    resume: bool,
) -> list[FoldTask]:
    """The folds of a set as independent tasks."""
    source = patches if patches.path is None else patches.path.resolve()
    columns = {name: patches.column(name) for name in patches.columns}
    return [
        FoldTask(
            number,
            make_model,
            objective,
            source,
            patches.index,
            columns,
            fold.train,
            fold.validation,
            config,
            None if out is None else out.resolve() / f"fold-{number}",
            resume,
        )
        for number, fold in enumerate(patient_folds(patches, k, seed=config.seed), 1)
    ]


def run_fold(task: FoldTask) -> dict[str, Any]:
    """Train one fold; returns its row."""
    patches = task.patches()
    train, validation = patches.select(task.train), patches.select(task.validation)
    with torch.random.fork_rng():
        torch.manual_seed(task.config.seed)
        model = task.make_model()
    try:
        history = fit(
            model, task.objective, train, validation, task.config, out=task.out, progress=False, resume=task.resume
        )
    except MedcoreError as error:
        raise type(error)(f"fold {task.number}: {error}") from error
    best = {name: value for name, value in history.best.items() if name.startswith("val_")}
    return {
        "fold": task.number,
        "train_images": len(train),
        "val_images": len(validation),
        "val_patients": len(np.unique(validation.patients)),
        "best_epoch": history.best_epoch,
        **best,
        "seconds": float(history.table["seconds"].sum()),
        "folder": "" if task.out is None else str(task.out),
    }


def _line(row: dict[str, Any], k: int, monitor: str) -> str:
    value = row[monitor]
    shown = "–" if value is None else f"{value:.4f}"
    return f"fold {row['fold']}/{k}  {monitor} {shown}  best epoch {row['best_epoch']}  {row['seconds']:.1f} s"
