"""The one door for HTML that comes from a notebook, a file name, a label or a patient: an allow-list.

Whatever a cell printed or a Markdown cell holds passes through ``clean`` before it enters a page. Nothing that runs,
loads or floats over the page survives: no script, style, form, frame, inline SVG, event handler, id or class of ours.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

from medcore.reporting.svg import svg_uri

TEXT = """a abbr b blockquote br caption code col colgroup dd del details dfn div dl dt em figcaption figure h1 h2 h3
h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup table tbody td tfoot th thead
time tr u ul var wbr"""
MATH = """math mrow mi mn mo ms mtext mspace mfrac msqrt mroot mstyle merror mpadded mphantom msub msup msubsup munder
mover munderover mmultiscripts mprescripts mtable mtr mtd"""
DROPPED = """script style svg iframe object embed noscript template textarea title select button form noembed noframes
xmp plaintext audio video canvas annotation-xml annotation maction"""

CELL = {"rowspan", "colspan", "scope"}
ATTRIBUTES: dict[str, set[str]] = {
    "*": set(),
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "td": CELL,
    "th": CELL,
    "ol": {"start"},
    "details": {"open"},
    "math": {"display"},
    "mi": {"mathvariant"},
    "mo": {"stretchy", "fence", "separator", "lspace", "rspace", "minsize", "maxsize", "movablelimits", "accent"},
    "mspace": {"width"},
    "mfrac": {"linethickness"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "mtable": {"columnalign", "rowspacing", "columnspacing"},
    "mtd": {"columnalign"},
    "mover": {"accent"},
    "munder": {"accentunder"},
}
IMAGE_DATA = re.compile(
    r"data:image/((png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]+|svg\+xml,[^<>\"#]+)\Z"  # inert in an <img>
)
INLINE_SVG = re.compile(r"<svg\b.*?</svg\s*>", re.DOTALL | re.IGNORECASE)
SVG_LABEL = re.compile(r"<title[^>]*>([^<]*)</title>|aria-label=\"([^\"]*)\"", re.IGNORECASE)

Link = Callable[[str], str | None]


def only_anchors(url: str) -> str | None:
    """Keep links within the page; a report is one file, so other relative links lead nowhere."""
    return url if url.startswith("#") else None


def clean(fragment: str, link: Link = only_anchors) -> str:
    """Well-formed HTML with nothing but allowed tags and attributes.

    Args:
        fragment: HTML from anywhere.
        link: Maps a relative link to what stands in the page, None to drop it.
    """
    import nh3

    return nh3.clean(
        INLINE_SVG.sub(_svg_as_image, fragment),
        tags=set(f"{TEXT} {MATH}".split()),
        clean_content_tags=set(DROPPED.split()),
        attributes=ATTRIBUTES,
        attribute_filter=_checked,
        url_schemes={"http", "https", "mailto", "data"},
        url_relative=link,
    )


def _checked(tag: str, attribute: str, value: str) -> str | None:
    if attribute == "src":
        return value if IMAGE_DATA.match(value) else None
    if attribute == "href" and value.strip().lower().startswith("data:"):
        return None
    return value


def _svg_as_image(found: re.Match[str]) -> str:
    """Inline SVG becomes an image, in which a browser neither runs nor loads anything."""
    label = SVG_LABEL.search(found[0])
    alt = html.escape(html.unescape((label[1] or label[2] or "") if label else ""))
    return f'<img src="{svg_uri(found[0])}" alt="{alt}">'


def as_attributes(**values: Any) -> str:
    """Escaped attributes for a tag of ours; None leaves one out. Apostrophes may stand in double quotes as they are."""
    escaped = {
        key: html.escape(str(value)).replace("&#x27;", "'") for key, value in values.items() if value is not None
    }
    return "".join(f' {key}="{value}"' for key, value in escaped.items())
