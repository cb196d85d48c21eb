"""``medcore train``: fit a model without a notebook, on one device or under torchrun."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import click

from medcore.errors import MedcoreError

PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {kind: {"epochs": 1, "batch_size": 32} for kind in ("classifier", "segmenter", "autoencoder", "vae")},
    "quick": {
        "classifier": {"epochs": 10, "batch_size": 64, "learning_rate": 2e-3, "augment_until": 9},
        "segmenter": {"epochs": 10, "batch_size": 8, "learning_rate": 1e-3},
        "autoencoder": {"epochs": 15, "batch_size": 32, "learning_rate": 1e-3},
        "vae": {"epochs": 15, "batch_size": 32, "learning_rate": 1e-3},
    },
    "full": {
        "classifier": {"epochs": 20, "batch_size": 64, "learning_rate": 3e-4, "augment_until": 13},
        "segmenter": {"epochs": 90, "batch_size": 8, "optimiser": "adam", "schedule": "exponential"},
        "autoencoder": {"epochs": 100, "batch_size": 32, "learning_rate": 1e-3},
        "vae": {"epochs": 100, "batch_size": 32, "learning_rate": 1e-3},
    },
}


def config_options(command: click.Command) -> click.Command:
    """Add one option per field of ``TrainConfig``, with its sentence, unit and default."""
    from medcore.training.config import TrainConfig

    for field in dataclasses.fields(TrainConfig):
        unit = f" [{field.metadata['unit']}]" if field.metadata["unit"] else ""
        default = f" (default: {field.default})" if field.default not in (None, "") else ""
        text = f"{field.metadata['help']}{unit}{default}"
        command.params.append(click.Option([f"--{field.name.replace('_', '-')}"], metavar="VALUE", help=text))
    return command


class LateOptions(click.Command):
    """A command whose ``TrainConfig`` options are added when it is used: importing torch takes seconds."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters and one per field of ``TrainConfig``."""
        if not any(parameter.name == "learning_rate" for parameter in self.params):
            config_options(self)
        return super().get_params(ctx)

    def make_parser(self, ctx: click.Context) -> Any:
        """Parse with the late options too."""
        self.get_params(ctx)
        return super().make_parser(ctx)


@click.command("train", cls=LateOptions)
@click.argument("task", type=click.Choice(["classifier", "segmenter", "autoencoder", "vae"]))
@click.option("--data", required=True, help="A set's name, a folder, a metadata.csv or a .npz.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the run.")
@click.option("--profile", type=click.Choice(["smoke", "quick", "full"]), help="Settings to start from [quick].")
@click.option("--model", help="Architecture [default: the small one for a CPU].")
@click.option("--weights", help="imagenet, or a .pth file, or a checkpoint of ours [default: random].")
@click.option("--size", type=click.IntRange(8, 4096), help="Side length in pixels [default: as the set is].")
@click.option("--window", type=float, nargs=2, metavar="CENTRE WIDTH", help="DICOM window, in Hounsfield units for CT.")
@click.option("--codes", type=click.IntRange(1), default=120, show_default=True, help="Bottleneck or latent size.")
@click.option("--normal", multiple=True, help="Class that an autoencoder or VAE learns; repeatable.")
@click.option("--class-weights", type=click.Choice(["balanced"]), help="Weigh classes by their rarity.")
@click.option("--tracker", type=click.Choice(["tensorboard", "wandb", "mlflow"]), help="Where to log curves.")
@click.option("--folds", type=click.IntRange(2), help="Cross-validate over patients instead of one split.")
@click.option("--engine", default="loky", show_default=True, help="Where folds run: loky, dask or ray.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Folds side by side.")
@click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True)
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
def command(
    task: str, data: str, out: Path, profile: str | None, model: str | None, weights: str | None, size: int | None,
    window: tuple[float, float] | None, codes: int, normal: tuple[str, ...], class_weights: str | None,
    tracker: str | None, folds: int | None, engine: str, jobs: int, on_error: str, resume: bool, **fields: str | None,
) -> int:  # fmt: skip
    """Train a TASK on --data and write history.csv and checkpoints/ to --out."""
    import copy
    from functools import partial

    import numpy as np

    from medcore.data.load import read_set
    from medcore.data.splits import assign_splits
    from medcore.training.fit import fit
    from medcore.training.folds import cross_validate
    from medcore.training.tasks import make_task

    try:
        config = make_config(task, profile, fields)
    except MedcoreError as error:
        raise click.UsageError(str(error)) from None
    patches = assign_splits(read_set(data, size=size, window=window, on_error=on_error), seed=config.seed)
    options: dict[str, Any] = {
        "model": model, "weights": weights, "codes": codes, "normal": normal, "class_weights": class_weights,
    }  # fmt: skip
    if folds:
        made = make_task(task, patches.where(split=["train", "val"]), seed=config.seed, **options)
        known = patches.select(np.isin(patches.index, np.r_[made.train.index, made.validation.index]))
        crossed = cross_validate(
            partial(copy.deepcopy, made.model), made.objective, known, config,
            k=folds, jobs=jobs, engine=engine, out=out, resume=resume,
        )  # fmt: skip
        click.echo(f"{crossed}\n{out / 'folds.csv'}")
        return 0
    if os.environ.get("RANK", "0") == "0":
        click.echo(repr(patches))
    made = make_task(task, patches, seed=config.seed, **options)
    history = fit(
        made.model, made.objective, made.train, made.validation, config,
        test=made.test, out=out, tracker=tracker, resume=resume,
    )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        if task == "classifier":
            equip_classifier(out, made)
        best = history.best
        click.echo(
            f"best epoch {history.best_epoch}: {history.monitor} = {best[history.monitor]:.4f}; {history.stopped}"
        )
        click.echo(f"checkpoint: {out / 'checkpoints' / 'best'}")
    return 0


def equip_classifier(out: Path, made: Any) -> None:
    """Put into the best checkpoint what ``medcore predict`` uses: a temperature, and which images look familiar."""
    import numpy as np

    from medcore.evaluation import predictor
    from medcore.evaluation.calibration import fit_temperature
    from medcore.evaluation.predict import predict
    from medcore.evaluation.scores import Scores

    probabilities = predict(made.model, made.validation)
    fitted = fit_temperature(Scores.from_set(made.validation, np.log(np.maximum(probabilities, 1e-12))))
    predictor.equip(out, made.model, made.train, made.validation, temperature=fitted.value)
    click.echo(f"temperature {fitted.value:.2f}, from {len(made.validation)} validation images")


def make_config(task: str, profile: str | None, fields: dict[str, str | None]) -> Any:
    """The profile's ``TrainConfig`` with the given fields on top.

    Raises:
        MedcoreError: A value has the wrong type or range.
    """
    from medcore.reporting.parameters import PROFILE_VARIABLE, read_literal
    from medcore.training.config import TrainConfig

    given = {name: read_literal(text) for name, text in fields.items() if text is not None}
    name = profile or os.environ.get(PROFILE_VARIABLE) or "quick"
    if name not in PROFILES:
        raise MedcoreError(f"{PROFILE_VARIABLE}={name!r}: a profile is one of {', '.join(PROFILES)}")
    return TrainConfig.from_dict(PROFILES[name][task] | given)
