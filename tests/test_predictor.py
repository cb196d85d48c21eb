"""A checkpoint is enough to predict: the model's probabilities, in order, calibrated, and honest about strangers."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import medcore
from medcore.cli import cli
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.predictor import equip, find_images
from medcore.models.classifier import build_classifier
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Classification


def stripes(count: int, seed: int) -> PatchSet:
    """Horizontal or vertical stripes: a question of shape, the same colours in both classes."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 2
    wave = (120 + 100 * np.sin(np.arange(32) * 0.9)).astype(np.int64)
    images = np.where(label[:, None, None] == 0, wave[None, :, None], wave[None, None, :])[..., None]
    images = np.clip(images + rng.integers(-20, 21, (count, 32, 32, 3)), 0, 255).astype(np.uint8)
    table = {
        "label": label,
        "patient": [f"P{n % 12}" for n in range(count)],
        "source": [f"{n}.png" for n in range(count)],
    }
    return PatchSet.from_arrays(images, table, Card("stripes", classes=["across", "down"]))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train = stripes(96, 0).with_split(["train"] * 96)
    validation = stripes(48, 1).with_split(["val"] * 48)
    torch.manual_seed(0)
    model = build_classifier("small_cnn", 2, image_size=32)
    config = TrainConfig(epochs=3, batch_size=16, learning_rate=3e-3, precision="fp32")
    fit(model, Classification(train.classes), train, validation, config, out=folder, progress=False)
    equip(folder, model, train, validation, temperature=2.0)
    return folder


def write_images(folder: Path, images: np.ndarray) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"image {n:03d}.png" for n in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def test_files_arrays_and_sets_give_the_same_answers_in_order(run: Path, tmp_path: Path) -> None:
    new = stripes(20, 5)
    predictor = medcore.load(run)
    expected = predictor.probabilities(new)
    with torch.no_grad():
        pixels = torch.from_numpy(new.take()).permute(0, 3, 1, 2).float() / 255
        oracle = (predictor.model(pixels) / 2.0).softmax(1).numpy()
    assert np.allclose(expected, oracle, atol=1e-4)
    write_images(tmp_path / "new", new.take())
    for source in (new.take(), tmp_path / "new", str(tmp_path / "new" / "*.png")):
        batches = list(predictor.predict(source, batch_size=7))
        assert np.allclose(np.concatenate([b.probabilities for b in batches]), expected, atol=1e-5)
    assert [name for b in predictor.predict(tmp_path / "new") for name in b.images] == [
        str(p) for p in find_images(tmp_path / "new")
    ]


def test_it_has_learnt_the_shapes_and_notices_strangers(run: Path) -> None:
    predictor = medcore.load(run)
    new = stripes(40, 7)
    (batch,) = predictor.predict(new)
    assert np.mean(np.array(batch.labels) == new.label_names) > 0.9
    assert batch.unusual.mean() <= 0.2
    strange = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    (batch,) = predictor.predict(strange)
    assert batch.unusual.mean() > 0.8


def test_the_csv_is_whole_and_safe(run: Path, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "new", stripes(6, 5).take())
    paths[0].rename(tmp_path / "new" / "=1+1.png")
    out = tmp_path / "p.csv"
    result = CliRunner().invoke(cli, ["predict", str(run), str(tmp_path / "new"), "--out", str(out), "--top", "2"])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(open(out)))
    assert len(rows) == 6
    assert set(rows[0]) == {"image", "label", "confidence", "label_2", "confidence_2", "distance", "seen_in_training"}
    assert all(abs(float(r["confidence"]) + float(r["confidence_2"]) - 1) < 2e-4 for r in rows)


def test_an_unreadable_image_writes_nothing_or_is_listed(run: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "new", stripes(6, 5).take())
    (tmp_path / "new" / "image 003.png").write_bytes(b"not an image")
    out = tmp_path / "p.csv"
    arguments = ["predict", str(run), str(tmp_path / "new"), "--out", str(out)]
    failed = CliRunner().invoke(cli, arguments)
    assert isinstance(failed.exception, MedcoreError) and "image 003.png" in str(failed.exception)
    assert not list(tmp_path.glob("*p.csv*"))
    skipped = CliRunner().invoke(cli, [*arguments, "--on-error", "skip"])
    assert skipped.exit_code == 0 and "5 of 6" in skipped.output and "image 003.png" in skipped.output
    assert len(out.read_text().splitlines()) == 6


def test_a_changed_byte_in_the_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run / "checkpoints" / "best", tmp_path / "copy")
    weights = tmp_path / "copy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(MedcoreError, match="model.safetensors"):
        medcore.load(tmp_path / "copy")


def test_wrong_input_is_named(run: Path, tmp_path: Path) -> None:
    predictor = medcore.load(run)
    with pytest.raises(MedcoreError, match="trained on"):
        list(predictor.predict(np.zeros((2, 16, 16, 3), np.uint8)))
    with pytest.raises(MedcoreError, match="does not exist"):
        list(predictor.predict(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedcoreError, match="no images"):
        list(predictor.predict(tmp_path / "empty"))
