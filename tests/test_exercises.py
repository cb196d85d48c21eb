"""Every notebook ends with exercises whose solutions run (`make test` runs them through the plugin ``exercises``)."""

import ast
import re
import shlex
from pathlib import Path

import click
import nbformat
import pytest
from exercises import exercises, faults, reading_solutions, solutions
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbmake.nb_run import NotebookRun
from report_samples import display, png, sample_results

from medcore.cli import cli
from medcore.cli.reports import find_notebooks, planned_runs, read_parameters
from medcore.errors import MedcoreError
from medcore.reporting.body import RESULTS

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEXTS = [*NOTEBOOKS, ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("[dnr]*/README.md"))]
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@every_notebook
def test_three_to_five_exercises_each_with_a_folded_solution(path: Path) -> None:
    found = exercises(nbformat.read(path, 4))
    assert list(found) == list(range(1, len(found) + 1)) and 3 <= len(found) <= 5
    for number, text in found.items():
        task, fold, solution = text.partition("<details><summary>Solution</summary>")
        assert task.strip() and fold and solution.count("</details>") == 1, f"exercise {number}"


@every_notebook
def test_every_block_of_a_solution_is_python_and_runs(path: Path) -> None:
    """No block escapes the plugin: what is fenced is Python, inside a solution, and compiles."""
    notebook = nbformat.read(path, 4)
    fences = sum(text.count("```") for text in exercises(notebook).values())
    found = solutions(notebook)
    assert found and fences == 2 * len(found)
    for _, code in found:
        ast.parse(code)


def toy(tmp_path: Path, *blocks: str) -> Path:
    text = "## Exercises\n"
    for number, block in enumerate(blocks, start=1):
        fold = f"<details><summary>Solution</summary>\n\n```python\n{block}\n```\n</details>"
        text += f"\n**{number}.** Do it.\n\n{fold}\n"
    cells = [new_code_cell("x = 1"), new_markdown_cell(text + "\n## References\n")]
    metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), tmp_path / "toy.ipynb")
    return tmp_path / "toy.ipynb"


def test_solutions_start_from_the_end_of_the_notebook_and_not_from_each_other(tmp_path: Path) -> None:
    path = toy(
        tmp_path, "x += 1; y = 2", "assert x == 1 and 'y' not in globals()", "assert [x for _ in '12'] == [1, 1]"
    )
    before = path.read_bytes()
    with reading_solutions():
        result = NotebookRun(path, 60).execute()
    assert result.error is None, result.error
    assert path.read_bytes() == before


def test_a_broken_solution_is_named_with_its_traceback(tmp_path: Path) -> None:
    with reading_solutions():
        result = NotebookRun(toy(tmp_path, "x", "x.nothing()", "x"), 60).execute()
    assert "# toy, solution of exercise 2" in result.error.trace
    assert "AttributeError" in result.error.trace and "x.nothing()" in result.error.trace


def commands(path: Path) -> list[str]:
    """Every line ``medcore …`` of a text: in indented blocks, fences and backquotes."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join(cell.source for cell in nbformat.reads(text, 4).cells if cell.cell_type == "markdown")
    blocks = re.findall(r"^(?:    |\$ )(?:\S*/)?(medcore .*?)(?:  +#.*)?$", text, re.MULTILINE)
    return [" ".join(line.split()) for line in [*blocks, *re.findall(r"`(medcore [^`]+)`", text, re.DOTALL)]]


def checked(line: str) -> None:
    """A command as the command line reads it, without running it; notebook parameters are validated too."""
    words = [word for word in shlex.split(line) if word != "…"][1:]
    if "-f" in words:  # a file that the reader is to have
        del words[words.index("-f") : words.index("-f") + 2]
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None, f"no command {words[0]}"
    while isinstance(command, click.Group) and len(words) > 1 and not words[1].startswith("-"):
        words = words[1:]
        command = command.get_command(click.Context(command), words[0])
        assert command is not None, f"no command {line!r}"
    if len(words) == 1 or "…" in line:
        return
    context = command.make_context(words[0], words[1:])
    if words[0] == "reports" and not any(name.endswith(".ipynb") for name in context.params["notebooks"]):
        planned_runs(find_notebooks(context.params["notebooks"]), read_parameters(None, context.params["pairs"]))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_the_texts_is_one(path: Path) -> None:
    for line in commands(path):
        try:
            checked(line)
        except (click.ClickException, MedcoreError) as error:
            raise AssertionError(f"{path.name}: `{line}`: {error}") from error


def test_the_command_check_notices_mistakes() -> None:
    for wrong in ("medcore report 06", "medcore reports 06 --profil quick", "medcore reports 06 -p epoch=3"):
        with pytest.raises((AssertionError, click.UsageError, MedcoreError)):
            checked(wrong)


def executed(alt: str, caption: str, table: str, said: str) -> nbformat.NotebookNode:
    """A notebook as it looks after its run: a figure, a table, a sentence and the results."""
    shown = [
        display({"image/png": png(60, 60)}, {"image/png": {"alt": alt, "caption": caption}}),
        display({"text/html": table}),
        display({"text/markdown": said}),
        display({RESULTS: sample_results().as_dict()}),
    ]
    cells = [new_code_cell("…", outputs=shown, execution_count=1)]
    return nbformat.from_dict(new_notebook(cells=cells))


TITLED = "<table><caption>Counts</caption><tr><td>1</td></tr></table>"
WHOLE = {"alt": "A picture of noise.", "caption": "Noise.", "table": TITLED, "said": "**It reaches 0.83 (0.79–0.87).**"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, ""),
        ({"alt": ""}, "cell 1: figure 1"),
        ({"caption": ""}, "cell 1: figure 1"),
        ({"table": TITLED.replace("<caption>Counts</caption>", "")}, "cell 1: Table 1"),
        ({"said": "**It reaches 0.83 (0.79–0.88).**"}, "0.83 (0.79–0.88) is not in the results"),
        ({"caption": "AUROC 0.94 (0.92–0.97)."}, "0.94 (0.92–0.97) is not in the results"),
    ],
)
def test_what_a_notebook_showed_without_words_or_beside_its_results_is_named(change: dict, fault: str) -> None:
    assert faults(executed(**WHOLE | change)) == ([fault] if fault else [])
