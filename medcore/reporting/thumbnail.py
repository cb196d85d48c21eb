"""A small picture of a run for the index: its first picture, else its first drawing; a few kilobytes."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any

from medcore.reporting.figures import described, image_in, text_of
from medcore.reporting.svg import compact, svg_uri

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
        alt = described(output["metadata"].get(mime) or output["metadata"])
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
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
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
