"""Outlines of glands and lesions in polar form, nuclei, and glandular epithelium: shared by several phantoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from medcore.data.phantoms.tissue import Field, noise, outlines, paint, soften


@dataclass(frozen=True)
class Blob:
    """A closed shape in polar form around a centre: a gland cut across, a lesion.

    Attributes:
        centre: Micrometres, ``(x, y)``.
        radii: Half axes in micrometres.
        angle: Direction of the first half axis in radians.
        bumps: Relative amplitude and phase of the outline's waves 2, 3, ... **Shape** ``(2, k)``.
    """

    centre: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    bumps: np.ndarray

    def reach(self, turn: np.ndarray) -> np.ndarray:
        """Outline as a factor on the ellipse, for each polar angle in the shape's own frame."""
        waves = np.arange(2, 2 + self.bumps.shape[1])
        return 1 + (self.bumps[0] * np.cos(np.multiply.outer(turn, waves) + self.bumps[1])).sum(axis=-1)

    def place(self, turn: np.ndarray, depth: np.ndarray | float) -> np.ndarray:
        """Micrometre points at polar angles ``turn`` and relative depth (1 = outline). **Shape** ``(n, 2)``."""
        reach = self.reach(turn) * depth
        u, v = self.radii[0] * reach * np.cos(turn), self.radii[1] * reach * np.sin(turn)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.stack([self.centre[0] + u * cos - v * sin, self.centre[1] + u * sin + v * cos], axis=-1)

    def outward(self, turn: np.ndarray) -> np.ndarray:
        """Direction from the centre outwards in radians. **Shape** ``(n,)``."""
        return np.arctan2(np.sin(turn) * self.radii[0], np.cos(turn) * self.radii[1]) + self.angle

    def depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """0 at the centre, 1 on the outline, more outside, at micrometre coordinates. **Shape** as ``x``."""
        dx, dy = x - np.float32(self.centre[0]), y - np.float32(self.centre[1])
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u, v = (dx * cos + dy * sin) / np.float32(self.radii[0]), (dy * cos - dx * sin) / np.float32(self.radii[1])
        steps = 256
        reach = self.reach(np.linspace(-np.pi, np.pi, steps)).astype(np.float32)
        turn = np.arctan2(v, u)
        return np.hypot(u, v) / reach[((turn + np.pi) * ((steps - 1) / (2 * np.pi))).astype(np.int32)]

    def touches(self, field: Field) -> bool:
        """Whether the shape lies on the canvas by more than a tip."""
        reach = 0.8 * max(self.radii)
        return all(-reach < value < field.side + reach for value in self.centre)

    def around(self, spacing: float, depth: float = 0.85) -> np.ndarray:
        """Polar angles of evenly spaced places along the ring at ``depth``. **Shape** ``(n,)``."""
        turn = np.linspace(0, 2 * np.pi, 200)
        points = self.place(turn, depth)
        arc = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        return np.interp(np.arange(spacing / 2, arc[-1], spacing), arc, turn)


def blob(
    rng: np.random.Generator, centre: np.ndarray, radius: float, *, aspect: float = 1.0, irregular: float = 0.04
) -> Blob:
    """A shape of mean half axis ``radius`` (µm), drawn out ``aspect`` times; ``irregular`` scales its bumps."""
    bumps = np.stack([irregular * rng.standard_normal(4) / np.arange(1, 5) ** 0.5, rng.uniform(0, 6.3, 4)])
    stretch = np.sqrt(aspect)
    return Blob(
        (float(centre[0]), float(centre[1])),
        (radius * stretch, radius / stretch),
        float(rng.uniform(0, np.pi)),
        bumps,
    )


def blob_depths(field: Field, rings: list[Blob]) -> tuple[np.ndarray, np.ndarray]:
    """Depth in the nearest shape (see :meth:`Blob.depth`) and its number, each ``(P, P)``; 2 and -1 far outside."""
    x, y = field.grid()
    nearest = np.full(x.shape, 2, dtype=np.float32)
    owner = np.full(x.shape, -1, dtype=np.int32)
    for number, ring in enumerate(rings):
        reach = 1.4 * max(ring.radii)
        left, top = (np.clip((value - reach) * field.scale, 0, field.pixels).astype(int) for value in ring.centre)
        right, low = (np.clip((value + reach) * field.scale, 0, field.pixels).astype(int) for value in ring.centre)
        box = slice(top, low), slice(left, right)
        depth = ring.depth(x[box], y[box])
        closer = depth < nearest[box]
        owner[box][closer] = number
        nearest[box] = np.minimum(nearest[box], depth)
    return nearest, owner


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
        centres: **Shape** ``(n, 2)``, micrometres.
        length: Mean long axis in micrometres.
        angle: Directions in radians, one or ``(n,)``; at random when None.
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
