"""Trackers on this machine, without any network: what was logged can be read back."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from training_toys import run_toy, tiny, toy_config, toy_set

from medcore.errors import MedcoreError
from medcore.training.fit import fit
from medcore.training.objectives import Classification
from medcore.training.progress import Tracker, as_markdown, flattened, make_tracker


def tracked(out: Path | None, tracker: Any, **options: Any) -> Any:
    patches = toy_set()
    sides = patches.where(split="train"), patches.where(split="val")
    config = toy_config(epochs=options.pop("epochs", 2))
    return fit(
        tiny(), Classification(patches.classes), *sides, config, out=out, tracker=tracker, progress=False, **options
    )


def small_figure() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    return figure


class Listener(Tracker):
    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def start(self, parameters: dict[str, Any]) -> None:
        self.heard.append(("start", parameters))

    def log(self, values: dict[str, float], epoch: int) -> None:
        self.heard.append(("log", (epoch, values)))

    def confusion(self, matrix: np.ndarray, classes: list[str], epoch: int) -> None:
        self.heard.append(("confusion", (epoch, matrix, classes)))

    def finish(self) -> None:
        self.heard.append(("finish", None))


def test_a_tracker_of_ones_own_hears_everything_and_is_left_open(tmp_path: Path) -> None:
    listener = Listener()
    history = tracked(None, listener)
    assert [word for word, _ in listener.heard] == ["start", "log", "confusion", "log", "confusion"]
    parameters = listener.heard[0][1]
    assert parameters["config"]["epochs"] == 2 and parameters["data"]["name"] == "toy"
    epoch, values = listener.heard[3][1]
    assert epoch == 2 and values["val_loss"] == history.table["val_loss"].iloc[-1]
    _, matrix, classes = listener.heard[4][1]
    assert matrix.sum() == 12 and classes == ["c0", "c1"]


def test_tensorboard_files_hold_curves_parameters_confusion_and_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with make_tracker("tensorboard", tmp_path) as tracker:
        history = tracked(tmp_path, tracker)
        tracker.figure("reliability", small_figure())
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    curve = [(event.step, event.value) for event in events.Scalars("loss/val")]
    assert curve == [(1, pytest.approx(history.rows[0]["val_loss"])), (2, pytest.approx(history.rows[1]["val_loss"]))]
    tags = events.Tags()
    assert "reliability" in tags["images"]
    assert {"parameters/text_summary", "confusion/text_summary"} <= set(tags["tensors"])


def test_wandb_works_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with make_tracker("wandb", tmp_path) as tracker:
        tracked(tmp_path, tracker)
        tracker.figure("reliability", small_figure())
    import wandb

    wandb.teardown()  # waits for the background process to end; it writes the file on its own time
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    content = next(runs[0].glob("*.wandb")).read_bytes()
    assert b"val_balanced_accuracy" in content and b"learning_rate" in content
    assert list(runs[0].rglob("reliability*.png")) and list(runs[0].rglob("confusion*.table.json"))


def test_mlflow_database_holds_curves_parameters_confusion_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow import MlflowClient

    tracked(tmp_path, "mlflow", epochs=1)
    with make_tracker("mlflow", tmp_path) as tracker:  # the same run goes on
        history = tracked(tmp_path, tracker, resume=True)
        tracker.figure("reliability", small_figure())
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("medcore").experiment_id])
    assert run.data.params["config.learning_rate"] == "0.01"
    curve = client.get_metric_history(run.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in curve] == [(row["epoch"], row["val_loss"]) for row in history.rows]
    artifacts = tmp_path / "mlflow" / "artifacts" / run.info.run_id / "artifacts"
    assert (artifacts / "reliability.png").is_file()
    assert json.loads((artifacts / "confusion" / "epoch-0002.json").read_text())["classes"] == ["c0", "c1"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import importlib

    real = importlib.import_module

    def without(module: str, *rest: Any) -> Any:
        if module == name:
            raise ImportError(f"No module named {name!r}")
        return real(module, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MedcoreError, match=rf'pip install "medcore\[{name}\]"'):
        make_tracker(name, tmp_path)


def test_unknown_trackers_and_runs_without_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="tracker='comet': unknown; choose one of tensorboard, wandb, mlflow"):
        make_tracker("comet", tmp_path)
    with pytest.raises(MedcoreError, match="needs a folder"):
        tracked(None, "tensorboard")


def test_no_tracker_is_imported_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def watched(name: str, *rest: Any, **options: Any) -> Any:
        assert name.split(".")[0] not in ("wandb", "mlflow", "tensorboard")
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", watched)
    run_toy(tmp_path, epochs=1)


def test_helpers() -> None:
    assert flattened({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}
    lines = as_markdown(np.array([[1, 2], [3, 4]]), ["x", "y"]).splitlines()
    assert lines[0] == "| truth \\ predicted | x | y |" and lines[3] == "| y | 3 | 4 |"
