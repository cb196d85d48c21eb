"""Folders of runs: written under a partial name, renamed when whole, never two writers, the last good run never lost.

``<out>/06_x.partial`` is being written, ``<out>/06_x`` is the latest run, ``<out>/06_x.previous`` is the last good run
when the latest one failed.

``results.json``: what a run found, in a documented and versioned form that other programs can rely on.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from medcore.data.npzfile import atomic_path
from medcore.errors import MedcoreError

PARTIAL, PREVIOUS, REPLACED = ".partial", ".previous", ".replaced"
SUFFIXES = (PARTIAL, PREVIOUS, REPLACED)
RUN_NOTEBOOK, REPORT = "notebook.ipynb", "report.html"  # the executed notebook and its report, in a run's folder
LOCK = ".medcore.lock"


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Hold an output folder; the lock dies with the process that took it.

    Raises:
        MedcoreError: Another run is writing to the folder, or it cannot be written to.
    """
    from filelock import FileLock, Timeout

    holder = out / f"{LOCK}.holder"
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise MedcoreError(f"{out}: {who} is writing there now; wait for it, or choose another --out") from None
    except OSError as error:
        raise MedcoreError(f"{out} cannot be written to ({error}); choose another --out") from None
    try:
        with suppress(OSError):
            holder.write_text(f"process {os.getpid()} (since {datetime.now():%H:%M:%S})", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def begin(folder: Path) -> Path:
    """An empty partial folder for a new run of ``folder``; what a killed runner left behind is put right."""
    replaced = folder.with_name(folder.name + REPLACED)
    if replaced.exists():  # killed between the two renames of ``commit``
        if folder.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(folder)
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def commit(partial: Path, folder: Path, good: bool) -> None:
    """Give a finished run its name. A failed run never deletes the last good one: that becomes ``.previous``."""
    replaced, previous = folder.with_name(folder.name + REPLACED), folder.with_name(folder.name + PREVIOUS)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    if good:
        shutil.rmtree(previous, ignore_errors=True)
    elif replaced.exists() and _was_good(replaced):
        shutil.rmtree(previous, ignore_errors=True)
        replaced.rename(previous)
    shutil.rmtree(replaced, ignore_errors=True)


def _was_good(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / FILE_NAME).read_text(encoding="utf-8")).get("status") == "ok")
    except (OSError, ValueError, AttributeError):
        return False


SCHEMA = "medcore.results/1"
FILE_NAME = "results.json"
STATUSES = ("running", "ok", "raised", "timed out", "killed", "out of memory", "interrupted")


def new_results(notebook: str, **values: Any) -> dict[str, Any]:
    """A complete, empty result with status ``running``."""
    empty: dict[str, Any] = {
        "schema": SCHEMA, "notebook": notebook, "title": notebook, "status": "running", "cell": None, "error": None,
        "parameters": {}, "changed": [], "summary": "", "data": {}, "model": {}, "metrics": [], "baselines": [],
        "differences": [], "validation": {}, "audit": {}, "answers": {}, "checklist": [], "environment": {},
        "command": "", "warnings": [], "started": "", "seconds": 0.0, "peak_memory_bytes": 0,
    }  # fmt: skip
    return empty | values


def write_results(folder: Path, results: dict[str, Any]) -> Path:
    """Write ``results.json`` atomically; NaN and infinity become null."""
    path = folder / FILE_NAME
    with atomic_path(path) as temporary:
        text = json.dumps(plain_json(results), indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text, encoding="utf-8", errors="replace")
    return path


def read_results(path: Path) -> dict[str, Any]:
    """Read ``results.json`` (a file or its folder).

    Raises:
        MedcoreError: It is missing, unreadable or of a schema this version does not know.
    """
    path = path / FILE_NAME if path.is_dir() else path
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MedcoreError(f"{path} does not exist: is this the folder of a finished run?") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise MedcoreError(f"{path} is not readable ({error})") from None
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        found = results.get("schema") if isinstance(results, dict) else type(results).__name__
        raise MedcoreError(f"{path}: schema {str(found)[:60]!r} is not {SCHEMA}; was it written by another version?")
    return results


def plain_json(value: Any) -> Any:
    """Plain JSON types: numpy scalars unwrapped, paths as text, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain_json(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
