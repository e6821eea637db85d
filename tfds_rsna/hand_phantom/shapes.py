"""The three kinds of shape that a phantom is made of, in hand units (see `anatomy`)."""

from typing import NamedTuple

import numpy as np


class Strip(NamedTuple):
    """A piece of a long bone.

    `half` (half width) and `cortex` (thickness of dense bone) are evenly sampled from `start` to
    `stop` along `axis`; `plates` is the dense bone that closes the two ends; `density` scales the
    whole; `wedge` makes it thicker on the + side and thinner on the other.
    """

    bone: str
    origin: np.ndarray
    axis: np.ndarray
    side: np.ndarray
    start: float
    stop: float
    half: np.ndarray
    cortex: np.ndarray
    plates: tuple
    density: float = 1.0
    wedge: float = 0.0

    def outline(self):
        """[N, 2] points on its edge."""
        along = np.linspace(self.start, self.stop, len(self.half))[::4, None] * self.axis
        across = self.half[::4, None] * self.side
        return self.origin + np.concatenate([along + across, along - across])


class Blob(NamedTuple):
    """A short bone: an ellipsoid of `radii` (along `side`, along `axis`) whose outline is modulated
    by `harmonics` (order, share, phase in radians).
    """

    bone: str
    centre: np.ndarray
    axis: np.ndarray
    side: np.ndarray
    radii: tuple
    harmonics: tuple
    cortex: float

    def swell(self, theta):
        """The outline's radius relative to the ellipse at angles from `side` towards `axis`."""
        swell = np.ones_like(theta)
        for order, share, phase in self.harmonics:
            swell += np.float32(share) * np.cos(order * theta - np.float32(phase))
        return swell

    def outline(self):
        """[24, 2] points on its edge."""
        theta = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        swell = self.swell(theta)
        u, v = self.radii[0] * swell * np.cos(theta), self.radii[1] * swell * np.sin(theta)
        return self.centre + u[:, None] * self.side + v[:, None] * self.axis


class Capsule(NamedTuple):
    """Soft tissue between two points with a radius at each; `depth`: half its thickness towards the
    image.
    """

    start: np.ndarray
    stop: np.ndarray
    radii: tuple
    depth: float


class Hand(NamedTuple):
    """A drawn hand; `regions` holds the corners [4, 2] of growth plates and carpus, there at any
    age.
    """

    joints: np.ndarray  # [21, 2], COCO order
    capitate: np.ndarray  # [2]
    strips: list
    blobs: list
    flesh: list
    regions: dict


def unit(vector):
    return vector / np.hypot(*vector)


def turn(vector, angle):
    """Turns (x, y) by radians towards the thumb (x to the thumb, y to the fingertips)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * vector[0] + s * vector[1], -s * vector[0] + c * vector[1]])
