"""Time and memory of segmenting a very large image strip by strip.

    python benchmarks/sliding.py 20000        # side in pixels; needs side² × 4 bytes of disk

Notes seconds, megapixels per second, and the peak of the process's own memory (the mapped input file not counted) in
benchmarks/RESULTS.md; ``--dry`` only prints them.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from results import machine, record

from medcore.evaluation.sliding import Window, predict_large
from medcore.models.unet import SmallUNet


def own_memory() -> int:
    """Anonymous memory of this process, bytes (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


def watch(stop: threading.Event, peaks: list[int]) -> None:
    """Notes the memory every fifth of a second."""
    while not stop.wait(0.2):
        peaks.append(own_memory())


def main(side: int, *, dry: bool) -> None:
    """Makes an image on the disk, segments it, prints one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.npy"
        image = np.lib.format.open_memmap(path, "w+", np.uint8, (side, side, 3))
        rng = np.random.default_rng(0)
        for top in range(0, side, 500):
            image[top : top + 500] = rng.integers(0, 256, image[top : top + 500].shape, dtype=np.uint8)
        del image
        torch.manual_seed(0)
        before, peaks, stop = own_memory(), [0], threading.Event()
        thread = threading.Thread(target=watch, args=(stop, peaks))
        thread.start()
        start = time.perf_counter()
        window = Window(tile=512, overlap=0.25)
        labels = predict_large(SmallUNet(2), np.load(path, mmap_mode="r"), Path(folder) / "labels.npy", window)
        seconds = time.perf_counter() - start
        stop.set()
        thread.join()
        line = (
            f"- {labels.shape[0]:,}×{labels.shape[1]:,} pixels: {seconds:.0f} s, {side**2 / 1e6 / seconds:.2f} "
            f"megapixels/s, own memory {before / 1e6:.0f} MB before, {max(peaks) / 1e6:.0f} MB at most"
        )
        print(line)
        if not dry:
            note = f"{machine(torch.device('cpu'))}; SmallUNet, tiles of 512 px, overlap 25 %;"
            record(f"Segmenting an image of {side:,} pixels a side", note, [line])


if __name__ == "__main__":
    sides = [int(word) for word in sys.argv[1:] if word.isdigit()]
    main(sides[0] if sides else 4000, dry="--dry" in sys.argv)
