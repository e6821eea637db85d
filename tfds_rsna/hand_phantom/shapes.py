"""The three kinds of shape that a phantom is made of, in hand units (see `anatomy`)."""

from typing import NamedTuple

import numpy as np


class Strip(NamedTuple):
    """A piece of a long bone.

    Attributes:
        bone: its name.
        origin, axis, side: where it is: a point, and directions along and across.
        start, stop: its ends along `axis`.
        half: half widths, evenly sampled from `start` to `stop`.
        cortex: thickness of dense bone, sampled likewise.
        plates: thickness of the dense bone that closes each of the two ends.
        density: scales the whole.
        wedge: makes it thicker on the + side and thinner on the other.
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

    def outline(self) -> np.ndarray:
        """[N, 2] points on its edge."""
        along = np.linspace(self.start, self.stop, len(self.half))[::4, None] * self.axis
        across = self.half[::4, None] * self.side
        return self.origin + np.concatenate([along + across, along - across])


class Blob(NamedTuple):
    """A short bone: an ellipsoid whose outline is modulated by harmonics.

    Attributes:
        bone: its name.
        centre, axis, side: where it is: a point, and directions along and across.
        radii: along `side` and along `axis`.
        harmonics: (order, share, phase in radians) of each.
        cortex: thickness of dense bone.
    """

    bone: str
    centre: np.ndarray
    axis: np.ndarray
    side: np.ndarray
    radii: tuple
    harmonics: tuple
    cortex: float

    def swell(self, theta: np.ndarray) -> np.ndarray:
        """The outline's radius relative to the ellipse at angles from `side` towards `axis`."""
        swell = np.ones_like(theta)
        for order, share, phase in self.harmonics:
            swell += np.float32(share) * np.cos(order * theta - np.float32(phase))
        return swell

    def outline(self) -> np.ndarray:
        """[24, 2] points on its edge."""
        theta = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        swell = self.swell(theta)
        u = self.radii[0] * swell * np.cos(theta)
        v = self.radii[1] * swell * np.sin(theta)
        return self.centre + u[:, None] * self.side + v[:, None] * self.axis


class Capsule(NamedTuple):
    """Soft tissue between two points with a radius at each."""

    start: np.ndarray
    stop: np.ndarray
    radii: tuple
    depth: float  # half its thickness towards the image


class Hand(NamedTuple):
    """A drawn hand."""

    joints: np.ndarray  # [21, 2], COCO order
    capitate: np.ndarray  # [2]
    strips: list
    blobs: list
    flesh: list
    regions: dict  # {name: corners [4, 2]} of growth plates and carpus, there at any age


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector at length 1."""
    return vector / np.hypot(*vector)


def turn(vector: np.ndarray, angle: float) -> np.ndarray:
    """Turns (x, y) by radians towards the thumb (x to the thumb, y to the fingertips)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * vector[0] + s * vector[1], -s * vector[0] + c * vector[1]])
