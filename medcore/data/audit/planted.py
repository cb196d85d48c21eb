"""Copies as they occur: what the audit plants into a set to measure what it would find there.

Every kind maps an image to a changed copy of the same size; `overlapping` makes two windows of one image. They are
the kinds that the audit vouches for, and `UNSEEN` lists what it does not look for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from medcore.data.audit.hashing import apply_symmetry
from medcore.data.images import compress_jpeg
from medcore.data.sizes import resize
from medcore.data.stain import normalise_stains
from medcore.errors import MedcoreError

Image8 = np.ndarray  # uint8. **Shape** ``(H, W, 1 or 3)``
UNSEEN = (
    "overlaps under 40 %", "crops to under 80 % of the side", "turns by more than 10° that are no quarter turns",
    "elastic deformation", "another photograph of the same thing",
)  # fmt: skip


def recompressed(images: np.ndarray, quality: int) -> np.ndarray:
    """The images after JPEG at `quality` (1…95). **Shape** ``(N, H, W, 1 or 3)``."""
    return np.stack([compress_jpeg(image, quality) for image in images])


def scaled_and_back(images: np.ndarray, factor: float) -> np.ndarray:
    """The images after scaling by `factor` and back to their size. **Shape** ``(N, H, W, 1 or 3)``."""
    height, width = images.shape[1:3]
    return resize(resize(images, (max(1, round(height * factor)), max(1, round(width * factor)))), (height, width))


def flipped_or_turned(image: Image8, rng: np.random.Generator) -> Image8:
    """In a random other position (square images; others only flipped)."""
    return apply_symmetry(image, int(rng.integers(1, 8 if image.shape[0] == image.shape[1] else 4)))


def cropped(image: Image8, rng: np.random.Generator) -> Image8:
    """5 to 20 % of each side cut off, stretched to the old size."""
    share = 1 - rng.uniform(0.05, 0.2)
    height, width = (max(1, round(side * share)) for side in image.shape[:2])
    y, x = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
    return _stretched(image[y : y + height, x : x + width], image.shape[:2])


def brightened(image: Image8, rng: np.random.Generator) -> Image8:
    """5 grey levels brighter or darker."""
    return _clipped(image.astype(float) + rng.choice([-5, 5]))


def contrasted(image: Image8, rng: np.random.Generator) -> Image8:
    """Contrast times 0.7 to 1.4 about the mean."""
    return _clipped((image - image.mean()) * rng.choice([0.7, 1.4]) + image.mean())


def gamma_changed(image: Image8, rng: np.random.Generator) -> Image8:
    """Gamma 0.6 or 1.6."""
    return _clipped(255 * (image / 255) ** rng.choice([0.6, 1.6]))


def rotated(image: Image8, rng: np.random.Generator) -> Image8:
    """Turned by 1 to 10°, the corners black or white."""
    angle = rng.uniform(1, 10) * rng.choice([-1, 1])
    fill = int(rng.choice([0, 255]))
    corners = fill if image.shape[2] == 1 else (fill,) * 3
    turned = _picture(image).rotate(float(angle), Image.Resampling.BICUBIC, fillcolor=corners)
    return np.asarray(turned).reshape(image.shape)


def framed(image: Image8, rng: np.random.Generator) -> Image8:
    """A black border of 5 to 15 %, over the image or round the shrunken image."""
    share = rng.uniform(0.05, 0.15)
    y, x = (max(1, round(side * share)) for side in image.shape[:2])
    inside = slice(y, image.shape[0] - y), slice(x, image.shape[1] - x)
    result = np.zeros_like(image)
    size = result[inside].shape[:2]
    result[inside] = _stretched(image, size) if rng.random() < 0.5 else image[inside]
    return result


def inverted(image: Image8, rng: np.random.Generator) -> Image8:
    """Bright for dark."""
    return 255 - image


def equalised(image: Image8, rng: np.random.Generator) -> Image8:
    """The histogram of every channel made flat."""
    result = np.empty_like(image)
    for channel in range(image.shape[2]):
        share = np.bincount(image[..., channel].ravel(), minlength=256).cumsum() / image[..., channel].size
        result[..., channel] = _clipped(255 * share)[image[..., channel]]
    return result


def recoloured(image: Image8, rng: np.random.Generator) -> Image8:
    """Mean and spread of every channel as another scanner or stain normalisation (Reinhard) gives them."""
    pixels = image.reshape(-1, image.shape[2]).astype(float)
    mean = np.clip(pixels.mean(axis=0) + rng.uniform(-35, 35, pixels.shape[1]), 40, 230)
    return _clipped((image - pixels.mean(axis=0)) * rng.uniform(0.7, 1.4, pixels.shape[1]) + mean)


def stain_normalised(image: Image8, rng: np.random.Generator) -> Image8:
    """Macenko's normalisation; unchanged where there is no stain to speak of."""
    try:
        return normalise_stains(image) if image.shape[2] == 3 else image
    except MedcoreError:
        return image


def subsampled(image: Image8, rng: np.random.Generator) -> Image8:
    """Every other pixel, stretched to the old size."""
    return _stretched(image[::2, ::2], image.shape[:2])


def beside_another(image: Image8, other: Image8, rng: np.random.Generator) -> Image8:
    """Left or right of, or above, another image, both squeezed into the old size."""
    axis = int(rng.integers(2))
    half = image.shape[axis] // 2
    sizes = [
        (side, image.shape[1]) if axis == 0 else (image.shape[0], side) for side in (half, image.shape[axis] - half)
    ]
    order = (image, other) if rng.random() < 0.5 else (other, image)
    return np.concatenate([_stretched(part, size) for part, size in zip(order, sizes, strict=True)], axis=axis)


def overlapping(image: Image8, share: float, rng: np.random.Generator) -> tuple[Image8, Image8]:
    """Two windows of the image that share `share` of their area, stretched to its size."""
    shift = [(1 - share, 0.0), (0.0, 1 - share), (1 - share**0.5,) * 2][rng.integers(3)]
    size = [int(side / (1 + max(shift))) for side in image.shape[:2]]
    y, x = (min(round(way * side), whole - side) for way, side, whole in zip(shift, size, image.shape[:2], strict=True))
    windows = image[: size[0], : size[1]], image[y : y + size[0], x : x + size[1]]
    first, second = (_stretched(window, image.shape[:2]) for window in windows)
    return first, second


def _turned_and(change: Callable) -> Callable[[Image8, np.random.Generator], Image8]:
    return lambda image, rng: flipped_or_turned(change(image, rng), rng)


KINDS: dict[str, Callable[[Image8, np.random.Generator], Image8]] = {
    "flipped or turned": flipped_or_turned,
    "JPEG quality 30 to 75": lambda image, rng: recompressed(image[None], int(rng.integers(30, 76)))[0],
    "resized to half": lambda image, rng: scaled_and_back(image[None], 0.5)[0],
    "every other pixel": subsampled,
    "5 grey levels brighter or darker": brightened,
    "contrast × 0.7 or 1.4": contrasted,
    "gamma 0.6 or 1.6": gamma_changed,
    "inverted": inverted,
    "histogram equalised": equalised,
    "recoloured": recoloured,
    "stain-normalised": stain_normalised,
    "cropped by 5 to 20 %": cropped,
    "turned by 1 to 10°": rotated,
    "black frame": framed,
    "flipped, halved and JPEG 50": lambda image, rng: recompressed(
        scaled_and_back(flipped_or_turned(image, rng)[None], 0.5), 50
    )[0],
    "flipped and cropped": _turned_and(cropped),
    "flipped, recoloured": _turned_and(recoloured),
    "flipped, turned by 1 to 10°": _turned_and(rotated),
}  # fmt: skip
SHARES = {"overlap of 40 %": 0.4, "overlap of 60 %": 0.6}
MONTAGE = "half of a montage"


def plant(images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, int, str]]]:
    """Every kind of copy of every image, after the images.

    Returns:
        The images with the copies **Shape** ``(N + n, H, W, C)``, and (row, row, kind) of each pair to be found.
    """
    planted, pairs = list(images), []
    for row, image in enumerate(images):
        for kind, change in KINDS.items():
            copy = np.ascontiguousarray(change(image, rng))
            if not np.array_equal(copy, image):
                planted.append(copy)
                pairs.append((row, len(planted) - 1, kind))
        if len(images) > 1:
            planted.append(beside_another(image, images[row - 1], rng))
            pairs.append((row, len(planted) - 1, MONTAGE))
        for kind, share in SHARES.items():
            planted += overlapping(image, share, rng)
            pairs.append((len(planted) - 2, len(planted) - 1, kind))
    return np.stack(planted), pairs


def _stretched(image: Image8, size: Sequence[int]) -> Image8:
    return resize(np.ascontiguousarray(image), tuple(size)).reshape(*size, image.shape[2])


def _clipped(values: np.ndarray) -> Image8:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _picture(image: Image8) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
