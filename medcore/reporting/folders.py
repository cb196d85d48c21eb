"""Folders of runs: written under a partial name, renamed when whole, never two writers, the last good run never lost.

``<out>/06_x.partial`` is being written, ``<out>/06_x`` is the latest run, ``<out>/06_x.previous`` is the last good run
when the latest one failed. Only folders and pages that carry our mark are ever replaced.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from medcore.data.npzfile import atomic_path
from medcore.errors import MedcoreError
from medcore.reporting.results import FILE_NAME, REPORT, read_results

PARTIAL, PREVIOUS, REPLACED = ".partial", ".previous", ".replaced"
SUFFIXES = (PARTIAL, PREVIOUS, REPLACED)
LOCK, MARK = ".medcore.lock", ".medcore-run"
TRAINING = ("checkpoints", "history.csv")  # what ``fit`` writes, and goes on from
GENERATOR = 'content="medcore '  # what every page of ours says near its beginning


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
        raise MedcoreError(
            f"{out} cannot be written to ({error.strerror or error}); choose another --out, or set MEDCORE_REPORTS"
        ) from None
    try:
        with suppress(OSError):
            holder.write_text(f"process {os.getpid()} (since {datetime.now():%H:%M:%S})", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def refuse_foreign(folder: Path) -> None:
    """See to it that nothing but runs stands where a run of this name, and what it leaves beside itself, will stand.

    Raises:
        MedcoreError: A file, a link or a folder that carries no mark of ours is in the way.
    """
    for place in (folder, *(folder.with_name(folder.name + suffix) for suffix in SUFFIXES)):
        if os.path.lexists(place) and not is_run(place):
            raise MedcoreError(
                f"{place} is not a run of medcore and will not be replaced; choose another --out, or move it away"
            )


def is_run(folder: Path) -> bool:
    """Whether a folder was made by a run: by its mark, or by a whole results.json and report; empty ones do no harm."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    if (folder / MARK).is_file() or not any(folder.iterdir()):
        return True
    try:
        read_results(folder / FILE_NAME)
    except MedcoreError:
        return False
    return folder.name.endswith(SUFFIXES) or is_page(folder / REPORT)


def is_page(path: Path) -> bool:
    """Whether a file is a page that medcore wrote."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return GENERATOR in file.read(2000)
    except OSError:
        return False


def write_page(path: Path, page: str) -> Path:
    """Write an HTML page atomically; replaces nothing but a page of ours.

    Raises:
        MedcoreError: A file of somebody else has this name.
    """
    if os.path.lexists(path) and not is_page(path):
        raise MedcoreError(f"{path} was not written by medcore and is left as it is; move it, or choose another folder")
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def begin(folder: Path, job: str = "", data: str = "") -> Path:
    """A partial folder for a new run of ``folder``; what a killed runner left behind is put right.

    It is empty but for the checkpoints of an unfinished run of the same job, which training goes on from.

    Args:
        folder: Final name of the run.
        job: What identifies it: notebook, parameters and code.
        data: Where its data lie; a report does not say that, ``medcore compare`` asks for it here.

    Raises:
        MedcoreError: Something that is no run is in the way.
    """
    refuse_foreign(folder)
    replaced = folder.with_name(folder.name + REPLACED)
    if replaced.exists():  # killed between the two renames of ``give_name``
        if folder.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(folder)
    partial = folder.with_name(folder.name + PARTIAL)
    unfinished = next((place for place in (partial, folder) if job and _unfinished(place, job)), None)
    fresh = folder.with_name(f".{folder.name}{PARTIAL}")
    if not (job and _unfinished(fresh, job)):  # killed between the moves below and its rename
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        (fresh / MARK).write_text(json.dumps({"job": job, "data": data}), encoding="utf-8")
    for name in TRAINING:
        if unfinished and (unfinished / name).exists():
            (unfinished / name).rename(fresh / name)
    shutil.rmtree(partial, ignore_errors=True)
    fresh.rename(partial)
    return partial


def _unfinished(folder: Path, job: str) -> bool:
    """Whether a folder holds the training of the same job, broken off."""
    return read_mark(folder).get("job") == job and (folder / TRAINING[0]).is_dir() and not _was_good(folder)


def read_mark(folder: Path) -> dict[str, str]:
    """What a run's folder keeps to itself: its ``job`` and where its ``data`` lie; empty where it says nothing."""
    try:
        told = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def give_name(partial: Path, folder: Path, good: bool) -> None:
    """Give a finished run its name. A failed run never deletes the last good one: that becomes ``.previous``.

    Raises:
        MedcoreError: Something that is no run has come into the way.
    """
    refuse_foreign(folder)
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
