"""A sweep of TIFF, PNG, JPEG and other kinds: every file is read to values known beforehand, or refused by name."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medcore.data.formats import is_image, kind_of
from medcore.data.images import DecodeOptions, decode, probe
from medcore.data.readers.mask_files import decode_mask
from medcore.errors import MedcoreError

RNG = np.random.default_rng(7)
H, W = 20, 30
GREY8 = RNG.integers(0, 256, (H, W)).astype(np.uint8)
RGB8 = RNG.integers(0, 256, (H, W, 3)).astype(np.uint8)
GREY16 = RNG.integers(0, 65536, (H, W)).astype(np.uint16)
RGB16 = RNG.integers(0, 65536, (H, W, 3)).astype(np.uint16)
ALPHA8 = RNG.integers(0, 256, (H, W)).astype(np.uint8)
FLOAT = RNG.random((H, W)).astype(np.float32)
STACK16 = RNG.integers(0, 65536, (4, H, W)).astype(np.uint16)
TURNED = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
          5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
          8: lambda a: np.rot90(a)}  # fmt: skip


def to8(values: np.ndarray, high: float = 65535) -> np.ndarray:
    return np.rint(values.astype(np.float64) * (255 / high)).astype(np.uint8)


def over_white(colour: np.ndarray, alpha: np.ndarray, high: float) -> np.ndarray:
    share = alpha[..., None].astype(float) / high
    return np.rint(to8(colour, high) * share + 255 * (1 - share))


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows of ``bits`` bits a value, most significant first, each row from a new byte."""
    ones = (values[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(ones.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def plain_tiff(data: bytes, height: int, width: int, bits: int, photometric: int, compression: int = 1) -> bytes:
    """A grey TIFF of one strip, written by hand."""
    data = zlib.compress(data) if compression == 8 else data
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, compression), (262, 3, photometric),
            (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(data))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def deep_png(values: np.ndarray) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, **options: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, values, **options)


def picture(values: np.ndarray, mode: str | None = None, **options: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = Image.fromarray(values)
        (image.convert(mode) if mode else image).save(path, **options)

    return write


def raw(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


TWELVE = RNG.integers(0, 4096, (H, W)).astype(np.uint16)
PREMULTIPLIED = np.dstack([np.rint(RGB8 * (ALPHA8 / 255)[..., None]).astype(np.uint8), ALPHA8])
CMYK16 = np.dstack([RGB16, RNG.integers(0, 65536, (H, W)).astype(np.uint16)])
# ending and kind -> how it is written, what it must be, options
SWEEP: dict[str, tuple[Callable[[Path], None], np.ndarray, DecodeOptions | None]] = {
    "grey 8.tif": (tiff(GREY8), GREY8, None),
    "grey 8 deflate tiled.tif": (tiff(GREY8, compression="zlib", tile=(16, 16)), GREY8, None),
    "grey 8 white is zero.tif": (tiff(GREY8, photometric="miniswhite"), 255 - GREY8, None),
    "rgb 8.tif": (tiff(RGB8, photometric="rgb"), RGB8, None),
    "rgb 8 planar.tif": (tiff(np.moveaxis(RGB8, 2, 0), photometric="rgb", planarconfig="separate"), RGB8, None),
    "rgb 8 big endian.tif": (tiff(RGB8, photometric="rgb", byteorder=">"), RGB8, None),
    "rgb 8 big tiff.tif": (tiff(RGB8, photometric="rgb", bigtiff=True), RGB8, None),
    "grey 16.tif": (tiff(GREY16), to8(GREY16), None),
    "grey 16 big endian.tif": (tiff(GREY16, byteorder=">"), to8(GREY16), None),
    "grey 16 white is zero.tif": (tiff(GREY16, photometric="miniswhite"), to8(65535 - GREY16), None),
    "grey 16 predictor.tif": (tiff(GREY16, compression="zlib", predictor=True), to8(GREY16), None),
    "rgb 16.tif": (tiff(RGB16, photometric="rgb"), to8(RGB16), None),
    "rgb 16 with alpha.tif": (
        tiff(np.dstack([RGB16, GREY16]), photometric="rgb", extrasamples=["unassalpha"]),
        over_white(RGB16, GREY16, 65535), None,
    ),
    "rgb 8 premultiplied.tif": (
        tiff(PREMULTIPLIED, photometric="rgb", extrasamples=["assocalpha"]),
        np.minimum(255, PREMULTIPLIED[..., :3].astype(int) + 255 - ALPHA8[..., None]), None,
    ),
    "rgb and one more.tif": (tiff(np.dstack([RGB8, ALPHA8]), photometric="rgb", extrasamples=[0]), RGB8, None),
    "grey 16 with alpha.tif": (
        tiff(np.dstack([GREY16, STACK16[0]]), photometric="minisblack", planarconfig="contig",
             extrasamples=["unassalpha"]),
        over_white(GREY16[..., None], STACK16[0], 65535)[..., 0], None,
    ),
    "cmyk 16.tif": (
        tiff(CMYK16, photometric="separated"),
        np.rint((255 - to8(CMYK16[..., :3])) * (255.0 - to8(CMYK16[..., 3:])) / 255), None,
    ),
    "float.tif": (tiff(FLOAT), to8(FLOAT, 1), None),
    "float 64.tif": (tiff(FLOAT.astype(np.float64)), to8(FLOAT, 1), None),
    "float white is zero.tif": (tiff(FLOAT, photometric="miniswhite"), 255 - to8(FLOAT, 1), None),
    "float of a given range.tif": (tiff(FLOAT * 200 - 100), to8(FLOAT, 1), DecodeOptions(value_range=(-100, 100))),
    "signed 8.tif": (tiff(GREY8.view(np.int8)), GREY8.view(np.int8).astype(int) + 128,
                     DecodeOptions(value_range=(-128, 127))),
    "signed 16.tif": (
        tiff(TWELVE.astype(np.int16) - 1024), to8(TWELVE, 4095), DecodeOptions(value_range=(-1024, 3071)),
    ),
    "12 bit.tif": (raw(plain_tiff(packed(TWELVE, 12), H, W, 12, 1)), to8(TWELVE, 4095), None),
    "12 bit deflate.tif": (raw(plain_tiff(packed(TWELVE, 12), H, W, 12, 1, 8)), to8(TWELVE, 4095), None),
    "12 bit white is zero.tif": (raw(plain_tiff(packed(TWELVE, 12), H, W, 12, 0)), to8(4095 - TWELVE, 4095), None),
    "10 bit.tif": (raw(plain_tiff(packed(TWELVE >> 2, 10), H, W, 10, 1)), to8(TWELVE >> 2, 1023), None),
    "4 bit.tif": (raw(plain_tiff(packed(TWELVE >> 8, 4), H, W, 4, 1)), (TWELVE >> 8) * 17, None),
    "1 bit.tif": (raw(plain_tiff(packed(TWELVE >> 11, 1), H, W, 1, 1)), (TWELVE >> 11) * 255, None),
    "three pages as colours.tif": (tiff(STACK16[:3], imagej=True, metadata={"axes": "CYX"}),
                                   to8(np.moveaxis(STACK16[:3], 0, 2)), None),
    "channels of imagej, one.tif": (tiff(STACK16, imagej=True, metadata={"axes": "CYX"}), to8(STACK16[2]),
                                    DecodeOptions(bands=(2,))),
    "channels of ome, three.tif": (tiff(STACK16, ome=True, metadata={"axes": "CYX"}),
                                   to8(np.moveaxis(STACK16[[3, 0, 1]], 0, 2)), DecodeOptions(bands=(3, 0, 1))),
    "five samples, one.tif": (
        tiff(np.dstack([*STACK16, GREY16]), photometric="minisblack", planarconfig="contig"), to8(STACK16[3]),
        DecodeOptions(bands=(3,)),
    ),
    "two channels, one.tif": (tiff(STACK16[:2], imagej=True, metadata={"axes": "CYX"}), to8(STACK16[1]),
                              DecodeOptions(bands=(1,))),
    "middle of a stack.tif": (tiff(STACK16, imagej=True, metadata={"axes": "ZYX"}), to8(STACK16[2]),
                              DecodeOptions(slices="middle")),
    "grey 16.png": (raw(deep_png(GREY16[..., None])), to8(GREY16), None),
    "rgb 16.png": (raw(deep_png(RGB16)), to8(RGB16), None),
    "rgb 16 of a given range.png": (raw(deep_png(RGB16 >> 4)), to8(RGB16 >> 4, 4095),
                                    DecodeOptions(value_range=(0, 4095))),
    "rgb 16 with alpha.png": (raw(deep_png(np.dstack([RGB16, GREY16]))), over_white(RGB16, GREY16, 65535), None),
    "grey 16 with alpha.png": (raw(deep_png(np.dstack([GREY16, STACK16[0]]))),
                               over_white(GREY16[..., None], STACK16[0], 65535)[..., 0], None),
    "one channel of a photograph.png": (picture(RGB8), RGB8[..., 1], DecodeOptions(bands=(1,))),
    "other order.png": (picture(RGB8), RGB8[..., ::-1], DecodeOptions(bands=(2, 1, 0))),
    "lossless.jp2": (picture(RGB8, irreversible=False), RGB8, None),
    "grey.pgm": (picture(GREY8), GREY8, None),
    "colour.ppm": (picture(RGB8), RGB8, None),
    "grey.gif": (picture(GREY8), np.dstack([GREY8] * 3), None),
}  # fmt: skip


@pytest.mark.parametrize("name", SWEEP)
def test_every_kind_is_read_to_its_known_values(tmp_path: Path, name: str) -> None:
    write, expected, options = SWEEP[name]
    write(tmp_path / name)
    decoded, header = decode(tmp_path / name, options), probe(tmp_path / name, options)
    expected = expected if expected.ndim == 3 else expected[..., None]
    if name.endswith(".gif"):
        decoded_pixels = np.broadcast_to(decoded.pixels, expected.shape)
    else:
        decoded_pixels = decoded.pixels
        assert (header.height, header.width, header.channels) == decoded.pixels.shape
    assert np.array_equal(decoded_pixels, expected)
    assert decoded.size == decoded.pixels.shape[:2]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("pixels", [GREY8, RGB8, GREY16, RGB16], ids=["grey 8", "rgb 8", "grey 16", "rgb 16"])
def test_tiff_orientation_is_applied_at_every_depth(tmp_path: Path, pixels: np.ndarray, turn: int) -> None:
    path = tmp_path / "turned.tif"
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(path, pixels, photometric=photometric, extratags=[(274, "H", 1, turn, True)])
    upright = TURNED[turn](pixels if pixels.dtype == np.uint8 else to8(pixels))
    decoded, header = decode(path), probe(path)
    assert np.array_equal(decoded.pixels.squeeze(), upright)
    assert (header.height, header.width) == upright.shape[:2] == decoded.size
    assert any("orientation" in text or "rotation" in text for text in decoded.conversions) == (turn > 1)


@pytest.mark.parametrize("turn", [3, 6, 8])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_exif_turns_of_photographs(tmp_path: Path, ending: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"p.{ending}"
    Image.fromarray(RGB8).save(path, exif=exif, **({"lossless": True} if ending == "webp" else {}))
    with Image.open(path) as stored:
        expected = TURNED[turn](np.asarray(stored.convert("RGB")))
    assert np.array_equal(decode(path).pixels, expected)
    assert (probe(path).height, probe(path).width) == expected.shape[:2]


def test_cmyk_photographs_of_both_polarities_are_as_pillow_converts_them(tmp_path: Path) -> None:
    Image.fromarray(RGB8).convert("CMYK").save(tmp_path / "c.jpg", quality=95)
    with Image.open(tmp_path / "c.jpg") as image:
        assert np.array_equal(decode(tmp_path / "c.jpg").pixels, np.asarray(image.convert("RGB")))


AMBIGUOUS = {
    "four channels.tif": tiff(STACK16, imagej=True, metadata={"axes": "CYX"}),
    "two samples.tif": tiff(np.dstack([GREY8, GREY8]), photometric="minisblack", planarconfig="contig"),
    "five samples.tif": tiff(np.dstack([*STACK16, GREY16]), photometric="minisblack", planarconfig="contig"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_channels_without_a_meaning_are_asked_for(tmp_path: Path, name: str) -> None:
    AMBIGUOUS[name](tmp_path / name)
    for look in (decode, probe):
        with pytest.raises(MedcoreError, match=rf"{name}.*bands"):
            look(tmp_path / name)
    with pytest.raises(MedcoreError, match=rf"{name}.*bands"):
        decode(tmp_path / name, DecodeOptions(bands=(9,)))


def test_negative_and_huge_values_ask_for_their_range(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "hu.tif", TWELVE.astype(np.int16) - 1024)
    tifffile.imwrite(tmp_path / "u32.tif", TWELVE.astype(np.uint32) * 1000)
    for name in ("hu.tif", "u32.tif"):
        with pytest.raises(MedcoreError, match=rf"{name}.*value_range"):
            decode(tmp_path / name)


def test_colours_of_another_model_and_further_pages_are_not_silent(tmp_path: Path) -> None:
    Image.fromarray(RGB8, "LAB").save(tmp_path / "lab.tif")
    with pytest.raises(MedcoreError, match=r"lab\.tif"):
        decode(tmp_path / "lab.tif")
    Image.fromarray(RGB8).save(tmp_path / "m.tif", save_all=True, append_images=[Image.fromarray(RGB8[:9])])
    decoded = decode(tmp_path / "m.tif")
    assert np.array_equal(decoded.pixels, RGB8) and any("pages" in text for text in decoded.conversions)
    Image.fromarray(GREY8).save(tmp_path / "turned.tif", compression="tiff_lzw", tiffinfo={274: 6})
    assert np.array_equal(decode(tmp_path / "turned.tif").pixels[..., 0], np.rot90(GREY8, -1))


def test_formats_are_told_by_content_and_others_never_opened(tmp_path: Path) -> None:
    """PostScript under the name of a picture would start another program."""
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    Image.fromarray(RGB8).save(tmp_path / "x.ico")
    Image.fromarray(RGB8).save(tmp_path / "x.tga")
    for name in ("x.png", "x.ico", "x.tga"):
        for look in (decode, probe, decode_mask):
            with pytest.raises(MedcoreError, match=rf"{name}.*not an image"):
                look(tmp_path / name)
        assert not is_image(tmp_path / name)
    Image.fromarray(GREY8).save(tmp_path / "nothing", format="PNG")
    Image.fromarray(GREY8).save(tmp_path / "lies.jpg", format="PNG")
    assert kind_of(tmp_path / "nothing") == kind_of(tmp_path / "lies.jpg") == "PNG"
    assert np.array_equal(decode(tmp_path / "lies.jpg").pixels[..., 0], GREY8)


def test_a_pipe_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    for look in (decode, probe, decode_mask):
        with pytest.raises(MedcoreError, match=r"pipe\.png"):
            look(tmp_path / "pipe.png")
    with pytest.raises(MedcoreError, match="zero"):
        decode(Path("/dev/zero"))


DISC = ((np.mgrid[:64, :64] - 31.5) ** 2).sum(axis=0) < 300


def test_masks_turn_with_their_images(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((40, 60), np.uint8)
    stored[:10, :20] = 255
    Image.fromarray(stored).save(tmp_path / "m.png", exif=exif)
    tifffile.imwrite(tmp_path / "m.tif", stored, extratags=[(274, "H", 1, 6, True)])
    tifffile.imwrite(tmp_path / "m16.tif", stored.astype(np.uint16), extratags=[(274, "H", 1, 6, True)])
    for name in ("m.png", "m.tif", "m16.tif"):
        assert np.array_equal(decode_mask(tmp_path / name).pixels, np.rot90(stored, -1))


def test_a_black_and_white_palette_is_read_by_colour(tmp_path: Path) -> None:
    for name, indexes, palette in (("a", DISC, [0, 0, 0, 255, 255, 255]), ("b", ~DISC, [255, 255, 255, 0, 0, 0])):
        image = Image.fromarray(indexes.astype(np.uint8)).convert("P")
        image.putpalette(palette)
        image.save(tmp_path / f"{name}.png")
        assert np.array_equal(decode_mask(tmp_path / f"{name}.png").pixels, DISC * 255)


def test_a_coloured_palette_gives_indexes_or_colours(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [200, 10, 20], [10, 200, 20]], np.uint8)
    indexes = RNG.integers(0, 3, (H, W)).astype(np.uint8)
    image = Image.fromarray(indexes).convert("P")
    image.putpalette(colours.ravel().tolist())
    image.save(tmp_path / "p.png")
    assert np.array_equal(decode_mask(tmp_path / "p.png").pixels, indexes)
    assert np.array_equal(decode_mask(tmp_path / "p.png").palette[:3], colours)
    assert np.array_equal(decode_mask(tmp_path / "p.png", by_colour=True).pixels, colours[indexes])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_small_grey_masks_keep_their_indexes(tmp_path: Path, bits: int) -> None:
    values = RNG.integers(0, 2**bits, (H, W)).astype(np.uint8)
    path = tmp_path / "m.png"
    header = struct.pack(">IIBBBBB", W, H, bits, 0, 0, 0, 0)
    rows = packed(values, bits)
    step = len(rows) // H
    data = zlib.compress(b"".join(b"\0" + rows[k * step : (k + 1) * step] for k in range(H)))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        parts.append(struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)))
    path.write_bytes(b"".join(parts))
    assert np.array_equal(decode_mask(path).pixels, values if bits > 1 else values * 255)


def test_a_jpeg_mask_loses_its_ringing_or_is_refused(tmp_path: Path) -> None:
    Image.fromarray((DISC * 255).astype(np.uint8)).save(tmp_path / "m.jpg", quality=85)
    assert np.mean(decode_mask(tmp_path / "m.jpg").pixels != DISC * 255) < 0.01
    soft = np.clip(np.mgrid[:64, :64][0] * 4, 0, 255).astype(np.uint8)
    Image.fromarray(soft).save(tmp_path / "soft.jpg")
    Image.fromarray(DISC.astype(np.uint8) * 3).save(tmp_path / "index.jpg")
    for name in ("soft.jpg", "index.jpg"):
        with pytest.raises(MedcoreError, match=rf"{name}.*JPEG"):
            decode_mask(tmp_path / name)


def test_decode_options_travel_as_plain_json(tmp_path: Path) -> None:
    options = DecodeOptions(window=(40, 400), bands=(2, 1, 0), slices="middle")
    assert options.to_dict() == {"window": [40, 400], "bands": [2, 1, 0], "slices": "middle"}
    assert DecodeOptions.from_dict(options.to_dict()) == options and DecodeOptions().to_dict() == {}
    bad = [{"windows": [1, 2]}, {"window": [40, 0]}, {"window": [40, float("nan")]}, {"window": "40/400"},
           {"value_range": [5, 5]}, {"max_pixels": -1}, {"max_pixels": True}, {"bands": [0, 1]}, {"bands": [-1]},
           {"slices": 0}, {"slices": "some"}, {"fast_jpeg": "no"}, ["window"]]  # fmt: skip
    for values in bad:
        with pytest.raises(MedcoreError):
            DecodeOptions.from_dict(values)


def test_what_is_written_in_memory_is_compressed_as_pillow_does(tmp_path: Path) -> None:
    from medcore.data.images import compress_jpeg

    buffer = io.BytesIO()
    Image.fromarray(RGB8).save(buffer, "JPEG", quality=60)
    assert np.array_equal(compress_jpeg(RGB8, 60), np.asarray(Image.open(buffer)))
    assert compress_jpeg(GREY8[..., None], 60).shape == (H, W, 1)
