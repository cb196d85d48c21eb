"""What a run ran on: versions, machine, commit, memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shlex
import subprocess
import sys
from typing import Any

import torch

from medcore import __version__
from medcore.data.paths import repository_root
from medcore.reporting.shares import available_cores

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "scipy", "papermill", "nbconvert")


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, device, threads, machine and commit of this process."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "medcore": __version__,
        "commit": commit(),
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


def commit() -> str:
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
