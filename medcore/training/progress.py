"""What a run shows while it goes on: a plain-text bar, a line per epoch, and what a tracker is told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from medcore.errors import MedcoreError
from medcore.training import checkpoint, distributed
from medcore.training.trackers import Tracker, finite, make_tracker

if TYPE_CHECKING:
    from medcore.training.state import TrainState


class Progress:
    """The display of one run; silent on every process but the first."""

    def __init__(self, state: TrainState, tracker: str | Tracker | None, *, show: bool) -> None:
        self.state, self.show = state, show and distributed.rank() == 0
        self.bar: tqdm | None = None
        self.closes_tracker = isinstance(tracker, str)
        if isinstance(tracker, str) and state.history.out is None:
            raise MedcoreError(f"tracker={tracker!r}: needs a folder to write to; pass out= to fit()")
        self.tracker = tracker if distributed.rank() == 0 else None

    def __enter__(self) -> Progress:
        if isinstance(self.tracker, str) and self.state.history.out is not None:
            self.tracker = make_tracker(self.tracker, self.state.history.out)
        if isinstance(self.tracker, Tracker):
            self.tracker.start(checkpoint.plain_json(self.state.facts))
        if self.show:
            self.bar = tqdm(
                total=self.state.config.epochs * len(self.state.batches),
                initial=self.state.step,
                unit="step",
                leave=False,
                ascii=True,
                file=sys.stdout,
                mininterval=0.2 if sys.stdout.isatty() else 1.0,
            )
        return self

    def __exit__(self, *failure: object) -> None:
        if self.bar is not None:
            self.bar.close()
        if isinstance(self.tracker, Tracker) and self.closes_tracker:
            self.tracker.finish()

    def advance(self) -> None:
        """One step done."""
        if self.bar is not None:
            self.bar.update()

    def epoch_done(self, tables: dict[str, np.ndarray]) -> None:
        """Print the epoch's line and tell the tracker."""
        history = self.state.history
        if self.bar is not None:
            self.bar.write(history.line(self.state.config.epochs), file=sys.stdout)
        if isinstance(self.tracker, Tracker):
            self.tracker.log(finite(history.rows[-1]), history.last_epoch)
            if "confusion" in tables:
                self.tracker.confusion(tables["confusion"], self.state.facts["classes"], history.last_epoch)
