"""Time and memory of segmenting a very large image strip by strip; beside MONAI's SlidingWindowInferer.

    python benchmarks/sliding.py 20000        # side in pixels; needs side² × 4 bytes of disk
    python benchmarks/sliding.py 2048 --peer  # both on an image in memory; needs monai, which is not declared

Notes megapixels per CPU second and per second by the clock, and the peak of the process's own memory (the mapped input
file not counted) in benchmarks/RESULTS.md; ``--dry`` only prints them. On a machine that others use as well, CPU
seconds are what one core would take.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from results import interleaved, machine, paired, record

from medcore.evaluation.sliding import Window, predict_large
from medcore.models.unet import SmallUNet
from medcore.training.device import choose_precision

TILE, OVERLAP, BATCH, ROUNDS = 512, 0.25, 4, 5


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
        start, cpu = time.perf_counter(), time.process_time()
        window = Window(tile=TILE, overlap=OVERLAP)
        labels = predict_large(SmallUNet(2), np.load(path, mmap_mode="r"), Path(folder) / "labels.npy", window)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        stop.set()
        thread.join()
        line = (
            f"- {labels.shape[0]:,}×{labels.shape[1]:,} pixels: {cpu:.0f} CPU s, {side**2 / 1e6 / cpu:.2f} megapixels "
            f"a CPU second ({side**2 / 1e6 / seconds:.2f} by the clock), own memory {before / 1e6:.0f} MB before, "
            f"{max(peaks) / 1e6:.0f} MB at most"
        )
        print(line)
        if not dry:
            note = f"{machine(torch.device('cpu'))}; SmallUNet, tiles of 512 px, overlap 25 %;"
            record(f"Segmenting an image of {side:,} pixels a side", note, [line])


@torch.no_grad()
def by_monai(model: SmallUNet, pixels: np.ndarray, out: Path, precision: str, _: int) -> np.ndarray:
    """The same network, tiles, overlap and Gaussian weights by MONAI; classes on the disk as ours."""
    from monai.inferers import SlidingWindowInferer

    device = torch.device("cpu")
    chosen = choose_precision(precision, device, model)
    chosen.place(model, device).eval()
    inferer = SlidingWindowInferer(TILE, sw_batch_size=BATCH, overlap=OVERLAP, mode="gaussian", sigma_scale=0.125)
    images = chosen.arrange(torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div_(255))
    with chosen.autocast(device):
        labels = inferer(images, model).argmax(1)[0].to(torch.uint8).numpy()
    np.save(out, labels)
    return labels


def beside_monai(side: int, *, dry: bool) -> None:
    """Both ways in turns on one image; prints a row each."""
    device = torch.device("cpu")
    torch.manual_seed(0)
    model, pixels = SmallUNet(2), np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    rule = str(choose_precision("auto", device, model))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "labels.npy"

        def ours(_: int) -> np.ndarray:
            return predict_large(model, pixels, out, Window(tile=TILE, overlap=OVERLAP, batch_size=BATCH))

        runs = {
            "medcore": ours,
            f"MONAI, {rule} as ours": partial(by_monai, model, pixels, out, rule),
            "MONAI as it comes (fp32)": partial(by_monai, model, pixels, out, "fp32+contiguous"),
        }
        found = [np.array(run(0)) for run in runs.values()]
        rates = interleaved(runs, side**2 / 1e6, ROUNDS, device, cpu_time=True)  # type: ignore[arg-type]
    lines = ["| path | megapixels a CPU second | ours over theirs | same classes |", "|---|---|---|---|"]
    for (name, values), labels in zip(rates.items(), found, strict=True):
        ratio = paired(rates["medcore"], values)
        lines.append(f"| {name} | {statistics.median(values):.2f} | {ratio:.2f} | {(labels == found[0]).mean():.2%} |")
    print("\n".join(lines))
    if not dry:
        import monai

        note = f"{machine(device)}, monai {monai.__version__}; {ROUNDS} interleaved rounds, CPU time; SmallUNet, tiles of 512 px, overlap 25 %, Gaussian;"  # noqa: E501
        record(f"Sliding window beside MONAI, {side:,} pixels a side", note, lines)


if __name__ == "__main__":
    sides = [int(word) for word in sys.argv[1:] if word.isdigit()]
    work = beside_monai if "--peer" in sys.argv else main
    work(sides[0] if sides else 4000, dry="--dry" in sys.argv)
