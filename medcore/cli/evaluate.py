"""``medcore evaluate``: a checkpoint on a labelled set, with intervals over patients.

The set is read as the checkpoint says (size, policy, window, range, channels). What the model has seen is known by
pixels and by patient from the checkpoint, never by the name of a set or folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from medcore.errors import MedcoreError, TestDataRefused

METRICS = ("balanced_accuracy", "accuracy", "auroc", "f1")


@click.command("evaluate")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="A set's name, a folder, a metadata.csv or a .npz.")
@click.option(
    "--split", default="test", show_default=True, type=click.Choice(["train", "val", "test", "all"]),
    help="Side of the set; a set without sides has as its test side what the model never saw.",
)  # fmt: skip
@click.option(
    "--seen", default="refuse", show_default=True, type=click.Choice(["refuse", "count", "leave-out"]),
    help="What is done with images and patients that the model was trained on.",
)  # fmt: skip
@click.option("--other-patients", is_flag=True, help="Equal patient ids are other people: compare pixels only.")
@click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the figures as JSON.")
def command(
    checkpoint: Path, data: str, split: str, seen: str, other_patients: bool, on_error: str, device: str,
    out: Path | None,
) -> int:  # fmt: skip
    """Evaluate a classifier CHECKPOINT on the labelled images of --data."""
    from medcore.data.npzfile import atomic_path
    from medcore.evaluation.intervals import interval
    from medcore.evaluation.predictor import load_predictor, read_as_trained
    from medcore.evaluation.scores import Scores
    from medcore.training.device import choose_device

    predictor = load_predictor(checkpoint, device=str(choose_device(device)))
    patches = labelled_like(predictor, read_as_trained(predictor.manifest, data, on_error=on_error))
    patches, overlap = choose_side(predictor.seen, patches, split, seen, by_patient=not other_patients)
    scores = Scores.from_set(patches, predictor.probabilities(patches))
    estimates = [interval(scores, metric) for metric in METRICS if metric != "f1" or len(scores.classes) == 2]
    click.echo(f"{len(scores)} images of {scores.patients} {patches.card.group}s ({split})")
    for estimate in estimates:
        click.echo(f"  {estimate.name.replace('_', ' '):<20} {estimate}   {estimate.method}")
    if overlap.rows.any():
        click.echo(f"{overlap}; {'left out' if seen == 'leave-out' else 'counted in'}")
    if out is not None:
        result = {
            "checkpoint": predictor.path.name,
            "weights_sha256": predictor.manifest["sha256"]["model.safetensors"],
            "data": patches.card.name,
            "fingerprint": patches.fingerprint,
            "split": split,
            "seen": {"rule": seen, **overlap.as_dict()},
            "metrics": [estimate.as_dict() for estimate in estimates],
        }
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps(result, indent=1), encoding="utf-8", errors="backslashreplace")
    return 0


def labelled_like(predictor: Any, patches: Any) -> Any:
    """The labelled images of a set with the checkpoint's classes.

    Raises:
        MedcoreError: The classes differ, or nothing is labelled.
    """
    if list(patches.classes) != predictor.classes:
        raise MedcoreError(
            f"the set's classes {', '.join(patches.classes)} are not the checkpoint's {', '.join(predictor.classes)}; "
            "rename the folders or labels, or fine-tune the model on the new classes"
        )
    patches = patches.select(patches.labels >= 0)
    if not len(patches):
        raise MedcoreError(f"set {patches.card.name!r} has no labelled image")
    return patches


def choose_side(known: Any, patches: Any, split: str, way: str, *, by_patient: bool) -> tuple[Any, Any]:
    """The images to evaluate, and what the model knows of those asked for.

    Raises:
        TestDataRefused: The model has seen some (or all) of them.
        MedcoreError: The side is empty.
    """
    from medcore.training.seen import unseen

    if not known.known and way != "count":
        raise TestDataRefused(
            "this checkpoint was written before checkpoints kept what they have seen; nobody can tell whether these "
            "images test it. Go on with --seen count, or train it anew"
        )
    if split == "all":
        return unseen(patches, known, way, by_patient=by_patient)
    if split in patches.splits:
        asked = patches.where(split=split)
        return unseen(asked, known, way if split == "test" else "count", by_patient=by_patient)
    overlap = known.among(patches, by_patient=by_patient)
    if split == "test" and way == "count":
        return patches, overlap
    rows = {"test": ~overlap.rows, "train": overlap.train, "val": overlap.validation}[split]
    if not rows.any():
        raise TestDataRefused(f"set {patches.card.name!r} has no side {split!r}; {overlap}")
    return patches.select(rows), known.among(patches.select(rows), by_patient=by_patient)
