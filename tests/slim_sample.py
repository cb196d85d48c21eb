"""Turn a run of all notebooks into ``reports/sample``: the reports, their results and the index, nothing that is large.

python tests/slim_sample.py reports/<run> [reports/sample]

Reports are written anew from the executed notebooks by the code as it is, so a finished run can be shown again after
the report changed. Each results.json also gets `source_sha256`, by which a test notices that a notebook has changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

from medcore.reporting.figures import write_thumbnail
from medcore.reporting.index import write_index
from medcore.reporting.report import find_browser, flags, report_page
from medcore.reporting.results import REPORT, RUN_NOTEBOOK, read_results, write_results

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "reports" / "sample"
SOURCE = "source_sha256"
SHOWN = "02_autoencoder"  # whose first screen the README shows


def source_hash(notebook: Any) -> str:
    """What a notebook computes: its code cells as they stand in the source, without injected parameters."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    own = [cell["source"] for cell in cells if "injected-parameters" not in cell.get("metadata", {}).get("tags", [])]
    return hashlib.sha256(json.dumps([source.strip() for source in own]).encode()).hexdigest()


def slim(run: Path, target: Path = SAMPLE) -> list[Path]:
    """Write the reports of a run and their index to `target`, which is emptied first; returns the pages.

    Raises:
        SystemExit: the run is not complete, or a notebook of it did not succeed.
    """
    wanted = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    missing = [name for name in wanted if not (run / name / RUN_NOTEBOOK).is_file()]
    if missing:
        sys.exit(f"{run} has no run of {', '.join(missing)}: medcore reports --out {run}")
    failed = [name for name in wanted if read_results(run / name)["status"] != "ok"]
    if failed:
        sys.exit(f"{run}: {', '.join(failed)} did not succeed; a sample shows finished runs")
    for old in target.glob("*/"):
        shutil.rmtree(old)
    pages = [write_sample(run / name, target / name) for name in wanted]
    pages.append(write_index(target))
    for name in wanted:  # the index holds them now
        for picture in (target / name).glob("thumbnail.*"):
            picture.unlink()
    write_picture(target / SHOWN / REPORT, target / "report.png")
    return pages


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
            picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                target, optimize=True
            )


def write_sample(run: Path, target: Path) -> Path:
    """One report with its results, without the paths of the machine that it was made on."""
    target.mkdir(parents=True)
    notebook = nbformat.reads(anonymous((run / RUN_NOTEBOOK).read_text(encoding="utf-8"), run), as_version=4)
    results = json.loads(anonymous(json.dumps(read_results(run), ensure_ascii=False), run))
    results["picture"] = write_thumbnail(notebook, target)
    write_results(target, results | {SOURCE: source_hash(notebook)})
    (target / REPORT).write_text(report_page(notebook, results, name=run.name), encoding="utf-8")
    return target / REPORT


def anonymous(text: str, run: Path) -> str:
    """Text without the run's folder, the checkout and the home folder."""
    places = {
        str(run.resolve().parent): "reports/sample",
        str(ROOT): ".",
        str(Path.home()): "~",
    }
    elsewhere = re.search(r"(/[\w./-]{1,80}?)/medcore/[a-z]+/[a-z_]+\.py", text)  # a run of another checkout
    if elsewhere:
        places[elsewhere[1]] = "."
    for path in sorted(places, key=len, reverse=True):
        if len(path) > 1:
            text = text.replace(path, places[path])
    return text


if __name__ == "__main__":
    for page in slim(Path(sys.argv[1]), *map(Path, sys.argv[2:3])):
        print(f"{page.stat().st_size / 1e3:7.0f} kB  {page}")
