"""Where figures go: one table per title in benchmarks/RESULTS.md, each with the machine it was measured on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import torch

RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = """# Speed, side by side

Written by the scripts of this folder (`make bench`, or one of them alone). Paths of one row ran interleaved, a round
of each in turns, so that a busy machine slows all alike: read the ratios, not the absolute numbers. `load` tells how
busy it was: with more to run than cores, shared caches make even CPU seconds scatter by some per cent.
"""
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def machine(device: torch.device) -> str:
    """Processor, threads and versions; ``load`` tells how busy the machine was."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        flags = next((line for line in lines if line.startswith("flags")), "")
        extra = [flag for flag in INSTRUCTIONS if f" {flag} " in flags + " "]
        name = f"{names[0] if names else name} ({', '.join(extra)})"
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, {name}"
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA")
    limit = f", ONEDNN_MAX_CPU_ISA={isa}" if isa else ""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{name}, {threads}, torch {torch.__version__}, numpy {np.__version__}{limit}{load}"


def record(title: str, note: str, lines: list[str]) -> None:
    """Put a table into RESULTS.md, in place of an older one of the same title."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else HEAD
    parts = text.split("\n## ")
    block = f"{title}\n\n{note} {datetime.now(UTC):%Y-%m-%d}.\n\n" + "\n".join(lines) + "\n"
    titles = [part.split("\n", 1)[0] for part in parts]
    if title in titles:
        parts[titles.index(title)] = block
    else:
        parts.append(block)
    RESULTS.write_text("\n## ".join(part.rstrip() + "\n" for part in parts), encoding="utf-8")


def interleaved(
    runs: dict[str, Callable[[int], object]], images: int, rounds: int, device: torch.device, *, cpu_time: bool = False
) -> dict[str, list[float]]:
    """Images per second of every path, one value per round, after a round to warm up.

    With ``cpu_time``, seconds are those that cores worked for this process and its loaders' worker processes: a fair
    cost on a machine that others use as well, where wall time mostly tells who else was running.
    """
    seconds = cpu_seconds if cpu_time else wall_seconds
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(1, rounds + 2):
        for name, run in runs.items():
            taken = seconds(run, number, device)
            if number > 1:
                rates[name].append(images / taken)
    return rates


def wall_seconds(run: Callable[[int], object], number: int, device: torch.device) -> float:
    """Seconds that a run takes, with what it left to the device."""
    start = time.perf_counter()
    run(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def cpu_seconds(run: Callable[[int], object], number: int, device: torch.device) -> float:
    """CPU time of this process and of its living children; looking for them takes milliseconds that do not count."""
    before = children_seconds()
    start = time.process_time()
    run(number)
    own = time.process_time() - start
    return own + children_seconds() - before


def children_seconds() -> float:
    """CPU time of living child processes so far."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(one.user + one.system for one in times)


def paired(first: list[float], second: list[float]) -> float:
    """Median of the ratios of neighbouring runs."""
    return statistics.median([a / b for a, b in zip(first, second, strict=True)])
