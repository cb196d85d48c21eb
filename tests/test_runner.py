"""The runner tells the truth about every way in which a notebook can end, and never loses a good report."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from report_samples import sample_notebook, sample_results

from medcore.data import parallel
from medcore.errors import MedcoreError
from medcore.reporting import environment, worker
from medcore.reporting import status as autopsy
from medcore.reporting.folders import begin, sole_writer
from medcore.reporting.progress import ConsoleProgress
from medcore.reporting.results import Results, read_results, write_results
from medcore.reporting.runner import finish, run_notebooks
from medcore.reporting.status import KEY, Outcome, Verdict

SOURCES = {
    "fine": "v = os.environ\nprint('threads', v['OMP_NUM_THREADS'], v['MEDCORE_RUN_DIR'])",
    "raises": "print('before')\n1 / 0",
    "killed": "os.kill(os.getpid(), 9)",
    "exits": "os._exit(3)",
    "memory": "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\nlarge = bytearray(8 << 30)",
    "draws": "import numpy as np\nimport matplotlib.pyplot as plt\nprint(np.random.rand())\nplt.plot([1, 2]);",
    "draws_too": "import numpy as np\nprint(np.random.rand())",
}
SLOW = pytest.mark.slow
IMPORTS = "import os, resource, time"


def write_notebook(folder: Path, name: str, source: str) -> Path:
    """A notebook with a title, a parameters cell, one cell of interest and one that follows."""
    cells = [
        new_markdown_cell(f"# Title of {name}"),
        new_code_cell("x = 1  # a number", metadata={"tags": ["parameters"]}),
        new_code_cell(f"{IMPORTS}\n{source}"),
        new_code_cell("print('reached the end with', x)"),
    ]
    spec = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=spec), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """One run over notebooks that end in different ways; a folder's name is as hostile as a file system allows."""
    place = tmp_path_factory.mktemp("nb {x} <b>&'\"")
    notebooks = {write_notebook(place, name, source): {"x": 2} for name, source in SOURCES.items()}
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MPLBACKEND", raising=False)  # as in a shell: the tests' own is inherited by kernels
        outcomes = run_notebooks(notebooks, out=place / "out", jobs=3, progress=False)
    return {outcome.notebook.stem: outcome for outcome in outcomes}


@pytest.mark.parametrize(
    ("name", "status", "error"),
    [
        ("fine", "ok", None),
        ("raises", "raised", "ZeroDivisionError: division by zero"),
        ("killed", "killed", "signal 9"),
        ("exits", "killed", "exit code 3"),
        ("memory", "out of memory", "MemoryError"),
    ],
)
def test_every_ending_has_its_true_status_everywhere(
    endings: dict[str, Outcome], name: str, status: str, error: str | None
) -> None:
    outcome = endings[name]
    cell = None if status == "ok" else 4  # the injected parameters are the third
    assert (outcome.status, outcome.cell) == (status, cell)
    assert outcome.folder is not None
    results = read_results(outcome.folder)
    assert (results.status, results.cell, results.error) == (status, cell, outcome.error)
    assert error is None or error in str(results.error)
    page = (outcome.folder / "report.html").read_text(encoding="utf-8")
    assert f"Title of {name}" in page
    assert ("✓ ok" in page) == (status == "ok")
    assert status == "ok" or f"in cell {cell}" in page
    index = (outcome.folder.parent / "index.html").read_text(encoding="utf-8")
    assert f">{'✓' if status == 'ok' else '✕'} {status}<" in index


@pytest.mark.parametrize("name", ["raises", "killed", "exits", "memory"])
def test_cells_that_never_ran_are_not_called_completed(endings: dict[str, Outcome], name: str) -> None:
    folder = endings[name].folder
    assert folder is not None
    cells = nbformat.read(folder / "notebook.ipynb", as_version=4).cells
    assert [cell.metadata.papermill.status for cell in cells][-3:] == ["completed", "failed", "not run"]
    assert not cells[-1].outputs


def test_parameters_arrive_and_kernels_share_the_cores(endings: dict[str, Outcome]) -> None:
    folder = endings["fine"].folder
    assert folder is not None
    cells = nbformat.read(folder / "notebook.ipynb", as_version=4).cells
    assert "reached the end with 2" in cells[-1].outputs[0].text
    said = cells[-2].outputs[0].text
    share = max(1, parallel.available_cores() // 3)
    assert f"threads {min(share, int(os.environ.get('OMP_NUM_THREADS', share)))} " in said
    assert said.strip().endswith(f" {folder.name}"), "a name as it is after the rename, and no path of this machine"
    assert str(folder.parent) not in said and "partial" not in said


def test_kernels_of_one_origin_are_kernels_of_their_own(endings: dict[str, Outcome]) -> None:
    """Forked from a process that has imported numpy and matplotlib: figures show, and unseeded draws differ."""
    outputs = {}
    for name in ("draws", "draws_too"):
        folder = endings[name].folder
        assert folder is not None
        outputs[name] = nbformat.read(folder / "notebook.ipynb", as_version=4).cells[3].outputs
    assert outputs["draws"][0].text != outputs["draws_too"][0].text
    assert "image/png" in outputs["draws"][1].data


@pytest.mark.parametrize("lost", ["no forks here", "the origin was killed"])
def test_where_nothing_can_be_forked_a_worker_starts_by_itself(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if lost == "no forks here":
        monkeypatch.setattr(worker, "FORKS", False)
    with closing(worker.Workers({})) as workers:
        if workers.nest is not None:
            workers.nest.kill()
            workers.nest.wait()
        process = workers.start({})
        assert isinstance(process, subprocess.Popen)
        process.communicate(json.dumps({"folder": "/nowhere"}), timeout=60)
        assert process.returncode


def test_only_known_libraries_are_imported_before_a_fork(tmp_path: Path) -> None:
    cells = ["import os\nimport numpy as np, mine", "import torch.nn\nfrom medcore import fit", "%magic\nimport pandas"]
    every = [*map(new_code_cell, cells), new_markdown_cell("import scipy")]
    nbformat.write(new_notebook(cells=every), tmp_path / "x.ipynb")
    assert worker.imports_of([tmp_path / "x.ipynb"]) == ["import torch.nn", "from medcore import fit"]


def test_nothing_partial_is_left(endings: dict[str, Outcome]) -> None:
    folder = endings["fine"].folder
    assert folder is not None
    left = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    assert sorted(left) == sorted(SOURCES)
    assert not (folder / "kernel.log").exists()


def test_a_time_limit_ends_a_notebook_and_the_last_good_run_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    good = out / "slow"
    good.mkdir(parents=True)
    write_results(good, sample_results(notebook="slow"))
    page = '<meta name="generator" content="medcore 0.1.0">the good report'
    (good / "report.html").write_text(page)
    slow = write_notebook(tmp_path, "slow", "print('tick', flush=True)\ntime.sleep(600)")
    (outcome,) = run_notebooks({slow: {}}, out=out, timeout=2, progress=False)
    assert (outcome.status, outcome.cell) == ("timed out", 3)
    assert "limit of 2 s" in str(outcome.error)
    assert "timed out" in (good / "report.html").read_text(encoding="utf-8")
    assert "tick" in (good / "report.html").read_text(encoding="utf-8")
    assert (out / "slow.previous" / "report.html").read_text() == page
    assert "last good run" in (out / "index.html").read_text(encoding="utf-8")


SCRIPT = """
import signal
import sys
from pathlib import Path
from medcore.reporting.runner import run_notebooks
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests in the background
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
outcomes = run_notebooks({Path(name): {} for name in sys.argv[2:]}, out=Path(sys.argv[1]), jobs=1)
print([outcome.status for outcome in outcomes])
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run in a process of its own that has reached an endless cell; a second notebook waits."""
    wait = f"Path({str(tmp_path / 'reached')!r}).touch()\nprint('tick', flush=True)\ntime.sleep(600)"
    first = write_notebook(tmp_path, "endless", "from pathlib import Path\n" + wait)
    second = write_notebook(tmp_path, "waiting", "pass")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "out"), str(first), str(second)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (tmp_path / "reached").exists():
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            pytest.fail(process.communicate()[0])
    yield process, tmp_path / "out"
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    "sent", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=SLOW), pytest.param(signal.SIGTERM, marks=SLOW)]
)
def test_an_interruption_leaves_readable_files(running: tuple[subprocess.Popen[str], Path], sent: int) -> None:
    process, out = running
    with pytest.raises(MedcoreError, match="is writing there now"), sole_writer(out):
        pass
    process.send_signal(sent)
    said, _ = process.communicate(timeout=60)
    assert "['interrupted', 'interrupted']" in said and "waiting: interrupted" in said
    results = read_results(out / "endless")
    assert (results.status, results.cell) == ("interrupted", 3)
    assert "tick" in (out / "endless" / "report.html").read_text(encoding="utf-8")
    assert not (out / "waiting").exists() and (out / "index.html").exists()


def test_a_second_interruption_ends_at_once_and_is_no_kill(running: tuple[subprocess.Popen[str], Path]) -> None:
    process, out = running
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert "['interrupted', 'interrupted']" in said
    assert read_results(out / "endless").status == "interrupted"


def test_a_killed_runner_leaves_no_process_and_nothing_that_looks_whole(
    running: tuple[subprocess.Popen[str], Path],
) -> None:
    import psutil

    process, out = running
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert [path.name for path in out.iterdir() if path.is_dir()] == ["endless.partial"]
    from medcore.reporting.index import write_index

    assert "its runner ended before it did" in write_index(out).read_text(encoding="utf-8")
    with sole_writer(out):  # the lock died with the runner
        assert begin(out / "endless").name == "endless.partial"


# --- what needs no kernel ---------------------------------------------------------------------------------------------


def finished(folder: Path, notebook: Any = None, results: Results | None = None) -> Outcome:
    """Finish a run whose execution is already there."""
    partial = begin(folder)
    notebook = notebook or sample_notebook()
    notebook.metadata.setdefault(KEY, {"status": "ok", "cell": None, "error": None})
    nbformat.write(notebook, partial / "notebook.ipynb")
    if results is not None:
        write_results(partial, results)
    return finish(Path("x.ipynb"), {}, partial, folder, time.monotonic(), Verdict("ok"))


def test_a_full_disk_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "x"
    assert finished(folder, results=sample_results()).status == "ok"
    before = (folder / "report.html").read_bytes()
    write = Path.write_text

    def full(self: Path, *args: Any, **kwargs: Any) -> int:
        if self.name == "report.html":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    outcome = finished(folder, results=sample_results(summary="new"))
    assert outcome.status != "ok" and outcome.folder is None
    assert "No space left" in str(outcome.error) and "as it was" in str(outcome.error)
    assert (folder / "report.html").read_bytes() == before
    assert read_results(folder).summary != "new"


def test_a_page_that_cannot_be_drawn_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> str:
        raise KeyError("template")

    monkeypatch.setattr("medcore.reporting.runner.body_page", broken)
    outcome = finished(tmp_path / "x", results=sample_results())
    assert outcome.folder == tmp_path / "x" and "could not be drawn" in outcome.note
    assert read_results(tmp_path / "x").metrics


def test_a_worker_that_vanished_is_reported_as_killed_with_its_cell(tmp_path: Path) -> None:
    partial = begin(tmp_path / "x")
    nbformat.write(sample_notebook(), partial / "notebook.ipynb")
    (partial / "kernel.log").write_text("terminate called after throwing an instance of 'std::bad_alloc'\n")
    told = Verdict("killed", 6, "the process that ran it was killed")
    outcome = finish(Path("x.ipynb"), {}, partial, tmp_path / "x", time.monotonic(), told)
    assert (outcome.status, outcome.cell) == ("killed", 6)
    assert "std::bad_alloc" in str(outcome.error)


def test_a_notebook_without_finish_is_not_passed_off_as_complete(tmp_path: Path) -> None:
    finished(tmp_path / "x", results=sample_results(status="running"))
    results = read_results(tmp_path / "x")
    assert results.status == "ok" and any("run.finish()" in text for text in results.warnings)


def test_file_names_that_are_no_text_do_not_stop_a_report(tmp_path: Path) -> None:
    broken = os.fsdecode(b"caf\xe9.png")
    notebook = sample_notebook()
    notebook.cells[4].outputs[0].text = "fine"
    partial = begin(tmp_path / "x")
    notebook.metadata[KEY] = {"status": "ok", "cell": None, "error": None}
    nbformat.write(notebook, partial / "notebook.ipynb")
    text = json.dumps(sample_results().as_dict() | {"warnings": [broken]})  # escaped, as another program may write it
    (partial / "results.json").write_text(text)
    outcome = finish(Path("x.ipynb"), {}, partial, tmp_path / "x", time.monotonic(), Verdict("ok"))
    assert outcome.status == "ok"
    assert "caf?.png" in (tmp_path / "x" / "report.html").read_text(encoding="utf-8")


def test_wrong_plans_are_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first, second = write_notebook(tmp_path, "n", "1"), write_notebook(tmp_path / "a", "n", "1")
    with pytest.raises(MedcoreError, match="both write to 'n'"):
        run_notebooks({first: {}, second: {}}, out=tmp_path / "out")
    with pytest.raises(MedcoreError, match="not a name for a parameter"):
        run_notebooks({first: {"x=__import__('os').system('id');y": 1}}, out=tmp_path / "out")
    with pytest.raises(MedcoreError, match="does not exist"):
        run_notebooks({tmp_path / "none.ipynb": {}}, out=tmp_path / "out")
    mine = tmp_path / "out2" / "n" / "chapter.tex"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    with pytest.raises(MedcoreError, match="is not a run of medcore"):
        run_notebooks({first: {}}, out=tmp_path / "out2")
    assert mine.read_text() == "years of work"
    with pytest.raises(MedcoreError, match="must not end in"):
        run_notebooks({write_notebook(tmp_path, "x.partial", "1"): {}}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(MedcoreError, match="choose another --out"):
        run_notebooks({write_notebook(tmp_path, "n", "1"): {}}, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("code", "peak", "counted", "status"),
    [
        (-9, 0, 1, "out of memory"),
        (-9, 95, 0, "out of memory"),
        (-9, 50, 0, "killed"),
        (-11, 99, 1, "killed"),
        (1, 0, 0, "killed"),
        (None, 0, 0, "killed"),
    ],
)
def test_why_a_kernel_died(
    code: int | None, peak: int, counted: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill counts as lack of memory when the system counted one, or nearly all memory was in use."""
    monkeypatch.setattr(autopsy, "oom_kills", lambda: counted)
    monkeypatch.setattr(autopsy, "memory_limit", lambda: 100)
    assert autopsy.cause_of_death(code, 4, peak, 0).status == status


def test_counters_and_limits_of_the_system_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of every control group around us count, of both versions."""
    (tmp_path / "events").write_text("low 0\noom 3\noom_kill 2\n")
    monkeypatch.setattr(autopsy, "KILL_COUNTERS", (tmp_path / "events", tmp_path / "absent"))
    assert autopsy.oom_kills() == 2
    groups = {"a/memory.max": "7000", "a/b/memory.max": "max", "memory/c/memory.limit_in_bytes": "9000"}
    for name, limit in groups.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{limit}\n")
    monkeypatch.setattr(parallel, "GROUPS", tmp_path)
    monkeypatch.setattr(parallel, "OWN", tmp_path / "own")
    for own, limit in (("0::/a/b\n", 7000), ("4:memory:/c/d\n3:cpu:/\n", 9000)):
        (tmp_path / "own").write_text(own)
        assert autopsy.memory_limit() == limit


def test_the_memory_of_a_process_and_its_children_is_seen() -> None:
    assert autopsy.resident(os.getpid()) > 10_000_000
    assert autopsy.resident(2**22 + 1) == 0


def test_a_kernel_gets_its_share_and_keeps_a_smaller_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    chosen = environment.kernel_environment(4)
    assert chosen["OMP_NUM_THREADS"] == "2" and chosen["MKL_NUM_THREADS"] == "4"


def test_several_gpus_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [environment.gpu_for(slot, 3).get("CUDA_VISIBLE_DEVICES") for slot in range(3)] == ["4", "7", "4"]
    assert environment.gpu_for(0, 1) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environment.gpu_for(0, 3) == {}


def test_a_log_says_where_a_long_notebook_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ConsoleProgress(1, True)
    progress.step(0, "06_x", {"cell": 14, "of": 58})
    progress.hear(0, "epoch 3 of 20, 4 min left")
    progress.tell()
    progress.step(0, "06_x", {"cell": 15, "of": 58})
    progress.tell()
    progress.done(0, Outcome(Path("06_x.ipynb"), "ok", None, None, 1.0, None))
    progress.tell()
    progress.ended.set()
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("14 of 58") for line in lines] == [0, 1, 0, 0]
    assert "epoch 3 of 20, 4 min left" in lines[1] and "epoch" not in lines[2]


def test_what_an_exception_holds_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleProgress(1, True).done(0, Outcome(Path("x.ipynb"), "raised", 3, "\x1b[2J\x9b31mwiped\nup", 1.0, None))
    said = capsys.readouterr().out
    assert "wiped up" in said and "\x1b" not in said and "\x9b" not in said and said.count("\n") == 1
