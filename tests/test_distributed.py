"""Two gloo processes under torchrun give the result of one, and a lost process ends the run with a clear message."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from ddp_run import one_of
from torch import Tensor
from training_toys import final_tensors, start_process, tiny

from medcore.training import checkpoint, distributed

SCRIPT = Path(__file__).with_name("ddp_run.py")
PLAIN = {"augment": "flips", "schedule": "cosine", "learning_rate": 0.003}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def forked(place: Path, processes: int, **options: Any) -> tuple[list[int | None], list[str]]:
    """Without torchrun, whose start takes longer than the run: exit codes, and what each process said."""
    logs, port = [place / f"{rank}.log" for rank in range(processes)], free_port()
    started = [
        start_process(one_of, processes, rank, port, str(log), str(place), options) for rank, log in enumerate(logs)
    ]
    for process in started:
        process.join(280)
    return [process.exitcode for process in started], [log.read_text() for log in logs]


def launch(out: Path, processes: int, **options: Any) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    command = [sys.executable, *launcher, str(SCRIPT), str(out), json.dumps(options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)


def close(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float) -> bool:
    return first.keys() == second.keys() and all(
        torch.allclose(first[name].double(), second[name].double(), atol=tolerance) for name in first
    )


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    assert forked(out, 1, config=PLAIN)[0] == [0]
    return out


def test_two_processes_give_the_result_of_one(tmp_path: Path, one_process: Path) -> None:
    """Weights, batch-norm statistics, optimiser moments and every column of the history."""
    ended = launch(tmp_path, 2, config=PLAIN)
    assert ended.returncode == 0, ended.stderr
    weights = [checkpoint.read_checkpoint(checkpoint.find(out, "last"))[0] for out in (one_process, tmp_path)]
    assert close(*weights, tolerance=2e-5)
    start = tiny(dropout=0.0).state_dict()
    assert not close(weights[0], start, tolerance=1e-3)  # the tolerance is far below what training changes
    tables = [pd.read_csv(out / "history.csv").drop(columns="seconds") for out in (one_process, tmp_path)]
    pd.testing.assert_frame_equal(*tables, atol=1e-4)
    assert ended.stdout.count("epoch 1/3") == 1  # one process talks and writes
    assert checkpoint.epochs_in(tmp_path / "checkpoints") == checkpoint.epochs_in(one_process / "checkpoints")


@pytest.mark.slow
def test_two_nodes_that_meet_at_a_port_give_the_result_of_one(tmp_path: Path, one_process: Path) -> None:
    """Two torchrun agents of one process each, as on two machines."""
    port, agents = free_port(), []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for node in "01":
        meeting = ["--nnodes", "2", "--node-rank", node, "--master-addr", "127.0.0.1", "--master-port", port]
        run = ["-m", "torch.distributed.run", "--nproc-per-node", "1", *meeting, str(SCRIPT), str(tmp_path)]
        agents.append(subprocess.Popen([sys.executable, *run, json.dumps({"config": PLAIN})], env=environment))
    assert [agent.wait(550) for agent in agents] == [0, 0]
    weights = [checkpoint.read_checkpoint(checkpoint.find(out, "last"))[0] for out in (one_process, tmp_path)]
    assert close(*weights, tolerance=2e-5)


@pytest.mark.slow
def test_two_processes_with_pieces_give_the_result_of_one(tmp_path: Path, one_process: Path) -> None:
    """Accumulated pieces see other batch-norm statistics; without it they agree as well (test_fit)."""
    ended = launch(tmp_path, 2, config=PLAIN | {"pieces": 2})
    assert ended.returncode == 0, ended.stderr
    table, expected = (pd.read_csv(out / "history.csv") for out in (tmp_path, one_process))
    assert table["lr"].tolist() == expected["lr"].tolist()


@pytest.mark.slow
def test_a_resumed_run_on_two_processes_is_bit_identical(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = PLAIN | {"schedule": "constant"}
    assert launch(whole, 2, config=options).returncode == 0
    ended = launch(cut, 2, config=options, die=0)
    assert ended.returncode != 0
    assert launch(cut, 2, config=options, resume=True).returncode == 0
    first, second = final_tensors(whole), final_tensors(cut)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_process_that_lost_another_says_so(tmp_path: Path) -> None:
    codes, said = forked(tmp_path, 2, config=PLAIN, die=1)
    assert codes == [1, -signal.SIGKILL]
    assert "process 0 of 2 lost another process of this run" in said[0] and "resume" in said[0]
    assert checkpoint.epochs_in(tmp_path / "checkpoints") == [1]  # what was whole stays usable
    checkpoint.verify(checkpoint.find(tmp_path, "last"))


@pytest.mark.slow
@pytest.mark.parametrize("die", [0, 1])
def test_a_lost_process_ends_the_run_and_says_so(tmp_path: Path, die: int) -> None:
    ended = launch(tmp_path, 2, config=PLAIN, die=die)
    assert ended.returncode != 0
    # The survivor says so, unless torchrun, which names the dead rank and its signal, ends it first.
    survivor = f"process {1 - die} of 2 lost another process of this run" in ended.stderr and "resume" in ended.stderr
    launcher = "Signal 9 (SIGKILL)" in ended.stderr and f"(local_rank: {die})" in ended.stderr
    assert survivor or launcher, ended.stderr
    assert "SIGKILL" in ended.stderr
    assert checkpoint.epochs_in(tmp_path / "checkpoints") == [1]  # what was whole stays usable
    checkpoint.verify(checkpoint.find(tmp_path, "last"))


def test_a_nan_on_one_process_stops_all_and_names_the_images(tmp_path: Path) -> None:
    codes, said = forked(tmp_path, 2, config=PLAIN, poison=True)
    assert codes == [1, 1]
    assert "NaN or infinite in epoch 1, batch 1" in said[0]
    _, manifest = checkpoint.read_checkpoint(tmp_path / "checkpoints" / "failed-epoch-0001")
    assert len(manifest["failed"]["ids"]) == 9  # of both processes


def test_one_process_needs_no_launcher() -> None:
    assert (distributed.rank(), distributed.world()) == (0, 1)
    values = torch.ones(3)
    assert distributed.sum_over_processes(values) is values
    assert distributed.joined_lists([1, 2]) == [1, 2]
    model = tiny()
    assert distributed.wrap(model, torch.device("cpu")) is model
