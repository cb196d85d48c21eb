"""``medcore audit``: leakage between the sides of a split (exit code 1 when there is any), and doubtful labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from medcore.cli.reading import reading_options, source_as_told


@click.command("audit")
@click.argument("source")
@click.option(
    "--fix", is_flag=True, help="Write a corrected set: linked patients move to one side, nothing is dropped."
)
@click.option(
    "--labels", type=click.Path(path_type=Path, exists=True),
    help="Look at labels instead. Folder of a run of 01: list labels that may be wrong, for review in --out "
    "FILE.csv. A reviewed FILE.csv: write the set with its corrections to --out FILE.npz.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), multiple=True,
    help="FILE.csv: all pairs (or labels), and FILE.html with pictures beside it. FILE.npz: the corrected set.",
)  # fmt: skip
@reading_options
def command(source: str, fix: bool, labels: Path | None, out: tuple[Path, ...], **options: Any) -> int:
    """Look for leakage in SOURCE (a set's name, a folder, a metadata.csv or a .npz)."""
    files = {path.suffix.lower(): path for path in out}
    for ending, path in files.items():
        if ending not in (".csv", ".npz"):
            raise click.UsageError(
                f"--out {path}: name a .csv for the pairs or labels, or a .npz for the corrected set"
            )
    source = source_as_told(source, options)
    if labels is not None:
        if fix:
            raise click.UsageError("--labels looks at labels, --fix at the split: one after the other")
        return review_labels(source, labels, files)
    if ".npz" in files and not fix:
        raise click.UsageError(f"--out {files['.npz']} names the corrected set: give --fix or --labels with it")
    from medcore.data.audit.fix import audit_main

    return audit_main(source, fix, files.get(".npz"), files.get(".csv"))


def review_labels(source: str, labels: Path, files: dict[str, Path]) -> int:
    """List labels that may be wrong, or write a set with those that a person corrected."""
    from medcore.data.audit.fix import correct_labels
    from medcore.data.audit.pictures import write_doubts
    from medcore.data.load import read_set
    from medcore.evaluation.estimate import cases_of
    from medcore.studies.labels import check_labels, positions, read_out_of_fold

    wanted = ".csv" if labels.is_dir() else ".npz"
    if set(files) - {wanted} or (wanted == ".npz" and not files):
        kind = "the list for review" if wanted == ".csv" else "the corrected set"
        raise click.UsageError(f"--labels {labels}: --out must name a {wanted} for {kind}")
    patches = read_set(source)
    if labels.is_dir():
        check = check_labels(read_out_of_fold(labels))
        table = check.table(patches)
        click.echo(
            f"{len(table)} of {cases_of(len(check.scores), 'image')} have a label that may be wrong: {check.share}"
        )
        click.echo(check.noise().head(12).round(3).to_string(index=False))
        rows = positions(patches, check.scores)
        for name in [name for name in ("patient", "annotator") if name in patches.columns]:
            click.echo(check.by(patches.column(name)[rows], name).head(5).round(3).to_string(index=False))
        if files:
            click.echo(f"for review: {files['.csv']}, with pictures in {write_doubts(patches, table, files['.csv'])}")
        return 0
    corrected = correct_labels(patches, labels)
    if files[".npz"].exists():
        raise click.UsageError(f"--out {files['.npz']} exists: choose another name for the corrected set")
    corrected.save(files[".npz"])
    click.echo(f"{corrected.card.warnings[-1]} Corrected set: {files['.npz']}")
    return 0
