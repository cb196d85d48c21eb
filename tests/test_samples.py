"""The report that the repository shows is small, names nothing of the machine that made it, and is of today's kind."""

import re
from pathlib import Path

import nbformat
import pytest
from report_samples import sample_notebook, sample_results
from slim_sample import ROOT, SAMPLE, SHOWN, figure_of, slim

from medcore.reporting.body import write_body
from medcore.reporting.report import report_page
from medcore.reporting.results import SCHEMA, Results, read_results, write_results

LARGEST, SHELL = 1_000_000, 85_000  # bytes of a report, and of all but its figures (13 kB are tables as CSV)
FIGURE = re.compile(r'<div class="place".*?</figure></div>', re.DOTALL)
shown = pytest.mark.skipif(not (SAMPLE / "report.html").is_file(), reason="no sample yet: make sample")


def weights(page: str) -> tuple[int, int]:
    """Bytes of a report, and without its figures."""
    return len(page.encode()), len(FIGURE.sub("", page).encode())


def test_the_frame_of_a_report_is_a_small_part_of_the_shell() -> None:
    """What every report carries whatever its notebook says: style, first screen, checklist, environment."""
    _, shell = weights(report_page(sample_notebook(), sample_results()))
    assert shell < 30_000


@shown
def test_the_sample_is_small_and_nothing_else_lies_there() -> None:
    whole, shell = weights((SAMPLE / "report.html").read_text(encoding="utf-8"))
    assert whole <= LARGEST and shell <= SHELL
    assert {path.name for path in SAMPLE.rglob("*")} == {"report.html", "results.json", "report.png", "figures.png"}
    assert (SAMPLE / "report.png").stat().st_size <= 200_000


@shown
def test_the_sample_is_of_the_kind_that_is_made_today() -> None:
    """Its results are of today's schema with every field of today, its sections those of today's notebook."""
    results = read_results(SAMPLE)
    assert results.version == SCHEMA and results.model_fields_set >= Results.model_fields.keys() - {"picture"}
    today = write_body(nbformat.read(ROOT / "notebooks" / f"{SHOWN}.ipynb", as_version=4)).narrative
    wanted = [heading.anchor for heading in today.headings if heading.level == 2]
    page = (SAMPLE / "report.html").read_text(encoding="utf-8")
    missing = [anchor for anchor in wanted if f'id="{anchor}"' not in page]
    assert not missing, f"reports/sample lacks the sections {', '.join(missing)}: make sample"


@shown
def test_the_sample_names_no_folder_of_the_machine_it_was_made_on() -> None:
    for name in ("report.html", "results.json"):
        text = re.sub(r"data:image/[^\"]*", "", (SAMPLE / name).read_text(encoding="utf-8"))
        assert not re.findall(r"/(?:tmp|work|root|home)/[^\"<\s]*", text)


def test_relative_links_of_the_readme_lead_to_files() -> None:
    for text in (ROOT / "README.md", ROOT / "notebooks" / "README.md"):
        links = re.findall(r"\]\(([^)#]+)\)", text.read_text(encoding="utf-8"))
        proofs = re.findall(r"`((?:tests|benchmarks)/[\w./-]+)`", text.read_text(encoding="utf-8"))
        links += [f"{ROOT}/{path}" for path in proofs]  # what holds a promise
        missing = [link for link in links if not link.startswith("http") and not (text.parent / link).exists()]
        assert not missing, f"{text.name}: {missing}"


def finished_run(folder: Path, **changes: object) -> Path:
    """A run of the shown notebook as `medcore reports` leaves it."""
    place = folder / SHOWN
    place.mkdir(parents=True)
    nbformat.write(sample_notebook(), place / "notebook.ipynb")
    write_results(place, sample_results(notebook=SHOWN, **changes))
    return folder


def test_a_sample_is_made_from_a_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCORE_BROWSER", str(tmp_path / "no-browser"))  # its picture is the browser tests' matter
    page = slim(finished_run(tmp_path / "run"), tmp_path / "sample")
    assert {path.name for path in page.parent.iterdir()} == {"report.html", "results.json"}
    assert read_results(page.parent) == read_results(tmp_path / "run" / SHOWN)


def test_an_unfinished_run_makes_no_sample(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no run"):
        slim(tmp_path / "nothing", tmp_path / "sample")
    with pytest.raises(SystemExit, match="did not succeed"):
        slim(finished_run(tmp_path / "run", status="raised"), tmp_path / "sample")
    assert not (tmp_path / "sample").exists()


def test_a_figure_of_a_run_is_found_by_its_caption() -> None:
    notebook = sample_notebook()
    facts = [
        (output.data[mime], mime, words["caption"])
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        for mime, words in output.get("metadata", {}).items()
        if isinstance(words, dict) and words.get("caption")
    ]
    content, mime, caption = facts[-1]
    assert figure_of(notebook, caption) == (content, mime)
    with pytest.raises(SystemExit, match="no figure"):
        figure_of(notebook, "A caption that no figure has")
