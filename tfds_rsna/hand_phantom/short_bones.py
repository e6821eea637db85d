"""The carpals and the thumb's sesamoid."""

import numpy as np

from tfds_rsna.hand_phantom.schedule import Stage
from tfds_rsna.hand_phantom.shapes import Blob, turn, unit

# Centre x, y; half axes across and along; turn in degrees towards the thumb; outline harmonics,
# which make the adult's shape out of the child's round one: (order, share, phase in degrees, 0 =
# thumb side, 90 = fingertips).
_CARPALS = {
    'capitate': (0.022, 0.124, 0.0345, 0.0580, 0, ((4, 0.05, 180), (3, 0.03, 90))),
    'hamate': (-0.045, 0.131, 0.0400, 0.0470, 12, ((3, 0.13, 90), (5, 0.03, 0))),
    'triquetrum': (-0.083, 0.077, 0.0330, 0.0340, 25, ((3, 0.07, 20), (4, 0.04, 10))),
    'lunate': (-0.015, 0.038, 0.0410, 0.0310, -8, ((2, 0.05, 90), (3, 0.10, -90))),
    'scaphoid': (0.065, 0.062, 0.0300, 0.0500, 42, ((2, 0.05, 0), (3, 0.07, 30))),
    'trapezoid': (0.081, 0.150, 0.0290, 0.0330, 10, ((3, 0.09, 90), (4, 0.05, 45))),
    'trapezium': (0.128, 0.127, 0.0320, 0.0370, -38, ((3, 0.06, 0), (4, 0.07, 45))),
    'pisiform': (-0.080, 0.085, 0.0190, 0.0220, 0, ()),
}
CARPALS = tuple(_CARPALS)
#: Corners of the carpus's region, hand units.
CARPUS = np.array([(-0.130, 0), (0.172, 0), (0.172, 0.190), (-0.130, 0.190)])


def short_bones(
    joints: np.ndarray, stages: dict[str, Stage], rng: np.random.Generator
) -> tuple[list[Blob], np.ndarray]:
    """(blobs of the centres that have appeared, the capitate's centre [2])."""
    blobs = []
    centres = {}
    jitter = rng.normal(0, 1, (len(_CARPALS), 5))
    for (bone, form), noise in zip(_CARPALS.items(), jitter):
        centres[bone] = np.array(form[:2]) + noise[:2] * 0.003
        if stages[bone].present:
            blobs.append(_carpal(bone, centres[bone], stages[bone].growth, noise[2:]))
    near = stages['sesamoid']
    if near.present:
        axis = unit(joints[2] - joints[1])
        side = np.array([axis[1], -axis[0]])
        size = 0.007 + 0.006 * near.growth**0.6
        centre = joints[2] - side * 0.042 - axis * 0.004
        blobs.append(Blob('sesamoid', centre, axis, side, (size, size * 1.25), (), 0.003))
    return blobs, centres['capitate']


def _carpal(bone: str, centre: np.ndarray, growth: float, noise: np.ndarray) -> Blob:
    """One carpal; `noise` [3]: of its turn and of its two half axes."""
    _, _, across, along, angle, harmonics = _CARPALS[bone]
    # A young centre is rounder than the bone that it becomes.
    size = 0.20 + 0.80 * growth**0.62
    ripe = 0.45 + 0.55 * growth
    mean = np.sqrt(across * along)
    radii = []
    for radius, wobble in zip((across, along), noise[1:]):
        radii.append(size * (1 + 0.03 * wobble) * (radius * ripe + mean * (1 - ripe)))
    shape = []
    for order, share, phase in harmonics:
        shape.append((order, share * growth, np.radians(phase)))
    axis = turn(np.array([0.0, 1.0]), np.radians(angle + 3 * noise[0]))
    side = np.array([axis[1], -axis[0]])
    return Blob(bone, centre, axis, side, tuple(radii), tuple(shape), 0.0035)
