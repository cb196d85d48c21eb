"""Figures of a report: embedded, numbered, described, and enlarged by a click or a key without any script."""

from __future__ import annotations

import base64
import binascii
import html
import re
import struct
from typing import Any

from medcore.reporting.narrative import Narrative
from medcore.reporting.pictures import lighter
from medcore.reporting.sanitise import as_attributes
from medcore.reporting.svg import svg_uri

MIMES = ("image/svg+xml", "image/webp", "image/png", "image/jpeg", "image/gif")
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+\Z")
PLACEHOLDERS = {"no description has been provided for this image", "image", "figure", "plot", "png", "none"}
LENGTH = re.compile(r"<svg\b[^>]*?\b(width|height)=\"([\d.]+)(pt|px)?\"[^>]*?\b(?:width|height)=\"([\d.]+)", re.DOTALL)


def image_in(data: dict[str, Any]) -> str | None:
    """The image type to show of a cell's output, the crispest first."""
    return next((mime for mime in MIMES if data.get(mime)), None)


def figure_fragment(data: dict[str, Any], metadata: dict[str, Any], narrative: Narrative) -> str:
    """One image output as a numbered figure.

    Args:
        data: The output's ``data``: MIME type to content.
        metadata: Its ``metadata``: MIME type to ``{"alt": …, "width": …, "height": …, "caption": …}``.
        narrative: Numbers the figure and notes a missing description.
    """
    mime = image_in(data)
    assert mime is not None
    source = image_uri(mime, data[mime])
    if source is None:
        narrative.miss(f"an unreadable {mime}")
        return '<p class="missing">An image of this cell is unreadable.</p>'
    about = metadata.get(mime)
    about = about if isinstance(about, dict) else metadata
    return _numbered(source, described(about), about, _size(mime, data[mime], about), narrative)


def described(about: dict[str, Any]) -> str:
    """The description an image came with; placeholders count as none."""
    alt = " ".join(str(about.get("alt") or "").split())
    return "" if alt.lower() in PLACEHOLDERS else alt


def image_uri(mime: str, content: Any) -> str | None:
    """An image output as ``data:`` address, or None when its content is not what the type says."""
    text = text_of(content)
    if mime == "image/svg+xml":
        return svg_uri(text[text.find("<svg") :]) if "<svg" in text else None
    return "data:{};base64,{}".format(*lighter(mime, "".join(text.split()))) if BASE64.match(text) else None


def text_of(value: Any) -> str:
    """A notebook's text, which may be stored as a list of lines."""
    return "".join(map(str, value)) if isinstance(value, list) else str(value)


def _numbered(source: str, alt: str, about: dict[str, Any], size: tuple[int, int] | None, narrative: Narrative) -> str:
    narrative.figures += 1
    number = narrative.figures
    anchor = f"{narrative.prefix}figure--{number}"  # no heading has two dashes
    text = html.escape(str(about.get("caption") or ""))
    caption = f"<b>Figure {number}.</b> {text}" if text else f"<b>Figure {number}</b>"
    if not alt:
        narrative.miss(f"figure {number}")
        caption += ' <span class="missing">This figure carries no description.</span>'
    width, height = size or (None, None)
    image = f"<img{as_attributes(src=source, alt=alt, width=width, height=height)}>"
    return (
        f'<div class="place" id="{anchor}-place"><figure id="{anchor}">'
        f'<a class="close" href="#{anchor}-place">Close figure {number}</a>'
        f'<div class="frame">{image}<a class="zoom" href="#{anchor}" aria-label="Enlarge figure {number}"></a></div>'
        f"<figcaption>{caption}</figcaption></figure></div>"
    )


def _size(mime: str, content: Any, about: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height to show (CSS pixels), so that the page does not jump while it loads."""
    try:
        if about.get("width") and about.get("height"):
            return int(about["width"]), int(about["height"])
        natural = _svg_size(text_of(content)) if mime == "image/svg+xml" else _png_size(text_of(content))
        if natural and about.get("width"):
            return int(about["width"]), round(natural[1] * int(about["width"]) / natural[0])
        return natural
    except (ValueError, TypeError, ZeroDivisionError):
        return None


def _png_size(content: str) -> tuple[int, int] | None:
    try:
        head = base64.b64decode(content[:64] + "==="[: -len(content[:64]) % 4])
    except binascii.Error:
        return None
    return struct.unpack(">II", head[16:24]) if head[:4] == b"\x89PNG" else None


def _svg_size(svg: str) -> tuple[int, int] | None:
    found = LENGTH.search(svg[:4000])
    if not found:
        return None
    scale = 4 / 3 if found[3] == "pt" else 1.0
    first, second = round(float(found[2]) * scale), round(float(found[4]) * scale)
    return (first, second) if found[1] == "width" else (second, first)
