"""``medcore predict`` killed half-way leaves no CSV under its name, and an older one untouched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_toys import toy_set

from medcore.models.classifier import build_classifier
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Classification

# the command itself, killed when half of the rows are in the file and on the disk
KILLED_HALF_WAY = """
import os, signal, sys
from medcore.cli import main, predict

real, done = predict.table_rows, 0

def table_rows(batch, top):
    global done
    for row in real(batch, top):
        done += 1
        if done == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield row

predict.table_rows = table_rows
main([*sys.argv[2:], "--overwrite"])
"""


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
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def predicted(script: str, *first: str) -> int:
        command = [sys.executable, "-c", script, *first, *arguments]
        return subprocess.run(command, capture_output=True, env=environment, timeout=200, check=False).returncode

    assert predicted(KILLED_HALF_WAY, "20") == -signal.SIGKILL
    assert not out.exists()
    assert predicted(KILLED_HALF_WAY, "0") == 0  # the same command again does it all
    whole = out.read_text()
    lines = whole.splitlines()
    assert len(lines) == 41 and [Path(line.split(",")[0]).stem for line in lines[1:]] == [f"{n:02d}" for n in range(40)]
    assert predicted(KILLED_HALF_WAY, "20") == -signal.SIGKILL
    assert out.read_text() == whole
