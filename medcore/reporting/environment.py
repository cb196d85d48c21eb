"""What a run ran on: versions, machine, commit, memory.

A share of the machine for each kernel.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from medcore import __version__
from medcore.data.source import repository_root

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "scipy", "papermill", "nbconvert")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Versions, device, threads, machine and commit of this process."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "medcore": __version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "device": str(device),
        "device_name": name,
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def git_commit() -> str:
    """Short hash of the checkout's commit with ``+changes`` when files differ from it; ``""`` outside git."""
    root = repository_root()
    if root is None:
        return ""
    head = _git(root, "rev-parse", "--short=10", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return head + ("+changes" if head and changed else "")


def _git(root: os.PathLike[str], *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def command_for(notebook: str, changed: dict[str, Any]) -> str:
    """The line that repeats a run: only what differs from the defaults."""
    data = ["--data", str(changed["data"])] if "data" in changed else []
    profile = ["--profile", str(changed["profile"])] if changed.get("profile") else []
    others = {name: value for name, value in changed.items() if name not in ("data", "profile")}
    pairs = [word for name, value in others.items() for word in ("-p", f"{name}={value}")]
    return shlex.join(["medcore", "reports", notebook.split("_")[0], *profile, *data, *pairs])


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far (bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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
