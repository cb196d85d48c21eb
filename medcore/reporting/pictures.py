"""Pictures made lighter on their way into a page; the notebook keeps them as they were drawn.

A PNG becomes a lossless WebP, pixel for pixel the same, unless it is a photograph that stays large; photographs become
WebP at a quality at which the difference is not seen. Every browser of the last years shows WebP; the notebook itself
holds PNG and JPEG, because a plain ``jupyter nbconvert`` would drop the rest.
"""

from __future__ import annotations

import base64
import io
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

LOSSLESS_LIMIT = 90_000  # bytes; a lossless picture above it holds photographs
QUALITIES = (82, 70, 58)  # the next lower one only for a picture that stays heavier than
HEAVY = 90_000  # bytes
MOST_PIXELS = 40_000_000  # larger ones stay as they are: decoding them costs more than the page gains
LONGEST_SIDE = 16_383  # that WebP can hold
WORTH = 0.95  # share of the old size that a new file must stay below


@lru_cache(maxsize=256)
def lighter(mime: str, content: str) -> tuple[str, str]:
    """A picture as (MIME type, base64), as WebP where that is smaller.

    Args:
        mime: Its type; other types than PNG and JPEG stay what they are, and so do unreadable ones.
        content: Base64.
    """
    if mime not in ("image/png", "image/jpeg"):
        return mime, content
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            raw = base64.b64decode(content)
            with Image.open(io.BytesIO(raw)) as picture:
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
