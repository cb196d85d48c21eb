"""LaTeX to MathML at build time, so that a report needs no script and no font from anywhere."""

from __future__ import annotations

import html
import re

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
