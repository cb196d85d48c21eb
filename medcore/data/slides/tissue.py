"""Where on a slide there is tissue, pen, dense tissue and blur: a mask on a coarse level, a table of quality.

    found = find_tissue(slide)
    found.tissue                        # (h, w) bool at ``found.mpp`` microns per pixel
    found.share("tissue", region)       # share of a region (level-0 pixels) that is tissue

- Tissue is darker than the glass: Otsu's threshold on optical density, held between bounds that no glass and no
  stained tissue reach, so that an empty slide has no tissue and a full one no glass. Small specks and holes go.
- Pen is green, blue or cyan, saturated and even, or black: what haematoxylin and eosin never are. Red ink looks like
  eosin and is not found.
- Dense is tissue about twice as dense as the slide's usual tissue. That may be a fold, or epithelium full of nuclei
  (on CMU-1 all of it is epithelium and keratin): it is **marked for a look, not left out**, and no fold is claimed.
  Blur is measured on each tile, where it is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medcore.data.slides.slide import Slide

MPP = 8.0  # microns per pixel of the masks
MOST_PIXELS = 1 << 24  # of the masks; larger slides get coarser ones
DENSITY = (0.04, 0.12)  # bounds of Otsu's threshold on optical density (decimal logarithm) above the glass
SMALLEST_MM2 = 0.004  # specks below and holes below this are no tissue and no glass
DENSE = 1.8  # times the usual density of the slide's tissue
SHARP = 0.05  # sharpness of a tile under which it counts as blurred


@dataclass(frozen=True)
class Tissue:
    """What a coarse look at a slide found.

    Attributes:
        overview: The slide. **Shape** ``(h, w, 3)`` uint8.
        tissue: Tissue without pen. **Shape** ``(h, w)`` bool.
        pen: Marker ink. **Shape** ``(h, w)`` bool.
        dense: Tissue of about twice the usual density, folded or not. **Shape** ``(h, w)`` bool.
        scale: Level-0 pixels that one pixel of the masks spans, along x and y.
        mpp: Microns per pixel of the masks.
        threshold: The optical density from which a pixel counts as tissue.
    """

    overview: np.ndarray
    tissue: np.ndarray
    pen: np.ndarray
    dense: np.ndarray
    scale: tuple[float, float]
    mpp: float
    threshold: float

    def share(self, what: str, regions: np.ndarray) -> np.ndarray:
        """The share of each region that is ``tissue``, ``pen`` or ``dense``; beyond the slide there is none.

        **Shape** ``(n, 4)`` x, y, width, height in level-0 pixels -> ``(n,)`` 0 to 1.
        """
        mask = getattr(self, what)
        sums = np.pad(mask.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        x, y, width, height = (np.asarray(regions, dtype=float)[:, k] for k in range(4))
        left, right = x / self.scale[0], (x + width) / self.scale[0]
        top, bottom = y / self.scale[1], (y + height) / self.scale[1]
        inside = _at(sums, bottom, right) - _at(sums, top, right) - _at(sums, bottom, left) + _at(sums, top, left)
        return np.clip(inside / np.maximum((right - left) * (bottom - top), 1e-9), 0, 1)

    def quality(self) -> dict[str, float]:
        """Shares of the slide for the table of quality, and the area of tissue in mm²."""
        area = self.mpp**2 / 1e6
        some = max(1, int(self.tissue.sum()))
        return {
            "tissue_mm2": round(float(self.tissue.sum()) * area, 4),
            "tissue_share": round(float(self.tissue.mean()), 4),
            "pen_share": round(float(self.pen.mean()), 4),
            "dense_share": round(float((self.dense & self.tissue).sum()) / some, 4),
            "threshold": round(self.threshold, 4),
        }


def _at(sums: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """A summed-area table between its points, bilinear: shares of parts of pixels are exact."""
    row = np.clip(row, 0, sums.shape[0] - 1)
    column = np.clip(column, 0, sums.shape[1] - 1)
    top, left = np.minimum(row.astype(int), sums.shape[0] - 2), np.minimum(column.astype(int), sums.shape[1] - 2)
    down, across = row - top, column - left
    upper = sums[top, left] * (1 - across) + sums[top, left + 1] * across
    lower = sums[top + 1, left] * (1 - across) + sums[top + 1, left + 1] * across
    return upper * (1 - down) + lower * down


def find_tissue(slide: Slide, mpp: float = MPP) -> Tissue:
    """Look at a slide once, coarsely.

    Args:
        mpp: Microns per pixel of the masks, never finer than level 0.

    Raises:
        MedcoreError: A level cannot be read, or does not show what the finer one shows.
    """
    from scipy import ndimage
    from skimage.morphology import remove_small_objects

    slide.check_levels()
    height, width = slide.shape
    area = height * slide.mpp[1] * width * slide.mpp[0]
    mpp = max(mpp, max(slide.mpp), (area / MOST_PIXELS) ** 0.5)
    overview = slide.overview(mpp)
    density = density_above_glass(overview)
    pen = find_pen(overview, density, mpp)
    smooth = ndimage.gaussian_filter(density, 8.0 / mpp)
    threshold = _threshold(smooth[~pen])
    smallest = max(1, round(SMALLEST_MM2 * 1e6 / mpp**2))
    tissue = _cleaned((smooth > threshold) & ~pen, smallest) & ~pen
    usual = float(np.median(smooth[tissue])) if tissue.any() else 0.0
    dense = tissue & (smooth > DENSE * usual)
    dense = remove_small_objects(dense, max_size=smallest // 2)
    tall, wide = tissue.shape
    return Tissue(overview, tissue, pen, dense, (width / wide, height / tall), mpp, threshold)


def density_above_glass(pixels: np.ndarray) -> np.ndarray:
    """Mean optical density (decimal) over the channels, from the brightest common colour on. **Shape** ``(h, w)``."""
    light = np.maximum(pixels.astype(np.float32), 1)
    glass = np.maximum(np.percentile(light.reshape(-1, 3), 99, axis=0), 200)
    return np.asarray(np.maximum(np.log10(glass / light), 0).mean(2))


def _threshold(density: np.ndarray) -> float:
    from skimage.filters import threshold_otsu

    low, high = DENSITY
    if density.size == 0 or density.max() <= low:
        return low
    return float(np.clip(threshold_otsu(density), low, high))


def _cleaned(mask: np.ndarray, smallest: int) -> np.ndarray:
    from skimage.morphology import remove_small_holes, remove_small_objects

    return np.asarray(remove_small_holes(remove_small_objects(mask, max_size=smallest), max_size=smallest))


def find_pen(pixels: np.ndarray, density: np.ndarray, mpp: float) -> np.ndarray:
    """Marker ink: green, cyan or strong blue, or black. **Shape** ``(h, w, 3)`` uint8 -> ``(h, w)`` bool."""
    from scipy import ndimage
    from skimage.color import rgb2hsv
    from skimage.morphology import remove_small_objects

    hsv = rgb2hsv(pixels)
    hue, saturation, value = 360 * hsv[..., 0], hsv[..., 1], hsv[..., 2]
    green = (hue > 70) & (hue < 200) & (saturation > 0.2)
    blue = (hue >= 200) & (hue < 245) & (saturation > 0.55)
    black = (value < 0.25) & (saturation < 0.35)
    ink = (green | blue | black) & (density > DENSITY[0])
    grown = ndimage.binary_closing(ink, iterations=max(1, round(24 / mpp)))
    strokes = remove_small_objects(grown, max_size=max(1, round(2 * SMALLEST_MM2 * 1e6 / mpp**2)))
    return np.asarray(ndimage.binary_dilation(strokes, iterations=max(1, round(16 / mpp))))


def sharpness(tile: np.ndarray) -> float:
    """How much of a tile's contrast lies between neighbouring pixels: about 0 where it is blurred.

    The standard deviation of the discrete Laplacian over that of the green channel. **Shape** ``(h, w, 3)`` uint8.
    """
    light = tile[..., 1].astype(np.float32)
    spread = float(light.std())
    inner = light[:-2, 1:-1] + light[2:, 1:-1] + light[1:-1, :-2] + light[1:-1, 2:] - 4 * light[1:-1, 1:-1]
    return float(inner.std()) / (4 * spread) if spread > 1 else 0.0
