"""The first seconds of commands, import cells and kernels.

    python benchmarks/startup.py            # about two minutes; wants an idle machine
    python benchmarks/startup.py --dry      # a short form that only prints

Wall seconds of fresh processes, files in the cache.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import torch
from results import machine, record

from medcore.reporting import worker
from medcore.reporting.runner import run_notebooks

ROOT = Path(__file__).resolve().parents[1]
FITTED = """
import sys, numpy as np
from PIL import Image
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.evaluation.predictor import equip
from medcore.models.classifier import build_classifier
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Classification
pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
table = {"label": np.arange(16) % 2, "patient": np.arange(16).astype(str), "split": np.repeat(["train", "val"], 8)}
patches = PatchSet.from_arrays(pixels, table, Card("toy", classes=["a", "b"]))
sides = [patches.where(split=side) for side in ("train", "val")]
model = build_classifier("small_cnn", 2, image_size=32)
fit(model, Classification(patches.classes), *sides, TrainConfig(epochs=1), out=sys.argv[1], progress=False)
equip(sys.argv[1], model, *sides)
Image.fromarray(pixels[0]).save(sys.argv[1] + "/new.png")
"""


def seconds_of(words: list[str], rounds: int) -> float:
    """Median wall time of a command; what it prints is not shown."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True, cwd=ROOT)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def import_cell(path: Path) -> str:
    """The first cell of a notebook that imports medcore."""
    code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    return next(source for source in code if "import" in source and "medcore" in source)


def seconds_of_reports(folder: Path, count: int, *, forked: bool) -> float:
    """Wall time of reports of notebooks that import torch and matplotlib and do nothing, one after the other."""
    cells = [nbformat.v4.new_code_cell("x = 1  # a number", metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell("import torch\nimport matplotlib.pyplot as plt")]
    spec = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    paths = [folder / f"n{number}.ipynb" for number in range(count)]
    for path in paths:
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), path)
    before, worker.FORKS = worker.FORKS, forked and worker.FORKS
    start = time.perf_counter()
    outcomes = run_notebooks({path: {} for path in paths}, out=folder / f"out{forked}", progress=False)
    worker.FORKS = before
    assert all(outcome.status == "ok" for outcome in outcomes)
    return time.perf_counter() - start


def startup(rounds: int, count: int) -> list[str]:
    """The table of first seconds."""
    lines = ["| what | seconds |", "|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        subprocess.run([sys.executable, "-c", FITTED, name], check=True, capture_output=True)
        medcore = [sys.executable, "-m", "medcore"]
        commands = {
            "`import medcore`": [sys.executable, "-c", "import medcore"],
            "`import torch`": [sys.executable, "-c", "import torch"],
            "`medcore --help`": [*medcore, "--help"],
            "`medcore predict`, one image": [*medcore, "predict", name, f"{name}/new.png"],
        }
        for path in sorted((ROOT / "notebooks").glob("0[0-9]_*.ipynb"))[:: 1 if rounds > 1 else 9]:
            commands[f"import cell of {path.stem}"] = [sys.executable, "-c", import_cell(path)]
        lines += [f"| {what} | {seconds_of(words, rounds):.1f} |" for what, words in commands.items()]
        for how, forked in (("forked from one process", True), ("each started anew", False)):
            taken = seconds_of_reports(Path(name), count, forked=forked)
            lines.append(f"| {count} notebooks that import torch and matplotlib, kernels {how} | {taken:.1f} |")
    return lines


def main(words: list[str]) -> None:
    """Measure and note, or print a short form."""
    dry = "--dry" in words
    lines = startup(1 if dry else 3, 1 if dry else 8)
    print("\n".join(lines))
    if not dry:
        record("The first seconds", f"{machine(torch.device('cpu'))};", lines)


if __name__ == "__main__":
    main(sys.argv[1:])
