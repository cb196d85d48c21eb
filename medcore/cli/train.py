"""``medcore train``: fit a model without a notebook, on one device or under torchrun."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import click

from medcore.cli.reading import beside_each_other, parted, reading_options
from medcore.errors import MedcoreError

# a fixed number of threads, so that the same seed gives the same weights on every machine; full takes all there are
TASKS = ("classifier", "segmenter", "autoencoder", "vae")
PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {kind: {"epochs": 1, "batch_size": 32, "threads": 1} for kind in TASKS},
    "quick": {
        "classifier": {"epochs": 10, "batch_size": 64, "learning_rate": 2e-3, "augment_until": 9, "threads": 2},
        "segmenter": {"epochs": 10, "batch_size": 8, "learning_rate": 1e-3, "threads": 2},
        "autoencoder": {"epochs": 15, "batch_size": 32, "learning_rate": 1e-3, "threads": 2},
        "vae": {"epochs": 15, "batch_size": 32, "learning_rate": 1e-3, "threads": 2},
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
@click.argument("task", type=click.Choice(TASKS))
@click.option("--data", required=True, help="A set's name, a folder, a metadata.csv or a .npz.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the run.")
@click.option("--profile", type=click.Choice(["smoke", "quick", "full"]), help="Settings to start from [quick].")
@click.option("--model", help="Architecture [default: the small one for a CPU]; timm:NAME is any image model of timm, "
              "or one of timm:dinov2, dinov3, uni, uni2, virchow2, phikon_v2, h_optimus_0, biomedclip.")  # fmt: skip
@click.option("--weights", help="imagenet, or a .pth file, or a checkpoint of ours [default: random]; with +probe "
              "behind it, as imagenet+probe, a classifier starts from a linear probe and is fine-tuned.")  # fmt: skip
@click.option("--codes", type=click.IntRange(1), default=120, show_default=True, help="Bottleneck or latent size.")
@click.option("--loss", help="mse, l1, ssim or mixed; of a segmenter ce, dice, focal, joined by + [mse, ce+dice].")
@click.option("--beta", type=click.FloatRange(0), default=1.0, show_default=True, help="Weight of a VAE's KL term.")
@click.option(
    "--kl-warmup", type=click.FloatRange(0), default=5.0, show_default=True, help="Epochs over which beta rises from 0."
)
@click.option("--normal", multiple=True, help="Class that an autoencoder or VAE learns; repeatable.")
@click.option("--stain", type=click.Choice(["macenko"]), help="Repaint images in the training patients' staining.")
@click.option("--uncertain", type=click.Choice(["ignore", "present", "absent"]), default="ignore", show_default=True,
              help="Several findings an image: what an uncertain one (-1) teaches.")  # fmt: skip
@click.option("--class-weights", type=click.Choice(["balanced"]), help="Weigh classes by their rarity.")
@click.option("--tracker", type=click.Choice(["tensorboard", "wandb", "mlflow"]), help="Where to log curves.")
@click.option("--folds", type=click.IntRange(2), help="Cross-validate over patients instead of one split.")
@beside_each_other("Folds")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@reading_options
def command(
    task: str, data: str, out: Path, profile: str | None, model: str | None, weights: str | None, codes: int,
    loss: str | None, beta: float, kl_warmup: float, normal: tuple[str, ...], stain: str | None,
    class_weights: str | None, uncertain: str, tracker: str | None, folds: int | None, engine: str, jobs: int,
    resume: bool, **further: Any,
) -> int:  # fmt: skip
    """Train a TASK on --data and write history.csv and checkpoints/ to --out."""
    import copy
    from functools import partial

    import numpy as np

    from medcore.cli.tasks import make_task
    from medcore.training.fit import fit
    from medcore.training.folds import cross_validate

    try:
        reading, fields = parted(further)
        config = make_config(task, profile, fields, probed=is_probed(weights, folds))
    except MedcoreError as error:
        raise click.UsageError(str(error)) from None
    start = checkpoint_of(weights)
    patches = read_split(data, start, reading, seed=config.seed)
    if start is not None and model is None and task == "classifier":
        model = start["architecture"]["args"].get("name")
    options: dict[str, Any] = {
        "model": model, "weights": weights, "codes": codes, "normal": normal, "class_weights": class_weights,
        "uncertain": uncertain, "stain": stain,
        "loss": loss, "beta": beta, "kl_warmup": kl_warmup, "device": config.device,
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


def is_probed(weights: str | None, folds: int | None) -> bool:
    """Whether a training starts from a linear probe.

    Raises:
        MedcoreError: It does, and is to be cross-validated.
    """
    from medcore.cli.tasks import PROBED

    if folds and (weights or "").endswith(PROBED):
        raise MedcoreError(
            f"--weights {weights}: one probe would have seen the images that folds hold out; leave --folds out, or let "
            "notebook 06 cross-validate it"
        )
    return (weights or "").endswith(PROBED)


def checkpoint_of(weights: str | None) -> dict[str, Any] | None:
    """The manifest of the checkpoint that a training starts from; None for random or foreign weights."""
    from medcore.cli.tasks import PROBED
    from medcore.training import checkpoint

    weights = (weights or "").removesuffix(PROBED)
    if not weights or not (Path(weights).is_dir() or Path(weights).name == checkpoint.MODEL):
        return None
    return checkpoint.read_manifest(checkpoint.find(weights))


def read_split(data: str, start: dict[str, Any] | None, reading: dict[str, Any], *, seed: int) -> Any:
    """The set with its sides: as the checkpoint read and divided it where the training starts from one.

    Args:
        reading: Options of ``read_set``; any but ``on_error`` takes the place of the checkpoint's.
    """
    from medcore.data.load import read_set
    from medcore.data.splits import assign_splits
    from medcore.evaluation.predictor import read_as_trained
    from medcore.training.seen import Seen, split_like

    if start is None:
        return assign_splits(read_set(data, **reading), seed=seed)
    as_trained = set(reading) <= {"on_error"}
    patches = read_as_trained(start, data, **reading) if as_trained else read_set(data, **reading)
    return split_like(patches, Seen.of(start), seed=seed)


def equip_classifier(out: Path, made: Any) -> None:
    """Put into the best checkpoint what ``medcore predict`` uses: a temperature, and which images look familiar."""
    import numpy as np

    from medcore.evaluation import predictor
    from medcore.evaluation.calibration import fit_temperature
    from medcore.evaluation.predict import predict
    from medcore.evaluation.scores import Scores
    from medcore.studies.targets.questions import QUESTIONS

    probabilities = predict(made.model, made.validation)
    question = QUESTIONS.get(made.validation.card.task)
    if question is not None:
        chosen = question.thresholds(question.cases(made.validation, probabilities))
        predictor.equip(out, made.model, made.train, made.validation, **({"thresholds": chosen} if chosen else {}))
        if chosen:
            click.echo(f"thresholds of {len(chosen)} findings, from {len(made.validation)} validation images")
        return
    fitted = fit_temperature(Scores.from_set(made.validation, np.log(np.maximum(probabilities, 1e-12))))
    predictor.equip(out, made.model, made.train, made.validation, temperature=fitted.value)
    click.echo(f"temperature {fitted.value:.2f}, from {len(made.validation)} validation images")


def make_config(task: str, profile: str | None, fields: dict[str, str | None], *, probed: bool = False) -> Any:
    """The profile's ``TrainConfig`` with the given fields on top.

    Args:
        probed: The training starts from a linear probe, and so with the settings of fine-tuning.

    Raises:
        MedcoreError: A value has the wrong type or range.
    """
    from medcore.reporting.parameters import PROFILE_VARIABLE, read_literal
    from medcore.training.config import TrainConfig

    given = {name: read_literal(text) for name, text in fields.items() if text is not None}
    name = profile or os.environ.get(PROFILE_VARIABLE) or "quick"
    if name not in PROFILES:
        raise MedcoreError(f"{PROFILE_VARIABLE}={name!r}: a profile is one of {', '.join(PROFILES)}")
    start = PROFILES[name][task]
    if probed and name != "smoke":
        from medcore.studies.heads import FINE_TUNING

        start = {key: value for key, value in start.items() if key == "threads"} | FINE_TUNING
    return TrainConfig.from_dict(start | given)
