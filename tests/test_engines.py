"""Jobs on loky, on three Dask workers with ports of their own, and on Ray: the same bytes, also when a worker dies."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from slide_jobs import dies_once
from test_slide_predict import drawn, trained  # noqa: F401 (fixtures)
from test_slides import halves, picture, write_pyramid

from medcore.cli import cli
from medcore.data.card import Card
from medcore.data.slides.tiles import SlideRow, TileRule, cut_slides
from medcore.errors import MedcoreError
from medcore.evaluation.predictor import load_predictor
from medcore.reporting.runner import run_notebooks
from medcore.studies.slides.predict import predict_slides
from medcore.training.distributed import run_jobs

CLUSTERS = [pytest.param("dask", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def three_workers() -> Iterator[str]:
    """A Dask scheduler and three worker processes, each on its own port; gives the scheduler's address."""
    ports = [free_port() for _ in range(4)]
    address = f"tcp://127.0.0.1:{ports[0]}"
    given = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    python = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(ports[0])]
    commands = [[*python, "--no-dashboard"]]
    for port in ports[1:]:
        commands.append([sys.executable, "-m", "distributed.cli.dask_worker", address, "--host", f"tcp://127.0.0.1:{port}",
                         "--nthreads", "1", "--no-nanny", "--no-dashboard"])  # fmt: skip
    processes = []
    try:
        for command in commands:
            processes.append(subprocess.Popen(command, env=given, stderr=subprocess.DEVNULL))
        from distributed import Client

        with Client(address, timeout="120s") as client:
            client.wait_for_workers(3, timeout=240)
            assert {int(name.rsplit(":", 1)[1]) for name in client.nthreads()} == set(ports[1:])
        yield address
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def engine_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What ``run_jobs`` takes."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers import the tests
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 else: starved on a busy machine
    if name == "dask":
        with three_workers() as address:
            yield f"dask@{address}"
    elif name == "ray":
        import ray

        for _ in range(5):  # on a busy machine it misses its own limit of 30 seconds to start
            with contextlib.suppress(Exception):
                ray.init(num_cpus=3, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
                break
        yield name  # joins the one that runs
        ray.shutdown()
    else:
        yield name


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "s"
    folder.mkdir()
    for name in "abc":
        write_pyramid(folder / f"{name}.tiff", halves(picture(), 2))
    return folder


@pytest.mark.parametrize("name", ["loky", *CLUSTERS])
def test_a_worker_that_is_killed_costs_nothing_but_time(
    slides: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that cuts the second slide ends in the middle; the joined set is that of one process."""
    rows = [SlideRow(p, {"label": -1, "patient": p.name, "split": ""}) for p in sorted(slides.iterdir())]
    rule, card = TileRule((128, 128), 1.0), Card("s")
    whole, killed = tmp_path / "whole" / "o.npz", tmp_path / "killed" / "o.npz"
    for out in (whole, killed):
        out.parent.mkdir()
    cut_slides(rows, rule, card, whole, lambda _: card, progress=False)
    with engine_of(name, monkeypatch) as engine, pytest.warns(UserWarning, match="killed|lost"):
        cut_slides(rows, rule, card, killed, lambda _: card, progress=False,
                   run=lambda _, tasks: run_jobs(dies_once, tasks, jobs=2, engine=engine))  # fmt: skip
    assert (killed.parent / "died").exists() and killed.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in killed.parent.iterdir()) == ["died", "o.npz"]


def test_a_job_that_kills_every_worker_ends_in_one_line() -> None:
    with pytest.warns(UserWarning, match="killed"), pytest.raises(MedcoreError, match="3 times"):
        list(run_jobs(os._exit, [1, 2], jobs=2))


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_command_line_gives_the_same_file_on_a_cluster(
    slides: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slides / "bad.svs").write_bytes(b"x")
    arguments = ["data", "prepare", str(slides), "--mpp", "1", "--size", "128", "--no-cache", "--out"]
    runner = CliRunner()
    assert runner.invoke(cli, [*arguments, str(tmp_path / "1.npz")], standalone_mode=False).return_value == 1
    with engine_of(name, monkeypatch) as engine:
        kind, _, address = engine.partition("@")
        where = ["--engine", kind, "--jobs", "3", *(["--scheduler", address] if address else [])]
        done = runner.invoke(cli, [*arguments, str(tmp_path / "2.npz"), *where], standalone_mode=False)
    assert done.return_value == 1, done.output
    assert (tmp_path / "2.npz").read_bytes() == (tmp_path / "1.npz").read_bytes()


@pytest.mark.slow
def test_notebooks_and_predictions_of_slides_on_a_cluster(
    tmp_path: Path,
    drawn: Path,  # noqa: F811
    trained: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from test_runner import write_notebook

    model, paths = load_predictor(trained), sorted(drawn.glob("*.tiff"))
    predict_slides(model, paths, tmp_path / "here", tell=lambda _: None)
    notebooks = {write_notebook(tmp_path, name, source): {"x": 2} for name, source in
                 {"fine": "print('good')", "raises": "1 / 0"}.items()}  # fmt: skip
    with engine_of("dask", monkeypatch) as engine:
        predict_slides(model, paths, tmp_path / "there", tell=lambda _: None, jobs=3, engine=engine)
        outcomes = run_notebooks(notebooks, out=tmp_path / "out", jobs=2, engine=engine, progress=False)
    for path in paths:
        tables = [(tmp_path / where / f"{path.stem}_tiles.csv").read_bytes() for where in ("here", "there")]
        assert tables[0] == tables[1]
    # without run.finish() a notebook is not complete: the same words as here
    alone = run_notebooks(notebooks, out=tmp_path / "alone", jobs=1, progress=False)
    assert [(o.status, o.error) for o in outcomes] == [(o.status, o.error) for o in alone]
    assert (tmp_path / "out" / "fine" / "report.html").is_file() and outcomes[1].status == "raised"


def test_an_address_needs_its_engine() -> None:
    done = CliRunner().invoke(cli, ["data", "prepare", "phantom-crc", "--scheduler", "tcp://h:1"])
    assert done.exit_code == 2 and "--engine" in done.output
    with pytest.raises(MedcoreError, match="loky@h"):
        list(run_jobs(str, [1], engine="loky@h"))
