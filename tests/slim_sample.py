"""Turn a run into ``reports/sample``: one report, its results, and the README's pictures: its first screen, and some
figures of the same run (tissue, ROC curves, patients).

python tests/slim_sample.py reports/<run> [reports/sample]

The report is written anew from the executed notebook by the code as it is. Reports name nothing of the machine that
made them, so nothing else has to be done to them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import nbformat
from nbformat import NotebookNode
from PIL import Image

from medcore.reporting.folders import write_page
from medcore.reporting.report import find_browser, flags, report_page
from medcore.reporting.results import REPORT, RUN_NOTEBOOK, read_results, write_results

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "reports" / "sample"
SHOWN = "06_patch_classification"  # the notebook whose report is shown
# the README's second picture: notebook, what its caption starts with, width in the picture, the part from the top
FIGURES = (
    (SHOWN, "Examples", 560, 1.0),
    (SHOWN, "ROC curves", 600, 1.0),
    ("04_patient_diagnosis", "Patients, wrong ones first", 1160, 0.4),
)


def slim(run: Path, target: Path = SAMPLE) -> Path:
    """Write the shown report of a run to ``target``; returns the page.

    Raises:
        SystemExit: The run has no such notebook, or it did not succeed.
    """
    folder = run / SHOWN
    if not (folder / RUN_NOTEBOOK).is_file():
        sys.exit(f"{run} has no run of {SHOWN}: medcore reports 06 --out {run}")
    results = read_results(folder)
    if results.status != "ok":
        sys.exit(f"{folder} did not succeed ({results.status}); a sample shows a finished run")
    target.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(folder / RUN_NOTEBOOK, as_version=4)
    write_results(target, results)
    page = write_page(target / REPORT, report_page(notebook, results, name=SHOWN))
    write_picture(page, target / "report.png", "1200,1020")
    if all((run / name / RUN_NOTEBOOK).is_file() for name, *_ in FIGURES):
        with tempfile.TemporaryDirectory() as scratch:
            board = Path(scratch) / "figures.html"
            board.write_text(figures_page(run), encoding="utf-8")
            write_picture(board, target / "figures.png", "1200,860")
    return page


def figures_page(run: Path) -> str:
    """The figures of ``FIGURES`` side by side, as a page."""
    shown = ""
    for name, start, width, part in FIGURES:
        data, mime = figure_of(nbformat.read(run / name / RUN_NOTEBOOK, as_version=4), start)
        address = f"data:{mime};base64,{data}" if mime != "image/svg+xml" else f"data:{mime},{quote(data)}"
        shown += f'<div style="overflow:hidden;width:{width}px;max-height:{round(width * part)}px">'
        shown += f'<img style="width:100%" src="{address}"></div>'
    style = "display:flex;flex-wrap:wrap;gap:16px;align-items:center;background:white;width:1180px"
    return f'<body style="margin:10px;{style}">{shown}'


def figure_of(notebook: NotebookNode, start: str) -> tuple[str, str]:
    """Content and MIME type of the first figure whose caption starts so.

    Raises:
        SystemExit: There is none.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            for mime, facts in output.get("metadata", {}).items():
                if isinstance(facts, dict) and facts.get("caption", "").startswith(start):
                    return output.data[mime], mime
    sys.exit(f"no figure of the run has a caption that starts with {start!r}")


def write_picture(page: Path, target: Path, size: str) -> None:
    """The first screen of a page as the README shows it; the picture that is there stays when there is no browser."""
    browser = find_browser()
    if browser is None:
        print(f"no Chromium found: {target} stays as it is")
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        shot = Path(profile) / "shot.png"
        given = [f"--window-size={size}", f"--screenshot={shot}", page.resolve().as_uri()]
        subprocess.run([browser, *flags(Path(profile)), *given], check=True, capture_output=True, timeout=120)
        with Image.open(shot) as picture:
            small = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            small.save(target, optimize=True)


if __name__ == "__main__":
    written = slim(Path(sys.argv[1]), *map(Path, sys.argv[2:3]))
    print(f"{written.stat().st_size / 1e3:.0f} kB  {written}")
