"""The notebooks keep the house rules (nbmake runs them; this reads them)."""

import ast
import re
from pathlib import Path
from statistics import median

import nbformat
import pytest

from medcore.reporting.parameters import SCHEMAS, literals, schema_for

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBERED = [path for path in NOTEBOOKS if path.stem[:2].isdigit()]
SHOWN = r"\b(?:show|explore)\("
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
numbered_notebook = pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def sources(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in read(path).cells if cell.cell_type == kind]


def parameters_cell(path: Path) -> str:
    tagged = [cell.source for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, f"{len(tagged)} cells tagged 'parameters'"
    return tagged[0]


def test_there_are_notebooks_and_each_has_a_schema() -> None:
    assert {path.stem for path in NUMBERED} == set(SCHEMAS)


@every_notebook
def test_nothing_is_stored_but_sources(path: Path) -> None:
    notebook = read(path)
    assert notebook.metadata == {"kernelspec": {"language": "python", "name": "python3"}}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            assert set(cell.metadata) <= {"tags", "jupyter"}


@numbered_notebook
def test_length_and_balance(path: Path) -> None:
    code, prose = sources(path, "code"), sources(path, "markdown")
    assert 20 <= len(code) + len(prose) <= 60
    assert 0.6 <= len(prose) / len(code) <= 1.7
    lines = [len(source.strip().splitlines()) for source in code]
    assert median(lines) <= 5 and max(lines) <= 25


@every_notebook
def test_logic_lives_in_the_package(path: Path) -> None:
    trees = [ast.parse(source) for source in sources(path, "code")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    assert not [node for node in nodes if isinstance(node, ast.ClassDef)]
    assert len([node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]) <= 1


@every_notebook
def test_parameters_are_commented_literals_that_agree_with_the_schema(path: Path) -> None:
    source = parameters_cell(path)
    values = literals(source, path.name)
    for line in source.strip().splitlines():
        assert re.search(r"\S  # \S", line), f"no trailing comment: {line!r}"
    fields = schema_for(path).model_fields
    assert list(values) == list(fields), "names or order differ from medcore/reporting/parameters"
    assert values == {name: field.default for name, field in fields.items()}


@numbered_notebook
def test_the_frame_of_every_notebook(path: Path) -> None:
    cells = read(path).cells
    first = cells[0].source
    assert first.startswith("# ")
    assert "not for clinical use" in first.lower()
    code, prose = "\n".join(sources(path, "code")), "\n".join(sources(path, "markdown"))
    for heading in ("## What this does not show", "## Recap", "## Exercises", "## References"):
        assert heading in prose, heading
    assert "Run.start(" in code and "run.finish(" in code
    assert code.index("Run.start(") > code.index(parameters_cell(path))
    assert len(re.findall(r"<details>", prose)) >= 3, "three exercises with folded solutions at least"


def explained(cells: list, n: int) -> bool:
    """Prose stands right behind the figure: as Markdown, or rendered from computed values."""
    after = cells[n + 1] if n + 1 < len(cells) else None
    in_cell = "run.say(" in re.split(SHOWN, cells[n].source)[-1]
    return in_cell or (after is not None and (after.cell_type == "markdown" or "run.say(" in after.source))


@numbered_notebook
def test_figures_are_followed_by_prose(path: Path) -> None:
    cells = read(path).cells
    shown = [n for n, cell in enumerate(cells) if cell.cell_type == "code" and re.search(SHOWN, cell.source)]
    silent = [cells[n].source for n in shown if not explained(cells, n)]
    assert not silent, silent


@numbered_notebook
def test_no_result_is_typed_into_the_prose(path: Path) -> None:
    """A decimal in the text would be a number that nobody computed; formulas, code and references may have some."""
    for source in sources(path, "markdown"):
        text = re.sub(r"\$[^$]*\$|`[^`]*`|```.*?```|\(?https?://\S+|doi\S*|arXiv\S*", "", source, flags=re.S)
        text = re.split(r"## References", text)[0]
        assert not re.search(r"\b\d+[.,]\d+\b|\b\d+\s?%", re.sub(r"\b95 %", "", text)), text


def test_every_feature_of_training_has_its_place_in_notebook_06_and_its_test() -> None:
    text = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|`]+) \| `([^`]+)` \| `(test_\w+\.py)::(test_\w+)` \|$", text, re.M)
    assert len(rows) >= 12
    notebook = "\n".join(cell.source for cell in read(ROOT / "notebooks" / "06_patch_classification.ipynb").cells)
    for what, place, file, test in rows:
        assert place in notebook, f"{what}: {place!r} is not in notebook 06"
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{what}: no {file}::{test}"
