"""Pictures and drawings get lighter on their way into a report, and look the same."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from urllib.parse import unquote

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from medcore.plots.display import encode
from medcore.plots.svg import compact, svg_uri
from medcore.reporting.figures import as_webp

SVG = "{http://www.w3.org/2000/svg}"


def stored(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options) -> str:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def pixels_of(content: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        return np.asarray(picture.convert("RGBA")).astype(int)


def blocks(seed: int = 0) -> np.ndarray:
    """Enlarged patches, as the notebooks show them."""
    small = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return small.repeat(6, 0).repeat(6, 1)


def photograph() -> np.ndarray:
    y, x = np.mgrid[0:500, 0:700] / 40
    noise = np.random.default_rng(0).normal(0, 6, (500, 700, 3))
    waves = np.stack([np.sin(x + y), np.cos(x - y), np.sin(x * y / 5)], -1) * 90 + 128
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def test_a_png_becomes_smaller_and_stays_the_same_to_the_pixel() -> None:
    before = stored(blocks(), optimize=True)
    mime, after = as_webp("image/png", before)
    assert mime == "image/webp" and len(after) < len(before)
    np.testing.assert_array_equal(pixels_of(after), pixels_of(before))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_photograph_becomes_much_smaller_and_looks_the_same(kind: str) -> None:
    before = stored(photograph(), kind, **({"quality": 90} if kind == "JPEG" else {}))
    mime, after = as_webp(f"image/{kind.lower()}", before)
    assert mime == "image/webp" and len(after) < 0.7 * len(before)
    error = np.sqrt(np.mean((pixels_of(after) - pixels_of(before)) ** 2))
    assert error < 6, "below the noise of the picture itself"


def test_transparency_is_kept() -> None:
    pixels = np.dstack([blocks(), np.tile(np.arange(360) % 256, (240, 1)).astype(np.uint8)])
    mime, after = as_webp("image/png", stored(pixels))
    assert mime == "image/webp"
    alpha = pixels_of(after)[..., 3]
    np.testing.assert_array_equal(alpha, pixels[..., 3])


@pytest.mark.parametrize(
    "mime, content",
    [
        ("image/gif", stored(blocks(), "GIF")),
        ("image/png", base64.b64encode(b"no picture").decode()),
        ("image/png", stored(blocks())[:-400]),
        ("image/png", "=" * 7),
        ("image/png", stored(Image.fromarray(np.full((9, 9), 4000, dtype=np.uint16)))),
        ("image/png", stored(Image.new("1", (17_000, 2)))),
        ("image/png", stored(Image.new("1", (8_000, 6_000)))),
    ],
    ids=["gif", "garbage", "cut off", "no base64", "16 bits", "too wide", "too many pixels"],
)
def test_what_cannot_be_made_lighter_stays_as_it_is(mime: str, content: str) -> None:
    assert as_webp(mime, content) == (mime, content)


@pytest.fixture
def drawing() -> str:
    figure, ax = plt.subplots()
    ax.plot(np.linspace(0, 7, 90), np.sin(np.linspace(0, 7, 90)), label="a 'sine' & <more>")
    ax.scatter([1, 2, 3], [0, 0.5, -0.5])
    ax.set_clip_on(True)
    ax.legend()
    mime, content = encode(figure)
    assert mime == "image/svg+xml"
    return content.decode()


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path)]


def test_a_compact_drawing_has_the_same_elements_and_lines(drawing: str) -> None:
    before, after = (ET.fromstring(re.sub(r"xlink:href", "href", text)) for text in (drawing, compact(drawing)))
    kept = [
        element
        for element in before.iter()
        if not re.search("metadata|RDF|Work|creator|Agent|title|type|format|date", element.tag)
    ]
    assert [element.tag for element in after.iter()] == [element.tag for element in kept]
    paths = [(a.get("d", ""), b.get("d", "")) for a, b in zip(kept, after.iter(), strict=True) if a.get("d")]
    for old, new in paths:
        assert re.findall("[A-Za-z]", old) == re.findall("[A-Za-z]", new)
        np.testing.assert_allclose(numbers(new), numbers(old), atol=0.0101)


def test_every_name_that_a_compact_drawing_uses_is_there_once(drawing: str) -> None:
    small = compact(drawing)
    names = re.findall(r' id="([^"]*)"', small)
    used = set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', small))
    assert used and {a or b for a, b in used} == set(names) and len(set(names)) == len(names)
    glyphs = {e.get("id"): e.get("d") for e in ET.fromstring(drawing).iter(f"{SVG}path") if e.get("id")}
    short = {e.get("id"): e.get("d") for e in ET.fromstring(small).iter(f"{SVG}path") if e.get("id")}
    assert len(short) == len(glyphs)


def test_a_style_sheet_that_names_elements_keeps_their_names() -> None:
    text = '<svg xmlns="http://www.w3.org/2000/svg"><style>#ring{fill:none}</style><g id="ring"/><g id="free"/></svg>'
    assert 'id="ring"' in compact(text) and "free" not in compact(text)


def test_the_address_of_a_drawing_is_the_drawing(drawing: str) -> None:
    for text in (drawing, drawing.replace("<defs>", "<defs><desc>it's 100 % &amp; #1</desc>", 1)):
        address = svg_uri(text)
        body = unquote(address.removeprefix("data:image/svg+xml,"))
        assert not set(address) & set('<>"\n') and address.count("#") == 0
        assert ET.canonicalize(body) == ET.canonicalize(compact(text))
    assert len(svg_uri(drawing)) < 0.75 * len(drawing) * 4 / 3
