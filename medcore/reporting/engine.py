"""A papermill engine that tells the truth: which cell ran, which never did, and how the run ended.

papermill's own engine marks every cell of a killed or timed-out run "completed" and rewrites the notebook in place.
This one writes atomically, marks cells ``not run``, and leaves a verdict in the notebook's metadata.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

from medcore.data.npzfile import atomic_path
from medcore.reporting.body import settled
from medcore.reporting.status import (
    KEY,
    MemoryWatch,
    Verdict,
    cause_of_death,
    error_of,
    one_line,
    oom_kills,
    status_of_error,
)

NAME = "medcore"
NOT_RUN = "not run"
HEAR_EVERY = 5.0  # seconds between two lines of a running cell that are passed on
SAVE_EVERY = 5.0  # seconds between saves while cells run; the end is always saved
START_ATTEMPTS = 3  # kernels that start side by side may race for a port where there are no socket files
SOCKET_NAME_LENGTH = 90  # bytes; systems allow 104 to 108, the kernel adds a number

Listener = Callable[[dict[str, Any]], None]


class ExecutionRecord(NotebookExecutionManager):
    """Marks and saves cells; unlike its parent it never marks a cell that did not run."""

    save_to: Path | None = None
    listen: Listener | None = None
    cell_number: int | None = None
    last_save_time: Any

    def save(self, **kwargs: Any) -> None:
        """Write the notebook, atomically and not more often than needed; only the last time must succeed."""
        ended = self.nb.metadata.papermill.get("end_time") is not None
        waited = (self.now() - self.last_save_time).total_seconds()
        if self.save_to is None or not (ended or waited > SAVE_EVERY):
            return
        with nullcontext() if ended else suppress(OSError):
            save_notebook(self.nb, self.save_to)
        self.last_save_time = self.now()

    def cell_start(self, cell: Any, cell_index: int | None = None, **kwargs: Any) -> None:
        """Mark a cell as running and tell whoever listens."""
        super().cell_start(cell, cell_index, **kwargs)
        self.cell_number = (cell_index or 0) + 1
        if self.listen:
            self.listen({"cell": self.cell_number, "of": len(self.nb.cells)})

    def notebook_complete(self, **kwargs: Any) -> None:
        """Mark what never ran as such and save."""
        for cell in self.nb.cells:
            if cell.metadata.papermill["status"] == self.PENDING:
                cell.metadata.papermill["status"] = NOT_RUN
            elif cell.metadata.papermill["status"] == self.RUNNING:
                cell.metadata.papermill["status"] = self.FAILED
        self.end_time = self.now()
        self.nb.metadata.papermill["end_time"] = self.end_time.isoformat()
        self.nb.metadata.papermill["duration"] = (self.end_time - self.start_time).total_seconds()
        self.save()


class ReportClient(PapermillNotebookClient):
    """Runs the cells in order and says how that ended."""

    limit: float | None = None  # seconds that all cells together may take
    deadline: float | None = None  # time.monotonic() at which that is over
    verdict = Verdict("ok")
    heard: float = 0.0  # time.monotonic() of the last line that was passed on
    sockets: str | None = None  # first part of the names of the kernel's socket files

    def execute(self, **kwargs: Any) -> Any:
        """Run all cells; whatever happens is in ``verdict``, nothing is raised."""
        self.reset_execution_trackers()
        self.timeout_func = self._remaining
        before = oom_kills()
        with MemoryWatch() as watch, private_sockets() as self.sockets:
            try:
                self._start_kernel()
                with self.setup_kernel(**kwargs):
                    watch.pid = getattr(self._process(), "pid", None)
                    self.verdict = self._run_cells(watch, before)
            except KeyboardInterrupt:
                self.verdict = Verdict("interrupted", self.nb_man.cell_number, "interrupted from outside")
            except (RuntimeError, NoSuchKernel) as error:
                self.verdict = Verdict("killed", self.nb_man.cell_number, f"the kernel did not start: {error}")
        self.nb.metadata[KEY] = {**self.verdict.as_dict(), "peak_memory_bytes": watch.peak}
        if self.nb_man.listen:
            self.nb_man.listen({"verdict": self.verdict.as_dict()})
        return self.nb

    def create_kernel_manager(self) -> Any:
        """A kernel that is spoken to through private socket files; through TCP ports where there are none."""
        how = {"transport": "ipc", "ip": self.sockets} if self.sockets else {}
        self.km = self.kernel_manager_class(kernel_name=self.kernel_name, config=self.config, **how)
        return self.km

    def _start_kernel(self) -> None:
        for attempt in range(START_ATTEMPTS):
            try:
                self.create_kernel_manager()
                self.start_new_kernel()
                self.start_new_kernel_client()
                return
            except RuntimeError:
                if attempt == START_ATTEMPTS - 1:
                    raise

    def _run_cells(self, watch: MemoryWatch, oom_before: int) -> Verdict:
        self.deadline = time.monotonic() + self.limit if self.limit else None
        for index, cell in enumerate(self.nb.cells):
            verdict = self._run_cell(cell, index, watch, oom_before)
            if verdict is not None:
                return verdict
        self.nb.metadata["language_info"] = self.wait_for_reply(self.kc.kernel_info())["content"]["language_info"]
        self.set_widgets_metadata()
        return Verdict("ok")

    def _run_cell(self, cell: Any, index: int, watch: MemoryWatch, oom_before: int) -> Verdict | None:
        number = index + 1
        self.nb_man.cell_start(cell, index)
        try:
            self.execute_cell(cell, index)
        except CellExecutionError as error:
            self.nb_man.cell_exception(self.nb.cells[index], cell_index=index, exception=error)
            name, message = error_of(cell) or (str(error.ename), str(error.evalue))
            return Verdict(status_of_error(name, message), number, one_line(name, message))
        except CellTimeoutError:
            self.nb_man.cell_exception(cell, cell_index=index)
            return Verdict("timed out", number, f"the notebook's limit of {self.limit:g} s was reached")
        except DeadKernelError:
            self.nb_man.cell_exception(cell, cell_index=index)
            return cause_of_death(self._exit_code(), number, watch.peak, oom_before)
        except KeyboardInterrupt:
            self.nb_man.cell_exception(cell, cell_index=index)
            return Verdict("interrupted", number, "interrupted from outside")
        self.nb_man.cell_complete(cell, cell_index=index)
        return None

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        """Pass on now and then what a cell prints last, such as the epoch it is in; its outputs are kept as ever."""
        if self.nb_man.listen and msg["msg_type"] == "stream" and time.monotonic() - self.heard > HEAR_EVERY:
            lines = settled(msg["content"]["text"]).strip().splitlines()
            if lines:
                self.heard = time.monotonic()
                self.nb_man.listen({"text": lines[-1].strip()[:120]})
        return super().process_message(msg, cell, cell_index)

    def _remaining(self, cell: Any) -> float | None:
        return None if self.deadline is None else max(0.001, self.deadline - time.monotonic())

    def _process(self) -> Any:
        return getattr(getattr(self.km, "provisioner", None), "process", None)

    def _exit_code(self) -> int | None:
        process = self._process()
        return None if process is None else process.poll()


@contextmanager
def private_sockets() -> Iterator[str | None]:
    """Where a kernel's socket files go: a folder that only this user can open; None where that cannot be."""
    with tempfile.TemporaryDirectory(prefix="medcore-", ignore_cleanup_errors=True) as folder:
        name = str(Path(folder) / "kernel")
        yield name if os.name == "posix" and len(os.fsencode(name)) < SOCKET_NAME_LENGTH else None


class ReportEngine(NBClientEngine):
    """The engine that ``medcore reports`` runs papermill with; also ``papermill --engine medcore``."""

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, output_path: str | None = None, **options: Any) -> Any:
        """Run a notebook; never raises for what a cell did, the verdict is in the metadata.

        Args:
            output_path: Where to save it; ``save_to`` wins.
            options: ``save_to`` (path), ``listen`` (called when a cell starts), ``time_limit`` (seconds for the whole
                notebook), ``progress_bar``; papermill's others are taken and ignored.
        """
        record = ExecutionRecord(nb, progress_bar=options.get("progress_bar", False))
        target = options.get("save_to") or output_path
        record.save_to = Path(target) if target else None
        record.listen = options.get("listen")
        record.notebook_start()
        limit = options.get("time_limit") or options.get("execution_timeout")
        client = ReportClient(record, kernel_name=kernel_name, iopub_timeout=120, startup_timeout=180)
        client.limit = limit
        try:
            client.execute()
        finally:
            record.cleanup_pbar()
            record.notebook_complete()
        return record.nb


def register() -> None:
    """Make the engine known to papermill by its name."""
    papermill_engines.register(NAME, ReportEngine)


def save_notebook(notebook: Any, path: Path) -> None:
    """Write a notebook under a temporary name, then rename it."""
    with atomic_path(path) as temporary:
        temporary.write_text(nbformat.writes(notebook), encoding="utf-8")
