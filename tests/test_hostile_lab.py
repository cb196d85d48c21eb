"""Hostile names in a real JupyterLab in Chromium, in outputs that it trusts: nothing runs, nothing is asked for."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_notebook, new_output
from test_hostile import HOSTILE

from medcore.reporting.report import find_browser
from medcore.reporting.wording import escape_markdown, without_active_parts

sys.path.insert(0, str(Path(__file__).parent / "browser"))
from chromium import Tab, browser  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium found: install one or set MEDCORE_BROWSER"),
]
LAST = "the last output"
UNTIL_SHOWN = f"""new Promise(done => {{
    const look = () => [...document.querySelectorAll('.jp-OutputArea-output')].some(
        o => o.textContent.includes('{LAST}')) ? done(true) : setTimeout(look, 200);
    look();
}})"""
SETTLED = "new Promise(done => requestIdleCallback(() => done(true)))"


@contextmanager
def served_lab(place: Path) -> Iterator[tuple[Path, str]]:
    """A server without a password: its notebooks' folder and its address."""
    own = {f"JUPYTER_{name}_DIR": str(place / name.lower()) for name in ("DATA", "CONFIG", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--IdentityProvider.token=",
               "--ServerApp.port=0", "--ServerApp.ip=127.0.0.1", "--LabApp.news_url="]  # fmt: skip
    (place / "books").mkdir()
    log = place / "log.txt"  # a pipe that nobody reads would fill, and the server wait for ever
    with open(log, "w", encoding="utf-8") as told:
        process = subprocess.Popen(
            command, cwd=place / "books", env=os.environ | own, stdout=subprocess.DEVNULL, stderr=told
        )
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text(encoding="utf-8"))):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.2)
        yield place / "books", found[0]
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    with served_lab(tmp_path_factory.mktemp("lab")) as served:
        yield served


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser() as opened:
        yield opened


def write_trusted(path: Path, bundles: list[dict[str, str]]) -> None:
    """A notebook with these outputs, signed as if this user had run it."""
    shown = [new_output("display_data", data=bundle) for bundle in [*bundles, {"text/plain": LAST}]]
    cells = [new_code_cell("outputs", outputs=[output], execution_count=1) for output in shown]
    notebook = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    nbformat.write(notebook, path)
    sign(path)


def sign(path: Path) -> None:
    """Let JupyterLab trust a notebook's outputs."""
    NotebookNotary(data_dir=str(path.parents[1] / "data")).sign(nbformat.read(path, as_version=4))


def open_trusted(tab: Tab, folder: Path, address: str, name: str) -> list[str]:
    """Open an executed notebook as its user's own, every cell shown; returns the addresses that were asked for."""
    notebook = nbformat.read(folder / name, as_version=4)
    notebook.cells.append(new_code_cell("", outputs=[new_output("display_data", data={"text/plain": LAST})]))
    for cell in notebook.cells:
        cell.metadata.pop("jupyter", None)
        cell.get("outputs") and cell.update(execution_count=1)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / name)
    sign(folder / name)
    return opened(tab, address, name)


def opened(tab: Tab, address: str, name: str) -> list[str]:
    """Open a notebook, wait for its last output; returns the addresses elsewhere that were asked for."""
    tab.events.clear()
    tab.call("Page.navigate", url=f"{address}/lab/tree/{name}?reset")
    tab.wait_for("Page.loadEventFired")
    assert tab.evaluate(UNTIL_SHOWN) and tab.evaluate(SETTLED)
    return [url for url in tab.requests() if not url.startswith((address, address.replace("http", "ws"), "blob:"))]


def test_names_in_trusted_outputs_run_and_load_nothing(tab: Tab, lab: tuple[Path, str]) -> None:
    folder, address = lab
    bundles = []
    for hostile in HOSTILE:
        frame = pd.DataFrame({hostile: [hostile]}, index=[hostile])
        bundles += [
            {"text/markdown": without_active_parts(f"The set holds **{hostile}** and `{hostile}`.")},
            {"text/markdown": f"Most are **{escape_markdown(hostile)}**."},
            {"text/html": frame._repr_html_()},
        ]
    write_trusted(folder / "names.ipynb", bundles)
    assert opened(tab, address, "names.ipynb") == []
    assert tab.evaluate("window.pwned") is None
    within = ".jp-OutputArea-output"
    active = f"{within} img, {within} a[href]:not([href^='#'])"  # a heading has a link to itself
    assert tab.evaluate(f'[...document.querySelectorAll("{active}")].map(e => e.outerHTML)') == []


def test_the_instrument_sees_what_runs(tab: Tab, lab: tuple[Path, str]) -> None:
    """The same names without escaping: outputs are trusted, and something does run or load."""
    folder, address = lab
    raw = [{"text/html": "<img src=x onerror=window.pwned=1>"}, {"text/markdown": "![x](https://example.org/y.png)"}]
    write_trusted(folder / "raw.ipynb", raw)
    elsewhere = opened(tab, address, "raw.ipynb")
    assert any("example.org" in url for url in elsewhere) or tab.evaluate("window.pwned") == 1
