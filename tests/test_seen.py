"""What the first weights of a model have seen neither tests it nor chooses its epoch."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from training_toys import run_toy, toy_config, toy_set

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused
from medcore.models.classifier import build_classifier
from medcore.training import checkpoint
from medcore.training.fit import fit
from medcore.training.objectives import Classification
from medcore.training.reuse import fine_tune
from medcore.training.seen import (
    Seen,
    describe_sides,
    pack_hashes,
    patient_hashes,
    pixel_hashes,
    split_like,
    unpack_hashes,
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    run_toy(folder, model=build_classifier("small_cnn", 2, image_size=8), epochs=1, ema_decay=0.0)
    return folder


def other_sides(seed: int = 4) -> PatchSet:
    """The toy set with its patients on other sides."""
    patches = toy_set()
    order = np.random.default_rng(seed).permutation(15)
    sides = np.array(["train"] * 9 + ["val"] * 3 + ["test"] * 3)[np.argsort(order)]
    return patches.with_split([sides[int(name[1:])] for name in patches.patients])


def tune(model: object, patches: PatchSet, out: Path, test: bool = True, **changes: object) -> object:
    sides = [patches.where(split=side) for side in ("train", "val", "test")]
    config = toy_config(epochs=1, ema_decay=0.0, **changes)
    return fit(
        model,
        Classification(patches.classes),
        *sides[:2],
        config,
        test=sides[2] if test else None,
        out=out,
        progress=False,
    )


@pytest.mark.parametrize("way", ["fine_tune", "load_checkpoint", "weights="])
def test_seen_patients_neither_test_nor_choose(first: Path, tmp_path: Path, way: str) -> None:
    make = {
        "fine_tune": lambda: fine_tune(first, ["c0", "c1"])[0],
        "load_checkpoint": lambda: checkpoint.load_checkpoint(first).model,
        "weights=": lambda: build_classifier("small_cnn", 2, image_size=8, weights=first),
    }[way]
    trained = set(toy_set().where(split="train").patients.tolist())
    mixed = other_sides()
    count = len(trained & set(mixed.where(split="val").patients.tolist()))
    with pytest.raises(TestDataRefused, match=f"validation.* {count} of 3 patients"):
        tune(make(), mixed, tmp_path / "a")
    names = toy_set().patients.tolist()  # p000 to p008 trained, p009 to p011 chose the epoch
    kept = toy_set().with_split([{"p000": "test", "p009": "val"}.get(name, "train") for name in names])
    with pytest.raises(TestDataRefused, match="^test"):
        tune(make(), kept, tmp_path / "b")
    history = tune(make(), kept, tmp_path / "c", seen="count")
    assert "1 of 1 patients" in history.notes[-1]


def test_the_same_split_goes_on_and_both_trainings_travel(first: Path, tmp_path: Path) -> None:
    tune(fine_tune(first, ["c0", "c1"])[0], toy_set(), tmp_path)
    tune(fine_tune(tmp_path, ["c0", "c1"])[0], toy_set(), tmp_path / "again")
    data = checkpoint.load_checkpoint(tmp_path / "again").manifest["data"]
    assert [training["train"]["images"] for training in (data, *data["earlier"])] == [36, 36, 36]


def test_split_like_repeats_the_sides_and_tests_on_the_rest(first: Path) -> None:
    seen, patches = Seen.of(checkpoint.load_checkpoint(first).manifest), toy_set()
    blank = patches.with_split([""] * len(patches))
    assert split_like(blank, seen, seed=99).splits.tolist() == patches.splits.tolist()
    assert split_like(other_sides(), seen).splits.tolist() == other_sides().splits.tolist()  # given sides stay
    others = toy_set(count=200, seed=5)  # p000 … again and many more: one overlapping set among others
    sides = split_like(others.with_split([""] * 200), seen, seed=1)
    known = set(patches.where(split=["train", "val"]).patients.tolist())
    assert not known & set(sides.where(split="test").patients.tolist())
    assert {"train", "val", "test"} <= set(sides.splits.tolist())


def test_hashes_travel_as_text_and_blank_images_are_compared_with_nothing() -> None:
    hashes = np.array([5, 2**63 + 1, 5, 0, 2**64 - 1], dtype=np.uint64)
    assert unpack_hashes(pack_hashes(hashes)).tolist() == [5, 2**63 + 1, 2**64 - 1]
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[1, 0, 0, 0] = 1
    images[2] = images[1]
    first, second, third = pixel_hashes(images)
    assert first == 0 and second == third != 0
    assert pixel_hashes([images[1].reshape(2, 8, 3)])[0] != second  # the shape counts


def test_patients_are_hashed_with_a_salt_of_the_set() -> None:
    patches = toy_set()
    sides = [patches.where(split=side) for side in ("train", "val")]
    data = describe_sides(*sides, earlier=[])
    text = str(data)
    assert "p000" not in text and not np.array_equal(patient_hashes(["a"], "x"), patient_hashes(["a"], "y"))
    assert len(unpack_hashes(data["train"]["patient_hashes"])) == 9
    assert np.array_equal(patient_hashes([" a "], "x"), patient_hashes(["a"], "x"))


def test_the_same_patient_in_other_pixels_is_known_and_another_set_is_not(first: Path) -> None:
    seen = Seen.of(checkpoint.load_checkpoint(first).manifest)
    later = toy_set(seed=3)  # the same ids, other pixels
    assert seen.among(later).patients == sorted({f"p{n:03d}" for n in range(12)})
    assert not seen.among(later, by_patient=False).rows.any()
    same_pixels = toy_set().with_columns(patient=[f"q{row}" for row in range(60)])
    overlap = seen.among(same_pixels)
    assert overlap.rows.tolist() == [side != "test" for side in toy_set().splits]
    assert "48 of 60 images" in str(overlap)


# ---- one writer, and a full disk


def hold(out: str, started: object, release: object) -> None:
    from medcore.training.state import one_writer

    with one_writer(out):
        started.set()  # type: ignore[attr-defined]
        release.wait()  # type: ignore[attr-defined]


def test_a_second_writer_is_refused_and_a_dead_one_holds_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    started, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(str(tmp_path), started, release))
    process.start()
    started.wait()
    with pytest.raises(MedcoreError, match=str(tmp_path)):
        run_toy(tmp_path, epochs=1)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert run_toy(tmp_path, epochs=1).last_epoch == 1


def test_a_full_disk_says_what_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_toy(tmp_path, epochs=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(MedcoreError, match=r"epoch 2.*No space left.*resume"):
            run_toy(tmp_path, epochs=2, resume=True)
    assert checkpoint.verify(checkpoint.find(tmp_path, "last"))["epoch"] == 1
    assert run_toy(tmp_path, epochs=2, resume=True).last_epoch == 2


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedcoreError, match="file"):
        run_toy(tmp_path / "file" / "run", epochs=1)
