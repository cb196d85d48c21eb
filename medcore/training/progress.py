"""What a run shows while it goes on: a bar, a line per epoch, and what experiment trackers are told.

    fit(..., out="runs/a", tracker="tensorboard")            # fit closes it
    with make_tracker("wandb", "runs/a") as tracker:         # or keep it open for figures of one's own
        fit(..., out="runs/a", tracker=tracker)
        tracker.figure("reliability", axes.figure)

Everything goes into the run's folder. W&B is offline unless ``WANDB_MODE`` or ``WANDB_API_KEY`` is set (send it later
with ``wandb sync``); MLflow writes a local database unless ``MLFLOW_TRACKING_URI`` is set.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import math
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image
from tqdm import tqdm

from medcore.errors import MedcoreError
from medcore.models.sealed import jsonable
from medcore.training import distributed
from medcore.training.device import waited_for_a_core

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from medcore.training.state import TrainState


class Tracker:
    """Base of all trackers; a tracker of one's own overrides what it wants to hear of."""

    def start(self, parameters: dict[str, Any]) -> None:
        """The run begins: its config, data, model and precision, as nested plain JSON types."""

    def log(self, values: dict[str, float], epoch: int) -> None:
        """Numbers of an epoch."""

    def confusion(self, matrix: np.ndarray, classes: list[str], epoch: int) -> None:
        """Confusion matrix of the validation set, truth down. **Shape** ``(K, K)``."""

    def figure(self, name: str, figure: Figure) -> None:
        """A finished figure."""

    def finish(self) -> None:
        """Write out what is left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.finish()


def make_tracker(name: str, folder: str | Path) -> Tracker:
    """A tracker by name.

    Raises:
        MedcoreError: The name is unknown, or the tracker is not installed.
    """
    kinds: dict[str, type[Any]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
    if name not in kinds:
        raise MedcoreError(f"tracker={name!r}: unknown; choose one of {', '.join(kinds)}, or None")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return kinds[name](folder)


def _needed(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MedcoreError(
            f'tracker={extra!r} is not installed ({error}); run: pip install "medcore[{extra}]", or use tracker=None'
        ) from error


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def as_markdown(matrix: np.ndarray, classes: list[str]) -> str:
    """A confusion matrix as a Markdown table."""
    lines = ["| truth \\ predicted | " + " | ".join(classes) + " |", "|---" * (len(classes) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in zip(classes, matrix.tolist(), strict=True)
    ]
    return "\n".join(lines)


class TensorBoard(Tracker):
    """Event files under ``<folder>/tensorboard``; look at them with ``tensorboard --logdir <folder>``."""

    def __init__(self, folder: Path) -> None:
        _needed("tensorboard", "tensorboard")
        self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def start(self, parameters: dict[str, Any]) -> None:
        """See the base class."""
        self._writer.add_text("parameters", f"```json\n{json.dumps(parameters, indent=1)}\n```")

    def log(self, values: dict[str, float], epoch: int) -> None:
        """See the base class."""
        for name, value in values.items():
            side, _, metric = name.partition("_")
            tag = f"{metric}/{side}" if side in ("train", "val", "test") else name
            self._writer.add_scalar(tag, value, epoch)

    def confusion(self, matrix: np.ndarray, classes: list[str], epoch: int) -> None:
        """See the base class."""
        self._writer.add_text("confusion", as_markdown(matrix, classes), epoch)

    def figure(self, name: str, figure: Figure) -> None:
        """See the base class."""
        self._writer.add_figure(name, figure, close=False)

    def finish(self) -> None:
        """See the base class."""
        self._writer.close()


class WandB(Tracker):
    """Weights & Biases, offline unless its environment variables say otherwise; files under ``<folder>/wandb``."""

    def __init__(self, folder: Path) -> None:
        self._wandb: Any = _needed("wandb", "wandb")
        online = "WANDB_MODE" in os.environ or "WANDB_API_KEY" in os.environ
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "medcore"),
            name=folder.resolve().name,
            id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],  # a resumed run is the same run
            resume="allow" if online else None,
            dir=str(folder),
            mode=None if online else "offline",
            settings=self._wandb.Settings(silent=True, console="off"),
        )

    def start(self, parameters: dict[str, Any]) -> None:
        """See the base class."""
        self._run.config.update(parameters, allow_val_change=True)

    def log(self, values: dict[str, float], epoch: int) -> None:
        """See the base class."""
        self._run.log({**values, "epoch": epoch}, step=epoch)

    def confusion(self, matrix: np.ndarray, classes: list[str], epoch: int) -> None:
        """See the base class."""
        rows = [[name, *row] for name, row in zip(classes, matrix.tolist(), strict=True)]
        self._run.log({"confusion": self._wandb.Table(["truth \\ predicted", *classes], rows)}, step=epoch)

    def figure(self, name: str, figure: Figure) -> None:
        """See the base class."""
        picture = io.BytesIO()  # drawn here: W&B's own way goes through the global state of pyplot
        figure.savefig(picture, format="png")
        self._run.log({name: self._wandb.Image(Image.open(picture, formats=("PNG",)))})

    def finish(self) -> None:
        """See the base class."""
        self._run.finish()


class MLflow(Tracker):
    """MLflow, with a database and artifacts under ``<folder>/mlflow`` unless ``MLFLOW_TRACKING_URI`` is set."""

    def __init__(self, folder: Path) -> None:
        client: Any = _needed("mlflow", "mlflow").MlflowClient
        home = (folder / "mlflow").resolve()
        home.mkdir(parents=True, exist_ok=True)
        self._client = client(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}")
        experiment = self._client.get_experiment_by_name("medcore")
        if experiment is None:
            local = None if "MLFLOW_TRACKING_URI" in os.environ else (home / "artifacts").as_uri()
            number = self._client.create_experiment("medcore", artifact_location=local)
        else:
            number = experiment.experiment_id
        self._run = self._same_run(number, folder.resolve()) or self._client.create_run(
            number, run_name=folder.resolve().name, tags={"medcore.folder": str(folder.resolve())}
        )

    def _same_run(self, experiment: str, folder: Path) -> Any:
        found = (
            self._client.search_runs([experiment], f"tags.`medcore.folder` = '{folder}'")
            if "'" not in str(folder)
            else []
        )
        return found[0] if found else None

    def start(self, parameters: dict[str, Any]) -> None:
        """See the base class."""
        known = self._client.get_run(self._run.info.run_id).data.params
        for name, value in flattened(parameters).items():
            if name not in known:  # MLflow does not let a parameter be set twice
                self._client.log_param(self._run.info.run_id, name, str(value)[:500])

    def log(self, values: dict[str, float], epoch: int) -> None:
        """See the base class."""
        for name, value in values.items():
            self._client.log_metric(self._run.info.run_id, name, value, step=epoch)

    def confusion(self, matrix: np.ndarray, classes: list[str], epoch: int) -> None:
        """See the base class."""
        table = {"classes": classes, "truth_down": matrix.tolist()}
        self._client.log_dict(self._run.info.run_id, table, f"confusion/epoch-{epoch:04d}.json")

    def figure(self, name: str, figure: Figure) -> None:
        """See the base class."""
        self._client.log_figure(self._run.info.run_id, figure, f"{name}.png")

    def finish(self) -> None:
        """See the base class."""
        self._client.set_terminated(self._run.info.run_id)


def finite(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of an epoch that are numbers."""
    numbers = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "epoch"}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


BUSY = 0.2  # share of an epoch without a core from which on it is said
CROWDED = (
    "other processes use the cores: {share:.0%} of this epoch was spent waiting for one, and {threads} threads that "
    "wait for each other lose far more than their share; OMP_NUM_THREADS=1 trains faster beside other work (the last "
    "digits of the weights depend on the number of threads, so it is not changed while training)"
)


class Display:
    """The display of one run; silent on every process but the first."""

    def __init__(self, state: TrainState, tracker: str | Tracker | None, *, show: bool) -> None:
        self.state, self.show = state, show and distributed.rank() == 0
        self.bar: tqdm | None = None
        self.closes_tracker = isinstance(tracker, str)
        if isinstance(tracker, str) and state.history.out is None:
            raise MedcoreError(f"tracker={tracker!r}: needs a folder to write to; pass out= to fit()")
        self.tracker = tracker if distributed.rank() == 0 else None
        self.clock, self.crowded = (time.perf_counter(), waited_for_a_core()), False

    def __enter__(self) -> Display:
        if isinstance(self.tracker, str) and self.state.history.out is not None:
            self.tracker = make_tracker(self.tracker, self.state.history.out)
        if isinstance(self.tracker, Tracker):
            self.tracker.start(jsonable(self.state.facts))
        if self.show:
            self.bar = tqdm(
                total=self.state.config.epochs * len(self.state.batches),
                initial=self.state.step,
                unit="step",
                leave=False,
                ascii=True,
                file=sys.stdout,
                mininterval=0.2 if sys.stdout.isatty() else 1.0,
            )
        return self

    def __exit__(self, *failure: object) -> None:
        if self.bar is not None:
            self.bar.close()
        if isinstance(self.tracker, Tracker) and self.closes_tracker:
            self.tracker.finish()

    def advance(self) -> None:
        """One step done."""
        if self.bar is not None:
            self.bar.update()

    def epoch_done(self, tables: dict[str, np.ndarray]) -> None:
        """Print the epoch's line and tell the tracker."""
        history = self.state.history
        if self.bar is not None:
            self.bar.write(history.line(self.state.config.epochs), file=sys.stdout)
            self._say_if_crowded()
        if isinstance(self.tracker, Tracker):
            self.tracker.log(finite(history.rows[-1]), history.last_epoch)
            if "confusion" in tables:
                self.tracker.confusion(tables["confusion"], self.state.facts["classes"], history.last_epoch)

    def _say_if_crowded(self) -> None:
        """Once a run, that threads which wait for each other are slow beside other processes."""
        (began, before), self.clock = self.clock, (time.perf_counter(), waited_for_a_core())
        share, threads = (self.clock[1] - before) / (self.clock[0] - began), self.state.facts["threads"]
        if threads > 1 and share > BUSY and not self.crowded and self.bar is not None:
            self.crowded = True
            self.bar.write(CROWDED.format(share=share, threads=threads), file=sys.stdout)
