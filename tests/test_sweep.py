"""A sweep tries what it says, judges by validation only, goes on after an interruption, and refuses before running."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from medcore.errors import MedcoreError
from medcore.reporting.sweep import grid, ranked, read_axes, run_sweep, trial_folder

SOURCE = """
import os
from pathlib import Path
from medcore.reporting.results import Estimate, Results, Validation, write_results
write_results(Path(os.environ["MEDCORE_RUN_DIR"]), Results(
    notebook="toy", status="ok", seconds=1.0, parameters={"depth": depth, "rate": rate},
    validation=Validation(name="val_score", value=(depth - 2) ** 2 + rate, mode="min"),
    metrics=[Estimate("accuracy", -depth, None, None, 1, "patch", "test", note="toy")],
))
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    cells = [
        nbformat.v4.new_code_cell("depth = 1  # layers\nrate = 0.5  # step\n", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(SOURCE),
    ]
    metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    path = tmp_path / "toy.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def test_the_grid_is_ranked_by_validation_and_resumed(notebook: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    table = run_sweep(notebook, {"depth": ["1", "2"]}, {"rate": "0.25"}, out)
    assert table["depth"].tolist() == ["2", "1"]  # by validation; the test metric would say 1
    assert table["value"].tolist() == [0.25, 1.25]
    assert list(pd.read_csv(out / "trials.csv")["folder"]) == table["folder"].tolist()
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("results.json")}
    again = run_sweep(notebook, {"depth": ["1", "2"]}, {"rate": "0.25"}, out)
    assert again["value"].tolist() == table["value"].tolist()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("results.json")} == stamps


def test_a_search_with_optuna_goes_by_validation_and_is_resumed(notebook: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    axes, out = {"depth": ["1", "2"]}, tmp_path / "sweep"
    table = run_sweep(notebook, axes, {"rate": "0.25"}, out, trials=6, sampler="random", seed=1)
    assert table["depth"].tolist() == ["2", "1"] and table["value"].tolist() == [0.25, 1.25]
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("results.json")}
    again = run_sweep(notebook, axes, {"rate": "0.25"}, out, trials=6, sampler="tpe", seed=2)
    assert set(again["folder"]) <= set(table["folder"])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("results.json")} == stamps
    with pytest.raises(MedcoreError, match="choose tpe or random"):
        run_sweep(notebook, axes, {}, out, trials=1, sampler="grid")


def test_a_wrong_name_or_value_is_refused_before_anything_runs(notebook: Path, tmp_path: Path) -> None:
    for axes in ({"dept": ["1", "2"]}, {"depth": ["1", "two"]}):
        with pytest.raises(MedcoreError, match="dept"):
            run_sweep(notebook, axes, {}, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_axes_and_fixed_values() -> None:
    assert read_axes(["lr=1e-3,3e-4", "model=small_cnn"]) == ({"lr": ["1e-3", "3e-4"]}, {"model": "small_cnn"})
    with pytest.raises(MedcoreError, match="several values"):
        read_axes(["lr=1e-3"])
    assert len(grid({"a": [1, 2], "b": [1, 2, 3]})) == 6


def test_ranking_follows_the_mode_and_failures_come_last() -> None:
    rows = [{"value": 0.7, "mode": "max"}, {"value": None, "mode": None}, {"value": 0.9, "mode": "max"}]
    assert ranked(rows)["value"].tolist()[:2] == [0.9, 0.7]
    assert pd.isna(ranked(rows)["value"].iloc[2])


def test_a_trial_folder_is_safe_and_stable(tmp_path: Path) -> None:
    values = {"data": "../../etc/passwd", "lr": "1e-3"}
    folder = trial_folder(tmp_path, values, {})
    assert folder.parent == tmp_path and folder == trial_folder(tmp_path, dict(values), {})
