"""What a training run reports: one row per epoch, the best epoch, and tables such as the confusion matrix."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class History:
    """The course of a run.

    Attributes:
        monitor: The validation column that picks the best epoch.
        mode: ``min`` or ``max``: which way it is better.
        best_epoch: The best epoch, counted from 1; 0 before the first.
        tables: Validation tables of the best epoch (``confusion``: truth down). Test data are never in here.
        out: Folder of the run, None when nothing is written.
        precision: Number format, layout and compiler of the run.
        notes: Sentences that a reader of the results should see.
    """

    monitor: str
    mode: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    out: Path | None = None
    precision: dict[str, Any] = field(default_factory=dict)
    stopped: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def table(self) -> pd.DataFrame:
        """One row per epoch; ``test_`` columns are for the curve only."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    @property
    def last_epoch(self) -> int:
        """Epochs done so far."""
        return int(self.rows[-1]["epoch"]) if self.rows else 0

    @property
    def best(self) -> dict[str, Any]:
        """The row of the best epoch."""
        return self.rows[self.best_epoch - 1]

    def add(self, row: dict[str, Any]) -> bool:
        """Append an epoch; returns whether it is the best so far (ties go to the lower validation loss)."""
        self.rows.append(row)
        better = self.best_epoch == 0 or self._rank(row) > self._rank(self.best)
        if better:
            self.best_epoch = int(row["epoch"])
        return better

    def _rank(self, row: dict[str, Any]) -> tuple[float, float]:
        value, loss = row.get(self.monitor), row["val_loss"]
        value = -math.inf if value is None or math.isnan(value) else value * (1 if self.mode == "max" else -1)
        return value, -loss

    @property
    def epochs_without_gain(self) -> int:
        """Epochs since the best one."""
        return self.last_epoch - self.best_epoch

    def write(self) -> None:
        """Write ``history.csv`` atomically."""
        if self.out is None:
            return
        temporary = self.out / ".history.csv.tmp"
        self.table.to_csv(temporary, index=False)
        os.replace(temporary, self.out / "history.csv")

    def line(self, epochs: int) -> str:
        """The last epoch in one line: losses and the monitor; ``*`` marks the best so far (all is in the table)."""
        row = self.rows[-1]
        shown = [name for name in row if name.endswith("loss") or name == self.monitor]
        numbers = "  ".join(f"{name} {_digits(row[name])}" for name in shown)
        star = " *" if self.best_epoch == row["epoch"] else ""
        return f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  {numbers}  {row['seconds']:.1f} s{star}"

    def __repr__(self) -> str:
        if not self.rows:
            return "History: no epoch yet"
        best = _digits(self.best.get(self.monitor))
        return f"History: {len(self.rows)} epochs, best is {self.best_epoch} ({self.monitor} {best}); {self.stopped}"


def _digits(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"
