"""Did a notebook run to its end? The truth from its cells, whoever executed it.

papermill marks the cells of a killed or timed-out run "completed", also those that never ran, so marks do not count
here: an error output does, and a code cell that got no number.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

KEY = "medcore"  # where our engine leaves the verdict, in the notebook's metadata
MEMORY_NAMES = {"MemoryError", "OutOfMemoryError", "_ArrayMemoryError"}
MEMORY_TEXT = re.compile(r"out of memory|(can't|unable to|cannot) allocate", re.IGNORECASE)


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
            return Verdict(status_of_error(*error), number, described(*error))
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
    if name in MEMORY_NAMES or MEMORY_TEXT.search(message):
        return "out of memory"
    return "interrupted" if name == "KeyboardInterrupt" else "raised"


def described(name: str, message: str) -> str:
    """One line for an exception."""
    first = message.strip().splitlines()[0] if message.strip() else ""
    return f"{name}: {first}" if first else name


def source_of(cell: dict[str, Any]) -> str:
    """A cell's source, which may be stored as a list of lines."""
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else str(source)
