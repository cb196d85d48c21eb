"""LaTeX to MathML at build time, so that a report needs no script and no font from anywhere.

Source code as HTML, coloured by tags so short that they hardly weigh: keywords and comments.

Markdown cells as page fragments: formulas as MathML, code coloured, attachments embedded, everything sanitised.

What a cell printed or displayed, as page fragments: figures, tables, text, logs and tracebacks.

A notebook's cells as the narrative of a report: text, figures and results in order, code folded away.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from medcore.reporting.figures import figure_fragment, image_in, text_of
from medcore.reporting.results import RUN_NOTEBOOK
from medcore.reporting.sanitise import Link, Narrative, only_anchors, page_fragment
from medcore.reporting.status import Verdict, source_of, verdict_of
from medcore.reporting.wording import CONTROL, REPEATED

ENTITY = re.compile(r"&#x([0-9A-Fa-f]+);")
NESTED_ROW = re.compile(r"<mrow>\s*<mrow>((?:(?!</?mrow>).)*)</mrow>\s*</mrow>")


def inline_math(latex: str) -> str:
    """A formula within a line; as code when it is not LaTeX that we can read."""
    return _convert(latex, "inline") or f"<code>{html.escape(latex)}</code>"


def block_math(latex: str) -> str:
    """A displayed formula, as ``<math display="block">``; as preformatted text when it cannot be read."""
    return _convert(latex, "block") or f"<pre>{html.escape(latex)}</pre>"


def _convert(latex: str, display: str) -> str:
    from latex2mathml.converter import convert

    try:
        mathml = convert(latex.strip(), display=display)
    except Exception:  # the library raises many types, and a formula must never cost a report
        return ""
    mathml = mathml.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")
    mathml = ENTITY.sub(lambda found: html.escape(chr(int(found[1], 16))), mathml)
    return NESTED_ROW.sub(r"<mrow>\1</mrow>", mathml)


def highlight(code: str, language: str = "python") -> str:
    """Escaped source with ``<b>`` keywords and ``<i>`` comments; plain when the language is unknown."""
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language, stripnl=True, ensurenl=False)
    except ClassNotFound:
        return html.escape(code, quote=False)
    runs = groupby(lexer.get_tokens(code), key=lambda pair: _tag_of(pair[0]))
    return "".join(_tagged(tag, "".join(text for _, text in run)) for tag, run in runs)


def _tagged(tag: str, text: str) -> str:
    escaped = html.escape(text, quote=False)
    return f"<{tag}>{escaped}</{tag}>" if tag and text.strip() else escaped


def _tag_of(token: object) -> str:
    from pygments.token import Comment, Keyword

    if token in Keyword.Namespace or token in Keyword.Constant:
        return ""  # imports and constants are many; colour would only weigh
    kinds = {"i": Comment, "b": Keyword}
    return next((tag for tag, kind in kinds.items() if token in kind), "")


Attachments = dict[str, dict[str, str]]


def markdown_fragment(
    source: str, narrative: Narrative, attachments: Attachments | None = None, link: Link = only_anchors
) -> str:
    """A Markdown cell as HTML that may stand in a page."""
    return page_fragment(_converter()(source, attachments or {}), narrative, link)


@cache
def _converter() -> Callable[[str, Attachments], str]:
    """Markdown to unsanitised HTML; built on first use because nbconvert is slow to import."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return block_math(body)

        def inline_math(self, body: str) -> str:
            return inline_math(body)

        def latex_environment(self, name: str, body: str) -> str:
            return block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

        def block_code(self, code: str, info: str | None = None) -> str:
            language = (info or "").split()[0] if (info or "").strip() else ""
            body = highlight(code.rstrip(), language) if language else html.escape(code.rstrip())
            return f"<pre><code>{body}</code></pre>\n"

        def _embed_image_or_attachment(self, src: str) -> str:
            name = src.removeprefix("attachment:")
            return src if name == src else attachment_uri(self.attachments.get(name, {}))

    def convert(source: str, attachments: Attachments) -> str:
        renderer = Renderer(escape=False, exclude_anchor_links=True, attachments=attachments)
        return MarkdownWithMath(renderer=renderer).render(source)

    return convert


def attachment_uri(bundle: dict[str, Any]) -> str:
    """An attached image as ``data:`` address; empty when there is none."""
    for mime in ("image/svg+xml", "image/png", "image/jpeg", "image/webp"):
        if mime in bundle:
            return f"data:{mime};base64,{bundle[mime]}"
    return ""


WIDGET = "application/vnd.jupyter.widget-view+json"
FINDINGS = re.compile(
    r"^(audit of [\d,]+ images .*: [\w ]+)\n(?:  (?!power: ).*\n?)+", re.MULTILINE
)  # of a printed Audit
REPEATS = '<p class="note">Every metric of every method: see the <a href="#result">tables of the result</a>.'
RESULTS = "application/vnd.medcore.results+json"
ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
PROGRESS = re.compile(r"\s*\d+%\||\d+it \[|\d+/\d+ \[")
FINISHED_BAR = re.compile(r"[^|]*\d+%\|[^|]*\| *\d+/\d+ \[.*\]\s*$")
LONG_OUTPUT = 12  # lines of printed text beyond which the beginning is folded
TAIL = 3  # lines of a long output that stay visible
HEAD = 1  # lines of its beginning that are kept, folded; the executed notebook has them all


def outputs_fragment(cell: dict[str, Any], narrative: Narrative, link: Any) -> str:
    """All outputs of one code cell, in order; streams of one kind that follow each other are one block."""
    parts = []
    for output in merged(cell.get("outputs", [])):
        kind = output.get("output_type")
        if kind == "stream":
            text = text_of(output.get("text", ""))
            text = FINDINGS.sub(r"\1; its findings stand in the summary\n", text) if narrative.listed else text
            parts.append(stream_fragment(output.get("name", ""), text))
        elif kind == "error":
            parts.append(error_fragment(output))
        elif kind in ("display_data", "execute_result"):
            parts.append(display_fragment(output, narrative, link))
    return "".join(parts)


def merged(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Streams joined, so that a log that was flushed in pieces is one log."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        same = joined and output.get("output_type") == "stream" == joined[-1].get("output_type")
        if same and output.get("name") == joined[-1].get("name"):
            joined[-1] = {**joined[-1], "text": text_of(joined[-1]["text"]) + text_of(output["text"])}
        else:
            joined.append(dict(output))
    return joined


def display_fragment(output: dict[str, Any], narrative: Narrative, link: Any) -> str:
    """The richest form of a displayed object that a page without scripts can show."""
    data, metadata = output.get("data", {}), output.get("metadata", {})
    if RESULTS in data:
        return ""
    if image_in(data):
        return figure_fragment(data, metadata, narrative)
    if narrative.listed and metadata.get(REPEATED):
        return REPEATS
    if "text/html" in data and WIDGET not in data:
        return page_fragment(text_of(data["text/html"]), narrative, link)
    if "text/markdown" in data:
        return markdown_fragment(text_of(data["text/markdown"]), narrative, link=link)
    if "text/latex" in data:
        return page_fragment(block_math(text_of(data["text/latex"]).strip().strip("$")), narrative)
    if WIDGET in data:
        return _widget(text_of(data.get("text/plain", "")))
    return _printed(text_of(data.get("text/plain", "")))


def stream_fragment(name: str, text: str) -> str:
    """Standard output as it is; standard error folded behind its last line."""
    shown = settled(text)
    if not shown.strip():
        return ""
    if name != "stderr":
        return _printed("\n".join(line for line in shown.split("\n") if not FINISHED_BAR.match(line)))
    lines = shown.strip().splitlines()
    count = f"{len(lines)} line{'s' if len(lines) > 1 else ''}"
    label = "Progress" if PROGRESS.search(lines[-1]) else "Messages"
    return (
        f'<details class="log"><summary>{label} ({count}): <samp>{html.escape(lines[-1].strip()[:90])}</samp></summary>'
        f"<pre>{html.escape(shown.strip(), quote=False)}</pre></details>"
    )


def settled(text: str) -> str:
    """Text as a terminal would finally show it: rewritten lines once, no colours, no control characters."""
    lines = []
    for line in ANSI.sub("", text.replace("\r\n", "\n")).split("\n"):
        states = [state for state in line.split("\r") if state.strip()]
        lines.append(states[-1] if states else "")
    pairs = zip(lines, [*lines[1:], ""], strict=True)
    finished = [line for line, following in pairs if not _superseded(line, following)]
    return CONTROL.sub("", "\n".join(finished))


def _superseded(line: str, following: str) -> bool:
    """Whether a progress line is followed by a later state of the same bar."""
    label = line.split(":")[0]
    return bool(PROGRESS.search(line) and PROGRESS.search(following)) and following.split(":")[0] == label


def error_fragment(output: dict[str, Any]) -> str:
    """An exception: what it says, and the traceback folded behind it."""
    name, message = str(output.get("ename", "")), str(output.get("evalue", ""))
    trace = settled("\n".join(map(str, output.get("traceback", []))))
    headline = f"<b>{html.escape(name)}</b>{': ' if message else ''}{html.escape(settled(message))}"
    fold = f'<details class="fold"><summary>Traceback</summary><pre>{html.escape(trace)}</pre></details>'
    return f'<div class="failure"><p>{headline}</p>{fold if trace.strip() else ""}</div>'


def _printed(text: str) -> str:
    text = settled(text)
    lines = text.rstrip().splitlines()
    if not lines:
        return ""
    if len(lines) <= LONG_OUTPUT:
        return f"<pre>{html.escape(text.rstrip(), quote=False)}</pre>"
    left_out = len(lines) - HEAD - TAIL
    head = html.escape("\n".join(lines[:HEAD]), quote=False)
    tail = html.escape("\n".join(lines[-TAIL:]), quote=False)
    earlier = f"{head}\n… {left_out} lines, which {RUN_NOTEBOOK} holds …"
    fold = f'<details class="fold"><summary>{HEAD + left_out} earlier lines</summary><pre>{earlier}</pre></details>'
    return f"{fold}<pre>{tail}</pre>"


def _widget(text: str) -> str:
    """A control that needs a running notebook; progress bars leave nothing worth a line."""
    if PROGRESS.search(text) or "Progress" in text or text.startswith("HBox"):
        return ""
    return '<p class="note">An interactive control stands here in JupyterLab.</p>'


TITLE = re.compile(r"\A\s*#\s+(.+?)\s*#*\s*$", re.MULTILINE)
IN_PAGE = re.compile(r'<a href="#([^"]*)">')
LEFT_OUT = {"remove-cell", "remove_cell", "papermill-error-cell-tag", "notebook-only"}
# For whoever works through the notebook, not for who reads the report:
LESSON = re.compile(r"^## (Recap|Exercises)\b.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
LESSON_BEGINS = re.compile(r"^## (Recap|Exercises)\b", re.MULTILINE)
SECTION = re.compile(r"^## ", re.MULTILINE)
PREDICT = re.compile(r"\s*\*+Predict, then run[^?]*\?")
PREPARING = re.compile(r"^\*\*(Run time\.|You need)\*?\*?.*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
MARKS = re.compile(r"[*_`$]|\[([^\]]*)\]\([^)]*\)")


@dataclass
class Body:
    """One notebook, ready to stand in a page."""

    title: str
    html: str
    narrative: Narrative
    verdict: Verdict


def write_body(
    notebook: dict[str, Any],
    *,
    prefix: str = "s-",
    label: str = "",
    top: int = 2,
    unit: str = "patient",
    listed: bool = False,
    link: Link = only_anchors,
) -> Body:
    """Write the narrative of an executed notebook; recap, exercises and what to prepare stay in the notebook.

    Args:
        notebook: The notebook as nbformat reads it.
        prefix: Kept before every anchor, for several notebooks in one page.
        label: Kept before the names of tables and formulas, for the same reason.
        top: Level of the largest heading in the body.
        unit: What the patients of the set are, for the captions.
        listed: Whether the page shows parameters and results elsewhere; they are then not repeated.
        link: Maps relative links, see ``sanitise.clean``.
    """
    narrative, verdict = Narrative(prefix, label, top, unit, listed), verdict_of(notebook)
    title, parts, lesson = "", [], False
    for number, cell in enumerate(notebook["cells"], start=1):
        narrative.cell = number
        if LEFT_OUT & set(cell.get("metadata", {}).get("tags", [])):
            continue
        if cell["cell_type"] == "markdown":
            source = source_of(cell)
            if not title and (found := TITLE.match(source)):
                title, source = without_marks(found[1]), source[found.end() :]
            source, lesson = for_readers(source, lesson)
            parts.append(markdown_fragment(source, narrative, cell.get("attachments"), link))
        elif cell["cell_type"] == "code" and not lesson:
            if not (listed and {"parameters", "injected-parameters"} & set(cell.get("metadata", {}).get("tags", []))):
                parts.append(_code_cell(cell, number, narrative, verdict, link))
    return Body(title, without_dead_links("".join(parts), narrative), narrative, verdict)


def for_readers(markdown: str, lesson: bool = False) -> tuple[str, bool]:
    """A Markdown cell without recap, exercises and what to prepare, and whether such a section goes on behind it.

    Args:
        lesson: Whether one goes on from the cell before.
    """
    if lesson:
        found = SECTION.search(markdown)
        markdown = markdown[found.start() :] if found else ""
        lesson = not found
    last = [found.start() for found in SECTION.finditer(markdown)][-1:]
    lesson = lesson or any(bool(LESSON_BEGINS.match(markdown, place)) for place in last)
    return PREDICT.sub("", PREPARING.sub("", LESSON.sub("", markdown))), lesson


def without_dead_links(body: str, narrative: Narrative) -> str:
    """Links to a section that is not there (a notebook that stopped early) become plain text."""
    known = {html.escape(heading.anchor) for heading in narrative.headings}
    known |= {f"{narrative.prefix}figure--{number}-place" for number in range(1, narrative.figures + 1)}
    known |= {f"{narrative.prefix}table--{number}" for number in range(1, narrative.tables + 1)}

    def kept(found: re.Match[str]) -> str:
        return "<a>" if found[1].startswith(narrative.prefix) and found[1] not in known else found[0]

    return IN_PAGE.sub(kept, body)


def without_marks(markdown: str) -> str:
    """A heading's text without its marks."""
    return html.unescape(MARKS.sub(lambda found: found[1] or "", markdown)).strip()


def _code_cell(cell: dict[str, Any], number: int, narrative: Narrative, verdict: Verdict, link: Link) -> str:
    source = source_of(cell).strip()
    if not source:
        return ""
    tags = set(cell.get("metadata", {}).get("tags", []))
    reached = verdict.cell is None or number <= verdict.cell
    code = "" if tags & {"remove-input", "remove_input"} else _folded(source, cell, tags, reached)
    hidden = tags & {"remove-output", "remove_output"}
    shown = "" if hidden else outputs_fragment(cell, narrative, link)
    stop = _stop(verdict, cell, narrative.prefix) if verdict.cell == number else ""
    return code + shown + stop


def _folded(source: str, cell: dict[str, Any], tags: set[str], reached: bool) -> str:
    name = "Parameters given" if "injected-parameters" in tags else "Parameters" if "parameters" in tags else "Code"
    count = cell.get("execution_count")
    label = f"{name}{f' [{count}]' if count else ''}" if reached else f"{name} · not run"
    return f"<details><summary>{label}</summary><pre>{highlight(source)}</pre></details>"


def _stop(verdict: Verdict, cell: dict[str, Any], prefix: str) -> str:
    """Where the run ended, in the place where it ended."""
    raised = any(output.get("output_type") == "error" for output in cell.get("outputs", []))
    why = "" if raised else f" {html.escape(verdict.error or '')}."
    return (
        f'<div class="failure stop" id="{prefix}stopped--here"><p>'
        f"<b>The run stopped here ({html.escape(verdict.status)}).</b>{why} Nothing below this line was run.</p></div>"
    )
