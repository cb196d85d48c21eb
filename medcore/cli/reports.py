"""``medcore reports``: notebooks in, checked HTML reports out."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import yaml

from medcore.cli.reading import beside_each_other, given_options, reading_options, source_as_told
from medcore.data.remote import find_source
from medcore.data.source import is_phantom, reports_home, repository_root
from medcore.errors import MedcoreError
from medcore.reporting.parameters import PROFILE_VARIABLE, SOURCES, did_you_mean, schema_for, validate


def find_notebooks(names: tuple[str, ...]) -> list[Path]:
    """Paths of notebooks named by number (``06``), stem or path; all numbered ones when none is named.

    Raises:
        MedcoreError: A name fits no notebook or several.
    """
    root = repository_root()
    numbered = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")) if root else []
    if not names:
        if not numbered:
            raise MedcoreError("no notebooks found: run this from a checkout of medcore, or name notebook files")
        return numbered
    return list(dict.fromkeys(_find(name, numbered) for name in names))


def _find(name: str, numbered: list[Path]) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name).resolve()
    stem = Path(name).stem
    fitting = [path for path in numbered if path.stem == stem or path.stem.split("_")[0] == stem.zfill(2)]
    if len(fitting) != 1:
        raise MedcoreError(f"no notebook {name!r}{did_you_mean(stem, [path.stem for path in numbered])}")
    return fitting[0]


def read_parameters(file: Path | None, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Parameters from a YAML file and ``NAME=VALUE`` pairs; the pairs win.

    Raises:
        MedcoreError: The file is not a mapping, or a pair has no ``=``.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
            loaded = yaml.safe_load(text)
            twice = repeated_keys(text)
        except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
            raise MedcoreError(f"{file} is not a readable YAML file ({error})") from None
        if not isinstance(loaded, dict):
            raise MedcoreError(f"{file}: expected lines like 'epochs: 10', found {type(loaded).__name__}")
        if twice:
            raise MedcoreError(f"{file}: {twice[0]!r} stands there twice; which one is meant?")
        values |= {str(name): value for name, value in loaded.items()}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise MedcoreError(f"-p {pair!r}: expected NAME=VALUE, as in -p epochs=10")
        values[name.strip()] = value
    return values


def repeated_keys(text: str) -> list[str]:
    """Names that stand twice on the top level of a YAML mapping; YAML itself takes the last one without a word."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    names = [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    return [name for place, name in enumerate(names) if name in names[:place]]


def planned_runs(notebooks: list[Path], raw: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Validated parameters for each notebook; with several notebooks a parameter goes to those that have it.

    Raises:
        MedcoreError: No notebook knows a name, or a value is wrong for one that does.
    """
    fields = {path: set(schema_for(path).model_fields) for path in notebooks}
    for name in raw:
        if not any(name in known for known in fields.values()):
            everything = sorted(set.union(*fields.values()))
            stems = ", ".join(path.stem for path in notebooks)
            raise MedcoreError(f"{stems}: no parameter {name!r}{did_you_mean(name, everything)}")
    return {path: validate(path, {n: v for n, v in raw.items() if n in fields[path]}) for path in notebooks}


def check_sources(planned: dict[Path, dict[str, Any]]) -> None:
    """See to it that every notebook's data is there, before any kernel starts.

    Raises:
        MedcoreError: It is empty, neither a file or folder nor a known set, or a known set that is not on this machine.
    """
    for source in {str(values["data"]) for values in planned.values() if "data" in values}:
        if not is_phantom(source):
            find_source(source)


def with_absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """The same parameters, existing paths made absolute, since kernels may run elsewhere; names stay."""
    words = ("imagenet", "random")  # of the parameter ``weights``
    texts = {name: values[name] for name in SOURCES if values.get(name) and isinstance(values[name], str)}
    paths = {name: text for name, text in texts.items() if text not in words and Path(text).exists()}
    if "model" in paths and not is_model(Path(paths["model"])):
        del paths["model"]  # a network's name, and a folder that happens to have it
    return values | {name: str(Path(text).resolve()) for name, text in paths.items()}


def is_model(path: Path) -> bool:
    """Whether a path may be a model folder or a run with one."""
    return any((path / name).exists() for name in ("manifest.json", "model", "checkpoints"))


def read_as_told(raw: dict[str, Any], reading: dict[str, Any]) -> dict[str, Any]:
    """The parameters with the set that was prepared as the options of reading say; a size is the notebooks', too.

    Raises:
        MedcoreError: Nothing says which data, or they cannot be read so.
    """
    if not raw.get("data"):
        raise MedcoreError("options of reading need --data, whose files they are about")
    sized = {"size": reading["size"]} if reading.get("size") else {}
    return sized | raw | {"data": source_as_told(str(raw["data"]), reading)}


@click.command("reports")
@click.argument("notebooks", nargs=-1)
@click.option("--profile", type=click.Choice(["smoke", "quick", "full"]), help="How long to train [default: quick].")
@click.option("--data", help="A set's name, a folder, a metadata.csv or a .npz.")
@click.option("-p", "pairs", multiple=True, metavar="NAME=VALUE", help="Set one notebook parameter; repeatable.")
@click.option("-f", "file", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="YAML of parameters.")
@beside_each_other("Notebooks")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder [default: reports/<time>].")
@click.option("--timeout", type=click.FloatRange(1), help="Seconds that one notebook may take.")
@click.option("--pdf", is_flag=True, help="Also print each report to PDF (needs Chromium).")
@reading_options
def command(
    notebooks: tuple[str, ...], profile: str | None, data: str | None, pairs: tuple[str, ...], file: Path | None,
    jobs: int, engine: str, out: Path | None, timeout: float | None, pdf: bool, **reading: Any,
) -> int:  # fmt: skip
    """Run NOTEBOOKS (numbers, names or paths; all by default) and write their reports."""
    given = {} if data is None else {"data": data}
    given |= {"profile": profile} if profile else {}
    try:
        raw = with_absolute_paths(read_parameters(file, pairs) | given)
        paths = find_notebooks(notebooks)
        planned = planned_runs(paths, raw)
        check_sources(planned)
    except MedcoreError as error:
        raise click.UsageError(str(error)) from None
    if given_options(reading):
        planned = planned_runs(paths, read_as_told(raw, reading))
    from medcore.reporting.runner import run_notebooks

    folder = (out or reports_home() / datetime.now().strftime("%Y-%m-%d-%H%M%S")).resolve()
    profile_name = profile or os.environ.get(PROFILE_VARIABLE) or "quick"
    click.echo(f"{len(paths)} notebook(s), profile {profile_name}, to {folder}")
    outcomes = run_notebooks(planned, out=folder, jobs=jobs, engine=engine, timeout=timeout, pdf=pdf)
    return 0 if all(outcome.status == "ok" for outcome in outcomes) else 1
