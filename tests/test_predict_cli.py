"""``medcore predict`` and ``medcore train classifier`` as their users meet them: wrong input, and another machine."""

from __future__ import annotations

import csv
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_toys import ended, toy_set

import medcore
from medcore.cli.train import make_config
from medcore.data.load import read_set
from medcore.data.splits import assign_splits
from medcore.data.stain import typical_staining
from medcore.evaluation.features import features
from medcore.evaluation.predict import predict
from medcore.evaluation.predictor import equip
from medcore.models.classifier import build_classifier
from medcore.studies.heads import FINE_TUNING, fit_head
from medcore.training.checkpoint import load_checkpoint
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Classification

ELSEWHERE = """
import sys
from pathlib import Path
import numpy as np
import medcore

predictor = medcore.load("checkpoint")
(batch,) = predictor.predict(sorted(Path("images").iterdir()))
np.savez("said.npz", probabilities=batch.probabilities, classes=predictor.classes, distance=batch.distance)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with everything that prediction uses."""
    folder, patches = tmp_path_factory.mktemp("run"), toy_set(side=16)
    torch.manual_seed(0)
    model, sides = build_classifier("small_cnn", 2, image_size=16), [patches.where(split=s) for s in ("train", "val")]
    config = TrainConfig(epochs=1, batch_size=12, precision="fp32")
    fit(model, Classification(patches.classes), *sides, config, out=folder, progress=False)
    equip(folder, model, *sides, temperature=1.7)
    return folder / "checkpoints" / "best"


def picture(path: Path, side: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def bomb(path: Path) -> None:
    """A PNG of 100 megapixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeezed = zlib.compressobj(9)
    rows = b"".join(squeezed.compress(bytes(10_001)) for _ in range(10_000)) + squeezed.flush()
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def prepare(place: Path, what: str) -> Path:
    """A wrong image of each kind."""
    path = place / what
    if what == "empty":
        path.mkdir()
    elif what == "text.png":
        path.write_text("hello")
    elif what == "truncated.png":
        path.write_bytes(picture(place / "whole.png").read_bytes()[:200])
    elif what == "bomb.png":
        bomb(path)
    elif what == "arrays.npz":
        np.savez(path, images=np.zeros((2, 16, 16, 3), np.uint8))
    return path


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing.png", "does not exist"),
        ("empty", "no images in"),
        ("text.png", "not an image"),
        ("truncated.png", "truncated"),
        ("bomb.png", "100 million pixels"),
        ("arrays.npz", "not a PatchSet"),
    ],
)
def test_a_wrong_image_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture, what: str, words: str
) -> None:
    path, out = prepare(tmp_path, what), tmp_path / "out.csv"
    code, (line,) = ended(capsys, "predict", checkpoint, path, "--out", out)
    assert code == 1 and words in line and str(path) in line
    assert not out.exists()


def test_options_of_decoding_overrule_the_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """What messages about files name: here the bound on pixels, and which values are black and white."""
    code, lines = ended(capsys, "predict", checkpoint, picture(tmp_path / "a.png"), "--max-pixels", 4)
    assert code == 1 and "--max-pixels" in lines[-1]
    Image.fromarray(np.full((16, 16), 1000, np.uint16)).save(tmp_path / "deep.png")
    said = {}
    for high in (1000, 65535):
        out = tmp_path / f"{high}.npz"
        options = ["--value-range", 0, high, "--out", out]
        code, lines = ended(capsys, "predict", checkpoint, tmp_path / "deep.png", *options)
        assert code == 0 and any("value_range" in line for line in lines)
        said[high] = np.load(out)["probabilities"]
    assert not np.allclose(said[1000], said[65535])  # white, and nearly black


@pytest.mark.parametrize("there", [True, False])
def test_a_wrong_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture, there: bool) -> None:
    image, folder = picture(tmp_path / "a.png"), tmp_path / "run"
    folder.mkdir() if there else None
    code, (line,) = ended(capsys, "predict", folder, image)
    assert code == 1 and str(folder) in line and ("no checkpoint" if there else "does not exist") in line


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_skipped_images_are_listed_and_a_table_without_rows_is_not_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture, suffix: str
) -> None:
    bad, out = prepare(tmp_path, "truncated.png"), tmp_path / f"out{suffix}"
    arguments = ("predict", checkpoint, bad, "--on-error", "skip", "--out", out)
    code, lines = ended(capsys, *arguments)
    assert code == 1 and not out.exists()
    assert any(line.startswith("skipped") and "truncated.png" in line for line in lines) and "nothing" in lines[-1]
    code, lines = ended(capsys, *arguments, picture(tmp_path / "good.png"))
    assert code == 0 and out.exists() and "1 of 2 images predicted" in lines
    assert any(line.startswith("skipped") and "truncated.png" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--epochs", "0"], 2, "epochs=0"),
        (["--epoch", "3"], 2, "--epochs"),
        (["--learning-rate", "-1"], 2, "learning_rate=-1"),
        (["--model", "resnet99"], 1, "resnet50"),
        ([], 1, "one class only"),
    ],
)
def test_wrong_training_is_named(
    tmp_path: Path, tmp_data: Path, capsys: pytest.CaptureFixture, options: list[str], code: int, words: str
) -> None:
    classes = ["only"] if not options else ["one", "two"]
    for name in classes:
        for number in range(8):
            picture(tmp_path / "set" / name / f"{name} {number}.png")
    out = tmp_path / "run"
    found, lines = ended(capsys, "train", "classifier", "--data", tmp_path / "set", "--out", out, *options)
    assert found == code and words in lines[-1] and not any("Traceback" in line for line in lines)
    assert not out.exists()


def test_a_checkpoint_alone_predicts_in_another_place(checkpoint: Path, tmp_path: Path) -> None:
    """Another process and folder, nothing beside the checkpoint: the same answers, classes and temperature."""
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    for number in range(5):
        picture(tmp_path / "images" / f"{'x' * (5 - number)}.png", side=20)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDCORE")}
    command = [sys.executable, "-c", ELSEWHERE]
    subprocess.run(command, cwd=tmp_path, env=environment | {"OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    said = np.load(tmp_path / "said.npz")
    (here,) = medcore.load(checkpoint).predict(sorted((tmp_path / "images").iterdir()))
    assert said["classes"].tolist() == ["c0", "c1"]
    assert np.allclose(said["probabilities"], here.probabilities, atol=1e-6)
    assert np.allclose(said["distance"], here.distance, rtol=1e-4)
    bare = medcore.load(checkpoint)
    pixels = torch.from_numpy(here.pixels).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        assert np.allclose((bare.model(pixels) / 1.7).softmax(1).numpy(), said["probabilities"], atol=1e-5)


def test_many_files_keep_their_order(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """More files than one thread is handed at a time, in folders below each other, sorted as paths."""
    for number in range(40):
        picture(tmp_path / "new" / f"{number % 3}" / f"{number:02d}.png")
        picture(tmp_path / "new" / f"{number:02d}.jpg")
    out = tmp_path / "out.csv"
    assert ended(capsys, "predict", checkpoint, tmp_path / "new", "--out", out)[0] == 0
    found = [row["image"] for row in csv.DictReader(open(out))]
    assert found == [str(path) for path in sorted((tmp_path / "new").rglob("*.*"))] and len(found) == 80


def test_efficientnet_b3_trains_two_steps_in_the_smoke_profile(
    tmp_path: Path, tmp_data: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("a", "b"):
        for number in range(30):
            picture(tmp_path / "set" / name / f"{'x' * number} {number}.png", side=32)
    out, arguments = tmp_path / "run", ["--model", "efficientnet_b3", "--profile", "smoke", "--device", "cpu"]
    code, _ = ended(capsys, "train", "classifier", "--data", tmp_path / "set", "--out", out, *arguments)
    manifest = medcore.load(out).manifest
    assert code == 0 and manifest["step"] == 2
    assert manifest["architecture"]["args"]["name"] == "efficientnet_b3"


def test_a_model_of_timm_and_a_staining_go_from_train_to_predict_and_evaluate(
    tmp_path: Path, tmp_data: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("a", "b"):
        for number in range(30):
            picture(tmp_path / "set" / name / f"{name}{'x' * number}{number}.png", side=32)
    out, arguments = tmp_path / "run", ["--profile", "smoke", "--device", "cpu", "--stain", "macenko"]
    data = ("--data", tmp_path / "set")
    code, lines = ended(capsys, "train", "classifier", *data, "--out", out, "--model", "timm:resnet10t", *arguments)
    assert code == 0, lines
    loaded = load_checkpoint(out)
    facts = loaded.manifest["architecture"]["args"]
    assert facts["name"] == "timm:resnet10t" and len(facts["stain"]) == 8
    train = assign_splits(read_set(tmp_path / "set")).where(split="train")
    assert facts["stain"] == pytest.approx(typical_staining(train).as_list())
    table = tmp_path / "answers.csv"
    assert ended(capsys, "predict", out, tmp_path / "set", "--out", table)[0] == 0
    rows = list(csv.DictReader(open(table)))
    images = np.stack([np.asarray(Image.open(row["image"]).convert("RGB")) for row in rows])
    with torch.no_grad():
        logits = loaded.model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    expected = (logits / loaded.manifest["extra"]["temperature"]).softmax(1).argmax(1)
    assert [row["label"] for row in rows] == [loaded.classes[k] for k in expected]
    assert ended(capsys, "evaluate", out, *data)[0] == 0
    code, lines = ended(capsys, "train", "autoencoder", *data, "--out", tmp_path / "s", "--normal", "a", *arguments)
    assert code == 1 and "leave it out" in "".join(lines)


def test_a_classifier_is_fine_tuned_from_a_linear_probe(
    tmp_path: Path, tmp_data: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("a", "b"):
        for number in range(30):
            picture(tmp_path / "set" / name / f"{name}{'x' * number}{number}.png", side=32)
    foreign = build_classifier("timm:resnet10t", 2)
    torch.save(foreign.backbone.net.state_dict(), tmp_path / "resnet10t.pth")
    out, data = tmp_path / "run", ("--data", tmp_path / "set", "--model", "timm:resnet10t", "--device", "cpu")
    weights = f"{tmp_path / 'resnet10t.pth'}+probe"
    still = ("--weights", weights, "--profile", "smoke", "--learning-rate", "1e-12")
    code, lines = ended(capsys, "train", "classifier", *data, "--out", out, *still)
    assert code == 0, lines
    loaded = load_checkpoint(out)
    args = loaded.manifest["architecture"]["args"]
    assert args["levels"] and args["side"] == 64 and args["frozen_batch_norm"]
    train = assign_splits(read_set(tmp_path / "set")).where(split="train")
    values = features(train, loaded.model).values
    peer = fit_head("linear probe", values, train, balanced=False).probabilities(values)
    np.testing.assert_allclose(predict(loaded.model, train), peer, atol=1e-3)  # at a rate of nothing: the probe itself
    assert make_config("classifier", "quick", {}, probed=True).learning_rate == FINE_TUNING["learning_rate"]
    assert make_config("classifier", "quick", {"epochs": "7"}, probed=True).epochs == 7
    for wrong in (("--weights", "+probe"), ("--weights", "random+probe")):
        code, lines = ended(capsys, "train", "classifier", *data, "--out", tmp_path / "wrong", *wrong)
        assert code == 1 and "pretrained weights" in "".join(lines)
    code, lines = ended(capsys, "train", "classifier", *data, "--out", tmp_path / "wrong", *still, "--folds", "2")
    assert code == 2 and "folds hold out" in "".join(lines)
