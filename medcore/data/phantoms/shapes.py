"""Closed shapes in polar form: the outlines of glands and skin lesions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medcore.data.phantoms.tissue import Field


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
