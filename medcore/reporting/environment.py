"""What a run ran on: versions, machine, commit, memory; a share of it for each kernel; what a report must not carry.

A report, its notebook and its results leave the machine. ``Anonymiser`` takes out of them where things lie on it and
what it is called, credentials in addresses, and secrets among the environment variables.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medcore import __version__
from medcore.data.parallel import available_cores
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


ABSOLUTE = re.compile(r"(?<![\w.:/~\\<+])(?:[A-Za-z]:)?(?:[\\/][^\s\\/:*?\"'<>|,;()\[\]{}=&]+){2,}")
CREDENTIALS = re.compile(r"(\w+://)[^/\s@\"'<>]+@")
QUERY = re.compile(r"([?&](?:access_)?(?:token|key|sig|signature|password|secret)=)[^&\s\"'<>]+", re.IGNORECASE)
SECRET = re.compile(r"token|secret|passw|credential|api_?key|access_?key", re.IGNORECASE)
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")  # base64, in which no path can be read


class Anonymiser:
    """Takes out of texts what tells of the machine; known places become short names, other paths their last part.

    Args:
        places: Absolute path to what stands for it, besides those that every machine has.
    """

    def __init__(self, places: Mapping[str, str] | None = None) -> None:
        root = repository_root()
        known = {str(Path.home()): "~", tempfile.gettempdir(): "tmp", sys.prefix: "env", str(Path.cwd()): "."}
        known |= ({str(root): "."} if root else {}) | dict(places or {})
        usable = [place for place in known if len(Path(place).parts) > 1]
        self.places = {place: known[place] for place in sorted(usable, key=len, reverse=True)}
        words = [value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= 8]
        self.secrets = [*words, *([node] if len(node := platform.node()) > 3 else [])]

    def text(self, text: str) -> str:
        """One text."""
        for place, name in self.places.items():
            if place in text:
                text = re.sub(re.escape(place) + r"(?![\w.-])", name.replace("\\", r"\\"), text)
        for secret in self.secrets:
            if secret in text:
                text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "…", text)
        text = QUERY.sub(r"\1…", CREDENTIALS.sub(r"\1", text)) if "://" in text else text
        return ABSOLUTE.sub(self._last_part, text) if "/" in text or "\\" in text else text

    def _last_part(self, found: re.Match[str]) -> str:
        parts = re.split(r"[\\/]", found[0])
        there = found[0][1:2] == ":" or os.path.lexists(f"/{parts[1]}")
        return f"…/{parts[-1]}" if there else found[0]

    def __call__(self, value: Any) -> Any:
        """The same structure of plain JSON types with every text cleaned, names of fields included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): item if key in PICTURES else self(item) for key, item in value.items()}
        return [self(item) for item in value] if isinstance(value, list) else value
