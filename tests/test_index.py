"""The index shows every run, whatever state it is in; the study joins the runs of one folder."""

import json
from pathlib import Path

import nbformat
import pytest
from report_samples import sample_notebook, sample_results

from medcore.reporting.figures import thumbnail_uri, write_thumbnail
from medcore.reporting.folders import sole_writer
from medcore.reporting.index import index_root, row_of, write_index, write_study
from medcore.reporting.report import report_page
from medcore.reporting.results import MethodEstimate, Picture, read_results, write_results


def make_run(folder: Path, failing: bool = False, **changes: object) -> Path:
    """A finished run."""
    folder.mkdir(parents=True)
    notebook = sample_notebook(failing)
    results = sample_results(notebook=folder.name, **changes)
    results.picture = Picture(**write_thumbnail(notebook, folder))
    write_results(folder, results)
    nbformat.write(notebook, folder / "notebook.ipynb")
    (folder / "report.html").write_text(report_page(notebook, results), encoding="utf-8")
    return folder


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_each_run_is_a_row_with_what_matters(tmp_path: Path) -> None:
    make_run(tmp_path / "today" / "06_patch_classification")
    page = text_of(write_index(tmp_path))
    for wanted in (
        'href="today/06_patch_classification/report.html"',
        "✓ ok",
        "balanced accuracy 0.83 (0.79–0.87)",
        "best baseline: colour histogram 0.47 (0.43–0.52)",
        "phantom-crc",
        "synthetic",
        "2026-11-20 11:42 UTC",
        "2 min 11 s",
        "de8fdd84ee",
        "data:image/webp;base64,",
        'alt="Nine tissue classes, one example patch each, in two rows."',
    ):
        assert wanted in page


def test_a_rival_or_a_flattering_way_to_measure_is_no_baseline(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "today" / "06_patch_classification")
    results = read_results(folder)
    rival = results.baselines[0].as_dict() | {"baseline": "rival", "value": 0.9, "trivial": False}
    results.baselines.append(MethodEstimate(**rival))
    assert row_of(write_results(folder, results).parent, tmp_path)["headline"]["beside"].startswith("colour histogram")


def test_the_newest_folder_comes_first_and_its_runs_in_order(tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "06_x", started="2026-11-20T10:00:00+00:00", title="T6")
    make_run(tmp_path / "a" / "01_x", started="2026-11-20T11:00:00+00:00", title="T1")
    make_run(tmp_path / "b" / "01_x", started="2026-11-21T00:00:00+00:00", title="TB")
    page = text_of(write_index(tmp_path))
    assert page.index(">TB<") < page.index(">T1<") < page.index(">T6<")


@pytest.mark.parametrize("content", ["{ broken", "[]", "3", "", '{"data": 3, "metrics": {"a": 1}, "picture": []}'])
def test_results_that_cannot_be_read_are_shown_as_such(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "today" / "06_x"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(content)
    page = text_of(write_index(tmp_path))
    assert "06_x" in page and "unreadable" in page


def test_one_odd_results_file_costs_neither_its_row_nor_the_index(tmp_path: Path) -> None:
    """Every leaf of a real file replaced by every kind of nonsense, one file each."""
    good = sample_results().as_dict()
    odd: list[object] = [None, -1, 1e308, "", "x" * 5000, [], [[]], {}, {"a": {"b": []}}, True, "\ud800", float("nan")]
    count = 0
    for key in good:
        for value in odd:
            folder = tmp_path / f"{count:03d}"
            folder.mkdir()
            (folder / "results.json").write_text(json.dumps(good | {key: value}))
            count += 1
    page = text_of(write_index(tmp_path))
    assert count > 260 and page.count('<td class="picture">') == count


def test_a_run_in_progress_is_told_from_one_that_was_abandoned(tmp_path: Path) -> None:
    partial = tmp_path / "06_x.partial"
    partial.mkdir()
    assert row_of(partial, tmp_path)["status"]["word"] == "killed"
    with sole_writer(tmp_path):
        assert row_of(partial, tmp_path)["status"]["word"] == "running"


def test_the_status_of_the_results_is_shown_with_its_cell_and_reason(tmp_path: Path) -> None:
    make_run(tmp_path / "t" / "02_x", True, status="out of memory", cell=11, error="MemoryError: 8 GB", metrics=[])
    page = text_of(write_index(tmp_path))
    assert "✕ out of memory" in page and "in cell 11" in page and "MemoryError: 8 GB" in page


def test_an_index_of_nothing_says_so(tmp_path: Path) -> None:
    assert "No runs yet" in text_of(write_index(tmp_path))


def test_checkpoints_and_hidden_folders_are_not_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "today" / "06_x")
    for name in ("checkpoints", ".hidden"):
        inner = tmp_path / "today" / "06_x" / name
        inner.mkdir()
        (inner / "results.json").write_text("{}")
    (tmp_path / "today" / "02_x.replaced").mkdir()
    (tmp_path / "today" / "02_x.replaced" / "results.json").write_text("{}")
    assert text_of(write_index(tmp_path)).count('<td class="picture">') == 1


def test_the_index_stands_over_all_runs_of_the_reports_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCORE_REPORTS", str(tmp_path / "reports"))
    assert index_root(tmp_path / "reports" / "today") == tmp_path / "reports"
    assert index_root(tmp_path / "elsewhere") == tmp_path / "elsewhere"


def test_a_thumbnail_is_small_and_only_of_described_figures(tmp_path: Path) -> None:
    notebook = sample_notebook()
    assert write_thumbnail(notebook, tmp_path)["file"] == "thumbnail.webp"
    assert len(thumbnail_uri(tmp_path)) < 20_000
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.metadata = {}
    assert write_thumbnail(notebook, tmp_path) == {}


def test_a_broken_picture_costs_no_report(tmp_path: Path) -> None:
    notebook = sample_notebook()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = "bm90IGFuIGltYWdl"
    assert write_thumbnail(notebook, tmp_path).get("file") in (None, "thumbnail.svg")


def test_a_study_has_one_data_section_one_conclusion_and_every_chapter(tmp_path: Path) -> None:
    for name in ("01_preprocessing", "02_autoencoder", "06_patch_classification"):
        failed = name.startswith("02")
        make_run(tmp_path / name, failed, **({"metrics": [], "summary": "", "status": "raised"} if failed else {}))
    study = write_study(tmp_path)
    assert study is not None
    page = text_of(study)
    assert page.count('<h2 id="conclusions">') == page.count('<h2 id="data">') == 1
    assert page.count("Colorectal tissue phantoms, nine classes</h3>") == 1
    assert page.count('class="chapter"') == 3 and "1 did not succeed" in page
    assert page.index("Made on synthetic phantoms") < page.index("<h1>")
    assert 'href="#c2"' in page, "a link to another notebook leads to its chapter"
    import re

    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_one_run_makes_no_study_and_a_broken_one_is_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "01_x")
    assert write_study(tmp_path) is None
    make_run(tmp_path / "02_x")
    make_run(tmp_path / "03_x")
    (tmp_path / "03_x" / "notebook.ipynb").write_text("{ broken")
    (tmp_path / "02_x.previous").mkdir()
    (tmp_path / "02_x.previous" / "results.json").write_text(json.dumps(sample_results().as_dict()))
    study = write_study(tmp_path)
    assert study is not None and text_of(study).count('class="chapter"') == 2
