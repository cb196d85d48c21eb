"""Opening a 2 GB PatchSet: time and memory, beside reading the same file with numpy.load.

Run: ``python benchmarks/patchset.py [--gigabytes 2]``; the figures go to benchmarks/RESULTS.md. With ``--sparse 100``
a set of 100 GB that takes no room on the disk (a sparse file, its pixels are zeros) is opened and trained from, beside
a small set that lies in memory: seconds a step and the process's own memory.
"""

import argparse
import gc
import io
import os
import resource
import statistics
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from results import machine, record
from sliding import own_memory

from medcore.data.card import Card
from medcore.data.patchset import PatchSet, PatchSetWriter
from medcore.models.classifier import build_classifier
from medcore.training.batches import Batches

SIDE, LARGE_SIDE, STEPS, BATCH = 64, 224, 16, 16


def make(path: Path, gigabytes: float) -> tuple[int, str]:
    count = int(gigabytes * 1e9 / (SIDE * SIDE * 3))
    card = Card(name="big", classes=["a", "b"])
    block = np.random.default_rng(0).integers(0, 256, (4096, SIDE, SIDE, 3), dtype=np.uint8)
    before = rss()
    with PatchSetWriter(path, shape=(SIDE, SIDE, 3), card=card) as writer:
        for start in range(0, count, len(block)):
            part = block[: min(len(block), count - start)]
            rows = [
                {"label": n % 2, "patient": f"P{n // 500:05d}", "source": f"images/{n:07d}.png"}
                for n in range(start, start + len(part))
            ]
            writer.add(part, rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    grown, size = (peak - before) / 1e6, path.stat().st_size / 1e9
    return count, f"- writing {size:.2f} GB, {count:,} images of {SIDE} px: memory grew by at most {grown:.0f} MB"


def rss() -> int:
    """Resident memory (bytes)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def make_sparse(path: Path, count: int) -> None:
    """A set of ``count`` images of zeros; only its table lies on the disk."""
    shape, start = (count, LARGE_SIDE, LARGE_SIDE, 3), io.BytesIO()
    np.lib.format.write_array_header_1_0(start, {"descr": "|u1", "fortran_order": False, "shape": shape})
    member = zipfile.ZipInfo("images.npy")
    member.CRC = 0  # never checked: nobody reads all of it
    member.file_size = member.compress_size = len(start.getvalue()) + int(np.prod(shape, dtype=np.int64))
    card, images = Card(name="sparse", classes=["a", "b"]), np.zeros((2, LARGE_SIDE, LARGE_SIDE, 3), np.uint8)
    small = PatchSet.from_arrays(images, {"label": np.array([0, 1])}, card).save(path.with_name("small.npz"))
    with zipfile.ZipFile(small.path) as template:  # type: ignore[arg-type]
        meta = template.read("meta.json")
    rows = {"labels": np.arange(count) % 2, "table/patient": np.array([f"P{n:05d}" for n in range(count)]),
            "table/split": np.full(count, "train"), "table/source": np.full(count, "made.png")}  # fmt: skip
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        archive.writestr("meta.json", meta)
        for name, values in rows.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values)
        member.header_offset = archive.fp.tell()  # type: ignore[union-attr]
        archive.fp.write(member.FileHeader(zip64=True) + start.getvalue())  # type: ignore[union-attr]
        archive.fp.truncate(archive.fp.tell() + int(np.prod(shape, dtype=np.int64)))  # type: ignore[union-attr]
        archive.fp.seek(0, os.SEEK_END)  # type: ignore[union-attr]
        archive.filelist.append(member)
        archive.NameToInfo[member.filename] = member
        archive.start_dir, archive._didModify = archive.fp.tell(), True  # type: ignore[attr-defined, union-attr]


def train_from(patches: PatchSet) -> tuple[float, list[int]]:
    """CPU seconds a step (median), and the own memory after every step, of the first steps of a shuffled epoch."""
    torch.manual_seed(0)
    model = build_classifier("small_cnn", 2).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    batches = Batches(patches, BATCH, torch.device("cpu"), shuffle=True)
    print(f"{len(patches):,} images, {'in memory' if batches.in_memory else 'streamed'}", flush=True)
    seconds, memory, last = [], [], time.process_time()
    for step, batch in enumerate(batches.epoch(1)):
        torch.nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.process_time() - last)
        memory.append(own_memory())
        last = time.process_time()
        if step + 1 == STEPS:
            break
    return statistics.median(seconds), memory


def sparse(gigabytes: float, *, dry: bool) -> None:
    """Trains from a set larger than memory and from one in memory."""
    count = int(gigabytes * 1e9 / (LARGE_SIDE**2 * 3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sparse.npz"
        make_sparse(path, count)
        start = time.perf_counter()
        patches = PatchSet.open(path)
        opened = time.perf_counter() - start
        size, room = path.stat().st_size / 1e9, path.stat().st_blocks * 512 / 1e6
        near, _ = train_from(patches.select(np.arange(BATCH * STEPS)))
        far, memory = train_from(patches)
    tenth = memory[len(memory) // 10]
    lines = [
        f"- {size:.1f} GB, {count:,} images of {LARGE_SIDE} px ({room:.0f} MB on the disk): opened in {opened:.2f} s",
        f"- a training step of {BATCH} images (small_cnn): streamed {1e3 * far:.0f} CPU ms, from memory "
        f"{1e3 * near:.0f} CPU ms, ratio {near / far:.2f}",
        f"- own memory after a tenth of {STEPS} steps {tenth / 1e6:.0f} MB, at the end {memory[-1] / 1e6:.0f} MB, at "
        f"most {max(memory) / 1e6:.0f} MB",
    ]
    print("\n".join(lines))
    if not dry:
        record(f"Training from a set of {gigabytes:g} GB (sparse)", f"{machine(torch.device('cpu'))};", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md alone")
    parser.add_argument("--sparse", type=float, help="train from a sparse set of so many GB instead")
    options = parser.parse_args()
    if options.sparse:
        sparse(options.sparse, dry=options.dry)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.npz"
        count, written = make(path, options.gigabytes)
        gc.collect()
        before, seconds = rss(), []
        for _ in range(7):
            start = time.perf_counter()
            patches = PatchSet.open(path)
            seconds.append(time.perf_counter() - start)
        grown = rss() - before
        start = time.perf_counter()
        patches.take(np.arange(0, count, max(1, count // 256)))
        take = time.perf_counter() - start
        start = time.perf_counter()
        with np.load(path) as arrays:
            arrays["images"]
        load = time.perf_counter() - start
    lines = [
        written,
        f"- `PatchSet.open`: {statistics.median(seconds) * 1e3:.1f} ms (median of 7), memory +{grown / 1e6:.1f} MB",
        f"- 256 images spread over the file: {take * 1e3:.1f} ms",
        f"- for comparison, `numpy.load` of all pixels: {load:.2f} s",
    ]
    print("\n".join(lines))
    if not options.dry:
        record(f"Opening a set of {options.gigabytes:g} GB", f"{machine(torch.device('cpu'))};", lines)


if __name__ == "__main__":
    main()
