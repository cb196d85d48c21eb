"""The reports that the repository shows are small, name nothing of the machine that made them, and are of today."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from report_samples import code, display, png, sample_notebook, sample_results
from slim_sample import ROOT, SAMPLE, SOURCE, slim, source_hash

from medcore.reporting.report import find_browser, report_page
from medcore.reporting.results import read_results, write_results

REPORTS = sorted(SAMPLE.glob("*/report.html"))
NUMBERED = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
LARGEST, SHELL = 1_000_000, 60_000  # bytes of a report, and of everything in it but its figures
FIGURE = re.compile(r'<div class="place".*?</figure></div>', re.DOTALL)
every_report = pytest.mark.parametrize("page", REPORTS, ids=lambda page: page.parent.name)
shown = pytest.mark.skipif(not SAMPLE.is_dir(), reason="no sample yet: make sample")


def weights(page: str) -> tuple[int, int]:
    """Bytes of a report, and without its figures."""
    return len(page.encode()), len(FIGURE.sub("", page).encode())


@every_report
def test_a_sample_report_is_small(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, shell = weights(page.read_text(encoding="utf-8"))
    with capsys.disabled():
        print(f"\n  {page.parent.name}: {whole / 1e3:.0f} kB, {shell / 1e3:.0f} kB without figures")
    assert whole <= LARGEST and shell <= SHELL


def test_the_frame_of_a_report_is_a_small_part_of_the_shell() -> None:
    """What every report carries whatever its notebook says: style, first screen, checklist, environment."""
    _, shell = weights(report_page(sample_notebook(), sample_results()))
    assert shell < 30_000


@shown
def test_the_sample_holds_every_notebook_as_it_is_today() -> None:
    stale = []
    for path in NUMBERED:
        folder = SAMPLE / path.stem
        recorded = read_results(folder).get(SOURCE) if folder.is_dir() else None
        if recorded != source_hash(nbformat.read(path, 4)):
            stale.append(path.stem)
    assert not stale, f"reports/sample does not show {', '.join(stale)} as the code is now: make sample"


@shown
def test_relative_links_of_the_readme_lead_to_files() -> None:
    for text in (ROOT / "README.md", ROOT / "notebooks" / "README.md"):
        links = re.findall(r"\]\(([^)#]+)\)", text.read_text(encoding="utf-8"))
        missing = [link for link in links if not link.startswith("http") and not (text.parent / link).exists()]
        assert not missing, f"{text.name}: {missing}"


@shown
def test_links_of_the_sample_lead_to_files_and_nothing_else_lies_there() -> None:
    index = (SAMPLE / "index.html").read_text(encoding="utf-8")
    links = {unquote(link) for link in re.findall(r'href="([^"#:]+\.html)"', index)}
    assert links == {f"{path.stem}/report.html" for path in NUMBERED}
    names = {str(path.relative_to(SAMPLE)) for path in SAMPLE.rglob("*") if path.is_file()}
    results = {f"{path.stem}/results.json" for path in NUMBERED}
    assert names == links | results | {"index.html", "report.png"}
    assert (SAMPLE / "report.png").stat().st_size <= 200_000


@shown
@pytest.mark.parametrize("page", sorted(SAMPLE.rglob("*.*")), ids=lambda page: str(page.relative_to(SAMPLE)))
def test_the_sample_names_no_folder_of_the_machine_it_was_made_on(page: Path) -> None:
    if page.suffix in (".html", ".json"):
        text = re.sub(r"data:image/[^\"]*", "", page.read_text(encoding="utf-8"))
        assert not re.findall(r"/(?:tmp|work|root|home)/[^\"<\s]*", text)


def finished_run(folder: Path) -> Path:
    """A run of all notebooks as `medcore reports` leaves it, with paths of the machine in it."""
    for path in NUMBERED:
        place = folder / path.stem
        place.mkdir(parents=True)
        source = nbformat.read(path, 4)
        injected = new_code_cell("seed = 3", metadata={"tags": ["injected-parameters"]})
        said = f"{place}/history.csv, {ROOT}/medcore/x.py, /else/where/medcore/training/fit.py:3"
        picture = display({"image/png": png(120, 60)}, {"image/png": {"alt": "Shows a thing."}})
        source.cells += [injected, *sample_notebook().cells, code("picture", picture)]
        source.cells[-1].outputs.append(nbformat.v4.new_output("stream", text=said))
        nbformat.write(source, place / "notebook.ipynb")
        write_results(place, sample_results(notebook=path.stem, command=f"medcore reports --out {folder}"))
        (place / "checkpoints").mkdir()
    return folder


def test_a_sample_is_made_from_a_finished_run(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    pages = slim(run, tmp_path / "sample")
    assert (tmp_path / "sample" / "report.png").exists() == (find_browser() is not None)
    assert [page.name for page in pages] == ["report.html"] * len(NUMBERED) + ["index.html"]
    for path in NUMBERED:
        folder = tmp_path / "sample" / path.stem
        assert {found.name for found in folder.iterdir()} == {"report.html", "results.json"}
        text = (folder / "report.html").read_text() + (folder / "results.json").read_text()
        for place in (str(run), str(ROOT), "/else/where"):
            assert place not in text
        assert "./medcore/training/fit.py:3" in text
        assert json.loads((folder / "results.json").read_text())[SOURCE]
    assert re.search("data:image/(webp|svg)", pages[-1].read_text()), "the index still has its pictures"


def test_the_hash_of_a_notebook_is_that_of_its_own_code() -> None:
    cells = [new_code_cell("x = 1"), new_code_cell("y = 2\n")]
    injected = new_code_cell("x = 5", metadata={"tags": ["injected-parameters"]})
    plain = source_hash(new_notebook(cells=cells))
    assert plain == source_hash(new_notebook(cells=[cells[0], injected, cells[1]]))
    assert plain != source_hash(new_notebook(cells=[cells[0], new_code_cell("y = 3")]))


@pytest.mark.parametrize("harm", ["missing", "failed"])
def test_an_incomplete_run_makes_no_sample_and_spoils_none(tmp_path: Path, harm: str) -> None:
    run, target = finished_run(tmp_path / "run"), tmp_path / "sample"
    slim(run, target)
    last = run / NUMBERED[-1].stem
    if harm == "missing":
        (last / "notebook.ipynb").unlink()
    else:
        write_results(last, sample_results(status="raised"))
    before = sorted(target.rglob("*"))
    with pytest.raises(SystemExit, match=NUMBERED[-1].stem):
        slim(run, target)
    assert sorted(target.rglob("*")) == before
