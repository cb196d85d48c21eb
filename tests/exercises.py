"""A pytest plugin (``-p exercises``): nbmake also runs the solutions of a notebook's exercises.

After the last cell of the notebook each ```` ```python ```` block of a solution runs as a cell, in the names that the
notebook ended with: what one solution defines, the next does not see. Nothing is written; notebooks stay as they are.

Phantoms are drawn with as many images as the smoke profile uses, into a data folder of their own; ``test_phantoms.py``
draws them whole.

What the notebook itself showed is then read as a report is: every figure has a description and a caption, every table
a title, and an interval that stands in bold, in a caption or in a description is one of ``results.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from medcore.reporting.body import RESULTS, write_body
from medcore.reporting.results import checked

EXERCISE = re.compile(r"^\*\*(\d+)\.\*\*", re.MULTILINE)
SOLUTION = re.compile(r"<details><summary>Solution</summary>(.*?)</details>", re.DOTALL)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
REMEMBER = "_final = {name: thing for name, thing in globals().items() if not name.startswith('_')}"
FORGET = """for _name in [name for name in globals() if not name.startswith("_") and name not in _final]:
    del globals()[_name]
globals().update(_final)"""
FEW_IMAGES = """import os as _os
from functools import partial as _partial
from medcore.data.phantoms import PHANTOMS as _makers
from medcore.data.source import data_home as _home
_os.environ["MEDCORE_DATA"] = str(_home() / "few images")
_fewer = {"crc": {"images_per_patient": 8}, "derm": {"patients": 220}, "helico": {"patients": 30},
          "glands": {"patients": 12}, "xray": {"patients": 160}}
for _name, _maker in _makers.items():
    _makers[_name] = _partial(_maker, **_fewer[_name.split("-")[1]])"""


def exercises(notebook: Any) -> dict[int, str]:
    """Number and text (task, solution) of each exercise."""
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    section = prose.partition("## Exercises")[2].partition("\n## ")[0]
    parts = EXERCISE.split(section)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def solutions(notebook: Any) -> list[tuple[int, str]]:
    """(exercise, code) of each block of Python in a solution."""
    folded = {number: "\n".join(SOLUTION.findall(text)) for number, text in exercises(notebook).items()}
    return [(number, code) for number, text in folded.items() for code in BLOCK.findall(text)]


def with_solutions(notebook: Any, name: str) -> Any:
    """The notebook with the solutions as cells after its own."""
    added = [new_code_cell(REMEMBER)]
    for number, code in solutions(notebook):
        added += [new_code_cell(f"# {name}, solution of exercise {number}\n{code}"), new_code_cell(FORGET)]
    notebook.cells += added
    return notebook


@contextmanager
def reading_solutions() -> Iterator[list[Any]]:
    """While this is open, nbmake reads notebooks with their solutions; gives the notebooks' own cells, executed."""
    read, own = nbformat.read, []

    def both(path: str, version: int) -> Any:
        notebook = read(path, version)
        own.append(notebook.copy())
        own[-1].cells = list(notebook.cells)  # the same cells, which nbmake fills with outputs
        if any("medcore" in cell.source for cell in notebook.cells):
            notebook.cells.insert(0, new_code_cell(FEW_IMAGES))
        return with_solutions(notebook, Path(path).stem)

    with mock.patch("nbmake.nb_run.nbformat.read", both):
        yield own


INTERVAL = re.compile(r"[−<>]?\d[\d.]* \((?:95 % CI )?[−<>]?\d[\d.]*(?:–| to )[−<>]?\d[\d.]*\)")
BOLD = re.compile(r"\*\*(.*?)\*\*", re.DOTALL)


def faults(executed: Any) -> list[str]:
    """Figures and tables without words, and intervals that are not those of the results."""
    narrative = write_body(executed).narrative
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    texts = [BOLD.findall("".join(output.get("data", {}).get("text/markdown", ""))) for output in outputs]
    about = [facts for output in outputs for facts in output.get("metadata", {}).values() if isinstance(facts, dict)]
    texts += [[str(facts.get("alt", "")), str(facts.get("caption", ""))] for facts in about]
    recorded = next((output["data"][RESULTS] for output in outputs if RESULTS in output.get("data", {})), None)
    known = printed_values(recorded) if recorded else set()
    quoted = [found.replace("95 % CI ", "") for text in texts for line in text for found in INTERVAL.findall(line)]
    strange = [f"{text} is not in the results" for text in quoted if recorded and text not in known]
    return narrative.undescribed + narrative.untitled + strange


def printed_values(recorded: Any) -> set[str]:
    """Every value with its interval that the results hold, as a reader sees it, without the count of cases."""
    found = checked(recorded, "notebook")
    return {str(one).split(", ")[0] for one in (*found.metrics, *found.baselines, *found.differences)}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Notebooks run with their solutions, except where they are written back."""
    if not getattr(item, "nbmake", False) or item.config.option.overwrite:
        return (yield)
    with reading_solutions() as own:
        result = yield
    found = [fault for notebook in own for fault in faults(notebook)]
    assert not found, found
    return result
