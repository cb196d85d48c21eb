"""``medcore compare``: finished runs side by side on one page."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for compare.html [default: here]."
)
def command(runs: tuple[Path, ...], out: Path | None) -> int:
    """Compare RUNS, folders of finished runs such as reports/today/06_patch_classification; the first is the base."""
    if len(runs) < 2:
        raise click.UsageError("name at least two folders of finished runs")
    from medcore.reporting.compare import compare_runs

    click.echo(compare_runs(list(runs), (out or Path.cwd()).resolve()))
    return 0
