"""Cross-validation: patient-level folds, the same table on every engine, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from training_toys import tiny, toy_config, toy_set

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused
from medcore.training import checkpoint, distributed, folds
from medcore.training.folds import CrossValidation, cross_validate, make_tasks
from medcore.training.objectives import Classification


def training_part() -> PatchSet:
    return toy_set().where(split=["train", "val"])


def validated(patches: PatchSet, **options: Any) -> CrossValidation:
    config = toy_config(epochs=2, **options.pop("config", {}))
    return cross_validate(tiny, Classification(patches.classes), patches, config, k=3, progress=False, **options)


def numbers(result: CrossValidation) -> pd.DataFrame:
    return result.table.drop(columns=["seconds", "folder"])


def test_folds_are_patients_and_every_image_validates_once() -> None:
    patches = training_part()
    tasks = make_tasks(tiny, Classification(2), patches, toy_config(), 3, None, False)
    for task in tasks:
        train, validation = (task.patches().select(rows) for rows in (task.train, task.validation))
        assert not set(train.patients) & set(validation.patients)
    seen = np.concatenate([task.validation for task in tasks])
    assert sorted(seen.tolist()) == list(range(len(patches)))


def test_table_and_spread() -> None:
    result = validated(training_part())
    assert result.table["fold"].tolist() == [1, 2, 3]
    assert result.table["val_images"].sum() == 48
    values = result.table["val_balanced_accuracy"]
    row = result.summary.loc["val_balanced_accuracy"]
    assert row["mean"] == pytest.approx(values.mean()) and row["sd"] == pytest.approx(np.std(values, ddof=1))
    assert (row["low"], row["high"]) == (values.min(), values.max())
    assert f"{values.mean():.3f} ± {np.std(values, ddof=1):.3f}" in repr(result)


def test_folds_of_a_view_on_the_disk_are_the_same(tmp_path: Path) -> None:
    patches = toy_set().save(tmp_path / "set.npz").where(split=["train", "val"])
    assert isinstance(make_tasks(tiny, Classification(2), patches, toy_config(), 3, None, False)[0].source, Path)
    pd.testing.assert_frame_equal(numbers(validated(patches)), numbers(validated(training_part())))


def test_the_callers_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    validated(training_part())
    assert torch.equal(torch.rand(2), expected)


def test_finished_folds_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = validated(training_part(), out=tmp_path)
    assert pd.read_csv(tmp_path / "folds.csv").shape[0] == 3
    for row in first.table.itertuples():
        assert checkpoint.find(row.folder, "best").name == checkpoint.epoch_name(row.best_epoch)
    with pytest.raises(MedcoreError, match=r"fold 1: out=.*resume=True"):
        validated(training_part(), out=tmp_path)
    checkpoint.discard(tmp_path / "fold-2")
    trained = []
    real = folds.fit

    def watched(*sides: Any, **options: Any) -> Any:
        history = real(*sides, **options)
        trained.append((options["out"].name, history.stopped))
        return history

    monkeypatch.setattr(folds, "fit", watched)
    pd.testing.assert_frame_equal(numbers(validated(training_part(), out=tmp_path, resume=True)), numbers(first))
    assert [name for name, _ in trained] == ["fold-1", "fold-2", "fold-3"]


def test_test_images_and_too_few_patients_are_refused() -> None:
    with pytest.raises(TestDataRefused, match="marked 'test'"):
        validated(toy_set())
    with pytest.raises(MedcoreError, match="patient"):
        validated(training_part().select(np.arange(8)))
    with pytest.raises(MedcoreError, match="engine='slurm': unknown"):
        validated(training_part(), engine="slurm")
    with pytest.raises(MedcoreError, match="jobs=0"):
        validated(training_part(), jobs=0)


def test_threads_are_shared_out_and_put_back() -> None:
    torch.set_num_threads(1)
    seen = dict(distributed.run_jobs(lambda task: (task, torch.get_num_threads()), ["a", "b"], jobs=1))
    assert [task for task, _ in seen.values()] == ["a", "b"]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_a_missing_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    def without(module: str) -> Any:
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(distributed.importlib, "import_module", without)
    with pytest.raises(MedcoreError, match=rf'pip install "medcore\[{engine}\]"'):
        list(distributed.run_jobs(str, [1], jobs=2, engine=engine))


@pytest.fixture(scope="module")
def expected_table() -> pd.DataFrame:
    """What one process with one thread gives."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distributed, "thread_share", lambda jobs: 1)
        return numbers(validated(training_part()))


@pytest.mark.parametrize(
    "engine", ["loky", pytest.param("dask", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)]
)
def test_every_engine_gives_the_same_table(
    tmp_path: Path, engine: str, expected_table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """loky, a Dask cluster of two worker processes on loopback, and a local Ray."""
    monkeypatch.setattr(distributed, "thread_share", lambda jobs: 1)  # wherever this runs
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # the workers import the toys
    patches = toy_set().save(tmp_path / "set.npz").where(split=["train", "val"])
    found = numbers(validated(patches, jobs=2, engine=engine, out=tmp_path / "out"))
    pd.testing.assert_frame_equal(found, expected_table, check_exact=True)
