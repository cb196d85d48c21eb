"""What a run shows while it goes on: a plain-text bar, a line per epoch, and what a tracker is told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from medcore.training import distributed

if TYPE_CHECKING:
    from medcore.training.state import TrainState


class Progress:
    """The display of one run; silent on every process but the first."""

    def __init__(self, state: TrainState, tracker: Any, *, show: bool) -> None:
        self.state, self.tracker = state, tracker
        self.show = show and distributed.rank() == 0
        self.bar: tqdm | None = None

    def __enter__(self) -> Progress:
        if self.show:
            self.bar = tqdm(
                total=self.state.config.epochs * len(self.state.batches),
                initial=self.state.step,
                unit="step",
                leave=False,
                ascii=True,
                file=sys.stdout,
                mininterval=0.5 if sys.stdout.isatty() else 5.0,
            )
        return self

    def __exit__(self, *failure: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def advance(self) -> None:
        """One step done."""
        if self.bar is not None:
            self.bar.update()

    def epoch_done(self, tables: dict[str, np.ndarray]) -> None:
        """Print the epoch's line."""
        if self.bar is not None:
            self.bar.write(self.state.history.line(self.state.config.epochs), file=sys.stdout)
