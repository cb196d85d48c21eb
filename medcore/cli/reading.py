"""Options that say how files are read: the remedies that messages name, the same for every command that reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click


def _pairs(_: click.Context, option: click.Parameter, value: str | tuple[str, ...] | None) -> dict[str, str] | None:
    """``0=background,255=tumour`` or several ``ROLE=COLUMN`` as a mapping."""
    texts = [value] if isinstance(value, str) else list(value or ())
    parts = [part for text in texts for part in text.split(",") if part.strip()]
    if any("=" not in part for part in parts):
        raise click.BadParameter(f"{', '.join(texts)!r} must be NAME=VALUE pairs", param=option)
    return {key.strip(): name.strip() for key, _, name in (part.partition("=") for part in parts)} or None


def _names(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    return [name.strip() for name in value.split(",") if name.strip()] if value else None


def _numbers(_: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    parts = value.split(",") if value else []
    if not all(part.strip().isdigit() for part in parts):
        raise click.BadParameter(f"{value!r} must be numbers, as 0 or 2,1,0", param=option)
    return tuple(int(part) for part in parts) or None


_DECODING = [
    click.option("--window", type=float, nargs=2, metavar="CENTRE WIDTH",
                 help="DICOM window, in Hounsfield units for CT."),
    click.option("--value-range", type=float, nargs=2, metavar="LOW HIGH",
                 help="Values of deep images that become 0 and 255."),
    click.option("--max-pixels", type=click.IntRange(1), help="Refuse images with more pixels."),
    click.option("--bands", callback=_numbers, metavar="N[,N,N]",
                 help="Which channels of a file, counted from 0, become grey (one) or red, green, blue (three)."),
]  # fmt: skip
_OPTIONS = [
    click.option("--size", type=click.IntRange(8, 4096), help="Side length in pixels [default: as the images are]."),
    click.option("--policy", type=click.Choice(["resize", "fit", "crop", "pad", "tile"]), default="resize",
                 show_default=True),
    click.option("--channels", type=click.Choice(["1", "3"]), help="1 grey, 3 colour [default: as the images are]."),
    click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True),
    *_DECODING,
    click.option("--slices", help="DICOM and pages: all, middle, or n for every n-th."),
    click.option("--keep-ids", is_flag=True, help="Let patient identifiers and file names of DICOM reach the set."),
    click.option("--no-cache", is_flag=True, help="Prepare anew what was prepared before."),
    click.option("--layout", metavar="LEVELS", help="What folders are, as split/class, patient/class or */class."),
    click.option("--findings", callback=_names, metavar="A,B,...",
                 help="Several findings an image: columns of 1, 0, -1 or nothing, or names in label separated by |."),
    click.option("--grade", metavar="COLUMN", help="A column of grades: ordered classes, as isup (--classes: order)."),
    click.option("--value", metavar="COLUMN", help="A column of a measured value, as age."),
    click.option("--classes", callback=_names, metavar="A,B,...", help="Class names, in order."),
    click.option("--patient-pattern", metavar="REGEX", help="Finds the patient in a path: one group, as '(P[0-9]+)_'."),
    click.option("--encoding", help="Encoding of the table, as cp1252."),
    click.option("--column", "columns", multiple=True, callback=_pairs, metavar="ROLE=NAME",
                 help="Which column is the image, label, patient, split or mask."),
    click.option("--images", metavar="NAME", help="Name of the folders of images, beside masks."),
    click.option("--masks", metavar="NAME", help="Name of the folders of masks, or the end of masks' names; or none."),
    click.option("--mask-map", callback=_pairs, metavar="VALUE=CLASS,...",
                 help="What mask values or colours mean, as 0=background,'#ff0000'=tumour,255=ignore."),
    click.option("--mask-threshold", type=float, help="Lowest mask value of the foreground, for soft masks."),
    click.option("--mask-rule", type=click.Choice(["binary", "index"]), help="What several mask values mean."),
    click.option("--mpp", type=click.FloatRange(0, min_open=True), help="Whole slides: microns per pixel of tiles."),
    click.option("--overlap", type=click.IntRange(0), help="Tiles: pixels that neighbours share."),
    click.option("--tissue", type=click.FloatRange(0, 1), help="Whole slides: least share of a tile that is tissue."),
    click.option("--tile-label", type=click.Choice(["centre", "share", "mask"]),
                 help="Whole slides: how drawings (GeoJSON, XML) say what a tile is."),
    click.option("--outside", metavar="CLASS", help="Whole slides: what tissue outside of all drawings is."),
    click.option("--quality", type=click.Path(path_type=Path, file_okay=False),
                 help="Whole slides: folder for a table and a picture of the quality of each."),
]  # fmt: skip


def beside_each_other(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--jobs``, ``--engine`` and ``--scheduler``: how many of ``what`` at once, and where.

    The command gets ``jobs`` and ``engine``, as ``run_jobs`` takes them.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def run(*arguments: Any, engine: str, scheduler: str | None, **options: Any) -> Any:
            if scheduler and engine == "loky":
                raise click.UsageError("--scheduler: the address of a cluster needs --engine dask or ray")
            return command(*arguments, engine=f"{engine}@{scheduler}" if scheduler else engine, **options)

        engine = click.option("--engine", type=click.Choice(["loky", "dask", "ray"]), default="loky", show_default=True,
                              help=f"{what}: on this machine, or a cluster that sees the same folders.")  # fmt: skip
        scheduler = click.option("--scheduler", metavar="ADDRESS",
                                 help="Of a running cluster: tcp://HOST:8786 (dask), HOST:6379 (ray).")  # fmt: skip
        jobs = click.option("--jobs", type=click.IntRange(1), default=1, show_default=True,
                            help=f"{what}: so many side by side.")  # fmt: skip
        return jobs(engine(scheduler(run)))

    return add


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of reading to a command; it gets them as keyword arguments."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def decoding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that overrule how the files of a model's training became pixels."""
    for option in reversed(_DECODING):
        command = option(command)
    return command


def overrule(manifest: dict[str, Any], values: dict[str, Any]) -> None:
    """Let the options of decoding that were given stand in a loaded model's manifest, and say so."""
    given = given_options(values)
    if given:
        manifest["preprocessing"] = {**manifest["preprocessing"], **given}
        click.echo(f"files are read otherwise than in training: {', '.join(sorted(given))}", err=True)


def given_options(values: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as ``read_set`` takes them."""
    given = {name: value for name, value in values.items() if value not in (None, False, ())}
    if given.get("policy") == "resize":
        given.pop("policy")
    if given.get("on_error") == "raise":
        given.pop("on_error")
    if given.pop("no_cache", False) or "quality" in given:  # the pictures are made on the way
        given["cache"] = False
    if "channels" in given:
        given["channels"] = int(given["channels"])
    if str(given.get("slices", "")).isdigit():
        given["slices"] = int(given["slices"])
    return given


def parted(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of reading, as ``read_set`` takes them, and all others."""
    ours = {str(option.name) for option in getattr(reading_options(lambda: None), "__click_params__", [])}
    reading = {name: value for name, value in values.items() if name in ours}
    return given_options(reading), {name: value for name, value in values.items() if name not in ours}


def source_as_told(source: str, values: dict[str, Any]) -> str:
    """The source, or the file that was prepared from it where options say how it is read.

    Raises:
        MedcoreError: It cannot be read so.
    """
    given = given_options(values)
    if not given:
        return source
    from medcore.data.load import read_set

    return str(read_set(source, **given).path)
