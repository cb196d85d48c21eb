"""How cost grows: CPU seconds and memory of each kind of work over images, patients, pixels, cells and runs.

    python benchmarks/growth.py                     # ten minutes on one core
    python benchmarks/growth.py --large             # the largest sizes of preparing and the audit, too
    python benchmarks/growth.py intervals --shrink 100 --dry

Each size of each work is a process of its own, on one thread. The exponent is that between the last two sizes: 1 grows
with the size, n log n with about 1.1; what passes 1.2 is marked. Memory is the most that the work added.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from results import machine, record

ROOT = Path(__file__).resolve().parents[1]
TOO_STEEP = 1.2
Work = Callable[[], object]


def prepare(images: int, work: Path) -> Work:
    """``data prepare`` of PNG files of 8 px."""
    from endurance import tiny_images

    from medcore.data.load import read_set

    folder = tiny_images(work / "images", images, 8)
    return lambda: read_set(folder)


def check(images: int, work: Path) -> Work:
    """The audit of unrelated textures of 32 px, everything."""
    from audit import textures

    from medcore.data.audit.audit import audit

    patches = textures(images, side=32)
    return lambda: audit(patches)


def train(images: int, work: Path) -> Work:
    """An epoch of small_cnn at 16 px."""
    import paths as ways

    epoch = ways.our_epoch("small_cnn", ways.make_set(images, 16), torch.device("cpu"), batch_size=64)
    return lambda: epoch(1)


def predicted(images: int, work: Path) -> Work:
    """``predict`` by small_cnn at 16 px."""
    import paths as ways

    from medcore.evaluation.predict import predict

    model, patches = ways.make_model("small_cnn", 16)[0], ways.make_set(images, 16)
    return lambda: predict(model, patches)


def cohort(images: int, patients: int, classes: int = 2) -> object:
    """Scores of so many images, spread evenly over patients."""
    from medcore.evaluation.scores import Scores

    rng = np.random.default_rng(0)
    truth = rng.integers(0, classes, images)
    score = rng.random((images, classes)) + 0.8 * np.eye(classes)[truth]
    names = np.char.add("P", (np.arange(images) * patients // images).astype(str))
    named = tuple(f"c{number}" for number in range(classes))
    return Scores(truth, score / score.sum(1, keepdims=True), names, np.full(images, "test"), named)


def intervals(scores: object) -> None:
    """AUROC, balanced accuracy, macro F1 and sensitivity, each with its interval."""
    from medcore.evaluation.intervals import interval

    for metric in ("auroc", "balanced_accuracy", "macro_f1", "sensitivity"):
        interval(scores, metric)  # type: ignore[arg-type]


def intervals_of_images(images: int, work: Path) -> Work:
    """Four intervals over 100 patients."""
    scores = cohort(images, 100)
    return lambda: intervals(scores)


def intervals_of_patients(patients: int, work: Path) -> Work:
    """Four intervals, ten images a patient."""
    scores = cohort(10 * patients, patients)
    return lambda: intervals(scores)


def splits_of_patients(patients: int, work: Path) -> Work:
    """Sides and five folds, ten images a patient."""
    from medcore.data.card import Card
    from medcore.data.patchset import PatchSet
    from medcore.data.splits import assign_splits, patient_folds

    rng, count = np.random.default_rng(0), 10 * patients
    table = {"label": rng.integers(0, 5, count), "patient": np.char.add("P", (np.arange(count) // 10).astype(str))}
    card = Card("cohort", classes=list("abcde"))
    patches = PatchSet.from_arrays(rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8), table, card)
    return lambda: (assign_splits(patches), patient_folds(patches, 5))


def sliding(megapixels: int, work: Path) -> Work:
    """A picture segmented in windows of 512 px by SmallUNet."""
    from medcore.evaluation.sliding import Window, predict_large
    from medcore.models.unet import SmallUNet

    torch.manual_seed(0)
    side = round(1000 * math.sqrt(megapixels))
    pixels = np.lib.format.open_memmap(work / "image.npy", "w+", np.uint8, (side, side, 3))
    for row in pixels:
        row[:] = np.random.default_rng(0).integers(0, 256, row.shape, dtype=np.uint8)
    pixels.flush()
    image = np.load(work / "image.npy", mmap_mode="r")
    return lambda: predict_large(SmallUNet(2), image, work / "labels.npy", Window(tile=512, overlap=0.25))


def report(cells: int, work: Path) -> Work:
    """A report of a notebook with so many cells, each with a paragraph, a figure and a table."""
    import base64
    import io

    import nbformat
    from PIL import Image

    from medcore.reporting.report import report_page

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(buffer, "PNG")
    data = {
        "image/png": base64.b64encode(buffer.getvalue()).decode(),
        "text/html": "<table><tr><td>1</td></tr></table>",
    }
    make, notebook = nbformat.v4, nbformat.v4.new_notebook()
    for number in range(cells):
        shown = make.new_output("display_data", data, metadata={"medcore": {"alt": "a figure"}})
        notebook.cells += [make.new_markdown_cell(f"## Part {number}\n\nSome words."),
                           make.new_code_cell(f"x = {number}", outputs=[shown])]  # fmt: skip
    return lambda: report_page(notebook, None)


def index(runs: int, work: Path) -> Work:
    """The index over so many runs."""
    from medcore.reporting.index import write_index

    sample = next(path.parent for path in sorted((ROOT / "reports/sample").rglob("results.json")))
    for number in range(runs):
        shutil.copytree(sample, work / "reports" / f"run-{number:05d}" / sample.name)
    return lambda: write_index(work / "reports")


MANY, FEW = (1000, 10_000, 100_000), (10, 100, 1000)
WORKS: dict[str, tuple[str, str, tuple[int, ...], Callable[[int, Path], Work]]] = {
    "prepare": ("prepare, files of 8 px", "images", MANY, prepare),
    "audit": ("audit, 32 px", "images", MANY, check),
    "train": ("training epoch, small_cnn, 16 px", "images", MANY, train),
    "predict": ("predict, small_cnn, 16 px", "images", MANY, predicted),
    "intervals": ("four intervals, 100 patients", "images", MANY, intervals_of_images),
    "patients": ("four intervals, ten images a patient", "patients", FEW, intervals_of_patients),
    "splits": ("sides and folds, ten images a patient", "patients", FEW, splits_of_patients),
    "sliding": ("sliding window, SmallUNet", "megapixels", (1, 10, 100), sliding),
    "report": ("report of a notebook", "cells", FEW, report),
    "index": ("index of reports", "runs", FEW, index),
}
LARGE = ("prepare", "audit")  # their largest size only when asked for


def serve(name: str, size: int, work: Path) -> None:
    """Do one work at one size; prints CPU seconds and megabytes."""
    torch.set_num_threads(1)
    run = WORKS[name][3](size, work)
    process = psutil.Process()
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
    before, start = process.memory_info().rss, time.process_time()
    run()
    seconds = time.process_time() - start
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps([seconds, (int(status["VmHWM"].split()[0]) * 1024 - before) / 1e6]), flush=True)


def measured(name: str, size: int) -> list[float]:
    """The same in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        home = {"MEDCORE_DATA": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        words = [sys.executable, __file__, "--serve", name, str(size), folder]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | home)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def line_of(name: str, shrink: int, *, large: bool) -> str:
    """A row of the table."""
    title, unit, sizes, _ = WORKS[name]
    sizes = tuple(dict.fromkeys(max(min(10, sizes[0]), size // shrink) for size in sizes))
    found = {size: measured(name, size) for size in (sizes if large or name not in LARGE else sizes[:-1])}
    seconds = [f"{found[size][0]:.2f}" if size in found else "–" for size in sizes]
    (first, last), (less, more) = [*found][-2:], [seconds for seconds, _ in found.values()][-2:]
    power = math.log(max(more, 1e-9) / max(less, 1e-9)) / math.log(last / first) if last > first else math.nan
    steep = f"**{power:.2f}**" if power > TOO_STEEP else f"{power:.2f}"
    memory = " / ".join(f"{found[size][1]:.0f}" if size in found else "–" for size in sizes)
    named = " / ".join(f"{size:,}" for size in sizes)
    return f"| {title} | {named} {unit} | {' / '.join(seconds)} | {memory} | {steep} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", help=f"some of {', '.join(WORKS)} [all]")
    parser.add_argument("--large", action="store_true", help=f"the largest size of {' and '.join(LARGE)}, too")
    parser.add_argument("--shrink", type=int, default=1, help="divide all sizes")
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md alone")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]), Path(options.serve[2]))
        return
    start = machine(torch.device("cpu"))
    lines = ["| work | size | CPU seconds | MB added | exponent |", "|---|---|---|---|---|"]
    for name in options.works or WORKS:
        lines.append(line_of(name, options.shrink, large=options.large))
        print(lines[-1], flush=True)
    if not options.dry:
        record("How cost grows", f"{start}; one thread, each size once in a process of its own;", lines)


if __name__ == "__main__":
    main()
