"""The README promises only what is there: files, tests, commands and the ten lines of Python."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from medcore.cli import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every line that calls medcore, without its comment."""
    lines = re.findall(r"^ {4}medcore .*$", README, flags=re.M) + re.findall(r"`(medcore [^`]*)`", README)
    plain = [line.split("  #")[0].strip() for line in lines]
    return [line for line in plain if "…" not in line and "NAME" not in line and "RUN" not in line]


def test_files_and_tests_that_it_names_exist():
    paths = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"`(tests/test_\w+\.py)`", README)
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []


def test_the_tests_that_hold_known_faults_exist():
    named = re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", (ROOT / "tests/README.md").read_text(encoding="utf-8"))
    assert len(named) > 25
    file = ""
    for place, name in named:
        file = place or file
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, name)


@pytest.mark.parametrize("line", commands())
def test_its_commands_can_be_parsed(line):
    _, name, *words = shlex.split(line)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, name
    if isinstance(command, click.Group) and words:
        command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None, line
    known = {option for parameter in command.params for option in parameter.opts}
    assert [word for word in words if re.match(r"--?[a-z]", word) and word not in known] == []


def test_its_python_runs(capsys, tmp_data):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len([line for line in example.splitlines() if line.strip()]) <= 11
    small = example.replace(
        'read_set("phantom-crc")', 'read_set("phantom-crc", size=16, patients=12, images_per_patient=12)'
    )
    exec(small.replace("epochs=8", "epochs=1"), {})
    assert "balanced_accuracy" in example and capsys.readouterr().out.count("to") >= 1


def test_versions_and_licence_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.11,<3.14" and "Python 3.11 to 3.13" in README
    assert project["license"] == "MIT" and "MIT licence" in README
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", cited, flags=re.M)[1] == project["version"]


def test_the_ratios_that_it_quotes_are_those_measured():
    results = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    training = next(part for part in results.split("\n## ") if part.startswith("End to end: training"))
    ratios = [float(found) for found in re.findall(r"\*\*([\d.]+)\*\*", training)]
    assert f"{min(ratios)} to {max(ratios)} times the speed of hand-written loops" in README
    busy = next(part for part in results.split("\n## ") if part.startswith("A training step beside busy processes"))
    rows = [line for line in busy.splitlines() if "medcore's choice" in line and "| 0 busy" not in line]
    assert rows and max(float(row.rstrip("| ").rsplit("|", 1)[1]) for row in rows) <= 1.3
