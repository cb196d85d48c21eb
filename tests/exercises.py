"""A pytest plugin (``-p exercises``): nbmake also runs the solutions of a notebook's exercises.

After the last cell of the notebook each ```` ```python ```` block of a solution runs as a cell, in the names that the
notebook ended with: what one solution defines, the next does not see. Nothing is written; notebooks stay as they are.
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

EXERCISE = re.compile(r"^\*\*(\d+)\.\*\*", re.MULTILINE)
SOLUTION = re.compile(r"<details><summary>Solution</summary>(.*?)</details>", re.DOTALL)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
REMEMBER = "_final = {name: thing for name, thing in globals().items() if not name.startswith('_')}"
FORGET = """for _name in [name for name in globals() if not name.startswith("_") and name not in _final]:
    del globals()[_name]
globals().update(_final)"""


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
def reading_solutions() -> Iterator[None]:
    """While this is open, nbmake reads notebooks with their solutions."""
    read = nbformat.read

    def both(path: str, version: int) -> Any:
        return with_solutions(read(path, version), Path(path).stem)

    with mock.patch("nbmake.nb_run.nbformat.read", both):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Notebooks run with their solutions, except where they are written back."""
    if not getattr(item, "nbmake", False) or item.config.option.overwrite:
        return (yield)
    with reading_solutions():
        return (yield)
