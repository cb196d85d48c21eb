"""Random changes of training images: one recipe, applied per sample in a few batched kernels on the device.

    recipe = Augment(flip_horizontal=0.5, turns=True, rotation=15, brightness=0.1, stain=0.1)
    images, masks = augment_images(recipe, images, masks, ids, seed=0, epoch=3)

- What happens to a sample is a function of (seed, epoch, sample id) only: see ``randomness.py``.
- Flips, quarter turns and crops move whole pixels and are exact; rotation, scale, shift and elastic share a single
  interpolation. Masks go through the same geometry with nearest neighbours.
- Draws are made on the host, so that nothing waits for the GPU.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from medcore.data.card import Card
from medcore.errors import MedcoreError
from medcore.training.randomness import uniform


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
