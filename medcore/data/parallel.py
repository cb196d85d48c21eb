"""How many cores there are for us; many files by several threads, in order and within a budget of memory.

The rule for every number of threads: the cores of ``available_cores``, shared out among what runs side by side; what
runs alone leaves one to its loader and to the machine. ``OMP_NUM_THREADS`` overrides it, up to all cores. How busy the
machine is does not enter: roundings, and with them the last bits of trained weights, depend on the number of threads.
Threads of one step wait for each other hundreds of times, so that two of them beside a busy process take far longer
than one (``benchmarks/busy.py`` measures it).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from medcore.errors import MedcoreError

BYTES_AHEAD = 1 << 30  # of images that are being decoded or wait to be taken
GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # control groups, and the one we are in
CPUS = Path("/sys/devices/system/cpu")
T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Cores that this process may use, at least one.

    The least of its affinity (hardware threads of one core count once), of the quotas of the control groups around it
    (rounded down), and of SLURM's share.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    bounds = [len({_siblings(number) for number in allowed}), *_quotas()]
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        bounds += [int(os.environ[name])] if os.environ.get(name, "").isdigit() else []
    return max(1, min(bounds))


def thread_share(jobs: int = 1) -> int:
    """Threads for each of ``jobs`` that run side by side, by the rule above; at least one."""
    wish, cores = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip(), available_cores()
    if wish.isdigit():
        return max(1, min(int(wish), cores // jobs))
    return max(1, cores // jobs if jobs > 1 else cores - 1)


def _siblings(cpu: int) -> str:
    """The hardware threads of a core; where nobody knows, each CPU is one."""
    try:
        return (CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _quotas() -> Iterator[int]:
    """Whole cores that each control group around us may use, for both versions of control groups."""
    for path in control_files("cpu", "cpu.cfs_quota_us", "cpu.max"):
        with suppress(OSError, ValueError, ZeroDivisionError):  # absent, or the word "max"
            quota, *period = path.read_text().split()
            period = period or [path.with_name("cpu.cfs_period_us").read_text()]
            if int(quota) > 0:
                yield int(quota) // int(period[0])


def control_files(controller: str, first: str, second: str) -> Iterator[Path]:
    """Where a limit stands in our control group and in those around it.

    Args:
        controller: ``cpu`` or ``memory``.
        first: Name of the file in version 1 of control groups.
        second: Its name in version 2.
    """
    try:
        lines = OWN.read_text().splitlines()
    except OSError:
        lines = []
    for line in [*lines, "0::/", f"0:{controller}:/"]:
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root, name = (GROUPS / controller, first) if controllers else (GROUPS, second)
        inner = root / place.lstrip("/")
        yield from (group / name for group in (inner, *inner.parents) if group == root or root in group.parents)


def map_threads(
    function: Callable[[T], R], values: list[T], threads: int | None = None, *, weight: Callable[[T], int] | None = None
) -> Iterator[R]:
    """Results of ``function`` in order, computed by threads (decoders release the GIL), a few ahead at a time.

    With ``weight``, the bytes that a value needs, no more than ``BYTES_AHEAD`` are in work or wait; one always is.
    """
    threads = threads or min(8, available_cores())
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[tuple[Any, int]] = deque()
        try:
            for value in values:
                need = weight(value) if weight else 0
                while ahead and (len(ahead) >= 4 * threads or need + sum(w for _, w in ahead) > BYTES_AHEAD):
                    yield ahead.popleft()[0].result()
                ahead.append((pool.submit(function, value), need))
            while ahead:
                yield ahead.popleft()[0].result()
        finally:
            for future, _ in ahead:
                future.cancel()


def attempt(function: Callable[[T], R]) -> Callable[[T], R | MedcoreError]:
    """The function, returning its ``MedcoreError`` where it would raise it."""

    def run(value: T) -> R | MedcoreError:
        try:
            return function(value)
        except MedcoreError as error:
            return error

    return run
