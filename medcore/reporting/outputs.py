"""What a cell printed or displayed, as page fragments: figures, tables, text, logs and tracebacks."""

from __future__ import annotations

import html
import re
from typing import Any

from medcore.reporting.figures import figure_fragment, image_in, text_of
from medcore.reporting.folders import RUN_NOTEBOOK
from medcore.reporting.fragments import page_fragment
from medcore.reporting.markdown import markdown_fragment
from medcore.reporting.mathml import block_math
from medcore.reporting.narrative import Narrative

WIDGET = "application/vnd.jupyter.widget-view+json"
RESULTS = "application/vnd.medcore.results+json"
ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
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
            parts.append(stream_fragment(output.get("name", ""), text_of(output.get("text", ""))))
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
