"""Folders of runs: written under a partial name, renamed when whole, never two writers, the last good run never lost.

``<out>/06_x.partial`` is being written, ``<out>/06_x`` is the latest run, ``<out>/06_x.previous`` is the last good run
when the latest one failed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from medcore.errors import MedcoreError
from medcore.reporting.results import read_results

PARTIAL, PREVIOUS, REPLACED = ".partial", ".previous", ".replaced"
SUFFIXES = (PARTIAL, PREVIOUS, REPLACED)
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
    if replaced.exists():  # killed between the two renames of ``give_name``
        if folder.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(folder)
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def give_name(partial: Path, folder: Path, good: bool) -> None:
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
        return read_results(folder).status == "ok"
    except MedcoreError:
        return False
