"""``medcore data list|info|fetch|prepare|export``: what sets there are, and getting them ready."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medcore.cli.reading import beside_each_other, given_options, reading_options

if TYPE_CHECKING:
    from medcore.data.card import Card

MOST_LISTED = 20  # exclusions printed one by one


@click.group("data")
def command() -> None:
    """List, describe, fetch and prepare data sets."""


@command.command("list")
def _list() -> None:
    """All sets that medcore knows by name."""
    from medcore.data.datasets import CARDS

    width = max(len(name) for name in CARDS)
    for name, card in CARDS.items():
        click.echo(f"{name:<{width}}  {card.title}")


@command.command("info")
@click.argument("name")
def _info(name: str) -> None:
    """The card of a set: licence, citation, classes, where to get it; or of a prepared file."""
    from medcore.data.datasets import card_text
    from medcore.data.patchset import PatchSet

    click.echo(repr(PatchSet.open(name)) if name.endswith(".npz") and Path(name).is_file() else card_text(name))


@command.command("fetch")
@click.argument("name")
def _fetch(name: str) -> None:
    """Download a set that may be downloaded, check it and unpack it."""
    from medcore.data.fetch import fetch_set

    click.echo(f"{name} is in {fetch_set(name)}")


@command.command("prepare")
@click.argument("source")
@reading_options
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the PatchSet here.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, say what was understood, write nothing.")
@beside_each_other("Whole slides")
def _prepare(source: str, out: Path | None, dry_run: bool, jobs: int, engine: str, **options: Any) -> int:
    """Read SOURCE (name, folder, table or .npz) into one PatchSet file; say what was understood, and its card.

    Of a folder of whole slides, broken ones are named and the others are cut into tiles; the exit code is 1 then.
    """
    from medcore.data.load import read_set, report_reading
    from medcore.data.remote import find_source
    from medcore.data.slides.reader import find_slides
    from medcore.data.source import is_phantom

    given = given_options(options)
    source = source if is_phantom(source) else str(find_source(source))
    slides = bool(find_slides(Path(source)))
    asked = click.get_current_context().get_parameter_source("on_error")
    if slides:
        from medcore.training.distributed import run_jobs  # brings PyTorch

        given["run"] = partial(run_jobs, jobs=jobs, engine=engine)
    if slides and asked is click.core.ParameterSource.DEFAULT:
        given["on_error"] = "skip"
    if dry_run:
        given.pop("cache", None)  # nothing is reused
        card = report_reading(source, **given)
        click.echo(reading_text(card))
        click.echo("\n".join([*(f"  warning: {text}" for text in card.warnings), "nothing was written (--dry-run)"]))
        return int(slides and bool(card.excluded))
    patches = read_set(source, **given)
    patches = patches.save(out) if out else patches
    click.echo(reading_text(patches.card))
    click.echo(repr(patches))
    if patches.path:
        click.echo(f"  file: {patches.path}")
    if slides:
        say_left_out(patches.card, len(set(patches.column("slide"))), "slides")
    else:
        say_left_out(patches.card, len(patches))
    return int(slides and bool(patches.card.excluded))


@command.command("export")
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--limit", type=click.IntRange(1), help="At most so many images.")
def _export(source: str, folder: Path, limit: int | None) -> None:
    """Write SOURCE, a grey set, as DICOM files and a metadata.csv into a new FOLDER."""
    from medcore.data.formats.dicom_export import write_dicoms
    from medcore.data.load import read_set

    patches = read_set(source)
    table = write_dicoms(patches.select(range(min(limit or len(patches), len(patches)))), folder)
    findings = f" --findings {','.join(patches.classes)}" if patches.card.task == "findings" else ""
    click.echo(f"read it with: medcore data prepare '{table}'{findings}")


def say_left_out(card: Card, kept: int, unit: str = "images or rows") -> None:
    """Last and loudest: how much of a source is not in the set."""
    if card.excluded:
        total = kept + len(card.excluded)
        click.secho(f"LEFT OUT: {len(card.excluded)} of {total} {unit}", fg="yellow", bold=True)


def reading_text(card: Card) -> str:
    """What was understood of a source, for a terminal; what was left out comes last."""
    lines = [f"  {line}" for line in card.reading]
    lines += [f"  left out: {entry['file']}: {entry['reason']}" for entry in card.excluded[:MOST_LISTED]]
    rest = len(card.excluded) - MOST_LISTED
    lines = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines]  # no escapes obeyed
    return "\n".join(["read:", *lines, *([f"  left out: {rest} more (listed in the card)"] if rest > 0 else [])])
