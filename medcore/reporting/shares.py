"""A share of the machine for each kernel.

Two kernels with two threads each on two cores make one training step 5 to 7 times slower than it is alone. How threads
wait is left to the libraries: told to wait asleep (``OMP_WAIT_POLICY=passive``), both were 3 times slower still.
"""

from __future__ import annotations

import os
from pathlib import Path

LIBRARIES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
LOOK = 0.3  # seconds to look at the machine before sharing it out


def thread_share(jobs: int) -> int:
    """Threads for each of ``jobs`` kernels: the cores that nobody else is busy on, shared out; at least one."""
    return max(1, idle_cores() // jobs)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def idle_cores() -> int:
    """Cores that this process may use and that are not busy now."""
    import psutil

    cores = available_cores()
    busy = psutil.cpu_percent(interval=LOOK) / 100
    return max(1, round(cores * (1 - busy)))


def kernel_environment(threads: int) -> dict[str, str]:
    """Variables that hold a kernel to its share; a smaller number that the user has set is kept."""
    chosen = {}
    for name in LIBRARIES:
        given = os.environ.get(name, "")
        chosen[name] = str(min(threads, int(given)) if given.isdigit() and int(given) else threads)
    return chosen


def gpu_for(slot: int, jobs: int) -> dict[str, str]:
    """With several GPUs and several kernels, one GPU for each kernel in turn; otherwise nothing is set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    here = Path("/proc/driver/nvidia/gpus")
    count = len(list(here.iterdir())) if here.is_dir() else 0
    gpus = [name for name in visible.split(",") if name] if visible is not None else [str(i) for i in range(count)]
    return {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if jobs > 1 and len(gpus) > 1 else {}
