"""A segmentation model on a whole slide: a tiled label TIFF, strip by strip; glass is neither read nor computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.measure import find_contours, label, regionprops

from medcore.data.formats.large import write_tiled
from medcore.data.sizes import WHITE
from medcore.data.slides.annotations import Shape
from medcore.data.slides.slide import Slide
from medcore.data.slides.tissue import Tissue
from medcore.evaluation.segmenter import Segmenter, pixels_per_class
from medcore.evaluation.sliding import predict_large

COARSE = 2048  # longest side, pixels, of the labels from which outlines are drawn


class SlidePixels:
    """A slide at one pixel size as if it were an array: what is cut out of it is read then; glass is white unread.

    **Shape** ``(H, W, 3)`` uint8.
    """

    dtype, ndim = np.dtype(np.uint8), 3

    def __init__(self, slide: Slide, found: Tissue, mpp: float) -> None:
        self.slide, self.found, self.tiles = slide, found, 0
        height, width = slide.shape
        self.shape = (max(1, round(height * slide.mpp[1] / mpp)), max(1, round(width * slide.mpp[0] / mpp)), 3)
        self.scale = (width / self.shape[1], height / self.shape[0])

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        (top, low, _), (left, right, _) = (s.indices(side) for s, side in zip(key, self.shape, strict=False))
        box = np.array([[left * self.scale[0], top * self.scale[1], (right - left) * self.scale[0],
                         (low - top) * self.scale[1]]])  # fmt: skip
        if self.found.share("tissue", box)[0] <= 0:
            return np.full((low - top, right - left, 3), WHITE, np.uint8)
        self.tiles += 1
        x, y, width, height = (max(0, round(value)) for value in box[0].tolist())
        return self.slide.read((x, y, max(1, width), max(1, height)), size=(low - top, right - left))


@dataclass(frozen=True)
class SlideLabels:
    """What a segmenter found on a slide.

    Attributes:
        counts: Pixels of each class on the whole slide. **Shape** ``(K,)``.
        coarse: Every n-th label. **Shape** ``(h, w)`` uint8.
        scale: Level-0 pixels that one of ``coarse`` spans, along x and y.
        tiles: Tiles that the network saw.
    """

    counts: np.ndarray
    coarse: np.ndarray
    scale: tuple[float, float]
    tiles: int

    def outlines(self, classes: list[str]) -> Iterator[Shape]:
        """Connected areas of every class but the background, with their holes, in level-0 pixels."""
        for number in range(1, len(classes)):
            for region in regionprops(label(self.coarse == number, connectivity=1)):
                holes = regionprops(label(region.image_filled & ~region.image, connectivity=1))
                rings = [_ring(region.image_filled)] + [_ring(hole.image) + hole.bbox[:2] for hole in holes]
                corner = np.array(region.bbox[:2]) - 0.5  # of the padded picture; centres lie at halves
                yield Shape(classes[number], [((ring + corner)[:-1, ::-1] * np.array(self.scale)) for ring in rings])


def _ring(area: np.ndarray) -> np.ndarray:
    """The outer contour of one connected area, in pixels of its picture with a margin of one. **Shape** ``(n, 2)``."""
    return np.asarray(max(find_contours(np.pad(area, 1).astype(float), 0.5), key=len))


def segment_slide(segmenter: Segmenter, slide: Slide, found: Tissue, mpp: float, stem: Path) -> SlideLabels:
    """Label a slide into ``NAME_labels.tif`` (class indexes at ``mpp``), in constant memory."""
    pixels = SlidePixels(slide, found, mpp)
    strips = stem.with_name(f".{stem.name}_labels.npy.part")
    labels = predict_large(segmenter.model, pixels, strips, segmenter.window, skip_white=True)  # type: ignore[arg-type]
    try:
        write_tiled(stem.with_name(f"{stem.name}_labels.tif"), labels, mpp)
        every = max(1, -(-max(labels.shape) // COARSE))
        coarse = np.array(labels[every // 2 :: every, every // 2 :: every])
        counts = pixels_per_class(labels, len(segmenter.classes))
    finally:
        strips.unlink(missing_ok=True)
    return SlideLabels(counts, coarse, (every * pixels.scale[0], every * pixels.scale[1]), pixels.tiles)
