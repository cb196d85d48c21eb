"""Turn a run into ``reports/sample``: one report, its results, and the picture of its first screen for the README.

python tests/slim_sample.py reports/<run> [reports/sample]

The report is written anew from the executed notebook by the code as it is. Reports name nothing of the machine that
made them, so nothing else has to be done to them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from PIL import Image

from medcore.reporting.folders import write_page
from medcore.reporting.report import find_browser, flags, report_page
from medcore.reporting.results import REPORT, RUN_NOTEBOOK, read_results, write_results

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "reports" / "sample"
SHOWN = "06_patch_classification"  # the notebook whose report is shown


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
    write_picture(page, target / "report.png")
    return page


def write_picture(page: Path, target: Path) -> None:
    """The first screen of a report as the README shows it; the picture that is there stays when there is no browser."""
    browser = find_browser()
    if browser is None:
        print(f"no Chromium found: {target} stays as it is")
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        shot = Path(profile) / "shot.png"
        given = ["--window-size=1200,1020", f"--screenshot={shot}", page.resolve().as_uri()]
        subprocess.run([browser, *flags(Path(profile)), *given], check=True, capture_output=True, timeout=120)
        with Image.open(shot) as picture:
            small = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            small.save(target, optimize=True)


if __name__ == "__main__":
    written = slim(Path(sys.argv[1]), *map(Path, sys.argv[2:3]))
    print(f"{written.stat().st_size / 1e3:.0f} kB  {written}")
