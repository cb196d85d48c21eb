"""Whole slides: tiles read beside a plain OpenSlide loop, and a large slide segmented.

    python benchmarks/slides.py 20000        # side in pixels of a phantom slide, drawn first

Notes CPU and wall milliseconds a tile of both ways (interleaved rounds, the median of their ratios), and megapixels a
CPU second and the peak of the process's own memory for the segmentation, in benchmarks/RESULTS.md; ``--dry`` only
prints them.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import openslide
import torch
from PIL import Image
from results import machine, paired, record
from sliding import own_memory, watch

from medcore.data.parallel import available_cores
from medcore.data.phantoms.slides import make_slides
from medcore.data.slides.slide import Slide
from medcore.data.slides.tiles import TileRule, read_tiles, tile_grid
from medcore.data.slides.tissue import find_tissue
from medcore.evaluation.segmenter import Segmenter
from medcore.evaluation.sliding import Window
from medcore.models.unet import SmallUNet
from medcore.studies.slides.segment import segment_slide

ROUNDS, TILES, SIZE = 7, 400, 224


def by_loop(path: Path, regions: np.ndarray) -> int:
    """What one writes first: a region of level 0, as RGB, resized."""
    total = 0
    with openslide.OpenSlide(path) as slide:
        for x, y, width, height in regions.tolist():
            level = slide.get_best_level_for_downsample(width / SIZE)
            shrink = slide.level_downsamples[level]
            region = slide.read_region((x, y), level, (round(width / shrink), round(height / shrink)))
            total += int(np.asarray(region.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)).shape[0])
    return total


def by_us(path: Path, regions: np.ndarray) -> int:
    """The same tiles as ``data prepare`` reads them."""
    with Slide(path) as slide:
        return sum(tile.shape[0] for tile in read_tiles(slide, regions, (SIZE, SIZE)))


def reading(path: Path, mpp: float) -> str:
    """One line on the reading of tiles."""
    with Slide(path) as slide:
        grid = tile_grid(slide, TileRule((SIZE, SIZE), mpp))
    middle = len(grid) // 2
    regions = grid[max(0, middle - TILES // 2) : middle + TILES // 2]
    cpu: dict[str, list[float]] = {"loop": [], "ours": []}
    clock: dict[str, list[float]] = {"loop": [], "ours": []}
    for _ in range(ROUNDS):
        for name, way in (("loop", by_loop), ("ours", by_us)):
            start, at = time.process_time(), time.perf_counter()
            assert way(path, regions) == SIZE * len(regions)
            cpu[name].append(1e3 * (time.process_time() - start) / len(regions))
            clock[name].append(1e3 * (time.perf_counter() - at) / len(regions))
    rows = []
    for kind, spent in (("CPU", cpu), ("clock", clock)):
        loop, ours = (statistics.median(spent[name]) for name in ("loop", "ours"))
        rows.append(f"{kind} {loop:.2f} and {ours:.2f} ms a tile, ratio {paired(spent['loop'], spent['ours']):.2f}")
    return f"- tiles of {SIZE} px at {mpp:g} µm, loop and ours: {'; '.join(rows)} (ours: {available_cores()} threads)"


def segmenting(path: Path, folder: Path) -> str:
    """One line on the segmentation of the slide at its own pixel size."""
    torch.manual_seed(0)
    segmenter = Segmenter(SmallUNet(2), ["background", "tissue"], Window(tile=512, overlap=0.25), pixel_size_um=0.5)
    before, peaks, stop = own_memory(), [0], threading.Event()
    thread = threading.Thread(target=watch, args=(stop, peaks))
    thread.start()
    start, cpu = time.perf_counter(), time.process_time()
    with Slide(path) as slide:
        height, width = slide.shape
        found = find_tissue(slide)
        answer = segment_slide(segmenter, slide, found, 0.5, folder / "s")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    stop.set()
    thread.join()
    area = height * width / 1e6
    return (
        f"- {height:,}×{width:,} pixels, {100 * found.tissue.mean():.0f} % tissue, {answer.tiles} tiles computed: "
        f"{cpu:.0f} CPU s, {area / cpu:.2f} megapixels a CPU second ({seconds:.0f} s by the clock), own memory "
        f"{before / 1e6:.0f} MB before, {max(peaks) / 1e6:.0f} MB at most"
    )


def main(side: int, *, dry: bool) -> None:
    """Draws a slide, reads and segments it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.process_time()
        path = make_slides(folder / "slides", slides=1, side=side) / "P001.tiff"
        lines = [f"- phantom slide of {side:,} pixels a side: drawn in {time.process_time() - start:.0f} CPU s"]
        print(lines[0], flush=True)
        for line in (reading(path, 0.5), reading(path, 1.3), segmenting(path, folder)):
            print(line, flush=True)
            lines.append(line)
    if not dry:
        record(
            f"Whole slides, {side:,} pixels a side", f"{machine(torch.device('cpu'))}; SmallUNet, 512 px tiles;", lines
        )


if __name__ == "__main__":
    sides = [int(word) for word in sys.argv[1:] if word.isdigit()]
    main(sides[0] if sides else 4096, dry="--dry" in sys.argv)
