"""Run notebooks, each in a process of its own, and leave a report for every one, whatever became of it.

    outcomes = run_notebooks({Path("notebooks/06_x.ipynb"): {"epochs": 3}}, out=Path("reports/today"), jobs=2)

- One notebook's failure does not stop the others. Ctrl-C (or SIGTERM) ends what runs, and reports it as interrupted.
- A folder has one writer; a run gets its name only when it is whole (``folders``).
- Kernels share the cores and wait asleep (``shares``); the verdict comes from ``engine``.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError
from medcore.reporting.autopsy import oom_kills
from medcore.reporting.finish import Outcome, finish
from medcore.reporting.folders import SUFFIXES, begin, sole_writer
from medcore.reporting.progress import Progress
from medcore.reporting.shares import gpu_for, kernel_environment, thread_share
from medcore.reporting.status import Verdict

RUN_FOLDER_VARIABLE = "MEDCORE_RUN_DIR"
OVERTIME = 120.0  # seconds after a notebook's own limit until its process is ended from outside


def run_notebooks(
    planned: Mapping[Path, dict[str, Any]],
    *,
    out: Path,
    jobs: int = 1,
    timeout: float | None = None,
    pdf: bool = False,
    progress: bool = True,
) -> list[Outcome]:
    """Execute notebooks through papermill and write ``out/<stem>/report.html`` for each, then study and index.

    Args:
        planned: Notebook to its validated parameters.
        out: Folder that receives one folder per notebook.
        jobs: Notebooks side by side.
        timeout: Seconds that one notebook may take.
        pdf: Print every report to PDF too.
        progress: Show progress and one line per finished notebook.

    Raises:
        MedcoreError: The folder has another writer or cannot be written to; two notebooks have the same name.
    """
    _refuse(planned)
    out = out.resolve()
    with sole_writer(out):
        jobs = max(1, min(jobs, len(planned)))
        crew = _Crew(out, jobs, timeout, kernel_environment(thread_share(jobs)), Progress(jobs, progress))
        outcomes = crew.run(planned)
        _write_overviews(out, pdf, outcomes, crew.progress)
    return outcomes


def _refuse(planned: Mapping[Path, dict[str, Any]]) -> None:
    """Refuse what cannot have a folder of its own, and names that papermill would inject as code."""
    stems: dict[str, Path] = {}
    for path, parameters in planned.items():
        if path.stem in stems:
            raise MedcoreError(f"{stems[path.stem]} and {path} would both write to {path.stem!r}; rename one")
        if path.stem.endswith(SUFFIXES):
            raise MedcoreError(f"{path}: a notebook's name must not end in {', '.join(SUFFIXES)}; rename it")
        if not path.is_file():
            raise MedcoreError(f"notebook {path} does not exist")
        stems[path.stem] = path
        for name in parameters:
            if not str(name).isidentifier():
                raise MedcoreError(f"{path}: {name!r} is not a name for a parameter")


class _Crew:
    """The processes at work: what they share, and how all of them are told to stop."""

    def __init__(
        self, out: Path, jobs: int, timeout: float | None, environment: dict[str, str], progress: Progress
    ) -> None:
        self.out, self.jobs, self.timeout, self.progress = out, jobs, timeout, progress
        self.environment = environment
        self.stopping = threading.Event()
        self.processes: set[subprocess.Popen[str]] = set()
        self.slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(jobs):
            self.slots.put(slot)

    def run(self, planned: Mapping[Path, dict[str, Any]]) -> list[Outcome]:
        """Run everything; an interruption ends the crew, not this function."""
        with _sigterm_as_interrupt(), ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._one, path, values) for path, values in planned.items()]
            while not _all_done(futures):
                try:
                    wait(futures)
                except KeyboardInterrupt:
                    self._stop()
        return [future.result() for future in futures]

    def _stop(self) -> None:
        """First time: ask everybody to end and to save. Second time: end them."""
        again = self.stopping.is_set()
        self.stopping.set()
        self.progress.say("stopping now" if again else "interrupted: saving what there is (again to stop at once)")
        for process in list(self.processes):
            process.kill() if again else process.send_signal(signal.SIGINT)

    def _one(self, notebook: Path, parameters: dict[str, Any]) -> Outcome:
        slot = self.slots.get()
        started = time.monotonic()
        folder = self.out / notebook.stem
        try:
            if self.stopping.is_set():
                outcome = Outcome(notebook, "interrupted", None, "not started", 0.0, None)
            else:
                partial = begin(folder)
                told = self._execute(notebook, parameters, partial, slot)
                outcome = finish(notebook, parameters, partial, folder, started, told)
        except OSError as error:
            outcome = Outcome(notebook, "raised", None, f"{folder}: {error}", time.monotonic() - started, None)
        finally:
            self.slots.put(slot)
        self.progress.done(slot, outcome)
        return outcome

    def _execute(self, notebook: Path, parameters: dict[str, Any], partial: Path, slot: int) -> Verdict:
        """Run one worker to its end, telling the progress display where it is; returns what it said last."""
        kills = oom_kills()
        told = None
        cell = None
        job = {"notebook": str(notebook.resolve()), "parameters": parameters, "folder": str(partial)}
        process = subprocess.Popen(
            [sys.executable, "-m", "medcore.reporting.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=os.environ | self.environment | gpu_for(slot, self.jobs) | _kernel_variables(partial),
            start_new_session=True,  # Ctrl-C reaches us first; we pass it on
        )
        self.processes.add(process)
        assert process.stdin is not None and process.stdout is not None
        limit = threading.Timer((self.timeout or 0) + OVERTIME, process.kill)
        if self.timeout:
            limit.start()
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(job | {"timeout": self.timeout}) + "\n")
                process.stdin.flush()
            if self.stopping.is_set():
                process.send_signal(signal.SIGINT)
            for line in process.stdout:
                event = json.loads(line)
                if "verdict" in event:
                    told = Verdict(**event["verdict"])
                else:
                    cell = event["cell"]
                    self.progress.step(slot, notebook.stem, event)
            process.wait()
        finally:
            limit.cancel()
            self.processes.discard(process)
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()
        memory = oom_kills() > kills
        why = "the system killed it for lack of memory" if memory else "the process that ran it was killed"
        return told or Verdict("out of memory" if memory else "killed", cell, why)


def _kernel_variables(partial: Path) -> dict[str, str]:
    return {RUN_FOLDER_VARIABLE: str(partial), "JUPYTER_PLATFORM_DIRS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def _all_done(futures: list[Future[Outcome]]) -> bool:
    return all(future.done() for future in futures)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """A scheduler's SIGTERM saves like Ctrl-C; only the main thread can receive signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_overviews(out: Path, pdf: bool, outcomes: list[Outcome], progress: Progress) -> None:
    """Study, index and PDFs; what fails here is said, and costs no report."""
    from medcore.reporting.index import index_root, write_index
    from medcore.reporting.study import write_study

    with progress.complaining("the study report"):
        write_study(out)
    with progress.complaining("the index"):
        if index_root(out) != out:
            write_index(out)
        progress.say(f"index: {write_index(index_root(out))}")
    if pdf:
        from medcore.reporting.browser import print_pdf
        from medcore.reporting.folders import REPORT

        pages = [outcome.folder / REPORT for outcome in outcomes if outcome.folder]
        for page in [*pages, out / "study.html"]:
            if page.exists():
                with progress.complaining(f"the PDF of {page}"):
                    progress.say(f"PDF: {print_pdf(page, page.with_suffix('.pdf'))}")
