"""Nuclei and glandular epithelium, shared by the phantoms that show them.

All maps are concentrations of haematoxylin, **shape** ``(P, P)`` float32, unless said otherwise.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from medcore.data.phantoms.shapes import Blob, blob_depths
from medcore.data.phantoms.tissue import Field, noise, outlines, paint, soften


def nuclei(
    rng: np.random.Generator,
    field: Field,
    centres: np.ndarray,
    *,
    length: float,
    width: float,
    angle: np.ndarray | float | None = None,
    density: float = 1.0,
    spread: float = 0.15,
    clumps: float = 0.2,
    vesicular: float = 0.0,
    roughness: float = 0.06,
) -> np.ndarray:
    """Stained nuclei.

    Args:
        rng: Source of randomness.
        field: Where to draw.
        centres: **Shape** ``(n, 2)``, micrometres.
        length: Mean long axis in micrometres.
        width: Mean short axis.
        angle: Directions in radians, one or ``(n,)``; at random when None.
        density: Mean concentration.
        spread: Relative spread of size and density between nuclei (pleomorphism).
        clumps: Strength of the chromatin texture.
        vesicular: 0 = evenly dark, 1 = pale inside a dark rim.
        roughness: Relative size of the bumps of the outline.
    """
    visible = ((centres > -length) & (centres < field.side + length)).all(axis=1)
    centres, n = centres[visible], int(visible.sum())
    size = np.exp(spread * rng.standard_normal((2, n)))
    direction = rng.uniform(0, np.pi, n) if angle is None else np.broadcast_to(angle, visible.shape)[visible]
    shapes = outlines(rng, centres, length * size[0], width * size[1], direction, roughness=roughness)
    dark = density * np.exp(spread * rng.standard_normal(n))
    drawn = paint(field, shapes, dark * (1 - 0.5 * vesicular), dark * (1 + 0.2 * vesicular))
    texture = 1 + clumps * noise(rng, field, 0.7) * (1 + vesicular)
    return soften(drawn * np.clip(texture, 0.3, 2), field, 0.3)


def normal_epithelium(
    rng: np.random.Generator,
    field: Field,
    rings: list[Blob],
    *,
    cell: float = 5.0,
    goblets: float = 0.8,
    density: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colonic crypts: one row of basal nuclei, goblet cells with pale mucin, a small lumen.

    Args:
        rng: Source of randomness.
        field: Where to draw.
        rings: The crypts.
        cell: Width of a cell in micrometres.
        goblets: Share of cells that hold a drop of mucin.
        density: Mean concentration of the nuclei.

    Returns:
        Haematoxylin, eosin and the inside of the crypts (bool), each ``(P, P)``.
    """
    depth, _ = blob_depths(field, rings)
    inside = depth < 1
    lumen = depth < 0.14 * rng.uniform(0.5, 1.8)
    eosin = np.where(lumen, 0.05, 0.42 + 0.1 * noise(rng, field, 2.0)) * inside
    haematoxylin = np.where(lumen, 0.02, 0.22) * inside
    places, angles = _along(rng, rings, spacing=1.7 * cell, depth=0.54, spread=0.08)
    kept = rng.random(len(angles)) < goblets
    drops = outlines(rng, places[kept], 1.9 * cell, 1.35 * cell, angles[kept])
    vacuoles = soften(paint(field, drops, 1.0, 0.55) * inside, field, 0.5)
    eosin, haematoxylin = eosin * (1 - 0.85 * vacuoles), haematoxylin * (1 - 0.45 * vacuoles)
    places, angles = _along(rng, rings, spacing=cell, depth=0.88, spread=0.035)
    look = {"length": 1.25 * cell, "width": 0.8 * cell, "density": density, "spread": 0.1}
    rows = nuclei(rng, field, places, angle=angles, **look) * inside
    return np.maximum(haematoxylin, rows), eosin * (1 - 0.5 * (rows > 0.3)), inside


def _along(
    rng: np.random.Generator, rings: list[Blob], *, spacing: float, depth: float, spread: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points along all rings near one depth, and the directions outwards there."""
    places, angles = [np.empty((0, 2))], [np.empty(0)]
    for ring in rings:
        turn = ring.around(spacing, depth)
        turn = turn + 0.2 * spacing / np.mean(ring.radii) * rng.standard_normal(len(turn))
        places.append(ring.place(turn, np.minimum(depth + rng.uniform(-spread, spread, len(turn)), 0.95)))
        angles.append(ring.outward(turn))
    return np.concatenate(places), np.concatenate(angles)


def tumour_epithelium(
    rng: np.random.Generator,
    field: Field,
    rings: list[Blob],
    *,
    cell: float = 6.5,
    lumen: float = 0.35,
    atypia: float = 0.25,
    density: float = 1.0,
    vesicular: float = 0.4,
    ragged: float = 0.07,
    holes: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neoplastic glands: crowded, piled-up, uneven nuclei, no mucin, ragged lumina with debris.

    Args:
        rng: Source of randomness.
        field: Where to draw.
        rings: The glands.
        cell: Width of a cell in micrometres.
        lumen: Relative depth of the lumen's edge; below 0 there is none.
        atypia: Spread of nuclear size, shape and stain.
        density: Mean concentration of the nuclei.
        vesicular: 0 = evenly dark nuclei, 1 = pale ones with a dark rim.
        ragged: How far the lumen's edge strays, relative to the gland.
        holes: Share of the epithelium that is further, small lumina (cribriform growth).

    Returns:
        Haematoxylin, eosin and the inside of the glands (bool), each ``(P, P)``.
    """
    depth, _ = blob_depths(field, rings)
    inside = depth < 1
    level = depth + ragged * noise(rng, field, 3.0)
    if holes:
        level = level - (lumen + 1) * (noise(rng, field, 7.0) > -ndtri(holes)) * (depth < 0.8)
    hollow = level < lumen
    debris = 0.35 * np.clip(noise(rng, field, 2.0) - rng.uniform(-0.5, 1.5), 0, 1.5)
    eosin = np.where(hollow, 0.03 + debris, 0.5 + 0.1 * noise(rng, field, 2.0)) * inside
    haematoxylin = np.where(hollow, 0.02 + 0.4 * debris, rng.uniform(0.2, 0.33)) * inside
    step = 1.05 * cell / np.mean([ring.radii for ring in rings]) if rings else 1.0
    piles = [  # nuclei pile up from the base to the lumen
        _along(rng, rings, spacing=cell * rng.uniform(0.9, 1.1), depth=float(level), spread=0.05)
        for level in np.arange(0.93, max(lumen + 0.12, 0.15), -step)
    ]
    places, angles = (np.concatenate(parts) for parts in zip(*piles, strict=True))
    rows = nuclei(
        rng,
        field,
        places,
        length=1.45 * cell,
        width=0.85 * cell,
        angle=angles + 0.25 * rng.standard_normal(len(angles)),
        density=density,
        spread=atypia,
        vesicular=vesicular,
        roughness=0.1,
    )
    rows = rows * inside * (level >= lumen - 0.08)
    return np.maximum(haematoxylin, rows), eosin * (1 - 0.5 * (rows > 0.3)), inside
