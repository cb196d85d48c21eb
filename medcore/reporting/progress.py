"""What the terminal shows while notebooks run: a bar each on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from medcore.errors import MedcoreError
from medcore.reporting.body import settled
from medcore.reporting.results import REPORT
from medcore.reporting.status import Outcome
from medcore.reporting.wording import duration

TELL_EVERY = 60.0  # seconds between two lines about a notebook that is still running, where there is no terminal


class ConsoleProgress:
    """Bars and lines of up to ``jobs`` notebooks at a time, safe to call from their threads."""

    def __init__(self, jobs: int, shown: bool) -> None:
        self.shown = shown
        self.bars: dict[int, Any] = {}
        self.running: dict[int, dict[str, Any]] = {}
        self.lock = threading.Lock()
        self.live = shown and sys.stderr.isatty()
        self.ended = threading.Event()
        self.teller: threading.Thread | None = None

    def step(self, slot: int, name: str, event: dict[str, Any]) -> None:
        """A notebook has reached a cell."""
        with self.lock:
            if slot not in self.bars:
                self._begin(slot, name, event["of"])
            began = self.running.get(slot, {}).get("began", time.monotonic())
            self.running[slot] = {"name": name, "began": began, "text": "", **event}
            bar = self.bars[slot]
            if bar is not None:
                bar.n = event["cell"] - 1
                bar.refresh()

    def hear(self, slot: int, text: str) -> None:
        """What the running cell printed last: in training, the epoch and the time that is left."""
        with self.lock:
            if slot in self.running:
                self.running[slot]["text"] = text

    def tell(self) -> None:
        """One line about every notebook that is running."""
        with self.lock:
            running = list(self.running.values())
        for one in running:
            took = duration(time.monotonic() - one["began"])
            parts = [f"{one['name']}: cell {one['cell']} of {one['of']} after {took}", one["text"]]
            self.say(" · ".join(part for part in parts if part))

    def _keep_telling(self) -> None:
        while not self.ended.wait(TELL_EVERY):
            self.tell()

    def _begin(self, slot: int, name: str, cells: int) -> None:
        from tqdm import tqdm

        self.bars[slot] = None
        if self.live:
            style = "{desc}: cell {n_fmt} of {total_fmt} |{bar}| {elapsed}"
            self.bars[slot] = tqdm(total=cells, desc=name, position=slot, leave=False, bar_format=style)
        elif self.shown:
            self.say(f"{name}: started")
            if self.teller is None:
                self.teller = threading.Thread(target=self._keep_telling, daemon=True)
                self.teller.start()

    def done(self, slot: int, outcome: Outcome) -> None:
        """A notebook has ended: one line that says how."""
        with self.lock:
            bar = self.bars.pop(slot, None)
            self.running.pop(slot, None)
            if bar is not None:
                bar.close()
        mark = "✓" if outcome.status == "ok" else "✕"
        where = f" in cell {outcome.cell}" if outcome.cell else ""
        parts = [f"{mark} {outcome.notebook.stem}: {outcome.status}{where}", duration(outcome.seconds)]
        parts += [outcome.headline]
        parts += [outcome.error or "", str(outcome.folder / REPORT) if outcome.folder else "no report written"]
        parts.append(outcome.note)
        self.say(" · ".join(part for part in parts if part))

    def say(self, line: str) -> None:
        """One line, above the bars; what a file name or an exception holds cannot steer the terminal."""
        if not self.shown:
            return
        line = settled(" ".join(line.split("\n"))).encode("utf-8", "replace").decode("utf-8")
        if self.live:
            from tqdm import tqdm

            tqdm.write(line)
        else:
            with suppress(OSError):  # the terminal is gone; what is written stays
                print(line, flush=True)

    @contextmanager
    def complaining(self, what: str) -> Iterator[None]:
        """Say that something could not be written instead of failing."""
        try:
            yield
        except (MedcoreError, OSError) as error:
            self.say(f"✕ {what} could not be written: {error}")
