"""Long runs: does memory stay flat, do files stay closed, and what does checking a large set cost?

    python benchmarks/endurance.py                     # all of it: half an hour and 8 GB of disk
    python benchmarks/endurance.py epochs images --dry # two parts, printed only

Each part is a command of ``medcore`` in a process of its own, looked at twice a second: resident memory and open files
after a tenth of the run, at its end, and the highest value. What is measured are the processes that stay: the command
and, of ``medcore reports``, the process that workers are forked from; workers and kernels end with their notebook.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
import psutil
import tifffile
import torch
from PIL import Image
from results import machine, record

from medcore.data.card import Card
from medcore.data.patchset import PatchSetWriter

HEAD = [
    "| run | seconds | MB after a tenth | MB at the end | MB at most | open files: tenth, end |",
    "|---|---|---|---|---|---|",
]
ROOT = Path(__file__).resolve().parents[1]
CODE = "from medcore.cli import main; main()"


def watched(work: Path, *arguments: str) -> tuple[float, list[tuple[float, int]]]:
    """Run ``medcore ARGUMENTS``; seconds, and resident megabytes and open files over time."""
    looks: list[tuple[float, int]] = []
    home = {"MEDCORE_DATA": str(work / "cache"), "MEDCORE_REPORTS": str(work / "reports"), "MEDCORE_PROFILE": "smoke"}
    with open(work / "log.txt", "w", encoding="utf-8") as log:
        start = time.monotonic()
        child = subprocess.Popen([sys.executable, "-c", CODE, *arguments], env={**os.environ, **home}, stdout=log,
                                 stderr=log)  # fmt: skip
        process = psutil.Process(child.pid)
        while child.poll() is None:
            try:
                stay = [process, *process.children()]
                looks.append((sum(one.memory_info().rss for one in stay) / 1e6, sum(one.num_fds() for one in stay)))
            except psutil.Error:
                break
            time.sleep(0.5)
        seconds = time.monotonic() - start
    if child.wait():
        raise SystemExit((work / "log.txt").read_text(encoding="utf-8")[-2000:])
    return seconds, looks


def row(name: str, seconds: float, looks: list[tuple[float, int]]) -> str:
    """A line of the table."""
    tenth, end = looks[max(1, len(looks) // 10)], looks[49 * len(looks) // 50]  # at the very end memory is let go
    most = max(memory for memory, _ in looks)
    return f"| {name} | {seconds:.0f} | {tenth[0]:.0f} | {end[0]:.0f} | {most:.0f} | {tenth[1]}, {end[1]} |"


def tiny_images(folder: Path, count: int, side: int) -> Path:
    """Two classes of small PNG files."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for k in range(count):
        pixels = rng.integers(0, 128 + 100 * (k % 2), (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[k % 2] / f"{k:06d}.png", compress_level=1)
    return folder


def epochs(work: Path, shrink: int) -> list[str]:
    """200 epochs of a small classifier, a checkpoint each."""
    count = 200 // shrink
    data = tiny_images(work / "few", 120, 32)
    seconds, looks = watched(work, "train", "classifier", "--data", str(data), "--out", str(work / "run"),
                             "--model", "small_cnn", "--epochs", str(count))  # fmt: skip
    return [row(f"training, {count} epochs of 120 images", seconds, looks)]


def notebooks(work: Path, shrink: int) -> list[str]:
    """100 notebooks in one run: the template without its text, figures and audit."""
    template = nbformat.read(ROOT / "notebooks/template.ipynb", as_version=4)
    slow = ("plots.", "audited", "run.answer(", "run.say(")
    code = [cell for cell in template.cells if cell.cell_type == "code"]
    kept = [cell for cell in code if not any(word in cell.source for word in slow)]
    end = nbformat.v4.new_code_cell('results = run.finish("A short run.")')
    template.cells = [template.cells[0], *kept, end]
    names = [work / f"n{k:02d}.ipynb" for k in range(100 // shrink)]
    for name in names:
        nbformat.write(template, name)
    seconds, looks = watched(work, "reports", *map(str, names), "-p", "limit=60", "--out", str(work / "out"))
    return [row(f"reports, {len(names)} notebooks", seconds, looks)]


def images(work: Path, shrink: int) -> list[str]:
    """100,000 tiny images prepared."""
    count = 100_000 // shrink
    data = tiny_images(work / "many", count, 8)
    seconds, looks = watched(work, "data", "prepare", str(data))
    return [row(f"data prepare, {count:,} images of 8 px", seconds, looks)]


def tiff(work: Path, shrink: int) -> list[str]:
    """A TIFF of 20,000 × 20,000 pixels labelled by a small segmenter."""
    data = work / "seg"
    rng = np.random.default_rng(0)
    for k in range(12):
        mask = np.hypot(*(np.indices((64, 64)) - rng.integers(20, 44, (2, 1, 1)))) < 14
        pixels = np.where(mask[..., None], 90, 190) + rng.integers(0, 40, (64, 64, 3))
        for name, values in (("images", pixels), ("masks", mask * 255)):
            (data / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(data / name / f"{k}.png")
    watched(work, "train", "segmenter", "--data", str(data), "--out", str(work / "unet"), "--epochs", "1")
    side = 20_000 // shrink // 20 * 20
    strip = rng.integers(0, 255, (side // 20, side, 3), dtype=np.uint8)
    with tifffile.TiffWriter(work / "large.tif", bigtiff=True) as writer:
        writer.write((strip for _ in range(20)), shape=(side, side, 3), dtype=np.uint8, rowsperstrip=side // 20,
                     photometric="rgb")  # fmt: skip
    seconds, looks = watched(
        work, "predict", str(work / "unet"), str(work / "large.tif"), "--out", str(work / "labels")
    )
    return [row(f"predict, one TIFF of {side:,} × {side:,} px", seconds, looks)]


def checking(work: Path, shrink: int) -> list[str]:
    """A set of 2 GB: opened the first time, and again."""
    block = np.random.default_rng(0).integers(0, 256, (4096, 64, 64, 3), dtype=np.uint8)
    path = work / "big.npz"
    with PatchSetWriter(path, shape=(64, 64, 3), card=Card(name="big", classes=["a", "b"])) as writer:
        for start in range(0, max(1, 40 // shrink) * len(block), len(block)):
            writer.add(block, [{"label": n % 2, "patient": f"P{n // 500}", "source": f"{n}.png"}
                               for n in range(start, start + len(block))])  # fmt: skip
    code = ("import sys, time; from medcore.data.integrity import open_checked; start = time.perf_counter(); "
            "open_checked(sys.argv[1]); print(time.perf_counter() - start)")  # fmt: skip
    environment = {**os.environ, "MEDCORE_DATA": str(work / "cache")}
    first, *others = [
        float(subprocess.check_output([sys.executable, "-c", code, str(path)], env=environment)) for _ in range(4)
    ]
    size = path.stat().st_size / 1e9
    return [f"\nA set of {size:.1f} GB, just written: opened and compared with its checksums in {first:.1f} s; opened "
            f"again, unchanged, in {1000 * sorted(others)[1]:.0f} ms."]  # fmt: skip


PARTS = {part.__name__: part for part in (epochs, notebooks, images, tiff, checking)}


def main() -> None:
    """Run the parts that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which ones [all]")
    parser.add_argument("--shrink", type=int, default=1, help="divide counts and sides")
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md alone")
    options = parser.parse_args()
    lines = list(HEAD)
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            lines += PARTS[name](Path(folder), options.shrink)
            print(lines[-1], flush=True)
    if not options.dry:
        record("Long runs: memory and open files", f"{machine(torch.device('cpu'))};", lines)


if __name__ == "__main__":
    main()
