"""Checkpoints: whole or not there, any changed byte refused by name, no pickle."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from training_toys import run_toy, same_tensors, toy_manifest, toy_set

from medcore.errors import MedcoreError
from medcore.models.classifier import build_classifier
from medcore.training import checkpoint, manifest
from medcore.training.reuse import fine_tune

FILES = (checkpoint.MODEL, checkpoint.STATE, checkpoint.MANIFEST)


def write(folder: Path, epoch: int = 1, seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    weights = {"a": torch.randn(20, 3, generator=generator), "b": torch.arange(5)}
    state = {"optimiser/00000/exp_avg": torch.randn(20, 3, generator=generator)}
    return checkpoint.save(folder, epoch, weights, state, toy_manifest(epoch=epoch))


def flip(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("flips", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_refused_by_name(tmp_path: Path, flips: int, record_property: Any) -> None:
    rng = random.Random(flips)
    original = write(tmp_path / "original")
    refused = 0
    for number in range(flips):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(original, copy)
        name = FILES[number % 3]
        flip(copy / name, rng.randrange((copy / name).stat().st_size), rng.randrange(8))
        with pytest.raises(MedcoreError, match=rf"copy-{number}/{name}"):
            checkpoint.verify(copy)
        refused += 1
    if flips >= 100:
        record_property("summary", f"{flips} flipped bytes in checkpoint files: {refused} refused by name")
    assert refused == flips


@pytest.mark.slow
def test_every_single_byte_of_the_manifest_is_guarded(tmp_path: Path) -> None:
    folder = write(tmp_path)
    for position in range((folder / checkpoint.MANIFEST).stat().st_size):
        flip(folder / checkpoint.MANIFEST, position, position % 8)
        with pytest.raises(MedcoreError, match=checkpoint.MANIFEST):
            checkpoint.verify(folder)
        flip(folder / checkpoint.MANIFEST, position, position % 8)
    checkpoint.verify(folder)


@pytest.mark.parametrize("name", FILES)
def test_truncated_and_missing_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(MedcoreError, match=name):
        checkpoint.verify(folder)
    (folder / name).unlink()
    with pytest.raises(MedcoreError, match=name):
        checkpoint.verify(folder)


def test_a_file_of_another_epoch_is_refused(tmp_path: Path) -> None:
    first, second = write(tmp_path, 1, seed=1), write(tmp_path, 2, seed=2)
    shutil.copy(second / checkpoint.MODEL, first / checkpoint.MODEL)
    with pytest.raises(MedcoreError, match="epoch-0001/model.safetensors is damaged"):
        checkpoint.read_checkpoint(first)


def _save_until_killed(folder: Path, kill_at: int) -> None:
    events, real = 0, os.fsync

    def counted(handle: int) -> None:
        nonlocal events
        events += 1
        if events == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        real(handle)

    os.fsync = counted
    for epoch in range(1, 100):
        write(folder, epoch, seed=epoch)
        checkpoint.point(folder, "last", epoch)
        checkpoint.retain(folder, "2", epoch)


@pytest.mark.parametrize("kill_at", [3, 12, 13, 14, 15, 21])
def test_killed_while_saving_leaves_only_readable_checkpoints(tmp_path: Path, kill_at: int) -> None:
    child = os.fork()
    if child == 0:
        _save_until_killed(tmp_path, kill_at)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found = checkpoint.epochs_in(tmp_path)
    assert max(found, default=0) == kill_at // 5  # five flushes a save, the last one after the rename
    for epoch in found:
        assert checkpoint.verify(tmp_path / checkpoint.epoch_name(epoch))["epoch"] == epoch
    checkpoint.clear_leftovers(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_links_and_names_find_the_same_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    for epoch in (1, 2, 3):
        write(folder, epoch)
    checkpoint.point(folder, "last", 3)
    checkpoint.point(folder, "best", 2)
    assert os.readlink(folder / "best") == "epoch-0002"
    run = tmp_path / "run"
    assert checkpoint.find(run, "best").name == checkpoint.find(run, 2).name == checkpoint.find(run, "epoch=2").name
    assert checkpoint.find(folder, "last").name == "epoch-0003"
    assert checkpoint.find(folder / "epoch-0001", "best").name == "epoch-0001"
    assert checkpoint.find(folder / "best" / checkpoint.MODEL).name == "epoch-0002"
    with pytest.raises(MedcoreError, match=r"no checkpoint '7'; found best, epoch-0001, epoch-0002, epoch-0003, last"):
        checkpoint.find(run, 7)
    with pytest.raises(MedcoreError, match="nowhere' does not exist"):
        checkpoint.find(tmp_path / "nowhere")


def test_links_become_copies_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(os, "symlink", no_links)
    for epoch in (1, 2):
        write(tmp_path, epoch, seed=epoch)
        checkpoint.point(tmp_path, "last", epoch)
        assert checkpoint.verify(tmp_path / "last")["epoch"] == epoch


@pytest.mark.parametrize(
    ("keep", "left"), [("all", [1, 2, 3, 4, 5]), ("best+last", [2, 5]), ("2", [2, 4, 5]), ("4", [2, 3, 4, 5])]
)
def test_retention(tmp_path: Path, keep: str, left: list[int]) -> None:
    for epoch in range(1, 6):
        write(tmp_path, epoch)
        checkpoint.retain(tmp_path, keep, best=min(epoch, 2))
    assert checkpoint.epochs_in(tmp_path) == left


def test_annotate_adds_facts_and_keeps_the_seal(tmp_path: Path) -> None:
    folder = write(tmp_path)
    checkpoint.annotate(folder, temperature=1.5)
    checkpoint.annotate(folder, threshold=0.25, classes=["é"])
    manifest = checkpoint.verify(folder)
    assert manifest["extra"] == {"temperature": 1.5, "threshold": 0.25, "classes": ["é"]}
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_manifest_is_strict_json_and_knows_no_nan(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 1, {"a": torch.zeros(1)}, {}, toy_manifest(metrics={"auroc": float("nan")}))
    text = (folder / checkpoint.MANIFEST).read_text()
    manifest = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert manifest["metrics"] == {"auroc": None}


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path)
    monkeypatch.setattr(manifest, "FORMAT", 0)
    with pytest.raises(MedcoreError, match="format 1"):
        checkpoint.read_manifest(folder)


def classifier_run(out: Path) -> torch.nn.Module:
    model = build_classifier("small_cnn", 2, image_size=8)
    run_toy(out, model=model, epochs=2, ema_decay=0.0, keep="all")
    return model


def test_load_gives_the_model_that_fit_left(tmp_path: Path) -> None:
    model = classifier_run(tmp_path).eval()
    loaded = checkpoint.load_checkpoint(tmp_path)
    images = torch.rand(3, 3, 8, 8)
    assert not loaded.model.training
    assert loaded.classes == ["c0", "c1"]
    assert loaded.manifest["normalisation"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert torch.equal(loaded.model(images), model(images))
    assert same_tensors(
        checkpoint.load_checkpoint(tmp_path, 1).model.state_dict(),
        checkpoint.load_checkpoint(tmp_path, "epoch=1").model.state_dict(),
    )


def test_weights_that_do_not_fit_name_the_file(tmp_path: Path) -> None:
    folder = write(tmp_path)
    with pytest.raises(MedcoreError, match=r"model\.safetensors does not fit the model"):
        checkpoint.put_weights(torch.nn.Linear(2, 2), {"a": torch.zeros(1)}, folder / checkpoint.MODEL)


def test_fine_tuning_replaces_the_head_and_says_so(tmp_path: Path) -> None:
    classifier_run(tmp_path)
    old = checkpoint.load_checkpoint(tmp_path).model.state_dict()
    model, note = fine_tune(tmp_path, ["x", "y", "z"])
    new = model.state_dict()
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 3)
    assert "head was replaced" in note and "2 classes (c0, c1) became 3 (x, y, z)" in note
    assert all(torch.equal(new[name], old[name]) for name in old if not name.startswith("head"))
    other, note = fine_tune(tmp_path, ["c1", "c0"])  # as many, but not the same: the old head would be wrong
    assert "head was replaced" in note and not torch.equal(other.state_dict()["head.weight"], old["head.weight"])
    same, note = fine_tune(tmp_path, ["c0", "c1"])
    assert "the classes are the same" in note and same_tensors(same.state_dict(), old)


def test_no_pickle_is_in_any_checkpoint(tmp_path: Path) -> None:
    run_toy(tmp_path, epochs=1)
    folder = checkpoint.find(tmp_path, "last")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for name in FILES[:2]:  # a safetensors file begins with the length of its JSON header
        content = (folder / name).read_bytes()
        length = int.from_bytes(content[:8], "little")
        assert json.loads(content[8 : 8 + length])
    assert len(toy_set()) == 60
