"""Speed of training, side by side with what people use today; results go to benchmarks/RESULTS.md.

    python benchmarks/training.py                        # everything: about an hour on two cores
    python benchmarks/training.py end stall --models resnet18 --rounds 3
    python benchmarks/training.py precision              # what the rules in precision.py stand on

Paths run interleaved (one epoch each, in turns), so that a busy machine slows all of them alike; the figures are
medians over the rounds, after one round to warm up. Read the ratios, not the absolute numbers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import augment
import paths as ways
import torch
from results import interleaved, machine, paired, record
from torch.utils.flop_counter import FlopCounterMode

from medcore.training.device import choose_device, kept_between_steps

IMAGES = {"autoencoder": 1024, "resnet18": 256}  # per epoch; 128 for the larger ones
PRECISIONS = ("fp32+contiguous", "fp32+channels_last", "bf16+contiguous", "bf16+channels_last")


def rates_of(
    epochs: dict[str, ways.Epoch], images: int, options: argparse.Namespace, device: torch.device
) -> dict[str, list[float]]:
    """Images per second of every path, one value per round."""
    return interleaved(epochs, images, options.rounds, device, cpu_time=options.cpu_time)


def middle(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def end_to_end(options: argparse.Namespace, device: torch.device) -> list[str]:
    """Images per second of whole epochs, ours and the peers'."""
    lines = ["| model | precision by rule | medcore | files + torchvision | × | arrays + v2 | × | timm loader | × |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for name in options.models:
        count = options.images or IMAGES.get(name, 128)
        patches = ways.make_set(count, options.side)
        with tempfile.TemporaryDirectory() as folder:
            files = ways.write_files(patches, Path(folder))
            state = ways.our_state(name, patches, device)
            epochs = {"medcore": ways.our_epoch(name, patches, device, batch_size=options.batch)}
            for kind in ("files", "arrays", "timm"):
                if kind == "timm" and name.startswith(("autoencoder", "unet")):
                    continue
                epochs[kind] = ways.peer_epoch(kind, name, patches, files, device, options.batch, options.workers)
            rates = rates_of(epochs, count, options, device)
        cells = [name, str(state.precision), f"{middle(rates['medcore']):.0f}"]
        for kind in ("files", "arrays", "timm"):
            known = kind in rates
            cells += (
                [f"{middle(rates[kind]):.0f}", f"**{paired(rates['medcore'], rates[kind]):.2f}**"]
                if known
                else ["–", "–"]
            )
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


def graphics_card(options: argparse.Namespace, device: torch.device) -> list[str]:
    """On a GPU: images per second of ours, memory, and the share of the peak arithmetic (MFU) that this uses."""
    if device.type != "cuda":
        print(OPEN)
        return [OPEN]
    lines = ["| model | precision | images/s | GiB | TFLOP/s | MFU | peak assumed |", "|---|---|---|---|---|---|---|"]
    name_of_card = torch.cuda.get_device_name(device)
    peak = next((value for key, value in PEAK_TFLOPS.items() if key in name_of_card), None)
    for name in options.models:
        count = options.images or 64 * options.batch
        patches = ways.make_set(count, options.side)
        torch.cuda.reset_peak_memory_stats(device)
        state = ways.our_state(name, patches, device, batch_size=options.batch)
        epoch = ways.our_epoch(name, patches, device, batch_size=options.batch)
        rate = middle(rates_of({"medcore": epoch}, count, options, device)["medcore"])
        work = rate * operations(name, options.side) / 1e12
        share = f"{100 * work / peak:.0f} % | {peak:.0f} TFLOP/s" if peak else "– | unknown card"
        memory = torch.cuda.max_memory_allocated(device) / 2**30
        cells = f"{name} | {state.precision} | {rate:.0f} | {memory:.1f} | {work:.1f} | {share}"
        lines.append(f"| {cells} |")
        print(lines[-1], flush=True)
    return lines


OPEN = """Open: no GPU on this machine. Still to be measured on an H200-class card, with

    python benchmarks/training.py end stall gpu --side 224 --batch 256 --models resnet50 efficientnet_b3 unet_resnet50

| what | goal |
|---|---|
| loader stall | at most 1 % |
| ResNet-50, 224 px, bf16 | at least 6,000 images/s |
| EfficientNet-B3, 224 px | at least 5,000 images/s (the memory roofline is about 16,500) |
| U-Net with ResNet-50, 224 px | at least 2,000 images/s |"""
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L4": 121.0}  # dense bf16, from the vendor's data sheets


def operations(name: str, side: int) -> float:
    """Floating-point operations of one image forward and backward: three times the forward pass."""
    model, _ = ways.make_model(name, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.train()(torch.rand(2, 3, side, side))
    return 3 * counter.get_total_flops() / 2


def stall(options: argparse.Namespace, device: torch.device) -> list[str]:
    """Share by which an epoch takes longer than the same steps on one constant batch.

    The last column is the cost of making the batches alone, as a share of the constant epoch: where every core is busy,
    that is the stall, measured without taking the difference of two long times; an idle core hides it.
    """
    lines = ["| model | loader | augmentation | images/s | on a constant batch | stall | cost of the loader alone |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name in options.models:
        count = options.images or IMAGES.get(name, 128)
        patches = ways.make_set(count, options.side)
        with tempfile.TemporaryDirectory() as folder:
            stored = patches.save(Path(folder) / "set.npz")
            for loader in ("memory", "stream"):
                for label, recipe in (("none", None), ("flips + colour", ways.RECIPE)):
                    epochs = _stall_paths(name, stored, device, loader, recipe, options.batch)
                    rates = rates_of(epochs, count, options, device)
                    share = paired(rates["constant"], rates["real"]) - 1
                    cost = paired(rates["constant"], rates["loader"])
                    cells = [name, loader, label, f"{middle(rates['real']):.0f}", f"{middle(rates['constant']):.0f}"]
                    lines.append("| " + " | ".join([*cells, f"{100 * share:.1f} %", f"{100 * cost:.1f} %"]) + " |")
                    print(lines[-1], flush=True)
    return lines


def _stall_paths(name, patches, device, loader, recipe, batch) -> dict[str, ways.Epoch]:  # type: ignore[no-untyped-def]
    state = ways.our_state(name, patches, device, loader=loader, augment=recipe, batch_size=batch)
    real, constant = state.batches, ways.ConstantBatches(state)
    display = ways.Display(state, None, show=False)

    def run(batches: object) -> ways.Epoch:
        def epoch(number: int) -> None:
            state.batches = batches  # type: ignore[assignment]
            ways.loop.train_epoch(state, number, display)

        return epoch

    def drain(number: int) -> None:
        for _ in real.epoch(number, recipe):
            pass

    return {"real": run(real), "constant": run(constant), "loader": drain}


def precision(options: argparse.Namespace, device: torch.device) -> list[str]:
    """Images per second of ours in every number format and layout: what the rules in precision.py stand on."""
    kinds = [*PRECISIONS, *(["bf16+channels_last+compile"] if options.compile else [])]
    lines = ["| model | " + " | ".join(kinds) + " | rule |", "|---" * (len(kinds) + 2) + "|"]
    for name in options.models if options.models != list(ways.MODELS) else [*ways.MODELS, *ways.FURTHER]:
        count = options.images or IMAGES.get(name, 128)
        patches = ways.make_set(count, options.side)
        epochs = {k: ways.our_epoch(name, patches, device, precision=k, batch_size=options.batch) for k in kinds}
        rates = {kind: middle(values) for kind, values in rates_of(epochs, count, options, device).items()}
        best = max(rates, key=lambda kind: rates[kind])
        cells = [f"**{rates[kind]:.0f}**" if kind == best else f"{rates[kind]:.0f}" for kind in kinds]
        rule = str(ways.our_state(name, patches, device).precision)
        lines.append("| " + " | ".join([name, *cells, rule]) + " |")
        print(lines[-1], flush=True)
    return lines


SECTIONS: dict[str, tuple[str, Callable[[argparse.Namespace, torch.device], list[str]]]] = {
    "end": ("End to end: training, images/s (ratio: ours over theirs)", end_to_end),
    "stall": ("Loader stall: an epoch over the same steps on one constant batch", stall),
    "precision": ("Number format and layout, images/s", precision),
    "gpu": ("On a GPU: memory and share of the peak", graphics_card),
    "augment": ("Augmentation alone, images/s", augment.augmentation_table),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), help=f"some of {', '.join(SECTIONS)}")
    parser.add_argument(
        "--models", nargs="+", default=list(ways.MODELS), choices=ways.MODELS + ways.FURTHER + ways.LARGE
    )
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--images", type=int, default=0, help="images per epoch; 0 takes what suits the model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the peers' loaders")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds: for busy machines, with one thread")
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md alone")
    options = parser.parse_args()
    device = choose_device(options.device)
    for section in options.sections:
        title, function = SECTIONS[section]
        start = machine(device)
        print(f"== {title}\n{start}", flush=True)
        with kept_between_steps():  # as in fit(); the peers' loops profit as well
            lines = function(options, device)
        if not options.dry:
            clock = "CPU time" if options.cpu_time else "wall time"
            limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
            where = f"{device.type} without AMX" if limit and "AMX" not in limit else device.type
            note = f"{start}; batch {options.batch}, {clock}, median of {options.rounds} interleaved rounds;"
            size = "" if section in ("augment", "gpu") else f", {options.side} px on {where}"
            record(title + size, note, lines)


if __name__ == "__main__":
    main()
