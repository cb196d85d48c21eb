"""Checkpoints from strangers: what cannot be right is refused in one line that names the file, and nothing hangs."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from training_toys import ended, run_toy

from medcore.errors import MedcoreError
from medcore.evaluation.predictor import load_predictor
from medcore.models.classifier import build_classifier
from medcore.training import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run_toy(folder, model=build_classifier("small_cnn", 2, image_size=8), epochs=1, ema_decay=0.0)
    space = {"centres": [[0.0, 1.0]], "spread": [1.0, 1.0], "limit": 1.0}
    checkpoint.annotate(folder, temperature=1.5, familiarity={"features": space, "pixels": space})
    return folder / "checkpoints" / "epoch-0001"


def stranger(run: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy whose manifest was changed and sealed again, as somebody could who means harm."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    for name in (checkpoint.MODEL, checkpoint.STATE):
        (folder / name).write_bytes((run / name).read_bytes())
    manifest = copy.deepcopy(json.loads((run / checkpoint.MANIFEST).read_text()))
    change(manifest)
    (folder / checkpoint.MANIFEST).write_bytes(checkpoint.seal(manifest))
    return folder


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        inner = manifest
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        inner = manifest
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return change


EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    **{f"no {name}": drop(name) for name in (
        "format", "architecture", "classes", "image_shape", "preprocessing", "config", "data", "monitor", "sha256",
        "epoch", "precision", "weights", "history", "tables", "task",
    )},
    "format is text": put("format", value="1"),
    "format of the future": put("format", value=99),
    "temperature 0": put("extra", "temperature", value=0),
    "temperature below 0": put("extra", "temperature", value=-1.0),
    "temperature missing in number": put("extra", "temperature", value=None),
    "temperature is text": put("extra", "temperature", value="1.5"),
    "temperature is a list": put("extra", "temperature", value=[1.5]),
    "threshold is text": put("extra", "threshold", value="high"),
    "familiarity without limit": drop("extra", "familiarity", "features", "limit"),
    "familiarity with limit 0": put("extra", "familiarity", "features", "limit", value=0.0),
    "familiarity of unequal lengths": put("extra", "familiarity", "pixels", "centres", value=[[1.0]]),
    "familiarity is a list": put("extra", "familiarity", value=[]),
    "tile of nothing": put("extra", "segmentation", value={"tile": 0}),
    "turns that do not exist": put("extra", "segmentation", value={"turns": 3}),
    "factor 0": put("extra", "segmentation", value={"factor": 0.0}),
    "a class too many": put("classes", value=["a", "b", "c"]),
    "a class too few": put("classes", value=["a"]),
    "a class twice": put("classes", value=["a", "a"]),
    "classes are numbers": put("classes", value=[0, 1]),
    "classes is text": put("classes", value="ab"),
    "a shape of two": put("image_shape", value=[8, 8]),
    "a shape below 1": put("image_shape", value=[8, -8, 3]),
    "a shape of text": put("image_shape", value=["8", "8", "3"]),
    "an endless shape": put("image_shape", value=[10**12, 8, 3]),
    "an unknown policy": put("preprocessing", "policy", value="stretch"),
    "a window of one number": put("preprocessing", "window", value=[40]),
    "a window of no width": put("preprocessing", "window", value=[40, 0]),
    "a range upside down": put("preprocessing", "value_range", value=[5, 1]),
    "an unknown family": put("architecture", "family", value="os.system"),
    "a family of text and list": put("architecture", "family", value=["classifier"]),
    "arguments of another family": put("architecture", "args", value={"widths": [8]}),
    "an unknown name": put("architecture", "args", "name", value="../../etc"),
    "a network of a trillion weights": put("architecture", "args", "classes", value=10**12),
    "a larger network": put("architecture", "args", "name", value="resnet50"),
    "more channels": put("architecture", "args", "in_channels", value=100_000),
    "a list of a million": put("architecture", "args", "mean", value=[0.5] * 1_000_000),
    "std 0": put("architecture", "args", "std", value=[0.0, 0.0, 0.0]),
    "normalisation by 0": put("normalisation", "std", value=[0.0]),
    "a file outside": lambda manifest: manifest["sha256"].update({"../../../etc/passwd": "0" * 64}),
    "no hash of the weights": drop("sha256", "model.safetensors"),
    "a hash that is none": put("sha256", "model.safetensors", value="abc"),
    "an unknown field of the config": put("config", "pickle", value=True),
    "a wrong value in the config": put("config", "epochs", value=-3),
    "an unknown precision": put("precision", "dtype", value="int4"),
    "no side of the data": drop("data", "train"),
    "hashes that are none": put("data", "train", "content_hashes", value="!!"),
    "hashes of half a number": put("data", "train", "content_hashes", value="AAAA"),
    "an epoch of text": put("epoch", value="last"),
    "a monitor without direction": put("monitor", "mode", value="up"),
    "an unknown field": put("import", value="os"),
    "data is null": put("data", value=None),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_manifest_is_one_line(run: Path, tmp_path: Path, edit: str, capsys: pytest.CaptureFixture) -> None:
    folder = stranger(run, tmp_path, EDITS[edit])
    with pytest.raises(MedcoreError, match="stranger") as refused:
        load_predictor(folder)
    assert "\n" not in str(refused.value)
    code, lines = ended(capsys, "predict", folder, tmp_path / "nothing.png")
    assert code == 1 and len(lines) == 1


def test_the_unchanged_copy_is_read(run: Path, tmp_path: Path) -> None:
    assert load_predictor(stranger(run, tmp_path, lambda manifest: None)).temperature == 1.5


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{" * 100_000, b'{"a": NaN}', b"\xff\xfe", b"{}"])
def test_what_is_no_manifest_is_one_line(run: Path, tmp_path: Path, text: bytes) -> None:
    folder = stranger(run, tmp_path, lambda manifest: None)
    (folder / checkpoint.MANIFEST).write_bytes(text)
    with pytest.raises(MedcoreError, match=checkpoint.MANIFEST):
        load_predictor(folder)


def with_weights(folder: Path, weights: dict[str, torch.Tensor] | bytes) -> None:
    """Other weights, with a manifest that vouches for them."""
    import hashlib

    payload = weights if isinstance(weights, bytes) else save(weights)
    (folder / checkpoint.MODEL).write_bytes(payload)
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    manifest["sha256"][checkpoint.MODEL] = hashlib.sha256(payload).hexdigest()
    (folder / checkpoint.MANIFEST).write_bytes(checkpoint.seal(manifest))


def test_weights_that_are_not_finite_or_none_or_others_are_one_line(run: Path, tmp_path: Path) -> None:
    folder = stranger(run, tmp_path, lambda manifest: None)
    right = checkpoint.read_checkpoint(folder)[0]
    for weights in (
        right | {"head.bias": right["head.bias"] * float("nan")},
        right | {"head.bias": right["head.bias"] / 0},
        {name: value for name, value in right.items() if name != "head.bias"},
        right | {"head.bias": torch.zeros(5)},
        right | {"more": torch.zeros(10_000_000)},
        b"no tensors" * (len(save(right)) // 10),
        b"",
    ):
        with_weights(folder, weights)
        with pytest.raises(MedcoreError, match=checkpoint.MODEL) as refused:
            load_predictor(folder)
        assert "\n" not in str(refused.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.MANIFEST])
def test_a_pipe_or_a_device_never_hangs(run: Path, tmp_path: Path, name: str) -> None:
    folder = stranger(run, tmp_path, lambda manifest: None)
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir):
        path = folder / name
        path.rmdir() if path.is_dir() else path.unlink()
        make(path)
        with pytest.raises(MedcoreError, match="stranger"):
            load_predictor(folder)


def test_a_wrong_fact_is_never_written(run: Path, tmp_path: Path) -> None:
    folder = stranger(run, tmp_path, lambda manifest: None)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(MedcoreError, match="temperature"):
            checkpoint.annotate(folder, temperature=temperature)
    assert load_predictor(folder).temperature == 1.5
