"""Decoding one file: values against hand-made oracles, each conversion counted, each fault named."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from medcore.data.images import DecodeOptions, as_channels, decode, probe
from medcore.data.readers.mask_files import decode_mask
from medcore.errors import MedcoreError

RAMP = np.arange(20 * 30, dtype=np.int64).reshape(20, 30)
COLOUR = np.stack([RAMP % 256, RAMP // 3 % 256, 255 - RAMP % 256], axis=2).astype(np.uint8)
GREY = (RAMP % 256).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp"])
def test_lossless_colour_comes_back_exactly(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a b é.{ending}"
    Image.fromarray(COLOUR).save(path, **({"lossless": True} if ending == "webp" else {}))
    decoded = decode(path)
    assert np.array_equal(decoded.pixels, COLOUR)
    assert decoded.conversions == ()
    assert (probe(path).height, probe(path).width, probe(path).channels) == (20, 30, 3)


def test_grey_keeps_one_channel_and_can_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "g.png"
    Image.fromarray(GREY).save(path)
    decoded = decode(path)
    assert np.array_equal(decoded.pixels[..., 0], GREY)
    assert decoded.pixels.shape == (20, 30, 1)
    wide = as_channels(decoded, 3)
    assert np.array_equal(wide.pixels, np.dstack([GREY] * 3))
    assert wide.conversions == ("grey repeated to three channels",)


def test_colour_to_grey_is_itu_luma(tmp_path: Path) -> None:
    path = tmp_path / "c.png"
    Image.fromarray(COLOUR).save(path)
    grey = as_channels(decode(path), 1)
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey.pixels[..., 0] - luma).max() <= 1
    assert grey.conversions == ("colour to grey",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = {1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T, 6: np.rot90(GREY, -1),
               7: GREY[::-1, ::-1].T, 8: np.rot90(GREY)}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(GREY).save(path, exif=exif)
    decoded = decode(path)
    assert np.array_equal(decoded.pixels[..., 0], upright)
    assert decoded.conversions == (("EXIF rotation applied",) if orientation > 1 else ())
    assert (probe(path).height, probe(path).width) == upright.shape == decoded.size


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    alpha = (RAMP % 256).astype(np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(np.dstack([COLOUR, alpha])).save(path)
    decoded = decode(path)
    share = alpha[..., None] / 255
    assert np.abs(decoded.pixels - (COLOUR * share + 255 * (1 - share))).max() <= 1
    assert decoded.conversions == ("alpha over white",)


def test_grey_with_alpha_stays_grey(tmp_path: Path) -> None:
    path = tmp_path / "la.png"
    Image.fromarray(np.dstack([GREY, np.zeros_like(GREY)])).save(path)
    decoded = decode(path)
    assert decoded.pixels.shape == (20, 30, 1) and (decoded.pixels == 255).all()


def test_palette_cmyk_and_bitmap_are_converted_and_counted(tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR)
    image.quantize(64).save(tmp_path / "p.png")
    image.convert("CMYK").save(tmp_path / "c.tif")
    Image.fromarray(GREY > 100).save(tmp_path / "b.png")
    assert decode(tmp_path / "p.png").conversions == ("palette to RGB",)
    assert np.array_equal(decode(tmp_path / "p.png").pixels, np.asarray(image.quantize(64).convert("RGB")))
    assert decode(tmp_path / "c.tif").conversions == ("CMYK to RGB",)
    assert np.abs(decode(tmp_path / "c.tif").pixels.astype(int) - COLOUR).max() <= 1
    assert np.array_equal(decode(tmp_path / "b.png").pixels[..., 0], np.where(GREY > 100, 255, 0))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bit_grey_follows_the_stated_rule(tmp_path: Path, ending: str) -> None:
    deep = (RAMP * 109).astype(np.uint16)
    path = tmp_path / f"d.{ending}"
    Image.fromarray(deep).save(path)
    decoded = decode(path)
    assert np.array_equal(decoded.pixels[..., 0], np.rint(deep / 257).astype(np.uint8))
    assert decoded.highest == deep.max()
    assert "0..65535 scaled" in decoded.conversions[0]


def test_value_range_replaces_the_rule_and_counts_clipping(tmp_path: Path) -> None:
    deep = (RAMP * 8).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "d.png")
    decoded = decode(tmp_path / "d.png", DecodeOptions(value_range=(0, 4095)))
    assert np.array_equal(decoded.pixels[..., 0], np.rint(np.minimum(deep, 4095.0) * 255 / 4095).astype(np.uint8))
    assert decoded.conversions[1] == "values outside 0..4095 clipped"


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_sixteen_bit_colour_tiff_keeps_its_low_byte(tmp_path: Path, planar: str) -> None:
    deep = COLOUR.astype(np.uint16) * 256 + 128
    stored = deep if planar == "contig" else np.moveaxis(deep, 2, 0)
    tifffile.imwrite(tmp_path / "d.tif", stored, photometric="rgb", planarconfig=planar, compression="zlib")
    decoded = decode(tmp_path / "d.tif")
    assert np.array_equal(decoded.pixels, np.rint(deep / 257).astype(np.uint8))
    assert probe(tmp_path / "d.tif").channels == 3


def test_float_tiff_needs_a_known_range_and_no_nan(tmp_path: Path) -> None:
    share = (RAMP / RAMP.max()).astype(np.float32)
    tifffile.imwrite(tmp_path / "f.tif", share)
    assert np.array_equal(
        decode(tmp_path / "f.tif").pixels[..., 0], np.rint(share.astype(float) * 255).astype(np.uint8)
    )
    tifffile.imwrite(tmp_path / "w.tif", share * 1000)
    with pytest.raises(MedcoreError, match=r"w\.tif.*value_range"):
        decode(tmp_path / "w.tif")
    share[3, 4] = np.nan
    tifffile.imwrite(tmp_path / "n.tif", share)
    with pytest.raises(MedcoreError, match=r"n\.tif.*1 NaN"):
        decode(tmp_path / "n.tif")


def test_only_the_first_page_is_taken_and_said_so(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([GREY, 255 - GREY]))
    decoded = decode(tmp_path / "pages.tif")
    assert np.array_equal(decoded.pixels[..., 0], GREY)
    assert decoded.conversions == ("first of several pages or frames",)


def test_a_reduced_jpeg_is_counted_and_keeps_its_size(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(COLOUR).resize((800, 600), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(tmp_path / "big.jpg", quality=95)
    reduced = decode(tmp_path / "big.jpg", at_least=(100, 100))
    assert reduced.size == (600, 800) and reduced.pixels.shape[0] < 600
    assert min(reduced.pixels.shape[:2]) >= 200
    assert reduced.conversions == ("JPEG decoded at reduced size",)
    full = decode(tmp_path / "big.jpg", DecodeOptions(fast_jpeg=False), at_least=(100, 100))
    assert full.pixels.shape == (600, 800, 3)
    scaled = [np.asarray(Image.fromarray(one.pixels).resize((100, 100), Image.Resampling.BILINEAR)).astype(int)
              for one in (reduced, full)]  # fmt: skip
    assert np.abs(scaled[0] - scaled[1]).mean() < 2 and scaled[1].std() > 20


def test_faults_are_named(tmp_path: Path) -> None:
    Image.fromarray(COLOUR.repeat(8, 0)).save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    Image.fromarray(COLOUR).save(tmp_path / "flip.png")
    bad = bytearray((tmp_path / "flip.png").read_bytes())
    bad[60] ^= 0xFF
    (tmp_path / "flip.png").write_bytes(bad)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "cut.tif").write_bytes(b"II*\0\x08\0\0\0")
    expected = {"cut.jpg": "truncated", "flip.png": "broken|cannot", "empty.png": "empty", "text.jpg": "not an image",
                "cut.tif": "broken|not an image", "none.png": "does not exist"}  # fmt: skip
    for name, words in expected.items():
        with pytest.raises(MedcoreError, match=rf"{name}.*({words})"):
            decode(tmp_path / name)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_pixel_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_000)).save(path)
    assert path.stat().st_size < 100_000
    for look in (decode, probe, decode_mask):
        with pytest.raises(MedcoreError, match=r"bomb\.png.*100 million pixels.*max_pixels"):
            look(path)
    assert probe(path, DecodeOptions(max_pixels=10**8)).height == 10_000


def test_masks_keep_their_values(tmp_path: Path) -> None:
    index = (RAMP % 4).astype(np.uint8)
    Image.fromarray(index).save(tmp_path / "i.png")
    palette = Image.fromarray(index).convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png")
    Image.fromarray(index > 1).save(tmp_path / "b.png")
    Image.fromarray((RAMP % 300).astype(np.uint16)).save(tmp_path / "many.png")
    assert np.array_equal(decode_mask(tmp_path / "i.png").pixels, index)
    assert np.array_equal(decode_mask(tmp_path / "p.png").pixels, np.asarray(palette))
    assert np.array_equal(decode_mask(tmp_path / "b.png").pixels, np.where(index > 1, 255, 0))
    assert decode_mask(tmp_path / "many.png").pixels.max() == 299
    Image.fromarray(index).save(tmp_path / "lossy.jpg")
    with pytest.raises(MedcoreError, match="JPEG"):
        decode_mask(tmp_path / "lossy.jpg")


@settings(max_examples=30, deadline=None)
@given(pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_any_png_round_trips(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    Image.fromarray(pixels).save(path)
    assert np.array_equal(decode(path).pixels, pixels)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_escapes_as_another_exception(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    base = tmp_path_factory.getbasetemp()
    ending = data.draw(st.sampled_from(["png", "jpg", "tif", "bmp", "webp", "deep.tif"]))
    whole = base / f"whole.{ending}"
    if not whole.exists():
        deep = ending == "deep.tif"
        tifffile.imwrite(whole, RAMP.astype(np.uint16)) if deep else Image.fromarray(COLOUR).save(whole)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    damaged = base / f"damaged.{ending}"
    damaged.write_bytes(content)
    try:
        assert decode(damaged).pixels.dtype == np.uint8
    except MedcoreError as error:
        assert "damaged" in str(error)
