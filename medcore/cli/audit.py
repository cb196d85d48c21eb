"""``medcore audit``: leakage between the sides of a split; exit code 1 when there is any."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("audit")
@click.argument("source")
@click.option(
    "--fix", is_flag=True, help="Write a corrected set: linked patients move to one side, nothing is dropped."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where --fix writes the corrected .npz.")
def command(source: str, fix: bool, out: Path | None) -> int:
    """Look for leakage in SOURCE (a set's name, a folder, a metadata.csv or a .npz)."""
    if out is not None and not fix:
        raise click.UsageError("--out names the corrected set: give --fix with it")
    from medcore.data.audit.fix import audit_main

    return audit_main(source, fix, out)
