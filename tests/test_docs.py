"""The API reference is made from the docstrings, complete and offline."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_reference_names_every_room_and_asks_nothing_of_the_network(tmp_path):
    line = re.search(r"pdoc (.*) -o build/docs medcore (.*)\n", (ROOT / "Makefile").read_text(encoding="utf-8"))
    rooms = re.search(r"^ROOMS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    modules = ["medcore", *(f"medcore.{room}" for room in rooms[1].split())]
    subprocess.run(
        [sys.executable, "-m", "pdoc", *line[1].split(), "-o", str(tmp_path), *modules], cwd=ROOT, check=True
    )
    pages = {
        path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")
    }
    for name in ("medcore", "medcore/data/load", "medcore/evaluation/intervals", "medcore/plots/curves"):
        assert f"{name}.html" in pages
    assert "paired_difference" in pages["medcore/evaluation/intervals.html"]
    for name, text in pages.items():
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:)?//[^"]*"', text)
        assert not loaded, name
