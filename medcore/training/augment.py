"""Random changes of training images: one recipe, applied per sample in a few batched kernels on the device.

    recipe = Augment(flip_horizontal=0.5, turns=True, rotation=15, brightness=0.1, stain=0.1)
    images, masks = apply(recipe, images, masks, ids, seed=0, epoch=3)

- What happens to a sample is a function of (seed, epoch, sample id) only: see ``randomness.py``.
- Flips, quarter turns and crops move whole pixels and are exact; rotation, scale, shift and elastic share a single
  interpolation. Masks go through the same geometry with nearest neighbours.
- Draws are made on the host, so that nothing waits for the GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from medcore.data.card import Card
from medcore.errors import MedcoreError
from medcore.training import augment_colour as colour
from medcore.training import augment_geometry as geometry
from medcore.training.randomness import AUGMENT, NOISE, keys, uniform


@dataclass(frozen=True)
class Augment:
    """How far training images may be changed; every change is off by default.

    Attributes:
        flip_horizontal: Probability of a left-right flip, 0 to 1.
        flip_vertical: Probability of an up-down flip, 0 to 1.
        turns: Turn by 0, 90, 180 or 270 degrees, equally likely (square images; others by 0 or 180).
        crop: Side of a square window cut out at random, pixels; None keeps the image.
        rotation: Turn by up to this angle either way, degrees.
        scale: Magnify by a factor from this range.
        shift: Move by up to this share of the side in each direction.
        elastic: Bend by up to about this many pixels (a smooth random field).
        brightness: Multiply by 1 ± this.
        contrast: Stretch about the mean grey by 1 ± this.
        saturation: Stretch about each pixel's grey by 1 ± this.
        hue: Turn the hue by up to this share of the colour circle either way, 0 to 0.5.
        stain: Multiply each stain's amount by 1 ± this and shift it by ± this × 0.1 optical density.
        stains: Which pair of stains: haematoxylin with eosin, or with DAB.
        blur: Largest standard deviation of a Gaussian blur, pixels; each image draws from 0 to this.
        blur_share: Share of the images that is blurred.
        noise: Largest standard deviation of Gaussian noise, in units of [0, 1].
        noise_share: Share of the images that gets noise.
    """

    flip_horizontal: float = 0.0
    flip_vertical: float = 0.0
    turns: bool = False
    crop: int | None = None
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    elastic: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    stain: float = 0.0
    stains: Literal["he", "hdab"] = "he"
    blur: float = 0.0
    blur_share: float = 0.5
    noise: float = 0.0
    noise_share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what cannot be applied, by name."""
        object.__setattr__(self, "scale", tuple(self.scale))
        for name in ("flip_horizontal", "flip_vertical", "blur_share", "noise_share", "shift"):
            _within(name, getattr(self, name), 0, 1)
        for name in ("brightness", "contrast", "saturation", "stain"):
            _within(name, getattr(self, name), 0, 1)
        for name, high in (("hue", 0.5), ("rotation", 180), ("elastic", 1000), ("blur", 10), ("noise", 1)):
            _within(name, getattr(self, name), 0, high)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise MedcoreError(f"Augment(scale={self.scale}): must be (low, high) with 0 < low <= high")
        if self.crop is not None and self.crop < 1:
            raise MedcoreError(f"Augment(crop={self.crop}): must be at least 1 pixel")
        if self.stains not in ("he", "hdab"):
            raise MedcoreError(f"Augment(stains={self.stains!r}): must be 'he' or 'hdab'")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return dataclasses.asdict(self)

    @property
    def interpolates(self) -> bool:
        """Whether any change moves content by parts of a pixel."""
        return bool(self.rotation or self.shift or self.elastic) or self.scale != (1.0, 1.0)


Chosen = dict[str, Tensor]


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise MedcoreError(f"Augment({name}={value!r}): must be from {low} to {high}")


# what a modality allows: tissue has no up or down, and its stain varies by laboratory
PRESETS: dict[str, Augment | None] = {
    "none": None,
    "flips": Augment(flip_horizontal=0.5, flip_vertical=0.5, turns=True),
    "tissue": Augment(flip_horizontal=0.5, turns=True, stain=0.15, brightness=0.1),
    "ihc": Augment(flip_horizontal=0.5, turns=True, stain=0.1, stains="hdab", brightness=0.1),
    "skin": Augment(
        flip_horizontal=0.5, turns=True, rotation=20, scale=(0.9, 1.2), brightness=0.1, contrast=0.1, saturation=0.1
    ),
    "xray": Augment(rotation=7, scale=(0.95, 1.1), shift=0.03, brightness=0.1, contrast=0.1),
}


# why each of them leaves the class as it is: shown where a recipe is used
REASONS = {
    "none": "Nothing is changed: every epoch shows the same pixels.",
    "flips": "Flips and quarter turns only: there is no up or down here, and colours stay as they are.",
    "tissue": "Tissue has no up or down: flips and quarter turns make new, true images. Staining varies between "
    "laboratories, so its strength is varied too, in the space of the two dyes rather than in red, green and blue.",
    "ihc": "Tissue has no up or down: flips and quarter turns make new, true images. Staining varies between "
    "laboratories, so the strength of haematoxylin and DAB is varied, a little only: the brown is the finding.",
    "skin": "A lesion has no up or down, and distance and light of a photograph vary: turns, zoom, brightness, "
    "contrast and saturation are varied.",
    "xray": "A body has an up and a down, and a left and a right: only small turns, shifts and zooms are allowed, and "
    "exposure varies.",
}


def suitable_recipe(card: Card, channels: int) -> str:
    """The recipe that fits a set: grey as radiographs, lesions as skin, brown stains as IHC, other colour as tissue."""
    if channels == 1:
        return "xray"
    if card.group == "lesion" or "derm" in card.name:
        return "skin"
    return "ihc" if "helico" in f"{card.name} {card.recipe.get('reader', '')}" else "tissue"


def as_augment(value: Augment | str | dict[str, Any] | None) -> Augment | None:
    """The recipe of a preset's name, of a manifest's dict, or the recipe itself.

    Raises:
        MedcoreError: There is no preset of this name, or no field of this name.
    """
    if value is None or isinstance(value, Augment):
        return value
    if isinstance(value, str):
        if value not in PRESETS:
            raise MedcoreError(f"augment={value!r}: unknown; choose one of {', '.join(PRESETS)}, or give an Augment")
        return PRESETS[value]
    unknown = set(value) - {f.name for f in dataclasses.fields(Augment)}
    if unknown:
        raise MedcoreError(f"Augment has no field {sorted(unknown)[0]!r}")
    return Augment(**value)


def apply(
    recipe: Augment | None,
    pixels: Tensor,
    masks: Tensor | None,
    ids: Tensor,
    *,
    seed: int,
    epoch: int,
    sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Turn stored pixels into training images, changed at random per sample.

    Args:
        recipe: What may happen; None changes nothing.
        pixels: uint8 on the device. **Shape** ``(B, H, W, C)``.
        masks: Class indexes, 255 = ignore, on the device. **Shape** ``(B, H, W)`` uint8; or None.
        ids: Rows of the set's store, on the host. **Shape** ``(B,)`` int64.
        seed: Seed of the run.
        epoch: Epoch, counted from 1.
        sizes: Height and width without padding, so that a crop stays inside. **Shape** ``(B, 2)`` int64 on the host.

    Returns:
        Images in [0, 1], **Shape** ``(B, C, H, W)`` float32, and the masks. A crop changes H and W.
    """
    if recipe is None:
        return to_float(pixels), masks
    chosen = choose(recipe, ids, pixels.shape[1:], pixels.device, seed=seed, epoch=epoch, sizes=sizes)
    return apply_chosen(recipe, pixels, masks, chosen, seed=seed)


def choose(
    recipe: Augment,
    ids: Tensor,
    shape: Sequence[int],
    device: torch.device,
    *,
    seed: int,
    epoch: int,
    sizes: Tensor | None = None,
) -> Chosen:
    """What happens to each sample: tensors by name, each with the samples along its first axis.

    Args:
        recipe: What may happen.
        ids: As for :func:`apply`.
        shape: Height, width and channels of the stored images.
        device: Where the images are.
        seed: Seed of the run.
        epoch: Epoch, counted from 1.
        sizes: As for :func:`apply`.
    """
    draws = Draws(keys(ids, seed, epoch, AUGMENT), device)
    side, (height, width, channels) = recipe.crop, shape
    if sizes is None and side is not None:
        sizes = torch.tensor([height, width]).expand(len(ids), 2)
    seen = (height, width) if side is None else (side, side)
    node_keys = keys(ids, seed, epoch, NOISE) if recipe.elastic else None
    return geometry.choices(recipe, draws, seen, sizes, node_keys) | colour.choices(recipe, draws, channels)


def apply_chosen(
    recipe: Augment, pixels: Tensor, masks: Tensor | None, chosen: Chosen, *, seed: int
) -> tuple[Tensor, Tensor | None]:
    """:func:`apply` with what :func:`choose` chose; ``seed`` fixes the bank of noise."""
    shape = pixels.shape[1:3] if recipe.crop is None else (recipe.crop, recipe.crop)
    count = len(pixels)
    at_once = max(1, CACHED_PIXELS // (shape[0] * shape[1])) if pixels.device.type == "cpu" else count
    if count <= at_once:
        return _apply_to_chunk(recipe, pixels, masks, chosen, seed)
    # one block for all: what a chunk needs on its way is taken from the same warm memory again and again
    images = torch.empty((count, pixels.shape[3], *shape), device=pixels.device)
    changed = None if masks is None else torch.empty((count, *shape), dtype=masks.dtype, device=masks.device)
    for start in range(0, count, at_once):
        rows = slice(start, start + at_once)
        part, part_masks = _apply_to_chunk(
            recipe, pixels[rows], None if masks is None else masks[rows], part_of(chosen, rows), seed
        )
        images[rows] = part
        if changed is not None and part_masks is not None:
            changed[rows] = part_masks
    return images, changed


def part_of(chosen: Chosen, rows: slice) -> Chosen:
    """What was chosen for some of the samples."""
    return {name: values[rows] for name, values in chosen.items()}


# on a CPU, a chunk of images stays in the cache through all kernels: × 3 channels × 4 bytes = 3 MB
CACHED_PIXELS = 1 << 18


def _apply_to_chunk(
    recipe: Augment, pixels: Tensor, masks: Tensor | None, chosen: dict[str, Tensor], seed: int
) -> tuple[Tensor, Tensor | None]:
    if recipe.crop is not None:
        pixels = geometry.crop(pixels, chosen["corners"], recipe.crop)
        masks = None if masks is None else geometry.crop(masks, chosen["corners"], recipe.crop)
    planes = pixels.permute(0, 3, 1, 2).contiguous()  # the kernels below run over whole planes
    if "elements" in chosen:
        planes = geometry.dihedral(planes, chosen["elements"])
        masks = None if masks is None else geometry.dihedral(masks, chosen["elements"])
    images = planes.to(torch.float32)
    if "matrix" in chosen and "stain_matrix" not in chosen:  # what follows is linear: the mixing of colours divides
        chosen = chosen | {name: chosen[name] / 255.0 for name in ("matrix", "lift")}
    else:
        images.div_(255.0)
    if "affine" in chosen:
        images, masks = geometry.warp(images, masks, chosen["affine"], chosen.get("elastic"))
    return colour.change(recipe, images, chosen, seed), masks


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels as images in [0, 1]. **Shape** ``(B, H, W, C)`` -> ``(B, C, H, W)``, channels-last in memory."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)


class Draws:
    """The random numbers of a batch by name, each in [0, 1), on the host or on the device."""

    # the place of a name fixes its counter: append, never insert, or old seeds give other images
    NAMES = (
        "flip_horizontal", "flip_vertical", "turns", "crop_y", "crop_x", "rotation", "scale", "shift_y", "shift_x",
        "brightness", "contrast", "saturation", "hue", "stain_1", "stain_2", "stain_3", "stain_4", "stain_5",
        "stain_6", "blur_share", "blur", "noise_share", "noise", "noise_place",
    )  # fmt: skip

    def __init__(self, sample_keys: Tensor, device: torch.device) -> None:
        self.host = uniform(sample_keys, len(self.NAMES))
        self.device_values = self.host.to(device, non_blocking=True)

    def __getitem__(self, name: str) -> Tensor:
        """On the device. **Shape** ``(B,)`` float32."""
        return self.device_values[:, self.NAMES.index(name)]

    def on_host(self, name: str) -> Tensor:
        """On the host, to decide which samples take part. **Shape** ``(B,)`` float32."""
        return self.host[:, self.NAMES.index(name)]

    def around(self, name: str, spread: float, centre: float = 1.0) -> Tensor:
        """Uniform in ``centre ± spread``, on the device. **Shape** ``(B,)``."""
        return centre + (2 * self[name] - 1) * spread
