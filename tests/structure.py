"""The shape of the package in figures, and what may not be: `python tests/structure.py` (part of `make lint`).

Fails on: circles of imports, files over 400 lines, folders with more than 20 files, functions over 60 lines, public
names with two homes (but for ``TWO_HOMES``), and definitions that nothing in the package, the notebooks or the
exercises uses.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES, MOST_FILES, LONGEST_FUNCTION = 400, 20, 60
# a public name that several modules define on purpose, and why
TWO_HOMES: dict[str, str] = {
    "command": "one click command a file of cli/, found by its name",
}
# used from outside the package, so that nothing in it needs to name them
ENTRY_POINTS = {"main", "command", "ReportExporter", "ReportEngine"}


def modules() -> dict[str, ast.Module]:
    """Dotted name -> syntax tree."""
    found = {}
    for path in sorted((ROOT / "medcore").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports_of(tree: ast.Module, known: set[str]) -> set[str]:
    """Modules of the package that a module names, in functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module for a in node.names
            }
    return found & known


def definitions(tree: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
    """Top-level functions and classes."""
    return [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def is_command(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether click calls it: it is decorated by ``@….command(…)``."""
    made = (d.func for d in node.decorator_list if isinstance(d, ast.Call))
    return any(isinstance(maker, ast.Attribute) and maker.attr == "command" for maker in made)


def notebook_sources() -> list[str]:
    """Code cells and Markdown (it holds the solutions of exercises) of every notebook."""
    cells = (json.loads(p.read_text(encoding="utf-8"))["cells"] for p in sorted((ROOT / "notebooks").glob("*.ipynb")))
    return ["".join(cell["source"]) for group in cells for cell in group]


def words_used(trees: dict[str, ast.Module]) -> Counter[str]:
    """How often each word stands in the package, the notebooks and what the build names, definitions not counted."""
    words: Counter[str] = Counter()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                words[node.id] += 1
            elif isinstance(node, ast.Attribute):
                words[node.attr] += 1
            elif (
                isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.:]+", node.value)
            ):
                words.update(re.findall(r"\w+", node.value))
    for text in [*notebook_sources(), (ROOT / "README.md").read_text(encoding="utf-8")]:
        words.update(re.findall(r"\w+", text))
    return words


def circles(trees: dict[str, ast.Module]) -> list[str]:
    """One line for a circle of imports, if there is any."""
    graph = {name: imports_of(tree, set(trees)) - {name} for name, tree in trees.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["circle: " + " -> ".join(error.args[1])]
    return []


def faults(trees: dict[str, ast.Module]) -> list[str]:
    """Everything that may not be."""
    found = circles(trees)
    paths = sorted((ROOT / "medcore").rglob("*.py"))
    for path in paths:
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MOST_LINES:
            found.append(f"{path.relative_to(ROOT)}: {lines} lines, more than {MOST_LINES}")
    for folder, count in Counter(path.parent for path in paths).items():
        if count > MOST_FILES:
            found.append(f"{folder.relative_to(ROOT)}: {count} files, more than {MOST_FILES}")
    homes, words = defaultdict(list), words_used(trees)
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    found.append(f"{module}.{node.name}: {length} lines, more than {LONGEST_FUNCTION}")
        for node in definitions(tree):
            if not node.name.startswith("_"):
                homes[node.name].append(module)
            magic = node.name.startswith("__")
            if not (words[node.name] or magic) and node.name not in ENTRY_POINTS and not is_command(node):
                found.append(f"{module}.{node.name}: nothing uses it")
    found += [
        f"{name}: defined in {', '.join(at)}" for name, at in homes.items() if len(at) > 1 and name not in TWO_HOMES
    ]
    return found


def never_passed(trees: dict[str, ast.Module]) -> tuple[int, int]:
    """Optional keyword-only parameters of public functions that no call names, and how many there are."""
    passed = Counter(
        k.arg for tree in trees.values() for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords
    )
    for text in notebook_sources():
        passed.update(re.findall(r"(\w+)\s*=", text))
    optional = [
        argument.arg
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        if default is not None
    ]
    return sum(not passed[name] for name in optional), len(optional)


def figures(trees: dict[str, ast.Module]) -> str:
    """The shape in one paragraph."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "medcore").rglob("*.py")]
    lines = sum(text.count("\n") for text in sources)
    rooms: dict[str, list[int]] = defaultdict(list)
    for path in (ROOT / "medcore").rglob("*.py"):
        rooms[path.relative_to(ROOT / "medcore").parts[0]].append(path.read_text(encoding="utf-8").count("\n"))
    unused, optional = never_passed(trees)
    table = ", ".join(f"{room} {len(sizes)}/{sum(sizes):,}" for room, sizes in sorted(rooms.items()))
    return f"{len(sources)} files, {lines:,} lines ({table}); {unused} of {optional} optional keywords never passed"


if __name__ == "__main__":
    everything = modules()
    wrong = faults(everything)
    print(figures(everything))
    print("\n".join(wrong))
    sys.exit(bool(wrong))
