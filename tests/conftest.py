"""What every test gets: no display, one thread, fixed seeds, closed figures, a data folder of its own."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _fresh_figures() -> Iterator[None]:
    """No figure and no style of one test reaches the next."""
    import matplotlib

    with matplotlib.rc_context():
        yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def tmp_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder for prepared sets and downloads."""
    monkeypatch.setenv("MEDCORE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each campaign: what its test left with ``record_property("summary", …)``."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    lines = [value for report in reports for name, value in report.user_properties if name == "summary"]
    if lines:
        terminalreporter.section("campaigns")
        terminalreporter.write_line("\n".join(lines))
