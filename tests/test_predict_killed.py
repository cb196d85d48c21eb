"""``medcore predict`` killed half-way leaves no CSV under its name, and an older one untouched."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_toys import start_process, toy_set

from medcore.cli import main, predict
from medcore.models.classifier import build_classifier
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Classification


def killed_at(row: int, arguments: list[str]) -> None:
    """The command itself, killed when some of the rows are in the file and on the disk."""
    real, rows = predict.table_rows, itertools.count(1)

    def table_rows(*given: Any) -> Iterator[Any]:
        for found in real(*given):
            if next(rows) == row:
                os.kill(os.getpid(), signal.SIGKILL)
            yield found

    predict.table_rows = table_rows
    main([*arguments, "--overwrite"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, patches = tmp_path_factory.mktemp("run"), toy_set(side=16)
    torch.manual_seed(0)
    sides = patches.where(split="train"), patches.where(split="val")
    model = build_classifier("small_cnn", 2, image_size=16)
    fit(
        model, Classification(patches.classes), *sides, TrainConfig(epochs=1, batch_size=36), out=folder, progress=False
    )
    return folder


def test_a_killed_prediction_is_never_half_true(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)):
        Image.fromarray(image).save(tmp_path / "new" / f"{number:02d}.png")
    out = tmp_path / "predictions.csv"
    arguments = ["predict", str(run), str(tmp_path / "new"), "--out", str(out), "--batch-size", "8", "--device", "cpu"]

    def predicted(killed: int) -> int | None:
        process = start_process(killed_at, killed, arguments)
        process.join(200)
        return process.exitcode

    assert predicted(20) == -signal.SIGKILL
    assert not out.exists()
    assert predicted(0) == 0  # the same command again does it all
    whole = out.read_text()
    lines = whole.splitlines()
    assert len(lines) == 41 and [Path(line.split(",")[0]).stem for line in lines[1:]] == [f"{n:02d}" for n in range(40)]
    assert predicted(20) == -signal.SIGKILL
    assert out.read_text() == whole
