"""Every page in a real browser: nothing leaves it, nothing runs in it, everybody can read it."""

import base64
import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook, new_output
from report_samples import code, display, png, sample_notebook, sample_results, stream

from medcore.plots.display import encode
from medcore.plots.svg import svg_uri
from medcore.reporting import report as pages_module
from medcore.reporting.compare import compare_runs
from medcore.reporting.figures import write_thumbnail
from medcore.reporting.index import write_index, write_study
from medcore.reporting.report import find_browser, print_pdf, report_page
from medcore.reporting.results import Picture, Results, checked, write_results

sys.path.insert(0, str(Path(__file__).parent / "browser"))
from chromium import AXE, Tab, browser  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium found: install one or set MEDCORE_BROWSER"),
]
NAMES = ("01_preprocessing", "02_autoencoder", "06_patch_classification")
SAMPLE = Path(__file__).parents[1] / "reports" / "sample"
PLACEHOLDERS = re.compile(r"no description.*|(the |an? )?(image|figure|plot|picture)s?[ :\d.]*", re.IGNORECASE)

HOSTILE = [
    "<script>window.pwned=1</script>",
    "<img src=x onerror='window.pwned=1'>",
    "\"><script>window.pwned=1</script>",
    "'><svg onload=window.pwned=1>",
    "</title><script>window.pwned=1</script>",
    "</style><script>window.pwned=1</script>",
    "</pre></code></details></main><h1>broken out</h1>",
    "<!-- <script>",
    "--><script>window.pwned=1</script>",
    "<![CDATA[<script>window.pwned=1</script>]]>",
    "javascript:window.pwned=1",
    "{{ 7 * 7 }} {% for x in y %} {{ cycler.__init__.__globals__ }}",
    "${7*7} #{7*7} <%= 7*7 %>",
    "$\\href{javascript:window.pwned=1}{x}$",
    "$$\\begin{matrix}</math><script>window.pwned=1</script>\\end{matrix}$$",
    "[x](javascript:window.pwned=1)",
    "![x](https://example.org/leak.png)",
    "<iframe src=https://example.org></iframe>",
    "<style>body{display:none}</style>",
    "<link rel=stylesheet href=https://example.org/x.css>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<base href=https://example.org/>",
    "<details open ontoggle=window.pwned=1>",
    "&lt;script&gt;window.pwned=1&lt;/script&gt;",
    "\u202egnp.exe\u202c \u2066x\u2069",
    "Zalgo t̷̢̧o̶͝ \U0001f9ec \u0000\u0001\u001b[2J\u0085",
    "x" * 3000,
    "../../../etc/passwd\\..\\..",
    "patient;DROP TABLE patients;--",
    "|a|b|\n|--|--|\n# heading\n\n- list `code` **bold** ~~x~~",
]  # fmt: skip


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An index, a study and two reports: one good, one failed."""
    root = tmp_path_factory.mktemp("reports")
    for name in NAMES:
        folder = root / "today" / name
        folder.mkdir(parents=True)
        notebook = sample_notebook(failing=name == NAMES[1])
        failed = {"status": "raised", "cell": 11, "error": "RuntimeError: boom", "metrics": [], "baselines": []}
        results = sample_results(notebook=name, title=name, **(failed if name == NAMES[1] else {}))
        results.picture = Picture(**write_thumbnail(notebook, folder))
        write_results(folder, results)
        nbformat.write(notebook, folder / "notebook.ipynb")
        (folder / "report.html").write_text(report_page(notebook, results, name=name), encoding="utf-8")
    study = write_study(root / "today")
    assert study is not None
    folder = root / "today"
    found = {"index": write_index(root), "study": study, "good": folder / NAMES[0] / "report.html"}
    found["compare"] = compare_runs([folder / NAMES[0], folder / NAMES[2]], root)
    return found | {"failed": folder / NAMES[1] / "report.html"}


def show_all(tab: Tab) -> None:
    """Every part of a report at once, where it stands in parts."""
    tab.evaluate("document.querySelector('#all:not(:checked)')?.click()")


def check_page(tab: Tab) -> None:
    """What holds for every page: silent, self-contained, no wider than the window, every image described."""
    assert tab.requests() == []
    assert tab.complaints() == []
    for _ in range(2):  # as it opens, and with every part shown
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        show_all(tab)
    alts = tab.evaluate("[...document.images].map(image => image.alt)")
    assert all(alt.strip() and not PLACEHOLDERS.fullmatch(alt.strip()) for alt in alts), alts
    assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


@pytest.mark.parametrize("phone", [False, True], ids=["laptop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["index", "study", "compare", "good", "failed"])
def test_pages_are_silent_and_accessible(tab: Tab, pages: dict[str, Path], name: str, dark: bool, phone: bool) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm ci --prefix tests/browser")
    tab.open(pages[name], dark=dark, width=390 if phone else 1280, phone=phone)
    check_page(tab)
    assert tab.axe() == []
    check_page(tab)  # also with every fold open


@pytest.mark.parametrize("page", sorted(SAMPLE.rglob("*.html")), ids=lambda page: str(page.relative_to(SAMPLE)))
def test_sample_reports_are_silent_and_accessible(tab: Tab, page: Path) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm ci --prefix tests/browser")
    for dark in (False, True):
        tab.open(page, dark=dark)
        check_page(tab)
        assert tab.axe() == []


def test_the_test_would_notice_a_request_a_script_and_a_poor_page(tab: Tab, tmp_path: Path) -> None:
    """The instrument is tested too: what it must find, it finds."""
    poor = tmp_path / "poor.html"
    poor.write_text(
        "<img src=missing.png><script>console.error('x'); window.pwned = 1</script><p style=color:#eee>pale</p>"
    )
    tab.open(poor)
    assert tab.requests() and tab.complaints() and tab.evaluate("window.pwned") == 1
    if AXE.exists():
        assert {line.split(":")[0] for line in tab.axe()} >= {"image-alt", "color-contrast", "html-has-lang"}


def test_a_figure_is_enlarged_and_closed_by_keyboard(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["good"])
    show_all(tab)
    width = "document.querySelector('#s-figure--2 img').getBoundingClientRect().width"
    small = tab.evaluate(width)
    tab.evaluate("document.querySelector('#s-figure--2 .zoom').focus()")
    press(tab, "Enter")
    assert tab.evaluate(width) > 1.5 * small
    assert tab.evaluate("getComputedStyle(document.querySelector('#s-figure--2')).position") == "fixed"
    press(tab, "Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Close figure 2"
    press(tab, "Enter")
    assert tab.evaluate(width) == small


PARTS = "[...document.querySelectorAll('.panel')].filter(e => e.checkVisibility()).map(e => e.id)"
LIT = "[...document.querySelectorAll('.bar a')].filter(e => getComputedStyle(e).borderBottomColor == getComputedStyle(e).color)"  # noqa: E501


def test_a_report_opens_with_its_summary_and_every_link_shows_the_part_that_it_leads_to(
    tab: Tab, pages: dict[str, Path]
) -> None:
    tab.open(pages["good"])
    lit = f"{LIT}.map(e => e.textContent)"
    assert tab.evaluate(PARTS) == ["summary"] and tab.evaluate(lit) == ["Summary"]
    for name, part in (("Methods", "methods"), ("Checklist", "asked"), ("Code", "run"), ("Summary", "summary")):
        tab.evaluate(f"[...document.querySelectorAll('.bar a')].find(e => e.textContent == '{name}').click()")
        assert tab.evaluate(PARTS) == [part] and tab.evaluate(lit) == [name]
    links = tab.evaluate("[...document.querySelectorAll('main a[href^=\"#\"], .contents a')].map(e => e.hash.slice(1))")
    assert len(links) > 10
    for link in links:
        tab.evaluate(f"location.hash = {json.dumps('#' + link)}")
        target = f"document.getElementById(decodeURIComponent({json.dumps(link)}))"
        assert tab.evaluate(f"{target}.checkVisibility()") and len(tab.evaluate(PARTS)) == 1, link
    show_all(tab)
    assert len(tab.evaluate(PARTS)) == 4
    tab.open(pages["good"])
    tab.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert len(tab.evaluate(PARTS)) == 4
    finally:
        tab.call("Emulation.setEmulatedMedia", media="")


def test_code_is_hidden_and_a_table_is_saved_without_a_script(tab: Tab, pages: dict[str, Path], tmp_path: Path) -> None:
    tab.open(pages["good"])
    show_all(tab)
    shown = (
        "[...document.querySelectorAll('.narrative details:not(.fold, .log)')].filter(e => e.checkVisibility()).length"
    )
    assert tab.evaluate(shown) > 3
    tab.evaluate("document.querySelector('#bare').click()")
    assert tab.evaluate(shown) == 0
    tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), eventsEnabled=True)
    tab.evaluate("document.querySelector('#s-table--2 .csv').click()")
    tab.wait_for("Browser.downloadWillBegin")
    while not (found := list(tmp_path.glob("*.csv"))):
        tab.evaluate("new Promise(done => setTimeout(done, 50))")
    rows = list(csv.reader(found[0].read_text("utf-8-sig").splitlines()))
    html = tab.evaluate(
        "[...document.querySelectorAll('#s-table--2 tr')].map(r => [...r.cells].map(c => c.textContent.trim()))"
    )
    assert found[0].name == "table-2.csv" and rows == html and len(rows) == 6
    assert tab.requests() == []


def test_the_runs_of_one_notebook_are_picked_out_of_the_index(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["index"])
    shown = "[...document.querySelectorAll('.runs tbody tr')].filter(e => e.checkVisibility()).length"
    assert tab.evaluate(shown) == len(NAMES)
    tab.evaluate("document.querySelectorAll('.filter input')[1].click()")
    assert tab.evaluate(shown) == 1


def press(tab: Tab, key: str) -> None:
    """Press a key as a person does."""
    codes = {"Enter": 13, "Tab": 9}
    text = {"text": "\r"} if key == "Enter" else {}
    tab.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=codes[key], **text)
    tab.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=codes[key])
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


@pytest.mark.parametrize("name", ["good", "failed", "index", "study", "compare"])
def test_everything_that_does_something_is_reached_by_the_tab_key(tab: Tab, pages: dict[str, Path], name: str) -> None:
    tab.open(pages[name])
    show_all(tab)
    wanted = tab.evaluate("document.querySelectorAll('a[href]:not(.close), summary, [tabindex=\"0\"]').length")
    seen = set()
    for _ in range(wanted + 30):
        press(tab, "Tab")
        seen.add(tab.evaluate("(e => [...document.querySelectorAll('*')].indexOf(e))(document.activeElement)"))
    visible = tab.evaluate(
        "[...document.querySelectorAll('a[href]:not(.close), summary, [tabindex=\"0\"]')]"
        ".filter(e => e.checkVisibility()).map(e => [...document.querySelectorAll('*')].indexOf(e))"
    )
    assert set(visible) <= seen


FIXED = {"schema", "status", "unit", "mode", "low", "value", "high"}  # words that are none of a user's


def spoiled(value: Any, hostile: str) -> Any:
    """The same structure with every text, names of fields included where they are free, replaced."""
    if isinstance(value, dict):
        free = "value" not in value
        kept = {key: item if key in FIXED else spoiled(item, hostile) for key, item in value.items()}
        return kept | ({hostile: hostile} if free else {})
    if isinstance(value, list):
        return [spoiled(item, hostile) for item in value]
    return hostile if isinstance(value, str) else value


def hostile_results(hostile: str) -> Results:
    """Results with one text in every place that a user can reach."""
    content = spoiled(sample_results().as_dict(), hostile)
    content["data"]["conversions"] = {hostile: 3}
    results = checked(content, "sample")
    results.picture = Picture()
    return results


def hostile_notebook(text: str) -> Any:
    """A notebook with one text in every place that a file name, label or patient can reach."""
    picture = {"image/png": png(120, 60)}
    cells = [
        new_markdown_cell(f"# {text}\n\n## {text}\n\nPatient {text} and `{text}`\n\n| a |\n|--|\n| {text} |"),
        code(f"label = {text!r}", stream("stdout", text), stream("stderr", text)),
        code("picture", display(picture, {"image/png": {"alt": f"Shows {text}", "caption": text}})),
        code("html", display({"text/html": f"<table><tr><th>{text}</th><td>{text}</td></tr></table><p>{text}</p>"})),
        code("text", display({"text/plain": text}), display({"text/markdown": text}), display({"text/latex": text})),
        code("svg", display({"image/svg+xml": f"<svg>{text}</svg>"}, {"image/svg+xml": {"alt": f"Shows {text}"}})),
        code("raise", new_output("error", ename=text, evalue=text, traceback=[text])),
        new_markdown_cell("## The last heading"),
    ]
    return new_notebook(cells=cells)


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_string_in_every_field_runs_nothing_and_breaks_nothing(
    tab: Tab, pages: dict[str, Path], tmp_path: Path, number: int
) -> None:
    text = HOSTILE[number]
    results = hostile_results(text)
    page = tmp_path / "hostile.html"
    page.write_text(report_page(hostile_notebook(text), results), encoding="utf-8")
    for phone in (True, False):
        tab.open(page, width=390 if phone else 1280, phone=phone)
        for _ in range(2):  # as it opens, and with every part shown
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
            show_all(tab)
    assert tab.evaluate("window.pwned") is None
    assert tab.requests() == []
    assert tab.complaints() == []
    for tag, count in {"header": 1, "nav": 2, "main": 1, "article": 1, "footer": 1}.items():
        assert tab.evaluate(f"document.querySelectorAll('.page {tag}, body > {tag}').length") == count, tag
    assert tab.evaluate("document.querySelectorAll('h1').length") == 1
    assert "The last heading" in tab.evaluate("document.querySelector('article').textContent")
    assert tab.evaluate("document.querySelector('footer').getBoundingClientRect().height") > 0
    shown = tab.evaluate("document.querySelector('.summary').textContent")
    assert "".join(shown.split()) == "".join(
        "".join(c for c in text if c.isprintable() or c.isspace() or ord(c) > 0x9F).split()
    )


def test_a_study_of_hostile_notebooks_runs_nothing_and_stays_whole(tab: Tab, tmp_path: Path) -> None:
    """A chapter per string, so that one could break into the next."""
    for number, text in enumerate(HOSTILE):
        folder = tmp_path / f"{number:02d}"
        folder.mkdir()
        nbformat.write(hostile_notebook(text), folder / "notebook.ipynb")
        write_results(folder, hostile_results(text))
    study = write_study(tmp_path)
    assert study is not None
    tab.open(study)
    assert tab.evaluate("window.pwned") is None and tab.requests() == [] and tab.complaints() == []
    assert tab.evaluate("document.querySelectorAll('.chapter').length") == len(HOSTILE)
    assert tab.evaluate("[...document.querySelectorAll('.chapter')].every(c => c.parentNode.id === 'content')")
    last = "[...document.querySelectorAll('.chapter')].map(c => c.textContent.includes('The last heading'))"
    assert all(tab.evaluate(last)) and tab.evaluate("document.querySelectorAll('h1, footer').length") == 2
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert sorted(ids) == sorted(set(ids))


def test_a_comparison_of_hostile_runs_runs_nothing(tab: Tab, tmp_path: Path) -> None:
    folders = []
    for number, text in enumerate(HOSTILE):
        name = "".join(c for c in text if c not in "/\\\0")[:60].strip(". ") or "x"
        folder = tmp_path / f"{number} {name}"
        folder.mkdir()
        write_results(folder, hostile_results(text))
        folders.append(folder)
    tab.open(compare_runs(folders, tmp_path))
    assert tab.evaluate("window.pwned") is None and tab.requests() == [] and tab.complaints() == []
    assert tab.evaluate("document.querySelectorAll('main table')[0].querySelectorAll('tbody tr').length") == len(
        HOSTILE
    )
    assert tab.evaluate("document.querySelectorAll('h1, footer').length") == 2


def test_an_index_of_hostile_names_runs_nothing_and_its_links_work(tab: Tab, tmp_path: Path) -> None:
    for number, text in enumerate(HOSTILE):
        name = "".join(c for c in text if c not in "/\\\0")[:60].strip(". ") or "x"
        folder = tmp_path / f"run {number} {name}" / f"{number} {name}"
        folder.mkdir(parents=True)
        (folder / "report.html").write_text("<title>found</title>")
        write_results(folder, hostile_results(text))
    index = write_index(tmp_path)
    tab.open(index)
    assert tab.evaluate("window.pwned") is None and tab.requests() == [] and tab.complaints() == []
    links = tab.evaluate("[...document.querySelectorAll('.runs a')].map(a => a.href)")
    assert len(links) == len(HOSTILE) == tab.evaluate("document.querySelectorAll('.runs tbody tr').length")
    for link in links:
        tab.call("Page.navigate", url=link)
    from urllib.parse import unquote, urlparse

    assert all(Path(unquote(urlparse(link).path)).is_file() for link in links)


def test_a_lean_page_is_the_same_document(tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a browser makes of the page with and without the tags that may be left out: the same tree."""
    hostile = hostile_notebook("it's </td><td> &#39; </li>\n\n<pre>\n\n x</pre>\n</tr>")
    cases = [(sample_notebook(), sample_results()), (hostile, hostile_results("</td>\n<tr>&#39;"))]
    short = [report_page(*case) for case in cases]
    monkeypatch.setattr(pages_module, "lean", lambda page: page)
    long = [report_page(*case) for case in cases]
    (tmp_path / "empty.html").write_text("<p>")
    tab.open(tmp_path / "empty.html")
    tree = """(text => {
        const page = new DOMParser().parseFromString(text, "text/html");
        const printed = [...page.querySelectorAll("pre")].map(pre => pre.textContent);
        const spaces = page.documentElement.outerHTML.replace(/\\s+/g, " ").replace(/ ?(<[^>]*>) ?/g, "$1");
        return [spaces, ...printed];
    })"""
    for one, other in zip(short, long, strict=True):
        assert len(one) < len(other) - 500
        assert tab.evaluate(f"{tree}({json.dumps(one)})") == tab.evaluate(f"{tree}({json.dumps(other)})")


def test_a_compact_drawing_is_drawn_like_the_original(tab: Tab, tmp_path: Path) -> None:
    """Both are painted by the browser and compared dot by dot."""
    figure, ax = plt.subplots()
    ax.plot(np.linspace(0, 7, 90), np.sin(np.linspace(0, 7, 90)), label="it's a sine")
    ax.scatter([1, 2, 3], [0, 0.5, -0.5], color="#D55E00", alpha=0.5)
    ax.legend()
    mime, drawing = encode(figure)
    assert mime == "image/svg+xml"
    before = "data:image/svg+xml;base64," + base64.b64encode(drawing).decode()
    page = tmp_path / "drawings.html"
    page.write_text(f'<img src="{before}"><img src="{svg_uri(drawing.decode())}">', encoding="utf-8")
    tab.open(page)
    other, ink = tab.evaluate("""(() => {
        const [a, b] = [...document.images].map(image => {
            const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
            canvas.drawImage(image, 0, 0);
            return canvas.getImageData(0, 0, image.naturalWidth, image.naturalHeight).data;
        });
        let other = a.length === b.length ? 0 : a.length, ink = 0;
        a.forEach((value, n) => { other += Math.abs(value - b[n]) > 24; ink += value < 128; });
        return [other, ink];
    })()""")
    assert ink > 10_000 and other < 0.02 * ink, "lines may lie a hundredth of a dot apart, not more"


def test_a_page_prints_to_pdf(pages: dict[str, Path], tmp_path: Path) -> None:
    target = print_pdf(pages["study"], tmp_path / "study.pdf")
    content = target.read_bytes()
    assert content.startswith(b"%PDF-") and content.count(b"/Type /Page\n") >= 4
    assert [path.name for path in tmp_path.iterdir()] == ["study.pdf"]
