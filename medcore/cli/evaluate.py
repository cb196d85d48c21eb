"""``medcore evaluate``: a checkpoint on a labelled set, with intervals over patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from medcore.errors import MedcoreError

METRICS = ("balanced_accuracy", "accuracy", "auroc", "f1")


@click.command("evaluate")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="A set's name, a folder, a metadata.csv or a .npz.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test", "all"]))
@click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the figures as JSON.")
def command(checkpoint: Path, data: str, split: str, on_error: str, device: str, out: Path | None) -> int:
    """Evaluate a classifier CHECKPOINT on the labelled images of --data."""
    import json

    from medcore.data.load import read_set as load_set
    from medcore.data.npzfile import atomic_path
    from medcore.evaluation.intervals import interval
    from medcore.evaluation.predictor import load_predictor
    from medcore.evaluation.scores import Scores
    from medcore.training.device import choose_device

    predictor = load_predictor(checkpoint, device=str(choose_device(device)))
    height, width, channels = predictor.manifest["image_shape"]
    patches = load_set(data, size=(height, width), channels=channels, on_error=on_error)
    patches = same_split(predictor, patches, split)
    scores = Scores.from_set(patches, predictor.probabilities(patches))
    estimates = [interval(scores, metric) for metric in METRICS if metric != "f1" or len(scores.classes) == 2]
    click.echo(f"{len(scores)} images of {scores.patients} {patches.card.group}s ({split})")
    for estimate in estimates:
        click.echo(f"  {estimate.name.replace('_', ' '):<20} {estimate}   {estimate.method}")
    if out is not None:
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps([estimate.as_dict() for estimate in estimates], indent=1), encoding="utf-8")
    return 0


def same_split(predictor: Any, patches: Any, split: str) -> Any:
    """The labelled images of one side, drawn as in training when the set is the one the model was trained on.

    Raises:
        MedcoreError: The classes differ, the side is empty, or a set that was trained on is evaluated as a whole.
    """
    from medcore.data.splits import assign_splits

    if list(patches.classes) != predictor.classes:
        raise MedcoreError(
            f"the set's classes {', '.join(patches.classes)} are not the checkpoint's {', '.join(predictor.classes)}; "
            "rename the folders or labels, or fine-tune the model on the new classes"
        )
    patches = patches.select(patches.labels >= 0)
    trained_on = predictor.manifest["data"]["name"] == patches.card.name
    if split != "all":
        patches = assign_splits(patches, seed=predictor.manifest["config"]["seed"]).where(split=split)
    elif trained_on:
        raise MedcoreError(f"set {patches.card.name!r} was trained on; evaluate one side of it (--split test)")
    if not len(patches):
        raise MedcoreError(f"set {patches.card.name!r} has no labelled image in split {split!r}")
    return patches
