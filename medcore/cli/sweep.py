"""``medcore sweep``: search over notebook parameters, judged on validation data."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from medcore.cli.reading import beside_each_other
from medcore.cli.reports import check_sources, find_notebooks, with_absolute_paths
from medcore.data.source import reports_home
from medcore.errors import MedcoreError


@click.command("sweep")
@click.argument("notebook")
@click.option("-p", "pairs", multiple=True, required=True, metavar="NAME=V1,V2", help="Values to try; repeatable.")
@click.option("--data", help="A set's name, a folder, a metadata.csv or a .npz.")
@click.option("--profile", type=click.Choice(["smoke", "quick", "full"]), help="Profile of every trial.")
@click.option("--trials", type=click.IntRange(1), help="Number of trials of a search [default: the whole grid].")
@click.option("--sampler", type=click.Choice(["tpe", "random"]), default="tpe", show_default=True)
@beside_each_other("Trials of a grid")
@click.option("--test", is_flag=True, help="Also compare the trials on test cases, once nothing is chosen any more.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder; an interrupted sweep goes on.")
def command(
    notebook: str, pairs: tuple[str, ...], data: str | None, profile: str | None, trials: int | None, sampler: str,
    jobs: int, engine: str, test: bool, out: Path | None,
) -> int:  # fmt: skip
    """Search over the parameters of NOTEBOOK; the objective is its validation metric, never a test metric."""
    from medcore.reporting.sweep import read_axes, run_sweep

    try:
        (path,) = find_notebooks((notebook,))
        axes, fixed = read_axes(pairs)
        fixed = with_absolute_paths(fixed | ({} if data is None else {"data": data}))
        check_sources({path: fixed})
    except MedcoreError as error:
        raise click.UsageError(str(error)) from None
    if profile:
        fixed["profile"] = profile
    folder = (out or reports_home() / f"sweep-{datetime.now():%Y-%m-%d-%H%M%S}").resolve()
    table = run_sweep(path, axes, fixed, folder, trials=trials, sampler=sampler, jobs=jobs, engine=engine)
    click.echo(table.drop(columns="folder").to_string(index=False))
    click.echo(f"trials: {folder / 'trials.csv'}")
    good = table[table["status"] == "ok"]
    if len(good) > 1:
        from medcore.reporting.compare import compare_runs

        trials_run = [folder / name / path.stem for name in good["folder"]]
        click.echo(f"compared: {compare_runs(trials_run, folder, test=test)}")
    return 0 if len(good) == len(table) else 1
