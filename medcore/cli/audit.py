"""``medcore audit``: leakage between the sides of a split; exit code 1 when there is any."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("audit")
@click.argument("source")
@click.option(
    "--fix", is_flag=True, help="Write a corrected set: linked patients move to one side, nothing is dropped."
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), multiple=True,
    help="FILE.csv: all pairs, and FILE.html with pictures beside it. FILE.npz: where --fix writes the corrected set.",
)  # fmt: skip
def command(source: str, fix: bool, out: tuple[Path, ...]) -> int:
    """Look for leakage in SOURCE (a set's name, a folder, a metadata.csv or a .npz)."""
    files = {path.suffix.lower(): path for path in out}
    for ending, path in files.items():
        if ending not in (".csv", ".npz"):
            raise click.UsageError(
                f"--out {path}: name a .csv for the pairs, or with --fix a .npz for the corrected set"
            )
    if ".npz" in files and not fix:
        raise click.UsageError(f"--out {files['.npz']} names the corrected set: give --fix with it")
    from medcore.data.audit.fix import audit_main

    return audit_main(source, fix, files.get(".npz"), files.get(".csv"))
