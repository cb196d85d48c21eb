"""What decodes a file: a closed list of formats, told by their first bytes and never by the ending alone.

Pillow alone would open forty formats, some by starting other programs (EPS: Ghostscript). Only the ones below are
read, and each file only by the decoder of its own format.
"""

from __future__ import annotations

import re
import stat
import warnings
from os import PathLike
from pathlib import Path

from PIL import Image

from medcore.errors import MedcoreError

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .tif .tiff .bmp .webp .gif .jp2 .j2k .j2c .jpx .pgm .ppm .pbm .pnm "
    ".dcm .dicom .ima".split()
)
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
_PILLOW = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")
_HEAD_BYTES = 144
_MAGIC: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in (
        (rb".{128}DICM", "DICOM"),
        (rb"II[*+]\0|MM\0[*+]", "TIFF"),
        (rb"\x89PNG\r\n\x1a\n", "PNG"),
        (rb"\xff\xd8\xff", "JPEG"),
        (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG2000"),
        (rb"GIF8[79]a", "GIF"),
        (rb"BM.{4}\0\0\0\0.{4}[\x0c-\x7c]\0\0\0", "BMP"),
        (rb"RIFF.{4}WEBP", "WEBP"),
        (rb"P[1-6][\s#]", "PPM"),
        # DICOM without preamble: a first element of group 2 or 8, with a VR or a short length
        (rb"[\x02\x08]\0[\0-\x20]\0(AE|AS|CS|DA|DT|IS|LO|OB|PN|SH|ST|TM|UI|UL|US|[\0-\x7f]\0\0\0)", "DICOM"),
        (rb"\0[\x02\x08]\0[\0-\x20](AE|AS|CS|DA|DT|IS|LO|OB|PN|SH|ST|TM|UI|UL|US)", "DICOM"),
    )
)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # max_pixels is stricter, and an error
warnings.filterwarnings("ignore", module="torchvision.io")  # deprecated; the only decoder here of deep colour PNG
warnings.filterwarnings("ignore", module="PIL.TiffImagePlugin")  # odd tags; what matters of them is an error here


def kind_of(path: str | PathLike[str]) -> str:
    """DICOM, TIFF or Pillow's name of a format, by first bytes; "" for anything else (a pipe is not opened)."""
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):
        return ""
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    kind = next((kind for pattern, kind in _MAGIC if pattern.match(head)), "")
    # a DICOM file whose start is unusual is known by its ending only
    return "DICOM" if not kind and head and path.suffix.lower() in DICOM_SUFFIXES else kind


def is_image(path: str | PathLike[str]) -> bool:
    """Whether a file is of a format that is read here, whatever its ending; for folders of files without endings."""
    try:
        return kind_of(path) != ""
    except OSError:
        return False


def open_picture(path: str | PathLike[str], kind: str) -> Image.Image:
    """Open a file with the one Pillow decoder of its format.

    Raises:
        MedcoreError: The format is not one that is read.
    """
    if kind not in _PILLOW:
        raise MedcoreError(
            f"image '{path}' is not an image that can be read; supported are {', '.join(sorted(SUFFIXES))}, by content"
        )
    return Image.open(path, formats=(kind,))
