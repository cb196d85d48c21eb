"""Markdown cells as page fragments: formulas as MathML, code coloured, attachments embedded, everything sanitised."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import cache
from typing import Any

from medcore.reporting.fragments import page_fragment
from medcore.reporting.highlight import highlight
from medcore.reporting.mathml import block_math, inline_math
from medcore.reporting.narrative import Narrative
from medcore.reporting.sanitise import Link, only_anchors

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
