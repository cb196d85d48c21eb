"""``medcore data list|info|fetch|prepare``: what sets there are, and getting them ready."""

from __future__ import annotations

from pathlib import Path

import click


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
@click.option("--size", type=click.IntRange(8, 4096), help="Side length in pixels [default: as the images are].")
@click.option(
    "--policy", type=click.Choice(["resize", "fit", "crop", "pad", "tile"]), default="resize", show_default=True
)
@click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True)
@click.option("--window", type=float, nargs=2, metavar="CENTRE WIDTH", help="DICOM window, in Hounsfield units for CT.")
@click.option("--value-range", type=float, nargs=2, metavar="LOW HIGH", help="16-bit values that become 0 and 255.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the PatchSet here.")
def _prepare(
    source: str, size: int | None, policy: str, on_error: str, window: tuple[float, float] | None,
    value_range: tuple[float, float] | None, out: Path | None,
) -> None:  # fmt: skip
    """Read SOURCE (name, folder, metadata.csv or .npz) into one PatchSet file and print its card."""
    from medcore.data.load import read_set

    patches = read_set(source, size=size, policy=policy, on_error=on_error, window=window, value_range=value_range)
    patches = patches.save(out) if out else patches
    click.echo(repr(patches))
    if patches.path:
        click.echo(f"  file: {patches.path}")
