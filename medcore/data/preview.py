"""What each preprocessing step does to some images, as pictures for a notebook."""

from __future__ import annotations

import numpy as np

from medcore.data import stain
from medcore.errors import MedcoreError


def preprocessing_steps(images: np.ndarray) -> dict[str, np.ndarray]:
    """The images as read and, in colour, their optical density, both dyes and Macenko's normalisation.

    Args:
        images: uint8. **Shape** ``(n, H, W, C)``.

    Returns:
        Step name to uint8 images ``(n, H, W, 3)``, in order; an image without enough tissue is left as it is.
    """
    if images.shape[3] == 1:
        return {"as read": images}
    density = stain.optical_density(images)
    shown = 255 * (1 - np.clip(density / max(float(np.quantile(density, 0.995)), 1e-6), 0, 1))
    amounts = stain.separate_stains(images)
    steps = {"as read": images, "optical density": shown.astype(np.uint8)}
    for number, name in enumerate(("haematoxylin", "eosin")):
        alone = np.zeros_like(amounts)
        alone[..., number] = amounts[..., number]
        steps[name] = stain.recombine_stains(alone)
    return steps | {"Macenko": np.stack([_normalised(image) for image in images])}


def _normalised(image: np.ndarray) -> np.ndarray:
    try:
        return stain.normalise_stains(image[None])[0]
    except MedcoreError:  # too little tissue to see two dyes
        return image
