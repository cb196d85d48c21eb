"""The first seconds, and a training step on a machine that others use.

    python benchmarks/startup.py            # both tables, about five minutes; wants an idle machine
    python benchmarks/startup.py threads    # one of them
    python benchmarks/startup.py --dry      # a short form that only prints

Start-up: wall seconds of fresh processes, files in the cache. Busy: milliseconds of a step while other processes loop;
*fair* is its CPU time alone on one thread over the share that one of so many processes gets of the cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import torch
from results import machine, record

from medcore.data.parallel import available_cores
from medcore.reporting import worker
from medcore.reporting.runner import run_notebooks

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("small_cnn", "resnet18")
BUSY = (0, 1, 2, 4)
LOOP = "while True: pass"
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
STEP = """
import json, sys, time, torch
from medcore.models.classifier import build_classifier
name, seconds = sys.argv[1], float(sys.argv[2])
torch.manual_seed(0)
model, truth = build_classifier(name, 7).to(memory_format=torch.channels_last), torch.arange(64) % 7
images = torch.rand(64, 3, 64, 64).contiguous(memory_format=torch.channels_last)
def step():
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(model(images), truth)
    loss.backward()
    model.zero_grad()
step(), step()
wall, cpu, count = time.perf_counter(), time.process_time(), 0
while count < 3 or time.perf_counter() - wall < seconds:
    step()
    count += 1
print(json.dumps([1e3 * (time.perf_counter() - wall) / count, 1e3 * (time.process_time() - cpu) / count]))
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


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that never wait."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def step(model: str, threads: int, seconds: float, before: tuple[str, ...] = ()) -> tuple[float, float]:
    """Wall and CPU milliseconds of a training step in a process of its own."""
    variables = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    words = [*before, sys.executable, "-c", STEP, model, str(seconds)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=variables)
    wall, cpu = json.loads(done.stdout.splitlines()[-1])
    return wall, cpu


@contextlib.contextmanager
def quota_of_one_core() -> Iterator[tuple[str, ...]]:
    """What to write before a command so that it may use one core; nothing where no control group can be made."""
    group = Path("/sys/fs/cgroup/cpu" if Path("/sys/fs/cgroup/cpu").is_dir() else "/sys/fs/cgroup", "medcore-benchmark")
    try:
        group.mkdir()
    except OSError:
        yield ()
        return
    first = group / "cpu.cfs_quota_us"
    try:
        (first if first.exists() else group / "cpu.max").write_text("100000")
        yield ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
    except OSError:
        yield ()
    finally:
        group.rmdir()


def threads(seconds: float, models: tuple[str, ...], crowds: tuple[int, ...]) -> list[str]:
    """The table of training steps beside busy processes and under a quota."""
    cores, lines = (
        available_cores(),
        ["| model | beside | threads | wall, ms | CPU, ms | wall / fair |", "|---" * 6 + "|"],
    )
    for model in models:
        alone = step(model, 1, seconds)[1]
        for number in sorted({1, cores}):
            for crowd in crowds:
                with busy(crowd):
                    wall, cpu = step(model, number, seconds)
                share = cores / (crowd + 1)
                lines.append(row(model, f"{crowd} busy", number, wall, cpu, alone / share))
            with quota_of_one_core() as before:
                if before:
                    lines.append(row(model, "quota of one core", number, *step(model, number, seconds, before), alone))
    return lines


def row(model: str, beside: str, number: int, wall: float, cpu: float, fair: float) -> str:
    """A line of that table."""
    return f"| {model} | {beside} | {number} | {wall:.0f} | {cpu:.0f} | {wall / fair:.2f} |"


def main(words: list[str]) -> None:
    """Measure and note, or print a short form."""
    dry = "--dry" in words
    asked = [word for word in words if not word.startswith("--")] or ["startup", "threads"]
    note = f"{machine(torch.device('cpu'))};"
    if "startup" in asked:
        lines = startup(1 if dry else 3, 1 if dry else 8)
        print("\n".join(lines)) if dry else record("The first seconds", note, lines)
    if "threads" in asked:
        lines = threads(0.1, MODELS[:1], BUSY[:2]) if dry else threads(5.0, MODELS, BUSY)
        print("\n".join(lines)) if dry else record("A training step beside busy processes, 64 px", note, lines)


if __name__ == "__main__":
    main(sys.argv[1:])
