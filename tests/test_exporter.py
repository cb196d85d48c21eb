"""Reports: nothing hostile survives, everything a reviewer needs is there, and the page is small."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_markdown_cell, new_notebook, new_output
from report_samples import ALT, code, display, estimate, png, sample_notebook, sample_results, stream

from medcore.data.audit.audit import Audit
from medcore.data.audit.findings import Finding
from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate
from medcore.reporting.body import RESULTS, block_math, inline_math, markdown_fragment, settled, write_body
from medcore.reporting.figures import figure_fragment
from medcore.reporting.front import cards, front, with_unlabelled
from medcore.reporting.report import ReportExporter, find_results, report_page
from medcore.reporting.sanitise import Narrative, clean, column_classes, page_fragment
from medcore.reporting.status import Verdict, verdict_of
from medcore.reporting.wording import (
    PHANTOM_LINE,
    REPEATED,
    SMOKE_LINE,
    answer_in_words,
    duration,
    memory,
    number_format,
)

SHELL_LIMIT = 60_000  # bytes of a report without its figures
DATA_URI = re.compile(r"data:image/[^\"]+")
DRAWING = re.compile(r'"data:image/svg\+xml,[^"]*"')  # in an <img> it loads nothing
RUNS = re.compile(r"<script|<iframe|<object|<embed|<form|<svg|<style|<link|javascript:|\bon\w+\s*=", re.IGNORECASE)


def body_of(page: str) -> str:
    return page.split("</head>")[1]


class Outline(HTMLParser):
    """Headings and the text of every element with an id or a class, in the order of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def test_a_report_holds_what_a_reviewer_needs_in_order() -> None:
    results = sample_results()
    words = " ".join(Outline(body_of(report_page(sample_notebook(), results))).words)
    wanted = [
        PHANTOM_LINE,
        "06 · Patch classification",
        answer_in_words(results),
        results.audit.verdict,
        str(results.metrics[0]),
        results.baselines[2].baseline,
        str(results.differences[0]),
        results.summary,
        results.warnings[0],
        results.data.fingerprint[:16],
        "2701 images found",  # the flow of cases: one was left out
        "broken image",
        "540 images of 24 patients",
        "Why the patient is the unit",
        results.checklist[0].question,
        "epochs",
        results.command,
    ]
    places, begin = [], words.find("Skip to the text")
    for text in wanted:
        begin = words.find(" ".join(text.split()), begin)
        places.append(begin)
    assert -1 not in places, wanted[places.index(-1)]


@pytest.mark.parametrize(("profile", "shown"), [("smoke", True), ("quick", False)])
def test_a_smoke_run_says_that_its_numbers_mean_nothing(profile: str, shown: bool) -> None:
    page = report_page(sample_notebook(), sample_results(parameters={"profile": profile}))
    assert (SMOKE_LINE in page) == shown


def test_the_policy_of_the_page_allows_neither_scripts_nor_requests() -> None:
    page = report_page(sample_notebook(), sample_results())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policy[1]
    assert "script-src" not in policy[1]
    assert not re.search(r"(src|srcset)=\"(?!data:)", page)
    assert not re.search(r"url\(|@import|@font-face", DRAWING.sub("", page))


def test_the_shell_is_small() -> None:
    page = report_page(sample_notebook(), sample_results())
    shell = len(DATA_URI.sub("", page).encode())
    print(f"report {len(page.encode()) / 1000:.0f} kB, shell {shell / 1000:.1f} kB")
    assert shell <= SHELL_LIMIT


def test_every_heading_and_anchor_is_unique_and_no_level_is_skipped() -> None:
    page = report_page(sample_notebook(), sample_results())
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets <= set(ids)
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


HOSTILE_HTML = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    "<iframe src='https://example.org'></iframe>",
    '<a href="javascript:alert(1)">x</a>',
    '<a href=" jAvAsCrIpT\n:alert(1)">x</a>',
    '<a href="data:text/html,<script>alert(1)</script>">x</a>',
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<style>@import 'https://example.org/x.css'</style>",
    "<link rel=stylesheet href=https://example.org/x.css>",
    '<p style="position:fixed;inset:0;background:url(https://example.org/x)">x</p>',
    "<form action=https://example.org><input name=a><button>send</button></form>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<details open ontoggle=alert(1)>x</details>",
    "<template><script>alert(1)</script></template>",
    '<img src="https://example.org/x.png" srcset="https://example.org/y.png 2x">',
    '<video poster="https://example.org/x.png"><source src=https://example.org/x></video>',
    '<base href="https://example.org/"><meta http-equiv=refresh content="0;url=https://example.org">',
    "<xmp><img src=x onerror=alert(1)></xmp>",
    "<!--<img src='--><img src=x onerror=alert(1)>'>-->",
]


@pytest.mark.parametrize("hostile", HOSTILE_HTML)
def test_hostile_html_is_taken_apart_wherever_it_comes_from(hostile: str) -> None:
    cells = [
        new_markdown_cell(f"# {hostile}\n\nText {hostile} text\n\n| a |\n|--|\n| {hostile} |\n\n$x {hostile}$"),
        code("1", display({"text/html": f"<p>{hostile}</p>"}), display({"text/markdown": f"**x** {hostile}"})),
        code("2", display({"image/svg+xml": f"<svg xmlns='x'>{hostile}</svg>"}, {"image/svg+xml": {"alt": hostile}})),
        code("3", stream("stdout", hostile), stream("stderr", hostile)),
        code("4", new_output("error", ename=hostile, evalue=hostile, traceback=[hostile])),
        code(hostile),
    ]
    body = body_of(report_page(new_notebook(cells=cells), sample_results(summary=hostile)))
    tags = "".join(re.findall(r"<[a-zA-Z][^>]*>", DATA_URI.sub("", body)))
    tags = re.sub(r'(alt|aria-label)="[^"]*"', "", tags)  # a description may name anything, it is quoted
    assert not RUNS.search(tags), RUNS.search(tags)
    assert "https://example.org" not in tags.replace('href="https://example.org/crc"', "")


@given(st.text(max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_text_is_shown_as_it_is(text: str) -> None:
    """No text can open a tag: a parser that knows HTML finds the same words again."""

    class Words(HTMLParser):
        seen = ""

        def handle_data(self, data: str) -> None:
            self.seen += data

    from medcore.reporting.body import stream_fragment

    words = Words()
    words.feed(stream_fragment("stdout", f"begin{text}end"))
    words.close()
    assert words.seen.split() == settled(f"begin{text}end").split()


@given(st.text(alphabet=st.sampled_from("<>/\"'= abimgsrcp&;#!-x`$*[]()\n"), max_size=120))
@settings(max_examples=150, deadline=None)
def test_any_markdown_gives_balanced_html(text: str) -> None:
    """What a cell holds can not close an element of the page around it."""
    fragment = markdown_fragment(text, Narrative())
    assert page_fragment(fragment, Narrative()).count("</div>") <= fragment.count("<div")
    for tag in ("div", "table", "details", "span"):
        assert fragment.count(f"<{tag}") == fragment.count(f"</{tag}>")
    assert not RUNS.search("".join(re.findall(r"<[^>]*>", fragment)))


def test_formulas_become_mathml_and_broken_ones_stay_readable() -> None:
    assert "<mfrac>" in block_math(r"\frac{a}{b}") and "xmlns" not in block_math("x")
    assert inline_math("a < b").count("&lt;") == 1
    assert "&lt;script" in inline_math(r"\begin{matrix <script>")
    assert "<mi>" in markdown_fragment("for $p(i)$ and $$x^2$$", Narrative())


def test_links_lead_into_the_page_to_the_web_or_nowhere() -> None:
    fragment = markdown_fragment("## My Part\n[a](#My-Part) [b](02_x.ipynb) [c](https://doi.org/1)", Narrative())
    assert 'id="s-my-part"' in fragment and 'href="#s-my-part"' in fragment
    assert "02_x.ipynb" not in fragment and 'href="https://doi.org/1"' in fragment


def test_solutions_stay_folded_and_their_code_is_kept() -> None:
    page = report_page(sample_notebook(), None)
    assert re.search(r"<details class=.fold.><summary>Solution</summary>.*assign_splits.*?</details>", page, re.DOTALL)


def test_a_progress_bar_leaves_its_last_state_only() -> None:
    page = report_page(sample_notebook(), None)
    assert "100/100" in page and "55/100" not in page
    assert settled("a\rb\rc\nd\x1b[31mred\x1b[0m\r\n") == "c\ndred\n"
    assert settled("x:  10%|# | 1/10\nx:  20%|## | 2/10\nend") == "x:  20%|## | 2/10\nend"


def test_alt_text_reaches_the_page_and_its_absence_is_seen() -> None:
    page = report_page(sample_notebook(), None, strict=True)
    assert f'alt="{ALT}"' in page and "carries no description" not in page
    bare = new_notebook(cells=[code("plot()", display({"image/png": png()}))])
    assert "This figure carries no description." in report_page(bare, None)
    with pytest.raises(MedcoreError, match="cell 1: figure 1"):
        report_page(bare, None, strict=True)


@pytest.mark.parametrize("alt", ["", "  ", "image", "No description has been provided for this image", None])
def test_placeholders_count_as_no_description(alt: str | None) -> None:
    narrative = Narrative()
    figure_fragment({"image/png": png()}, {"image/png": {"alt": alt}}, narrative)
    assert narrative.undescribed


def test_a_figure_keeps_its_shown_size() -> None:
    fragment = figure_fragment({"image/png": png(900, 420)}, {"image/png": {"alt": "a", "width": 450}}, Narrative())
    assert 'width="450" height="210"' in fragment


def test_an_image_that_is_none_is_said_to_be_unreadable() -> None:
    narrative = Narrative()
    assert "unreadable" in figure_fragment({"image/png": '"><script>'}, {"image/png": {"alt": "a"}}, narrative)
    assert narrative.undescribed


def test_tables_scroll_and_have_no_empty_header() -> None:
    fragment = page_fragment("<table><tr><th></th><th>a</th></tr><tr><th>b</th><td>1</td></tr></table>", Narrative())
    assert fragment.startswith('<section id="s-table--1" tabindex="0" aria-label="table 1"')
    assert "<th></th>" not in fragment and "<th>b</th>" in fragment


def test_numbers_stand_right_words_left_and_an_index_has_no_row_of_its_own() -> None:
    import pandas as pd

    index = pd.Index(["train", "test"], name="split")
    frame = pd.DataFrame({"unit": ["patch", "patch"], "value": [0.5, None], "text": ["0.8 (0.7–0.9)", "–"]}, index)
    fragment = page_fragment(frame.to_html(), Narrative())
    assert '<table class="n3 n4">' in fragment
    assert "<thead><tr><th>split</th><th>unit</th>" in fragment and fragment.count("<tr>") == 3


def test_tables_of_any_shape_are_left_alone() -> None:
    assert column_classes("<table><tr><td colspan=2>1</td></tr><tr><td>1</td><td>2</td></tr></table>") == ""
    assert column_classes("<table></table>") == ""
    corner = "<table><thead><tr><td></td><th>n</th></tr></thead><tbody><tr><th>a</th><td>7</td></tr></tbody></table>"
    assert column_classes(corner) == "n2", "the empty corner of a pandas table makes no row of data"
    assert column_classes(f"<table><tr><td>a</td><td>7</td><td>{'word ' * 20}</td></tr></table>") == "n2 w3"
    assert column_classes("<table><tr><td>a</td><td>1</td></tr><tr><td>a</td></tr></table>") == ""
    assert column_classes("<table><tr><td>a</td><td>−1.5e-3</td><td>12 %</td><td>P01</td></tr></table>") == "n2 n3"


def test_styles_and_classes_of_a_cell_cannot_dress_up_as_ours() -> None:
    left = clean('<span class="badge good" id="content" style="color:red">✓ ok</span>')
    assert left.replace(' class=""', "") == "<span>✓ ok</span>"


def test_a_failed_run_shows_what_failed_and_where() -> None:
    results = sample_results(metrics=[], baselines=[], summary="")
    page = report_page(sample_notebook(failing=True), results)
    assert "✕ raised" in page and "stopped by an error in cell 11" in page
    assert page.count("loss is not finite at epoch 3") >= 2
    assert page.index("The run stopped here") < page.index("Never reached.")
    assert "· not run" in page and "\x1b" not in page


def test_results_cannot_claim_a_success_that_the_notebook_denies() -> None:
    page = report_page(sample_notebook(failing=True), sample_results(status="ok"))
    assert "✓ ok" not in page and "did not succeed" in page


def cells_of(*cells: object) -> dict:
    return json.loads(nbformat.writes(new_notebook(cells=list(cells))))


NOT_RUN = "this cell and those below it have not been run"
MEMORY = new_output("error", ename="OutOfMemoryError", evalue="CUDA out of memory", traceback=[])
ERROR = new_output("error", ename="ValueError", evalue="bad\nworse", traceback=[])


@pytest.mark.parametrize(
    ("notebook", "expected"),
    [
        (cells_of(code("a"), code("b")), Verdict("ok")),
        (cells_of(new_markdown_cell("x"), code("a", ERROR)), Verdict("raised", 2, "ValueError: bad")),
        (cells_of(code("a", ERROR, tags=("raises-exception",))), Verdict("ok")),
        (cells_of(code("a"), code("b", count=None)), Verdict("interrupted", 2, NOT_RUN)),
        (cells_of(code("  ", count=None)), Verdict("ok")),
        (cells_of(code("a", MEMORY)), Verdict("out of memory", 1, "OutOfMemoryError: CUDA out of memory")),
        (
            cells_of(code("a", new_output("error", ename="KeyboardInterrupt", evalue="", traceback=[]))),
            Verdict("interrupted", 1, "KeyboardInterrupt"),
        ),
    ],
)  # fmt: skip
def test_the_status_is_read_from_the_cells(notebook: dict, expected: Verdict) -> None:
    assert verdict_of(notebook) == expected


def test_cells_that_papermill_calls_completed_but_never_ran_are_found() -> None:
    notebook = cells_of(code("a"), code("b", count=None))
    for cell in notebook["cells"]:
        cell["metadata"]["papermill"] = {"status": "completed", "exception": None}
    assert verdict_of(notebook).status == "interrupted"


def test_results_are_found_beside_the_notebook_or_inside_it_but_not_those_of_another(tmp_path: Path) -> None:
    def of(notebook: str, summary: str) -> dict:
        return sample_results(notebook=notebook, summary=summary).as_dict()

    def found(notebook: object) -> str | None:
        results = find_results(notebook, tmp_path, "out")
        return results and results.summary

    inside = new_notebook(cells=[code("run.finish()", display({RESULTS: of("x", "inside")}))])
    assert found(inside) == "inside"
    (tmp_path / "results.json").write_text(json.dumps(of("other", "beside")))
    assert found(inside) == "inside"
    inside.metadata["papermill"] = {"input_path": "notebooks/other.ipynb"}
    assert found(inside) == "beside"
    (tmp_path / "results.json").write_text("{ broken")
    assert found(new_notebook()) is None


def test_a_kernel_without_a_display_name_is_exported() -> None:
    """The notebooks of the repository keep none, and so do their executed copies."""
    notebook = sample_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python"}
    page, _ = ReportExporter().from_notebook_node(notebook)
    assert page.startswith("<!DOCTYPE html>") or page.startswith("<!doctype html>")


def test_nbconvert_knows_the_exporter(tmp_path: Path) -> None:
    nbformat.write(sample_notebook(), tmp_path / "06_patch_classification.ipynb")
    (tmp_path / "results.json").write_text(json.dumps(sample_results().as_dict()), encoding="utf-8")
    command = [sys.executable, "-m", "nbconvert", "--to", "medcore", "06_patch_classification.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "06_patch_classification.html").read_text(encoding="utf-8")
    assert "On 24 test patients" in page and "<script" not in page
    bare = new_notebook(cells=[code("plot()", display({"image/png": png()}))])
    nbformat.write(bare, tmp_path / "bare.ipynb")
    strict = [*command[:-1], "--ReportExporter.strict=True", "bare.ipynb"]
    refused = subprocess.run(strict, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "without a description" in refused.stderr


def test_a_value_that_cannot_be_estimated_is_said_in_words() -> None:
    facts = front(sample_results(), Verdict("ok"), "")
    row = next(row for row in facts["metrics"] if row["name"] == "sensitivity")
    assert "no positive patient in this split" in row["text"] and not row["note"]


def test_only_baselines_of_the_same_question_stand_beside_the_headline() -> None:
    mine = estimate("auroc", 0.9, 0.85, 0.95)
    other = [
        estimate("auroc", 0.7, 0.6, 0.8, baseline="patches", unit="patch"),
        estimate("auroc", 0.8, 0.7, 0.9, baseline="colour"),
    ]
    facts = front(sample_results(metrics=[mine], baselines=other), Verdict("ok"), "")
    assert [row["who"] for row in facts["headline"]["rows"]] == ["this run", "colour"]


def test_words_for_times_and_sizes() -> None:
    assert [duration(s) for s in (0.2, 59.6, 131, 7500, 0)] == [
        "1 s",
        "1 min 00 s",
        "2 min 11 s",
        "2 h 05 min",
        "",
    ]
    assert memory(1_830_000_000) == "1.8 GB" and memory(12_000_000) == "12 MB" and memory(0) == ""


def test_many_headings_of_the_same_name_stay_apart() -> None:
    body = write_body(new_notebook(cells=[new_markdown_cell("## A\n\n## A\n\n#### A\n\n## <b>x</b> & y")]))
    assert [(h.level, h.anchor) for h in body.narrative.headings] == [
        (2, "s-a"),
        (2, "s-a-2"),
        (3, "s-a-3"),
        (2, "s-x-y"),
    ]


@pytest.mark.parametrize(
    "audit, tone",
    [
        ({"verdict": "passed", "passed": True}, "good"),
        ({"verdict": "warnings", "passed": True}, "warn"),
        ({"verdict": "leakage", "passed": False}, "bad"),
        ({}, "dull"),
    ],
)
def test_the_audit_has_the_colour_of_its_verdict(audit: dict, tone: str) -> None:
    found = front(sample_results(audit=audit), Verdict("ok"), "")["audit"]
    assert found["tone"] == tone
    assert (
        f'<span class="badge {tone}">' in report_page(sample_notebook(), sample_results(audit=audit)) or tone == "dull"
    )


@pytest.mark.parametrize(
    ("slope", "intercept", "tone", "word"),
    [
        ((0.98, 0.7, 1.3), (0.1, -0.3, 0.5), "good", ""),
        ((0.60, 0.4, 0.8), (0.1, -0.3, 0.5), "warn", "calibration slope off"),
        ((0.98, 0.7, 1.3), (0.9, 0.2, 1.6), "warn", "calibration intercept off"),
        ((0.98, -0.2, 2.2), (0.1, -0.3, 0.5), "warn", "too few cases"),
        ((0.98, None, None), (0.1, -0.3, 0.5), "warn", "too few cases"),
        ((0.98, 0.7, 1.3), None, "warn", "intercept not assessed"),
        (None, None, "warn", "not assessed"),
    ],
)
def test_the_card_of_calibration_is_judged_by_slope_and_intercept(
    slope: tuple | None, intercept: tuple | None, tone: str, word: str
) -> None:
    """Logistic recalibration (Van Calster 2019): 1 and 0 are what a calibrated model has."""
    given = {"calibration_slope": slope, "calibration_intercept": intercept, "brier": (0.09, 0.05, 0.16)}
    rows = [
        Estimate(name, *numbers, n=60, unit="patient", split="test", note="no interval" if None in numbers else "")
        for name, numbers in given.items()
        if numbers
    ]
    results = sample_results().model_copy(update={"metrics": rows})
    (card,) = [card for card in cards(results) if card["title"] == "Calibration"]
    assert card["tone"] == tone and word in card["text"]


def test_of_several_findings_the_card_of_calibration_names_those_that_do_not_pass() -> None:
    given = {"nodule": ((1.1, 0.6, 1.6), (0.0, -0.5, 0.5)), "effusion": ((0.5, 0.3, 0.7), (-1.1, -1.7, -0.6))}
    rows = [
        Estimate(f"calibration_{what} {name}", *numbers, n=60, unit="image", split="test")
        for name, both in given.items()
        for what, numbers in zip(("slope", "intercept"), both, strict=True)
    ]
    results = sample_results().model_copy(update={"metrics": rows})
    (card,) = [card for card in cards(results) if card["title"] == "Calibration"]
    assert card["tone"] == "warn" and "1 of 2" in card["text"] and "effusion: " in card["text"]
    assert "nodule" not in card["text"]


def test_text_refers_to_the_figure_and_table_above_it_by_number() -> None:
    """Each link leads to the last one of its section; where the section has none, the words stay and lead nowhere."""
    picture = display({"image/png": png(120, 60)}, {"image/png": {"alt": "Shows a square.", "caption": "A square."}})
    table = display({"text/html": "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"})
    words = new_markdown_cell("See [the curve](#figure-above) and [the rows](#table-above).")
    cells = [
        new_markdown_cell("# T\n\n## One"), words, code("1", picture, table), code("1", picture), words,
        new_markdown_cell("## Two"), words,
    ]  # fmt: skip
    page = report_page(new_notebook(cells=cells), sample_results())
    told = (
        '<a href="#s-figure--2-place">the curve (Fig.\u00a02)</a> and <a href="#s-table--1">the rows (Table\u00a01)</a>'
    )
    assert page.count(told) == 1 and page.count("See <a>the curve</a> and <a>the rows</a>.") == 2
    assert 'id="s-figure--2-place"' in page and 'id="s-table--1"' in page


def test_a_table_that_the_first_screen_holds_is_not_repeated() -> None:
    shown = {"text/html": "<table><tr><th>metric</th></tr><tr><td>repeated row</td></tr></table>"}
    notebook = new_notebook(
        cells=[new_markdown_cell("# T"), code("run.table(run.headline(), 'x')", display(shown, {REPEATED: True}))]
    )
    page = report_page(notebook, sample_results())
    assert "repeated row" not in page and '<a href="#result">tables of the result</a>' in page
    assert "repeated row" in report_page(notebook, None)


def test_the_answer_names_the_strongest_rival_by_the_comparison_of_the_headline() -> None:
    """Not the weakest, not the folds' difference of the same name that is recorded later."""
    rows = [
        ("colour histogram", 0.47, 0.36, 0.31, 0.41),
        ("ABMIL", 0.82, 0.01, -0.02, 0.04),
        ("probe", 0.70, 0.13, 0.1, 0.2),
    ]
    baselines = [
        estimate("balanced_accuracy", value, value - 0.1, value + 0.1, baseline=name) for name, value, *_ in rows
    ]
    gaps = [estimate("balanced_accuracy_difference", *gap, baseline=name) for name, _, *gap in rows]
    folds = estimate("balanced_accuracy_difference", 0.5, 0.4, 0.6, baseline="ABMIL", split="folds")
    said = answer_in_words(sample_results(baselines=baselines, differences=[*gaps, folds]))
    assert said.endswith("paired difference 0.36 (0.31–0.41); not shown to be better than “ABMIL”, 0.82 (0.72–0.92), "
                         "difference 0.01 (−0.02 to 0.04).")  # fmt: skip
    assert ";" not in answer_in_words(sample_results())


def test_cases_of_no_known_class_are_counted_and_no_zero_stands_for_them() -> None:
    splits = [{"split": "test", "images": 9, "patients": 3, "tumour": 0, "stroma": 0}]
    data = sample_results().data.model_copy(update={"splits": splits, "task": "diagnosis"})
    assert with_unlabelled(data) == [splits[0] | {"not labelled": 9}]
    assert with_unlabelled(data.model_copy(update={"task": "findings"})) == splits
    assert (
        with_unlabelled(data.model_copy(update={"splits": [splits[0] | {"tumour": 4, "stroma": 5}]}))[0].keys()
        == splits[0].keys()
    )


def test_numbers_of_a_column_are_printed_alike() -> None:
    def printed(*values: object) -> list[str]:
        return [number_format(values)(value) for value in values]

    assert printed(1.0, 0.9412, 0.8) == ["1.000", "0.941", "0.800"]
    assert printed(0.98, 1.0, 0.8) == ["0.98", "1.00", "0.80"]
    assert (
        printed(3.0, 12.0) == ["3", "12"] and printed(2e-4, 0.5) == ["0.0002", "0.5"] and printed("a", 4) == ["a", "4"]
    )


def test_findings_of_the_audit_stand_once() -> None:
    """In the summary; what the audit can see stays where it was printed."""
    finding = Finding("near copies", "warning", 2, "2 pairs on one side", examples=[{"a": 1, "b": 2}])
    done = Audit([finding], pd.DataFrame(), 12, 0, {"flipped": (3, 4)}, {"train": 9, "test": 3})
    assert "near copies: 2 pairs" in str(done)
    notebook = new_notebook(
        cells=[new_markdown_cell("# T"), code("print(run.audited(done))", stream("stdout", f"{done}\nnext"))]
    )
    narrative = report_page(notebook, sample_results()).split("<article")[1]
    assert "near copies" not in narrative and "findings stand in the summary" in narrative
    assert "power: 3 of 4 copies" in narrative and "next" in narrative
    assert "near copies" in report_page(notebook, None)
