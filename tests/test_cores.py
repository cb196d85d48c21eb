"""How many threads: by what there is for us, in every place where a limit can stand, and never by how busy it is."""

import itertools
import os
from pathlib import Path

import pytest
import torch
from training_toys import tiny, toy_config, toy_set

from medcore.data import parallel
from medcore.training import device
from medcore.training.device import usable_threads
from medcore.training.fit import fit
from medcore.training.objectives import Classification

SLURM = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight CPUs, two hardware threads a core, no quota and no scheduler."""
    for name in (*SLURM, "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for cpu in range(8):
        place = tmp_path / "cpu" / f"cpu{cpu}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(parallel, "CPUS", tmp_path / "cpu")
    monkeypatch.setattr(parallel, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(parallel, "OWN", tmp_path / "own")
    return tmp_path


def test_cores_are_counted_once_and_affinity_holds(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parallel.available_cores() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4}, raising=False)
    assert parallel.available_cores() == 2
    monkeypatch.setattr(parallel, "CPUS", machine / "none")  # where nobody says what belongs together
    assert parallel.available_cores() == 3


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),  # the group around ours
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),  # a container sees its own group as the root
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("4:cpu,cpuacct:/c\n", {"cpu/c/cpu.cfs_quota_us": "200000", "cpu/c/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu,cpuacct:/c\n", {"cpu/c/cpu.cfs_quota_us": "-1", "cpu/c/cpu.cfs_period_us": "100000"}, 4),
        ("", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ("4:memory:/c\n", {"memory/c/cpu.cfs_quota_us": "100000"}, 4),
        ("0::/\n", {"cpu.max": "nonsense"}, 4),
        ("0::/\n", {"cpu.max": ""}, 4),
    ],
)
def test_quotas_of_both_kinds_of_control_groups(machine: Path, own: str, files: dict[str, str], cores: int) -> None:
    (machine / "own").write_text(own)
    for name, text in files.items():
        (machine / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / "groups" / name).write_text(text + "\n")
    assert parallel.available_cores() == cores


def test_slurm_and_the_users_wish(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [parallel.thread_share(jobs) for jobs in (1, 2, 3, 16)] == [3, 2, 1, 1]  # one alone leaves a core
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert [parallel.thread_share(jobs) for jobs in (1, 2, 4)] == [2, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert parallel.thread_share() == 4
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "3")
    assert parallel.thread_share() == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert parallel.thread_share() == 1


def test_training_takes_no_more_threads_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcore.training.device.available_cores", lambda: 3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        assert usable_threads() == 3
        torch.set_num_threads(2)
        assert usable_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("threads", "waiting", "told"), [(2, 1e6, 1), (2, 0.0, 0), (1, 1e6, 0)])
def test_a_crowded_machine_is_said_once_and_changes_no_number_of_threads(
    threads: int, waiting: float, told: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = itertools.count()
    monkeypatch.setattr("medcore.training.progress.waited_for_a_core", lambda: waiting * next(counts))
    patches, before = toy_set(), torch.get_num_threads()
    sides = [patches.where(split=side) for side in ("train", "val")]
    history = fit(tiny(), Classification(patches.classes), *sides, toy_config(threads=threads))
    assert history.last_epoch > 1 and torch.get_num_threads() == before
    assert capsys.readouterr().out.count("OMP_NUM_THREADS=1") == told


def test_the_time_without_a_core_is_the_systems_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "schedstat").write_text("5000000000 2500000000 7\n")
    monkeypatch.setattr(device, "SCHEDULE", tmp_path / "schedstat")
    assert device.waited_for_a_core() == 2.5
    monkeypatch.setattr(device, "SCHEDULE", tmp_path / "none")
    assert device.waited_for_a_core() == 0
