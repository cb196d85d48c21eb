"""``medcore evaluate``: a model folder or checkpoint of any task on a labelled set, with intervals over patients.

The set is read as the checkpoint says (size, policy, window, range, channels). What the model has seen is known by
pixels and by patient from the checkpoint, never by the name of a set or folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from medcore.cli.reading import decoding_options, overrule
from medcore.errors import MedcoreError, TestDataRefused


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
@click.option(
    "--also",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Another classifier: the mean of probabilities, and its gain. A run of folds is one by itself.",
)
@click.option("--tta", is_flag=True, help="The same over the flips and quarter turns of the training.")
@decoding_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the figures as JSON.")
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), help="Write the report of 07 here instead.")
def command(
    checkpoint: Path, data: str, split: str, seen: str, other_patients: bool, on_error: str, device: str,
    out: Path | None, report: Path | None, also: tuple[Path, ...], tta: bool, **decoding: Any,
) -> int:  # fmt: skip
    """Evaluate a model folder or CHECKPOINT of any task on the labelled cases of --data."""
    from medcore.data.npzfile import atomic_path
    from medcore.evaluation.estimate import cases_of, metric_name
    from medcore.studies.ensemble import ensemble_gain, load_ensemble, members_of
    from medcore.studies.validation.models import load
    from medcore.training.device import choose_device

    if report is not None:
        return write_report(checkpoint, data, report, seen, device)
    first, chosen = members_of(checkpoint), str(choose_device(device))
    model = load(first[0], device=chosen)
    joint = load_ensemble([*first, *also], turned=tta, device=chosen) if len(first) > 1 or also or tta else None
    overrule(model.manifest, decoding)
    patches = model.labelled(model.read(data, on_error=on_error))
    if not len(patches):
        raise MedcoreError(f"set {patches.card.name!r} has no labelled case; medcore predict needs no labels")
    patches, overlap = choose_side((joint or model).seen, patches, split, seen, by_patient=not other_patients)
    found = model.evaluate(patches)
    patients = len(set(patches.patients.tolist()))
    click.echo(f"{cases_of(len(patches), patches.card.case)} of {cases_of(patients, patches.card.group)} ({split})")
    for estimate in found.estimates:
        click.echo(f"  {metric_name(estimate.name):<22} {estimate}   {estimate.method}")
    for value, gain in ensemble_gain(joint, found.scores, found.patches) if joint and found.scores else ():
        click.echo(f"  averaged {metric_name(value.name):<22} {value}; gain over {model.path.name} alone {gain}")
    if overlap.rows.any():
        click.echo(f"{overlap}; {'left out' if seen == 'leave-out' else 'counted in'}")
    if out is not None:
        result = {
            "checkpoint": model.path.name,
            "task": model.task,
            "weights_sha256": model.manifest["sha256"]["model.safetensors"],
            "data": patches.card.name,
            "fingerprint": patches.fingerprint,
            "split": split,
            "seen": {"rule": seen, **overlap.as_dict()},
            "metrics": [estimate.as_dict() for estimate in found.estimates],
        }
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps(result, indent=1), encoding="utf-8", errors="backslashreplace")
    return 0


def write_report(checkpoint: Path, data: str, folder: Path, seen: str, device: str) -> int:
    """The report of notebook 07 on this model and cohort.

    Raises:
        MedcoreError: The notebook is not here (an installed copy), or a parameter is wrong.
    """
    from medcore.cli.reports import find_notebooks, planned_runs, with_absolute_paths
    from medcore.reporting.runner import run_notebooks

    values = {"model": str(checkpoint.resolve()), "data": data, "seen": seen, "device": device}
    planned = {
        path: with_absolute_paths(given) for path, given in planned_runs(find_notebooks(("07",)), values).items()
    }
    outcomes = run_notebooks(planned, out=folder)
    return 0 if all(outcome.status == "ok" for outcome in outcomes) else 1


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
