"""Source code as HTML, coloured by tags so short that they hardly weigh: keywords and comments."""

from __future__ import annotations

import html
from itertools import groupby


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
