"""Pictures made lighter on their way into a page; the notebook keeps them as they were drawn.

A PNG becomes a lossless WebP, pixel for pixel the same, unless it is a photograph that stays large; photographs become
WebP at a quality at which the difference is not seen. Every browser of the last years shows WebP; the notebook itself
holds PNG and JPEG, because a plain ``jupyter nbconvert`` would drop the rest.

Figures of a report: embedded, numbered, described, and enlarged by a click or a key without any script.

A small picture of a run for the index: its first picture, else its first drawing; a few kilobytes.
"""

from __future__ import annotations

import base64
import io
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
import binascii
import html
import re
import struct
from pathlib import Path

from medcore.plots.svg import compact, svg_uri
from medcore.reporting.sanitise import Narrative, as_attributes
from medcore.reporting.wording import saved_csv

LOSSLESS_LIMIT = 90_000  # bytes; a lossless picture above it holds photographs
QUALITIES = (82, 70, 58)  # the next lower one only for a picture that stays heavier than
HEAVY = 90_000  # bytes
MOST_PIXELS = 40_000_000  # larger ones stay as they are: decoding them costs more than the page gains
LONGEST_SIDE = 16_383  # that WebP can hold
LONGEST_TABLE = 5_000  # rows of a figure's numbers
WORTH = 0.95  # share of the old size that a new file must stay below


@lru_cache(maxsize=256)
def as_webp(mime: str, content: str) -> tuple[str, str]:
    """A picture as (MIME type, base64), as WebP where that is smaller.

    Args:
        mime: Its type; other types than PNG and JPEG stay what they are, and so do unreadable ones.
    """
    if mime not in ("image/png", "image/jpeg"):
        return mime, content
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            raw = base64.b64decode(content)
            with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG", "WEBP", "GIF")) as picture:
                made = _webp(picture, lossless=mime == "image/png")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return mime, content
    if made is None or len(made) > WORTH * len(raw):
        return mime, content
    return "image/webp", base64.b64encode(made).decode()


def _webp(picture: Image, *, lossless: bool) -> bytes | None:
    """The picture as WebP; None for what WebP cannot hold (16 bits, animation, huge sides)."""
    if (
        picture.width * picture.height > MOST_PIXELS
        or max(picture.size) > 16_383
        or getattr(picture, "n_frames", 1) > 1
    ):
        return None
    if picture.mode.startswith(("I", "F")):
        return None
    clear = "A" in picture.mode or "transparency" in picture.info
    pixels = picture.convert("RGBA" if clear else "RGB")
    exact = _encoded(pixels, lossless=True, method=4) if lossless else None
    if exact is not None and len(exact) <= LOSSLESS_LIMIT:
        return exact
    for quality in QUALITIES:
        close = _encoded(pixels, quality=quality, method=6, use_sharp_yuv=True)
        if len(close) <= HEAVY:
            break
    return close if exact is None or len(close) < WORTH * len(exact) else exact


def _encoded(pixels: Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels.save(buffer, "WEBP", **options)
    return buffer.getvalue()


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
    return _numbered(source, alt_of(about), about, _size(mime, data[mime], about), narrative)


def alt_of(about: dict[str, Any]) -> str:
    """The description an image came with; placeholders count as none."""
    alt = " ".join(str(about.get("alt") or "").split())
    return "" if alt.lower() in PLACEHOLDERS else alt


def image_uri(mime: str, content: Any) -> str | None:
    """An image output as ``data:`` address, or None when its content is not what the type says."""
    text = text_of(content)
    if mime == "image/svg+xml":
        return svg_uri(text[text.find("<svg") :]) if "<svg" in text else None
    return "data:{};base64,{}".format(*as_webp(mime, "".join(text.split()))) if BASE64.match(text) else None


def text_of(value: Any) -> str:
    """A notebook's text, which may be stored as a list of lines."""
    return "".join(map(str, value)) if isinstance(value, list) else str(value)


def _numbered(source: str, alt: str, about: dict[str, Any], size: tuple[int, int] | None, narrative: Narrative) -> str:
    narrative.figures += 1
    number = narrative.figures
    anchor = f"{narrative.prefix}figure--{number}"  # no heading has two dashes
    words = str(about.get("caption") or "")
    text = html.escape(re.sub(r"\bpatient\b|\bpatient(?=s\b)", lambda _: narrative.unit, words))  # as plots say
    caption = f"<b>Figure {number}.</b> {text}" if text else f"<b>Figure {number}</b>"
    if not text:
        narrative.untitled.append(f"cell {narrative.cell}: figure {number}")
    if not alt:
        narrative.miss(f"figure {number}")
        caption += ' <span class="missing">This figure carries no description.</span>'
    rows = about.get("numbers")
    if isinstance(rows, list) and 0 < len(rows) <= LONGEST_TABLE and all(isinstance(row, list) for row in rows):
        caption += " " + saved_csv([[str(cell) for cell in row] for row in rows], f"figure {number}")
    width, height = size or (None, None)
    drawn = {"class": "drawn"} if source.startswith("data:image/svg") else {}  # turned dark in a dark page
    image = f"<img{as_attributes(**drawn, src=source, alt=alt, width=width, height=height)}>"
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


WIDTH = 240  # pixels; shown at half of that
SVG_LIMIT = 24_000  # bytes of a drawing that may stand in the index as it is
NAMES = {"thumbnail.webp": "image/webp", "thumbnail.svg": "image/svg+xml"}


def write_thumbnail(notebook: dict[str, Any], folder: Path) -> dict[str, str]:
    """Write ``thumbnail.webp`` or ``thumbnail.svg``: of the first picture with a description, else of a small drawing.

    Returns:
        ``{"file": …, "alt": …}``, empty when there is no such figure.
    """
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    figures = [(output, mime) for output in outputs if (mime := image_in(output.get("data", {})))]
    for output, mime in sorted(figures, key=lambda figure: figure[1] == "image/svg+xml"):  # drawings last
        alt = alt_of(output["metadata"].get(mime) or output["metadata"])
        made = _made(mime, text_of(output["data"][mime])) if alt else None
        if made:
            (folder / made[0]).write_bytes(made[1])
            return {"file": made[0], "alt": alt}
    return {}


def _made(mime: str, content: str) -> tuple[str, bytes] | None:
    if mime == "image/svg+xml":
        drawing = compact(content).encode()
        return ("thumbnail.svg", drawing) if len(drawing) <= SVG_LIMIT else None
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(content)), formats=("PNG", "JPEG", "WEBP", "GIF")) as image:
            image.draft("RGB", (WIDTH, WIDTH))
            small = image.convert("RGB")
            small.thumbnail((WIDTH, WIDTH))
            buffer = io.BytesIO()
            small.save(buffer, "WEBP", quality=70)
    except (OSError, ValueError, binascii.Error, Image.DecompressionBombError):
        return None
    return "thumbnail.webp", buffer.getvalue()


def thumbnail_uri(folder: Path) -> str:
    """The thumbnail of a run as ``data:`` address, ``""`` when there is none."""
    for name, mime in NAMES.items():
        try:
            content = (folder / name).read_bytes()
        except OSError:
            continue
        if mime == "image/svg+xml":
            return svg_uri(content.decode("utf-8", errors="replace"))
        return f"data:{mime};base64,{base64.b64encode(content).decode()}"
    return ""
