"""Opening a 2 GB PatchSet: time and memory, beside reading the same file with numpy.load.

Run: ``python benchmarks/patchset.py [--gigabytes 2]``; the figures go to benchmarks/RESULTS.md.
"""

import argparse
import gc
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from results import machine, record

from medcore.data.card import Card
from medcore.data.patchset import PatchSet, PatchSetWriter

SIDE = 64


def make(path: Path, gigabytes: float) -> tuple[int, str]:
    count = int(gigabytes * 1e9 / (SIDE * SIDE * 3))
    card = Card(name="big", classes=["a", "b"])
    block = np.random.default_rng(0).integers(0, 256, (4096, SIDE, SIDE, 3), dtype=np.uint8)
    before = rss()
    with PatchSetWriter(path, shape=(SIDE, SIDE, 3), card=card) as writer:
        for start in range(0, count, len(block)):
            part = block[: min(len(block), count - start)]
            rows = [
                {"label": n % 2, "patient": f"P{n // 500:05d}", "source": f"images/{n:07d}.png"}
                for n in range(start, start + len(part))
            ]
            writer.add(part, rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    grown, size = (peak - before) / 1e6, path.stat().st_size / 1e9
    return count, f"- writing {size:.2f} GB, {count:,} images of {SIDE} px: memory grew by at most {grown:.0f} MB"


def rss() -> int:
    """Resident memory (bytes)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.npz"
        count, written = make(path, options.gigabytes)
        gc.collect()
        before, seconds = rss(), []
        for _ in range(7):
            start = time.perf_counter()
            patches = PatchSet.open(path)
            seconds.append(time.perf_counter() - start)
        grown = rss() - before
        start = time.perf_counter()
        patches.take(np.arange(0, count, max(1, count // 256)))
        take = time.perf_counter() - start
        start = time.perf_counter()
        with np.load(path) as arrays:
            arrays["images"]
        load = time.perf_counter() - start
    lines = [
        written,
        f"- `PatchSet.open`: {statistics.median(seconds) * 1e3:.1f} ms (median of 7), memory +{grown / 1e6:.1f} MB",
        f"- 256 images spread over the file: {take * 1e3:.1f} ms",
        f"- for comparison, `numpy.load` of all pixels: {load:.2f} s",
    ]
    print("\n".join(lines))
    if not options.dry:
        record(f"Opening a set of {options.gigabytes:g} GB", f"{machine(torch.device('cpu'))};", lines)


if __name__ == "__main__":
    main()
