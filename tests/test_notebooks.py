"""The notebooks keep the house rules (nbmake runs them; this reads them)."""

import ast
import re
from pathlib import Path
from statistics import median

import nbformat
import pytest
from exercises import solutions

from medcore.reporting.parameters import SCHEMAS, literals, schema_for

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBERED = [path for path in NOTEBOOKS if path.stem[:2].isdigit()]
SHOWN = r"\b(?:show|explore)\("
LONGEST_LINE, LONGEST_CELL, MEDIAN_CELL, CELLS = 110, 25, 5, (20, 45)
IMPORT_LINES, PLACES, NAMES = 10, 4, 30
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
numbered_notebook = pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def sources(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in read(path).cells if cell.cell_type == kind]


def nodes(path: Path) -> list[ast.AST]:
    return [node for source in sources(path, "code") for node in ast.walk(ast.parse(source))]


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
    assert CELLS[0] <= len(code) + len(prose) <= CELLS[1]
    assert 0.6 <= len(prose) / len(code) <= 1.7
    lines = [len(source.strip().splitlines()) for source in code if source != parameters_cell(path)]
    assert median(lines) <= MEDIAN_CELL and max(lines) <= LONGEST_CELL


@every_notebook
def test_lines_can_be_read_without_scrolling(path: Path) -> None:
    """Code and prose; a reference may carry a long address."""
    lines = [line for cell in read(path).cells for line in cell.source.splitlines()]
    assert not [line for line in lines if len(line) > LONGEST_LINE]


def names_used(path: Path) -> tuple[int, set[str], set[str]]:
    """Import statements, modules of medcore that are imported from, and names of medcore that a reader meets."""
    imports = [node for node in nodes(path) if isinstance(node, (ast.Import, ast.ImportFrom))]
    ours = [node for node in imports if isinstance(node, ast.ImportFrom) and str(node.module).startswith("medcore")]
    names = {alias.asname or alias.name for node in ours for alias in node.names}
    reached = {
        f"{node.value.id}.{node.attr}"
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names
    }
    return len(imports), {str(node.module) for node in ours}, names | reached


@every_notebook
def test_few_names_from_few_places(path: Path) -> None:
    imports, places, names = names_used(path)
    assert imports <= IMPORT_LINES
    assert len(places) <= PLACES, sorted(places)
    assert len(names) <= NAMES, sorted(names)


@every_notebook
def test_logic_lives_in_the_package(path: Path) -> None:
    assert not [node for node in nodes(path) if isinstance(node, ast.ClassDef)]
    assert len([node for node in nodes(path) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]) <= 1


@every_notebook
def test_no_sentence_hides_a_decision(path: Path) -> None:
    """A conditional inside an f-string is a decision tree that nobody tests."""
    texts = [node for node in nodes(path) if isinstance(node, ast.JoinedStr)]
    hidden = [part for text in texts for part in ast.walk(text) if isinstance(part, ast.IfExp)]
    assert not hidden, [ast.unparse(part) for part in hidden]


@every_notebook
def test_parameters_are_literals_with_a_comment_each_in_the_order_of_the_schema(path: Path) -> None:
    """Defaults stand in the cell alone: the schema reads them there."""
    source = parameters_cell(path)
    for line in source.strip().splitlines():
        assert re.search(r"\S  # \S", line), f"no trailing comment: {line!r}"
    assert list(literals(source, path.name)) == list(schema_for(path).model_fields)


@numbered_notebook
def test_the_frame_of_every_notebook(path: Path) -> None:
    first = read(path).cells[0].source
    assert first.startswith("# ")
    assert "not for clinical use" in first.lower()
    code, prose = "\n".join(sources(path, "code")), "\n".join(sources(path, "markdown"))
    for heading in ("## Limitations", "## Recap", "## Exercises", "## References"):
        assert heading in prose, heading
    assert "?" in re.split(r"## Recap\s+", prose)[1].split("\n- ")[0], "the recap does not repeat the question"
    assert "Run.start(" in code and "run.finish(" in code
    assert code.index("Run.start(") > code.index(parameters_cell(path))
    assert len(re.findall(r"<details>", prose)) >= 3, "three exercises with folded solutions at least"


@numbered_notebook
def test_a_reader_predicts_twice_tries_and_finds_the_words(path: Path) -> None:
    prose = "\n".join(sources(path, "markdown"))
    assert len(re.findall("predict, then run", prose, flags=re.IGNORECASE)) >= 2
    assert "# your try" in sources(path, "code")
    assert "(README.md#Glossary)" in read(path).cells[0].source, "no link to the glossary"


def test_every_word_of_the_glossary_is_met_in_a_notebook() -> None:
    glossary = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8").partition("## Glossary")[2]
    rows = re.findall(r"^\| ([^|]+?) \| [^|]+ \|$", glossary, re.M)[1:]
    words = [word.lower() for row in rows for word in row.split(", ")]
    text = " ".join(" ".join(cell.source.split()) for path in NUMBERED for cell in read(path).cells).lower()
    assert len(words) > 60 and not [word for word in words if word not in text]


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


CLAIM = r"(?<!how )(?<!that )(?<!as )(?<!too )\b(?:often|usually|typically|rarely|seldom|hardly|strong|by far)\b"
CLAIM += r"|\b\d+ of \d+\b|\b(?:a|one|two) (?:tenth|third|quarter|fifth)s?\b"
CLAIM += r"|\b(?:nearly|almost) (?:all|every|always|never)\b"
GENERAL = (  # true of every data set, whatever a run gives
    "Images of one patient usually resemble each other",  # why the patient is the unit
    "Bacteria are thin rods, often many",  # what is looked for
    "can hardly be found by reading windows",  # no window shows any
    "neighbouring fields of one slide are often almost the same picture",  # why shares are counted in patients
    "(so many clean, so many positive, so many strongly positive)",
)


def claims(source: str) -> list[str]:
    """Sentences that state how often or how much, but for questions, conditions, exercises' steps and definitions."""
    text = re.split("## References", source)[0]
    text = re.sub(r"```.*?```|`[^`]*`|<[^>]*>|^#+ .*?$", "", text, flags=re.S | re.M)
    sentences = [" ".join(part.split()) for part in re.split(r"(?<=[.?!])\s+|\n\n|\n- ", text)]
    conditional = re.compile(r"\b(?:where|when|if)\b|\?$|^Keep ", flags=re.IGNORECASE)
    return [one for one in sentences if re.search(CLAIM, one, flags=re.IGNORECASE) and not conditional.search(one)]


@numbered_notebook
def test_no_claim_stands_in_the_prose_that_a_run_could_contradict(path: Path) -> None:
    """How often and how much is computed, cited with its year, or true of every data set."""
    stated = [claim for source in sources(path, "markdown") for claim in claims(source)]
    open_claims = [one for one in stated if not re.search(r"\(.* (?:19|20)\d\d\)", one)]
    assert not [one for one in open_claims if not any(general in one for general in GENERAL)]


def test_the_claims_that_runs_contradicted_are_seen() -> None:
    wrong = ["Colour alone is often strong.", "The object covers a tenth of the pixels.", "5 of 8 patients were found."]
    assert [claims(one) for one in wrong] == [[one] for one in wrong]
    right = ["How often is it right?", "Where colour is strong, look twice.", "```\n5 of 8\n```"]
    assert not [one for one in right if claims(one)]


def calls(source: str) -> set[str]:
    """Names of what is called, and of the keywords it is called with, as ``fit(test=)``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            found |= {name, *(f"{name}({keyword.arg}=)" for keyword in node.keywords)}
    return found


@numbered_notebook
def test_nobody_watches_the_test_images_while_training(path: Path) -> None:
    """A test curve is an exercise: whoever sees it and then changes something has chosen on test data."""
    assert not [source for source in sources(path, "code") if "fit(test=)" in calls(source)]


@numbered_notebook
def test_what_a_sweep_searches_by_is_recorded_where_something_is_trained(path: Path) -> None:
    called = set().union(*map(calls, sources(path, "code")))
    assert "fit" not in called or "validated" in called


def test_what_the_map_says_of_notebook_06_is_called_there() -> None:
    """In a cell or in the solution of an exercise; what the text alone mentions stands in the text."""
    text = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    table = text.partition("## What training can do")[2].partition("\n## ")[0]
    places = re.findall(r"^\| [^|`]+ \| `([^`]+)` \|$", table, re.M)
    path = ROOT / "notebooks" / "06_patch_classification.ipynb"
    code = [*sources(path, "code"), *(block for _, block in solutions(read(path)))]
    called = set().union(*map(calls, code))
    prose = "\n".join(sources(path, "markdown"))
    assert len(places) >= 12
    assert not [place for place in places if place not in called and f"`{place}`" not in prose]
