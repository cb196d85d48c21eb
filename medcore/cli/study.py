"""``medcore new``: a study of your own — a parameter file, an audit, and which notebooks to run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from medcore.cli.data import reading_text, say_left_out
from medcore.cli.reading import given_options, reading_options
from medcore.errors import MedcoreError

NOTEBOOKS = {
    "classify": ("01", "06"),
    "anomaly": ("01", "02", "03"),
    "diagnose": ("01", "02", "04"),
    "segment": ("01", "05"),
    "targets": ("09",),  # several findings, a grade or a measured value
}
TARGETS = dict.fromkeys(("findings", "ordinal", "regression"), "targets")
FITS = TARGETS | {
    "classification": "classify",
    "anomaly": "anomaly",
    "diagnosis": "diagnose",
    "segmentation": "segment",
}


@click.command("new")
@click.argument("study", type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", required=True, help="A folder, a table, a .npz or a set's name.")
@click.option("--task", type=click.Choice(list(NOTEBOOKS)), help="What to find out [default: what fits the set].")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@reading_options
def command(study: Path, data: str, task: str | None, seed: int, **options: Any) -> int:
    """Start STUDY: read --data once, audit its split, write STUDY/parameters.yaml, say what to run.

    With options of reading the set is written to STUDY/set.npz, so that every notebook reads it alike.
    """
    from medcore.data.audit.audit import audit
    from medcore.data.load import read_set
    from medcore.data.splits import assign_splits, check_enough, split_cases, split_table

    target = study / "parameters.yaml"
    if target.exists():
        raise MedcoreError(f"{target} exists: choose another name, or delete it")
    given = given_options(options)
    patches = read_set(data, seed=seed, **given)
    task = task or FITS[patches.card.task]
    check_fit(task, patches)
    click.echo(reading_text(patches.card))
    if given:
        data = str(patches.save(study / "set.npz").path)
    patches = (split_cases if task == "segment" else assign_splits)(patches, seed=seed)
    notes = check_enough(patches.select(patches.labels >= 0)) if task in ("classify", "anomaly") else []
    table = split_table(patches)
    if task == "segment":  # its classes are those of pixels
        table = table.drop(columns=[name for name in patches.classes if name in table])
    click.echo(repr(patches) + "\n\n" + table.to_string() + "\n")
    for note in notes:
        click.echo(f"note: {note}")
    found = audit(patches, seed=seed)
    click.echo(str(found))
    write_parameters(target, data, task, seed)
    folder = shlex.quote(str(study))
    say_left_out(patches.card, len(patches))
    click.echo(f"\nwritten: {target}\nrun next:")
    click.echo(f"  medcore reports {' '.join(NOTEBOOKS[task])} -f {folder}/parameters.yaml --out {folder}/reports")
    return 0 if found.passed else 1


def check_fit(task: str, patches: object) -> None:
    """Refuse a task that the set cannot answer.

    Raises:
        MedcoreError: Masks or classes are missing, or the set asks another question.
    """
    kind = getattr(getattr(patches, "card", None), "task", "")
    if (task == "targets") != (kind in TARGETS):
        raise MedcoreError(
            f"task {task} does not fit a set made for {kind} ({FITS.get(kind, 'classify')} does): --findings, --grade "
            "COLUMN and --value COLUMN ask for what --task targets takes"
        )
    if task == "targets":
        return
    has_masks, classes = getattr(patches, "has_masks", False), getattr(patches, "classes", [])
    if task == "segment" and not has_masks:
        raise MedcoreError("task segment needs masks: folders images/ and masks/, or a 'mask' column in metadata.csv")
    if task != "segment" and len(classes) < 2:
        raise MedcoreError(f"task {task} needs two classes at least, the set has {list(classes)}")


def write_parameters(target: Path, data: str, task: str, seed: int) -> None:
    """Write the parameter file with what may be changed, as comments."""
    import yaml

    from medcore.data.npzfile import atomic_path

    source = str(Path(data).resolve()) if Path(data).exists() else data
    text = (
        f"# A {task} study. Every parameter of the notebooks may stand here: `medcore reports` refuses unknown names.\n"
        + yaml.safe_dump({"data": source, "seed": seed}, allow_unicode=True, sort_keys=False, width=10_000)
        + "profile: quick   # smoke, quick or full\n"
        "# epochs: 20\n# on_error: skip   # leave unreadable images out; they are counted and listed\n"
    )
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
