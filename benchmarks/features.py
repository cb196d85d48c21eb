"""Features of many images: our store beside timm's own model on tensors that are already in memory.

    python benchmarks/features.py                          # 10,000 images of 224 px: an hour on two cores
    python benchmarks/features.py --images 256 --dry       # print only

The peer is timm's network in a bare loop over batches of the same size and number format, with nothing to read and
nothing to write. Ours reads a set from the disk, normalises, computes and writes; each round starts without a store.
Memory is what the process gained while the last three quarters of the first round were computed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import paths as ways
import psutil
import timm
import torch
from results import interleaved, machine, paired, record

from medcore.data.patchset import PatchSet
from medcore.evaluation.features import features
from medcore.evaluation.predict import auto_batch_size
from medcore.models.classifier import Classifier, build_classifier


def bare(name: str, images: torch.Tensor, size: int) -> ways.Epoch:
    """The network of timm over batches in memory."""
    model = timm.create_model(name.removeprefix("timm:"), num_classes=0).eval().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def run(number: int) -> None:
        for batch in images.split(size):
            model(batch.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last))

    return run


def ours(encoder: Classifier, stored: Path, home: Path, gained: list[float]) -> ways.Epoch:
    """``features`` of a set on the disk into a store of the round's own."""

    def run(number: int) -> None:
        patches, process = PatchSet.open(stored), psutil.Process()
        quarter = patches.select(range(len(patches) // 4))
        features(quarter, encoder, home=home / f"quarter {number}")
        before = process.memory_info().rss
        features(patches, encoder, home=home / str(number))
        gained.append((process.memory_info().rss - before) / 2**20)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=224, help="pixels")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md alone")
    options = parser.parse_args()
    device, gained = torch.device("cpu"), list[float]()
    start = machine(device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        patches = ways.make_set(options.images, options.side)
        stored = Path(str(patches.select(range(len(patches))).save(folder / "set.npz").path))
        encoder = build_classifier(options.model, 2, weights="imagenet")
        size = auto_batch_size(patches.shape, device)
        images = torch.from_numpy(patches.take()).permute(0, 3, 1, 2)
        runs = {"timm": bare(options.model, images, size), "medcore": ours(encoder, stored, folder / "f", gained)}
        rates = interleaved(runs, options.images, options.rounds, device)
        rates["medcore"] = [1.25 * rate for rate in rates["medcore"]]  # a quarter of the images was encoded twice
        began = time.perf_counter()
        again = features(PatchSet.open(stored), encoder, home=folder / "f" / "1")
        seconds = time.perf_counter() - began
        assert again.reused == options.images
    lines = [
        "| path | images/s |",
        "|---|---|",
        *(f"| {label} | {statistics.median(values):.1f} |" for label, values in rates.items()),
        "",
        f"Ours over timm's: {paired(rates['medcore'], rates['timm']):.2f}. "
        f"A second run, from the store: {seconds:.2f} s. "
        f"Memory gained over the last three quarters: {gained[0]:.0f} MB.",
    ]
    print("\n".join(lines))
    if not options.dry:
        title = f"Features: {options.images:,} images of {options.side} px, {options.model} on cpu"
        record(title, f"{start}; wall time, median of {options.rounds} interleaved rounds;", lines)


if __name__ == "__main__":
    main()
