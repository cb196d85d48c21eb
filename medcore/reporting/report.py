"""Fill the templates of this folder: every value escaped, one style sheet inside the page, nothing from elsewhere.

Find a headless Chromium and print pages with it.

One report: first screen from the results, then the notebook's narrative, then checklist, environment and parameters.

``jupyter nbconvert --to medcore out.ipynb``: an executed notebook as one offline HTML report.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from nbconvert.exporters.exporter import Exporter
from traitlets import Bool

from medcore import __version__
from medcore.errors import MedcoreError
from medcore.reporting.body import RESULTS, Body, write_body
from medcore.reporting.environment import Anonymiser
from medcore.reporting.front import front
from medcore.reporting.results import RUN_NOTEBOOK, Results, checked, read_results
from medcore.reporting.sanitise import INTERVAL, Heading
from medcore.reporting.wording import CONTROL, saved_csv

TEMPLATES = Path(__file__).parent / "templates"
# End tags that HTML lets a writer leave out before these, and line ends that nobody sees; text is escaped, so no text
# can look like them.
OPTIONAL = re.compile(
    r"</t[dh]>(?=\s*(?:<t[dh][ >]|</tr>))|</tr>(?=\s*(?:<tr[ >]|</t(?:head|body)>))|</li>(?=\s*(?:<li[ >]|</[ou]l>))"
    r"|</tbody>(?=\s*</table>)|</d[td]>(?=\s*(?:<dd>|</div>))|</p>(?=\s*<(?:div|details|figure|h[1-6]|ol|p|pre|ul)[ >])"
)
BLOCKS = "article|div|dl|details|figure|h[1-6]|header|li|main|nav|ol|p|section|table|tbody|thead|tr|ul"
LINE_END = re.compile(rf"(</?(?:{BLOCKS})(?: [^<>]*)?>|</pre>)\n+")
APOSTROPHE = re.compile("&#39;|&#x27;")  # our attributes stand in double quotes


def render(template: str, **values: Any) -> str:
    """Fill a template; the result is one page that needs no other file and can be written as UTF-8."""
    page = str(_environment().get_template(template).render(style=style, version=__version__, **values))
    return lean(CONTROL.sub("", page)).encode("utf-8", "replace").decode("utf-8")


def lean(page: str) -> str:
    """The same page without end tags, escapes and line ends that a browser does not need."""
    return OPTIONAL.sub("", LINE_END.sub(r"\1", APOSTROPHE.sub("'", page)))


@cache
def style(name: str) -> Any:
    """A style sheet of ours, marked as safe to stand in a page."""
    from markupsafe import Markup

    sheet = (TEMPLATES / name).read_text(encoding="utf-8")
    return Markup(re.sub(r"\n+", "", sheet))


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # also of what `saved_csv` is given; what it returns is HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["unbroken"] = lambda text: Markup(INTERVAL.sub(r"<nobr>\g<0></nobr>", str(escape(text))))
    made.globals["saved_csv"] = lambda rows, name: Markup(saved_csv(rows, name))
    return made


VARIABLE = "MEDCORE_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge", "microsoft-edge")
MAC = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
QUIET = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-default-browser-check",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--metrics-recording-only", "--mute-audio",
)  # fmt: skip
SECONDS = 120.0


def find_browser() -> str | None:
    """Path of a Chromium-like browser: ``MEDCORE_BROWSER``, else the usual names; None when there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        return shutil.which(named)
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    return found or next((path for path in MAC if sys.platform == "darwin" and Path(path).exists()), None)


def flags(profile: Path) -> list[str]:
    """Options for a browser that shows nothing, keeps nothing and talks to nobody."""
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium refuses its sandbox for root, as in containers
    return [*QUIET, f"--user-data-dir={profile}", *(["--no-sandbox"] if as_root else [])]


def print_pdf(page: Path, target: Path) -> Path:
    """Print an HTML file to PDF, atomically.

    Raises:
        MedcoreError: There is no browser, or it failed.
    """
    browser = find_browser()
    if browser is None:
        raise MedcoreError(f"no Chromium or Chrome found for the PDF: install one, or name it in {VARIABLE}")
    partial = target.with_name(f".{target.name}.partial")
    with tempfile.TemporaryDirectory(prefix="medcore-browser-", ignore_cleanup_errors=True) as profile:
        command = [browser, *flags(Path(profile)), "--no-pdf-header-footer", f"--print-to-pdf={partial.resolve()}"]
        try:
            done = subprocess.run(
                [*command, page.resolve().as_uri()], capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise MedcoreError(f"{browser} did not print {page} within {SECONDS:.0f} s") from None
    if done.returncode or not partial.exists():
        raise MedcoreError(f"{browser} could not print {page}: {done.stderr.strip()[-300:]}")
    partial.replace(target)
    return target


def report_page(notebook: Any, results: Results | None, *, name: str = "", strict: bool = False) -> str:
    """The report of one executed notebook.

    Args:
        notebook: The notebook as nbformat reads it.
        results: What it recorded, None when it recorded nothing.
        name: Stem of the notebook, the last resort for a title.
        strict: Refuse images without a description.

    Raises:
        MedcoreError: ``strict`` is set and an image has no description.
    """
    body = write_body(
        notebook, unit=results.data.unit if results else "patient", listed=bool(results and results.parameters)
    )
    if strict and body.narrative.undescribed:
        listed = "; ".join(body.narrative.undescribed)
        raise MedcoreError(f"notebook {name}: images without a description: {listed}; use plots.show(…, alt=…)")
    return body_page(body, results, name)


def body_page(body: Body, results: Results | None, name: str = "") -> str:
    """A report page of a written body and the results that belong to it."""
    facts = front(results, body.verdict, body.title or name)
    prove(facts, contents(body, facts))
    return render("report.html.j2", front=facts, headings=contents(body, facts), body=body.html)


def prove(facts: dict[str, Any], headings: list[Heading]) -> None:
    """Give every answer of the checklist, and every card, the anchor of the section that proves it, if there is one."""
    anchors = {heading.anchor for heading in headings} | {"split", "audit", "metrics", "flow"}
    for row in (facts["checklist"] or {"rows": []})["rows"]:
        words = row["where"].lower().split("|") if row["where"] else []
        named = [heading.anchor for heading in headings if any(word in heading.text.lower() for word in words)]
        row["where"] = row["where"] if row["where"] in anchors else next(iter(named), "")
    for card in facts["cards"]:
        card["anchor"] = card["anchor"] if card["anchor"] in anchors else ""


def contents(body: Body, facts: dict[str, Any], prefix: str = "") -> list[Heading]:
    """Entries of the table of contents: first screen, narrative, appendix."""
    before = [("result", "Result", facts["headline"]), ("data", "Data and audit", facts["data"])]
    after = [(key, label, facts[key]) for key, label in APPENDIX]
    return (
        [Heading(2, label, prefix + anchor) for anchor, label, there in before if there]
        + [heading for heading in body.narrative.headings if heading.level <= body.narrative.top + 1]
        + [Heading(2, label, prefix + anchor) for anchor, label, there in after if there]
    )


APPENDIX = (
    ("checklist", "Reporting checklist"),
    ("model", "Model"),
    ("parameters", "Parameters"),
    ("environment", "Environment"),
    ("command", "Reproduce this run"),
)


def find_results(notebook: Any, folder: Path, name: str) -> Results | None:
    """Results of an executed notebook: of the file beside it, else recorded inside it, else None."""
    source = str(notebook.get("metadata", {}).get("papermill", {}).get("input_path") or "")
    with suppress(MedcoreError):
        beside = read_results(folder)
        if name == Path(RUN_NOTEBOOK).stem or beside.notebook in {name, Path(source).stem}:
            return beside
    for cell in reversed(notebook["cells"]):
        for output in cell.get("outputs", []):
            if RESULTS in output.get("data", {}):
                with suppress(MedcoreError):
                    return checked(output["data"][RESULTS], name)
    return None


class ReportExporter(Exporter):
    """One HTML file without scripts, requests or fonts from elsewhere."""

    export_from_notebook = "medcore report"
    output_mimetype = "text/html"
    strict = Bool(False, help="Refuse to export a notebook that has images without a description.").tag(config=True)

    def _file_extension_default(self) -> str:
        return ".html"

    def from_notebook_node(self, nb: Any, resources: Any = None, **kw: Any) -> tuple[str, Any]:  # type: ignore[override]
        """Convert a notebook.

        Raises:
            MedcoreError: ``strict`` is set and an image has no description.
        """
        if kernel := nb.metadata.get("kernelspec"):  # ours carry no display name; nbconvert refuses that
            kernel.setdefault("display_name", kernel.get("name", "python3"))
        nb, resources = super().from_notebook_node(nb, resources, **kw)
        nb, place = Anonymiser()(nb), resources.get("metadata", {})
        results = find_results(nb, Path(place.get("path") or "."), str(place.get("name") or ""))
        return report_page(nb, results, name=str(place.get("name") or ""), strict=self.strict), resources
