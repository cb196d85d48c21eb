"""The benchmarks run in their short forms, and what they count is right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def printed(*words: str, **variables: str) -> str:
    """What a script of ``benchmarks/`` prints; it must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=os.environ | variables, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def script(name: str, *words: str) -> str:
    """The same of a Python script, which leaves RESULTS.md alone."""
    before = (ROOT / "benchmarks/RESULTS.md").read_bytes()
    told = printed(sys.executable, f"benchmarks/{name}.py", *words, "--dry")
    assert (ROOT / "benchmarks/RESULTS.md").read_bytes() == before
    return told


@pytest.mark.slow  # busy processes beside it
def test_steps_beside_busy_processes_are_measured() -> None:
    words = ["--models", "small_cnn", "--beside", "0", "1", "--seconds", "0.1", "--rounds", "1"]
    told = script("busy", *words)
    for company in ("0 busy", "1 busy", "a quota of one core"):
        assert f"| small_cnn | {company} | 1" in told


@pytest.mark.slow  # seven processes that import torch
def test_growth_has_an_exponent_for_each_work() -> None:
    told = script("growth", "--shrink", "50")
    assert len([line for line in told.splitlines() if line.startswith("| ")]) == 10


@pytest.mark.slow  # a notebook and two benchmarks: 20 s of computing
def test_all_that_needs_a_gpu_runs_on_the_cpu_in_a_tiny_form_without_jupyter(tmp_path: Path) -> None:
    before = (ROOT / "benchmarks/RESULTS.md").read_bytes()
    told = printed("bash", "benchmarks/gpu.sh", "--tiny", str(tmp_path), PYTHON=sys.executable, NOTEBOOK_SECONDS="600")
    assert (ROOT / "benchmarks/RESULTS.md").read_bytes() == before
    ended = {line.split(":")[0]: line.split()[1] for line in told.splitlines()}
    assert ended == dict.fromkeys(["where", "training", "predict", "tests", "notebook-03"], "ok")
    assert list(tmp_path.glob("reports/**/results.json"))


def test_a_step_that_fails_or_takes_too_long_is_said_and_counts(tmp_path: Path) -> None:
    """The driver of gpu.sh alone: its functions, with commands of our own."""
    lines = (ROOT / "benchmarks/gpu.sh").read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("step()"))
    end = next(n for n, line in enumerate(lines) if n > start and line == "}")
    steps = ["step good 9 true", "step bad 9 sh -c 'echo why; exit 3'", "step long 0.2 sleep 9"]
    code = "\n".join([f"out={tmp_path}", *lines[start : end + 1], *steps, lines[-1]])
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert [line.split(" (")[0] for line in done.stdout.splitlines()] == ["good: ok", "bad: failed: why",
                                                                        "long: stopped after 0.2 s"]  # fmt: skip
