"""A set at another size: all images and masks scaled by one factor, in constant memory.

    small = rescaled(patches, 0.5, "small.npz")        # masks by nearest neighbour; 255 stays 255

The factor is one for the whole set, so the pixel size stays known and equal.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from medcore.data.patchset import PatchSet, PatchSetWriter
from medcore.data.sizes import resize, resize_mask
from medcore.errors import MedcoreError


def rescaled(ps: PatchSet, factor: float, path: str | Path | None = None) -> PatchSet:
    """The same images and masks, larger or smaller.

    Args:
        ps: The set; columns ``height`` and ``width`` (the part without padding) are scaled along.
        factor: New side over old side, above 0; 1 gives the set back as it is.
        path: The ``.npz`` to write; None uses a temporary file that goes with the process.

    Raises:
        MedcoreError: The factor is not above 0.
    """
    if not factor > 0:
        raise MedcoreError(f"rescaled: factor={factor} must be above 0")
    if factor == 1:
        return ps
    height, width, channels = ps.shape
    shape = (max(1, round(height * factor)), max(1, round(width * factor)), channels)
    size_um = None if ps.card.pixel_size_um is None else ps.card.pixel_size_um / factor
    card = replace(ps.card, pixel_size_um=size_um, recipe={**ps.card.recipe, "rescaled": factor})
    if path is None:
        path = Path(tempfile.mkdtemp(prefix="medcore-")) / f"{ps.card.name}.npz"
    table = ps.table.copy()
    for name, side in (("height", shape[0]), ("width", shape[1])):
        if name in table:
            table[name] = np.clip(np.rint(table[name].astype(float) * factor), 1, side).astype(int)
    with PatchSetWriter(Path(path), shape=shape, card=card, masks=ps.has_masks) as writer:
        for row, columns in enumerate(table.to_dict("records")):
            image = resize(ps.take([row])[0], shape[:2])[None]
            mask = resize_mask(ps.take_masks([row])[0], shape[:2])[None] if ps.has_masks else None
            writer.add(image, [{str(name): value for name, value in columns.items()}], mask)
    return PatchSet.open(path)


def factor_for(ps: PatchSet, longest: int | None) -> float:
    """The factor that brings the longer side to at most ``longest`` pixels; 1 where it is already.

    Args:
        ps: The set.
        longest: Pixels; None keeps the size.
    """
    return 1.0 if longest is None else min(1.0, longest / max(ps.shape[:2]))
