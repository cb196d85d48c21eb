"""Small sets, models and child processes for the tests of medcore.training."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from medcore.cli import main
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.training import checkpoint, fit, state
from medcore.training.augment.recipe import Augment
from medcore.training.config import TrainConfig
from medcore.training.objectives import Classification

EVERYTHING = Augment(flip_horizontal=0.5, flip_vertical=0.5, turns=True, brightness=0.2, noise=0.05)


def toy_set(count: int = 60, side: int = 8, classes: int = 2, seed: int = 0, masks: bool = False) -> PatchSet:
    """Noise whose red channel tells the class; four images a patient, 60 % train, 20 % val, 20 % test."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    images = rng.integers(0, 120, (count, side, side, 3))
    images[..., 0] += (labels * 100 // max(classes - 1, 1))[:, None, None]
    split = np.repeat(["train", "val", "test"], [count - 2 * (count // 5), count // 5, count // 5])
    table = {"label": labels, "patient": [f"p{row // 4:03d}" for row in range(count)], "split": split}
    painted = (images[..., 1] > 60).astype(np.uint8) if masks else None
    card = Card("toy", classes=[f"c{k}" for k in range(classes)])
    return PatchSet.from_arrays(images.astype(np.uint8), table, card, painted)


def toy_manifest(**changes: Any) -> dict[str, Any]:
    """A manifest that is right, but for its hashes, which saving adds."""
    side = {"images": 4, "patients": 1, "fingerprint": "0" * 64, "rows_sha256": "0" * 64}
    return {
        "medcore": "1",
        "torch": "2",
        "architecture": {"family": "tiny", "args": {"classes": 2}},
        "weights": 65,
        "classes": ["x", "y"],
        "task": "classification",
        "objective": {"name": "Classification"},
        "image_shape": [8, 8, 3],
        "preprocessing": {},
        "normalisation": None,
        "config": {},
        "precision": {},
        "randomness": "none",
        "data": {"name": "toy", "train": side, "validation": side},
        "epoch": 1,
        "step": 1,
        "metrics": {},
        "monitor": {"name": "val_loss", "mode": "min", "best_epoch": 1},
        "history": [],
        "tables": {},
        "created": "2026-01-01T00:00:00+00:00",
        "extra": {},
    } | changes


class TinyNet(nn.Module):
    """Convolution, batch norm, dropout and a linear head: one of everything that keeps state or draws."""

    def __init__(self, classes: int = 2, dropout: float = 0.2, norm: bool = True) -> None:
        super().__init__()
        self.spec = {"family": "tiny", "args": {"classes": classes}}
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=not norm), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU()
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.body(images).mean((2, 3))))


def tiny(seed: int = 0, **options: Any) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet(**options)


def toy_config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {"epochs": 3, "batch_size": 10, "learning_rate": 0.01, "precision": "fp32", "seed": 7}
    values |= {"augment": EVERYTHING, "ema_decay": 0.5, "schedule": "one-cycle", "clip_norm": 5.0}
    return TrainConfig(**(values | changes))


def run_toy(out: Path | None, *, resume: bool = False, model: nn.Module | None = None, **changes: Any) -> Any:
    """One complete small run."""
    patches = toy_set()
    return fit.fit(
        tiny() if model is None else model,
        Classification(patches.classes),
        patches.where(split="train"),
        patches.where(split="val"),
        toy_config(**changes),
        out=out,
        progress=False,
        resume=resume,
    )


# what a child counts: every optimiser step, and every moment at which a save touches the disk
_MOMENTS = (("fsync", os), ("rename", os), ("replace", os), ("symlink", os))


def child(out: str, kill_at: int, changes: dict[str, Any], count_file: str | None) -> None:
    """Train in ``out``; SIGKILL oneself at the ``kill_at``-th event, half-way into a file where one is written.

    ``count_file`` gets the name of every event: ``take_step``, or what a save does.
    """
    torch.set_num_threads(1)
    events: list[str] = []

    def event(name: str) -> None:
        events.append(name)
        if len(events) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(function: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            event(function.__name__)
            return function(*args, **options)

        return counted

    def half_written(path: Path, payload: bytes) -> None:
        with open(path, "wb") as file:
            file.write(payload[: len(payload) // 2])
            file.flush()
            event("write")
            file.write(payload[len(payload) // 2 :])
            file.flush()
            os.fsync(file.fileno())

    for name, module in _MOMENTS:
        setattr(module, name, before(getattr(module, name)))
    checkpoint._write_synced = half_written
    checkpoint.shutil.rmtree = before(checkpoint.shutil.rmtree)
    state.TrainState.take_step = before(state.TrainState.take_step)
    run_toy(Path(out), resume=True, **changes)
    if count_file:
        Path(count_file).write_text("\n".join(events))


def start_process(target: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """Start a function in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medcore.training.fit", "torch._dynamo"])  # imported once, for all children
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def in_child(out: Path, kill_at: int = 0, count_file: Path | None = None, **changes: Any) -> int:
    """Run ``child`` in a process of its own; returns its exit code (-9 when killed)."""
    process = start_process(child, str(out), kill_at, changes, None if count_file is None else str(count_file))
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def final_tensors(out: Path) -> dict[str, Tensor]:
    """Weights and optimiser state of the last checkpoint of a run."""
    folder = checkpoint.find(out, "last")
    return checkpoint.read_checkpoint(folder)[0] | checkpoint.read_checkpoint(folder, checkpoint.STATE)[0]


def ended(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, list[str]]:
    """Exit code of a command and the lines on the terminal, without progress bars."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    lines = (captured.out + captured.err.replace("\r", "\n")).splitlines()
    return int(end.value.code or 0), [line for line in lines if line.strip() and not re.search(r"[a-z]+/s\b", line)]


def write_table(
    folder: Path, patients: int, seed: int = 0, prefix: str = "p", classes: tuple[str, str] = ("a", "b")
) -> None:
    """Two images a patient, 16 pixels a side, and a ``metadata.csv``; red tells the class."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = ["image,label,patient"]
    for patient in range(patients):
        for n in range(2):
            pixels = rng.integers(0, 120, (16, 16, 3), dtype=np.uint8)
            pixels[..., 0] += np.uint8(100 * (patient % 2))
            name = f"images/{prefix}{patient:03d}-{n}.png"
            Image.fromarray(pixels).save(folder / name)
            rows.append(f"{name},{classes[patient % 2]},{prefix}{patient:03d}")
    (folder / "metadata.csv").write_text("\n".join(rows))


def write_ct(folder: Path, per_class: int) -> None:
    """CT slices in which only a window of soft tissue shows the lesion; two slices a patient."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    for k, name in enumerate(("well", "ill")):
        (folder / name).mkdir(parents=True)
        for n in range(per_class):
            values = rng.integers(-30, 30, (32, 32)).astype(float)
            values[(y - 16) ** 2 + (x - 16) ** 2 < 50] += 40 + 120 * k
            values[:3] = -1000
            meta = FileMetaDataset()
            meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
            meta.MediaStorageSOPInstanceUID = generate_uid()
            image = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
            image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
            image.PatientID, image.RescaleSlope, image.RescaleIntercept = f"P{k}-{n // 2}", "1", "-1024"
            image.Rows = image.Columns = 32
            image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
            image.BitsAllocated = image.BitsStored = 16
            image.HighBit, image.PixelRepresentation = 15, 1
            image.PixelData = (values + 1024).astype(np.int16).tobytes()
            pydicom.dcmwrite(folder / name / f"{n}.dcm", image, enforce_file_format=True)
