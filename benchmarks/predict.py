"""``medcore predict`` on many images, beside the bare model on tensors that are already in memory.

    python benchmarks/predict.py                       # 10,000 images of 64 px, ResNet-18: some minutes on two cores
    python benchmarks/predict.py --model efficientnet_b3 --images 2000 --dry

The command is run in this process, from reading its arguments to the finished CSV: it opens the checkpoint and checks
its hashes, reads the images, predicts, judges how unusual each is, and writes. Only Python's own start is left out; it
is measured once and stated. The bare model gets float tensors, batches of the same size, the same number format and as
many threads as the command takes by itself.
With ``--cpu-time`` a second ratio counts the main thread alone: on an idle machine files are decoded beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import paths as ways
import torch
from results import interleaved, machine, paired, record

from medcore.cli import main as medcore
from medcore.data.parallel import thread_share
from medcore.data.patchset import PatchSet
from medcore.evaluation.predict import auto_batch_size
from medcore.evaluation.predictor import equip
from medcore.models.classifier import build_classifier
from medcore.training.checkpoint import load_checkpoint
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Classification


def make_checkpoint(name: str, patches: PatchSet, folder: Path) -> Path:
    """A run of one short epoch, with everything that prediction uses."""
    few = patches.select(range(256))
    train, validation = few.select(range(128)), few.select(range(128, 256))
    model = build_classifier(name, ways.CLASSES)
    fit(model, Classification(few.classes), train, validation, TrainConfig(epochs=1), out=folder, progress=False)
    equip(folder, model, train, validation, temperature=1.5)
    return folder


def bare(checkpoint: Path, patches: PatchSet, device: torch.device) -> ways.Epoch:
    """The loop that anybody would write, with nothing to read."""
    model = load_checkpoint(checkpoint, "best").model.to(device).to(memory_format=torch.channels_last).eval()
    pixels = torch.from_numpy(patches.take()).to(device).permute(0, 3, 1, 2)
    images = pixels.float().div_(255).contiguous(memory_format=torch.channels_last)
    size = auto_batch_size(patches.shape, device)

    @torch.no_grad()
    def run(number: int) -> None:
        for batch in images.split(size):
            model(batch).softmax(1).cpu()

    return run


def command(checkpoint: Path, source: Path, out: Path, device: torch.device) -> ways.Epoch:
    """``medcore predict CHECKPOINT SOURCE --out predictions.csv``."""
    words = ["predict", str(checkpoint), str(source), "--out", str(out), "--device", device.type, "--overwrite"]

    def run(number: int) -> None:
        with contextlib.redirect_stderr(io.StringIO()) as told:
            try:
                medcore(words)
            except SystemExit as end:
                if end.code:
                    raise RuntimeError(told.getvalue()) from end

    return run


def on_main_thread(run: ways.Epoch, seconds: list[float]) -> ways.Epoch:
    """The same, with the CPU time of the main thread noted: files are decoded beside it, on another core."""

    def timed(number: int) -> None:
        start = time.thread_time()
        run(number)
        if number > 1:  # the first round warms up
            seconds.append(time.thread_time() - start)

    return timed


def seconds_to_start(checkpoint: Path, image: Path) -> float:
    """Wall time of the command as a new process on one image, seconds."""
    start = time.perf_counter()
    arguments = [sys.executable, "-m", "medcore", "predict", str(checkpoint), str(image)]
    subprocess.run(arguments, check=True, capture_output=True)
    return time.perf_counter() - start


def table(rates: dict[str, list[float]], threads: dict[str, list[float]]) -> list[str]:
    """Speeds beside the bare model's; with ``threads`` also by the CPU time of the main thread alone."""
    more = " main thread alone |" if threads else ""
    lines = [f"| path | images/s | of the bare model's speed |{more}", "|---|---|---|" + "---|" * bool(threads)]
    bare_rate, bare_thread = next(iter(rates.values())), next(iter(threads.values()), [])
    for label, values in rates.items():
        line = f"| {label} | {statistics.median(values):.0f} | {100 * paired(values, bare_rate):.0f} % |"
        lines.append(line + (f" {100 * paired(bare_thread, threads[label]):.0f} % |" if threads else ""))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds: for busy machines, with one thread")
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md alone")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(thread_share())
    start = machine(device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        patches = ways.make_set(options.images, options.side)
        stored = patches.select(range(len(patches))).save(folder / "set.npz").path
        checkpoint = make_checkpoint(options.model, patches, folder / "run")
        files = [path for path in ways.write_files(patches, folder / "files") if path.suffix == ".jpg"]
        for mask in (folder / "files").glob("*.png"):
            mask.unlink()
        runs = {
            "bare model, tensors in memory": bare(checkpoint, patches, device),
            "medcore predict SET.npz": command(checkpoint, Path(str(stored)), folder / "set.csv", device),
            "medcore predict FOLDER of JPEG files": command(checkpoint, folder / "files", folder / "files.csv", device),
        }
        threads: dict[str, list[float]] = {label: [] for label in runs}
        runs = {label: on_main_thread(run, threads[label]) for label, run in runs.items()}
        rates = interleaved(runs, options.images, options.rounds, device, cpu_time=options.cpu_time)
        for out in ("set.csv", "files.csv"):
            assert len((folder / out).read_text().splitlines()) == options.images + 1
        begin = seconds_to_start(checkpoint, files[0])
    lines = table(rates, threads if options.cpu_time else {})
    lines += ["", f"Starting Python and predicting one image takes {begin:.1f} s more."]
    print("\n".join(lines))
    if not options.dry:
        clock = "CPU time" if options.cpu_time else "wall time"
        note = f"{start}; {clock}, median of {options.rounds} interleaved rounds;"
        record(f"Prediction: {options.images:,} images of {options.side} px, {options.model} on {device}", note, lines)


if __name__ == "__main__":
    main()
