"""Did a notebook run to its end? The truth from its cells, whoever executed it.

papermill marks the cells of a killed or timed-out run "completed", also those that never ran, so marks do not count
here: an error output does, and a code cell that got no number.

Why a kernel died: killed by somebody, by the system for lack of memory, or by a crash of its own.
"""

from __future__ import annotations

import re
import signal
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medcore.data.parallel import GROUPS, control_files

KEY = "medcore"  # where our engine leaves the verdict, in the notebook's metadata
MEMORY_NAMES = {"MemoryError", "OutOfMemoryError", "_ArrayMemoryError"}
# how PyTorch's allocators say it in a bare RuntimeError; the words alone, in another exception, mean nothing
MEMORY_TEXT = re.compile(r"(CUDA|HIP|MPS backend) (error: )?out of memory|alloc_cpu\.cpp|DefaultCPUAllocator: .*memory")


@dataclass(frozen=True)
class Verdict:
    """How an execution ended.

    Attributes:
        status: ``ok``, ``raised``, ``timed out``, ``killed``, ``out of memory`` or ``interrupted``.
        cell: Number of the cell (from 1, all cells counted) in which it ended; None when it reached the end.
        error: What went wrong, in a sentence; None when nothing did.
    """

    status: str
    cell: int | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook.

    Attributes:
        notebook: Its path.
        status: ``ok``, or how it failed.
        cell: The cell (from 1) in which it ended, None when it reached the end or never began.
        error: What went wrong, one line.
        seconds: Wall time (s).
        folder: Folder of the run; None when nothing was written.
        headline: The main result in a line, ``""`` when there is none.
        note: What else the user should know, such as a PDF that could not be printed.
    """

    notebook: Path
    status: str
    cell: int | None
    error: str | None
    seconds: float
    folder: Path | None
    headline: str = ""
    note: str = ""


def verdict_of(notebook: dict[str, Any]) -> Verdict:
    """How the execution of a notebook ended: what our engine wrote into it, else what its cells show."""
    written = notebook.get("metadata", {}).get(KEY, {})
    if isinstance(written, dict) and written.get("status"):
        return Verdict(written["status"], written.get("cell"), written.get("error"))
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell["cell_type"] != "code" or not source_of(cell).strip():
            continue
        error = error_of(cell)
        if error:
            return Verdict(status_of_error(*error), number, one_line(*error))
        if cell.get("execution_count") is None:
            return Verdict("interrupted", number, "this cell and those below it have not been run")
    return Verdict("ok")


def error_of(cell: dict[str, Any]) -> tuple[str, str] | None:
    """Name and message of the exception a cell ended with, unless the cell was meant to raise it."""
    if "raises-exception" in cell.get("metadata", {}).get("tags", []):
        return None
    for output in cell.get("outputs", []):
        if output.get("output_type") == "error":
            return str(output.get("ename", "")), str(output.get("evalue", ""))
    return None


def status_of_error(name: str, message: str) -> str:
    """An exception's status: memory and interruption have words of their own."""
    if name in MEMORY_NAMES or (name in ("RuntimeError", "AcceleratorError") and MEMORY_TEXT.search(message)):
        return "out of memory"
    return "interrupted" if name == "KeyboardInterrupt" else "raised"


def one_line(name: str, message: str) -> str:
    """One line for an exception."""
    first = message.strip().splitlines()[0] if message.strip() else ""
    return f"{name}: {first}" if first else name


def source_of(cell: dict[str, Any]) -> str:
    """A cell's source, which may be stored as a list of lines."""
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else str(source)


NEARLY_ALL = 0.92  # share of the memory limit that, once reached by a killed kernel, explains the kill
KILL_COUNTERS = (Path("/proc/vmstat"), GROUPS / "memory.events", GROUPS / "memory" / "memory.oom_control")


def oom_kills() -> int:
    """Processes that the system has killed for lack of memory since it started; 0 where nobody counts."""
    return max((_counter(path) for path in KILL_COUNTERS), default=0)


def _counter(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    except (OSError, ValueError, IndexError):
        return 0


def memory_limit() -> int:
    """Memory that this process and its children may use (bytes): the machine's or that of a control group around it."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for path in control_files("memory", "memory.limit_in_bytes", "memory.max"):
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # absent, or the word "max"
            continue
    return min(limits)


class MemoryWatch:
    """Largest memory of a process and its children, looked at twice a second while the context is open."""

    def __init__(self, interval: float = 0.5) -> None:
        self.peak = 0
        self.pid: int | None = None
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(self._interval):
            if self.pid is not None:
                self.peak = max(self.peak, resident(self.pid))


def resident(pid: int) -> int:
    """Resident memory of a process and all its children (bytes); 0 when it is gone."""
    import psutil

    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def cause_of_death(code: int | None, cell: int | None, peak: int, oom_before: int) -> Verdict:
    """What a dead kernel's exit code and the memory counters say.

    Args:
        code: Exit code of the kernel, negative for a signal, None when unknown.
        cell: The cell that ran (from 1).
        oom_before: ``oom_kills()`` before the kernel started.
    """
    limit = memory_limit()
    used = f"; it was last seen using {peak / 1e9:.1f} of {limit / 1e9:.1f} GB" if peak else ""
    killed = code is None or code in (-signal.SIGKILL, 128 + signal.SIGKILL)
    if killed and (oom_kills() > oom_before or peak >= NEARLY_ALL * limit):
        return Verdict("out of memory", cell, f"the system killed the kernel for lack of memory{used}")
    how = f"the kernel ended by {_signal_name(code)}" if code is not None and code < 0 else "the kernel ended"
    how += f" with exit code {code}" if code is not None and code >= 0 else ""
    return Verdict("killed", cell, f"{how}{used}")


def _signal_name(code: int) -> str:
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"
