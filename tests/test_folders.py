"""Folders of runs: what is ours is replaced and never lost, what is not ours is never touched."""

import os
from pathlib import Path

import pytest
from report_samples import sample_results

from medcore.errors import MedcoreError
from medcore.reporting.compare import compare_runs
from medcore.reporting.folders import MARK, PARTIAL, SUFFIXES, begin, give_name, refuse_foreign, sole_writer
from medcore.reporting.index import write_index
from medcore.reporting.results import read_results, write_results


def finished(out: Path, name: str = "x", **changes: object) -> Path:
    """A run that came to its end."""
    partial = begin(out / name)
    write_results(partial, sample_results(notebook=name, **changes))
    give_name(partial, out / name, changes.get("status", "ok") == "ok")
    return out / name


def test_begin_restores_what_a_crash_left_between_two_renames(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    folder.rename(tmp_path / "x.replaced")
    begin(folder)
    assert read_results(folder).status == "ok" and not (tmp_path / "x.replaced").exists()


def test_good_runs_replace_and_failed_ones_keep_the_last_good_one(tmp_path: Path) -> None:
    def run(mark: str, good: bool) -> None:
        partial = begin(tmp_path / "x")
        write_results(partial, sample_results(summary=mark, status="ok" if good else "raised"))
        give_name(partial, tmp_path / "x", good)

    for mark, good in (("one", True), ("two", False), ("three", False)):
        run(mark, good)
    assert read_results(tmp_path / "x").summary == "three"
    assert read_results(tmp_path / "x.previous").summary == "one"
    run("four", True)
    assert read_results(tmp_path / "x").summary == "four"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("suffix", ["", *SUFFIXES])
@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling link"])
def test_what_is_not_ours_is_never_replaced(tmp_path: Path, suffix: str, kind: str) -> None:
    place, elsewhere = tmp_path / f"01_preprocessing{suffix}", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / MARK).touch()
    if kind == "folder":
        place.mkdir()
        (place / "chapter.tex").write_text("years of work")
    elif kind == "file":
        place.write_text("years of work")
    else:
        place.symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")
    for act in (refuse_foreign, begin):
        with pytest.raises(MedcoreError, match="is not a run of medcore") as refused:
            act(tmp_path / "01_preprocessing")
        assert str(place) in str(refused.value) and "--out" in str(refused.value)
    assert os.path.lexists(place) and (elsewhere / MARK).exists()
    if kind in ("folder", "file"):
        assert (place / "chapter.tex" if kind == "folder" else place).read_text() == "years of work"


def test_a_folder_that_came_in_the_way_while_a_run_was_at_work_stays(tmp_path: Path) -> None:
    partial = begin(tmp_path / "x")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.txt").write_text("mine")
    with pytest.raises(MedcoreError, match="is not a run of medcore"):
        give_name(partial, tmp_path / "x", good=True)
    assert (tmp_path / "x" / "mine.txt").exists() and partial.exists()


def test_runs_of_earlier_versions_carry_their_results_and_report(tmp_path: Path) -> None:
    old = tmp_path / "x"
    old.mkdir()
    write_results(old, sample_results(schema="medcore.results/1"))
    with pytest.raises(MedcoreError, match="not a run"):
        refuse_foreign(old)
    (old / "report.html").write_text('<meta name="generator" content="medcore 0.1.0">')
    refuse_foreign(old)


def test_pages_of_somebody_else_are_left_as_they_are(tmp_path: Path) -> None:
    folders = [finished(tmp_path, name) for name in ("a", "b")]
    for name, write in (("index.html", write_index), ("compare.html", lambda out: compare_runs(folders, out))):
        write(tmp_path)
        write(tmp_path)  # ours is replaced
        (tmp_path / name).write_text("<h1>My own page</h1>")
        with pytest.raises(MedcoreError, match=name):
            write(tmp_path)
        assert (tmp_path / name).read_text() == "<h1>My own page</h1>"


@pytest.mark.parametrize("ended", ["killed", "raised"])
def test_the_checkpoints_of_a_run_that_was_broken_off_reach_the_same_job_only(tmp_path: Path, ended: str) -> None:
    def train(job: str) -> tuple[Path, list[str]]:
        partial = begin(tmp_path / "x", job)
        found = sorted(path.name for path in partial.rglob("epoch-*")) + [p.name for p in partial.glob("*.csv")]
        (partial / "checkpoints" / "epoch-0001").mkdir(parents=True, exist_ok=True)
        (partial / "history.csv").touch()
        if ended == "raised":
            write_results(partial, sample_results(status="raised"))
            give_name(partial, tmp_path / "x", good=False)
        return partial, found

    assert train("one")[1] == []
    assert train("one")[1] == ["epoch-0001", "history.csv"]
    assert train("two")[1] == []
    partial = begin(tmp_path / "x", "two")
    write_results(partial, sample_results())
    give_name(partial, tmp_path / "x", good=True)
    assert train("two")[1] == [], "a run that came to its end is not gone on with"


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    with sole_writer(tmp_path):
        with pytest.raises(MedcoreError, match=rf"process {os.getpid()}"), sole_writer(tmp_path):
            pass
    with sole_writer(tmp_path):
        assert not list(tmp_path.glob(f"*{PARTIAL}"))
