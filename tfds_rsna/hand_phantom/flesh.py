"""Posture and soft tissue: drawn from one stream that never sees the age."""

import numpy as np

from tfds_rsna.hand_phantom.shapes import Capsule, turn, unit

#: COCO-hand's 21 points, (x, y) in hand units: the wrist, then four of the thumb and of each
#: finger, base to tip.
JOINTS = np.array(
    [
        (0, 0),
        (0.172, 0.150),
        (0.297, 0.347),
        (0.365, 0.493),
        (0.419, 0.585),
        (0.130, 0.535),
        (0.148, 0.742),
        (0.157, 0.859),
        (0.160, 0.945),
        (0, 0.530),
        (-0.014, 0.761),
        (-0.027, 0.904),
        (-0.036, 0.997),
        (-0.110, 0.477),
        (-0.154, 0.685),
        (-0.180, 0.825),
        (-0.192, 0.920),
        (-0.204, 0.414),
        (-0.284, 0.558),
        (-0.327, 0.647),
        (-0.356, 0.727),
    ]
)
# Of the metacarpals.
_BASES = {
    2: (0.081, 0.187),
    3: (0.019, 0.184),
    4: (-0.035, 0.181),
    5: (-0.086, 0.166),
}
#: Thickness of a finger relative to the middle one.
GIRTH = {1: 1.0, 2: 0.97, 3: 1.0, 4: 0.93, 5: 0.80}


def pose(rng: np.random.Generator) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Draws one posture: joints [21, 2] and the metacarpals' bases {finger: [2]}, hand units."""
    spread = np.clip(rng.normal(0, 0.055), -0.11, 0.13)
    lean = {
        1: np.clip(rng.normal(0, 0.10), -0.2, 0.2),
        2: spread,
        3: 0.0,
        4: -0.6 * spread,
        5: -1.3 * spread,
    }
    bend = rng.normal(0, 0.028, (6, 4))
    length = np.clip(rng.normal(1, 0.018, (6, 4)), 0.95, 1.05)
    joints = JOINTS.copy()
    bases = {finger: np.array(base) for finger, base in _BASES.items()}
    for finger in range(1, 6):
        rows = slice(4 * finger - 3, 4 * finger + 1)
        # A finger leans mostly at its knuckle, the thumb where it meets the wrist.
        if finger == 1:
            chain = JOINTS[rows]
            angle = lean[1]
        else:
            chain = np.vstack([bases[finger], JOINTS[rows]])
            angle = 0.25 * lean[finger] + 0.3 * bend[finger, 0]
        new = [chain[0]]
        for k, step in enumerate(np.diff(chain, axis=0)):
            if k == 1 and finger != 1:
                angle += 0.75 * lean[finger]
            if k > 0:
                angle += bend[finger, k]
            new.append(new[-1] + turn(step, angle) * length[finger, k])
        joints[rows] = new[-4:]
    return joints, bases | {1: joints[1]}


def flesh(
    joints: np.ndarray, bases: dict[int, np.ndarray], bent: float, rng: np.random.Generator
) -> list[Capsule]:
    """Draws the skin's outline.

    Args:
        joints: [21, 2], from `pose`.
        bases: of the metacarpals, {finger: [2]}, from `pose`.
        bent: the forearm's turn in radians.
        rng: draws the thickness of all parts and of the wrist.
    """
    plump = np.clip(rng.normal(1.06, 0.08), 0.88, 1.24)
    wrist = np.clip(rng.normal(1, 0.05), 0.88, 1.12)
    parts = []

    def add(start, stop, first, last, depth):
        start = np.asarray(start, float)
        stop = np.asarray(stop, float)
        parts.append(Capsule(start, stop, (first * plump, last * plump), depth * plump))

    for finger in range(2, 6):
        knuckle, middle, last, tip = joints[4 * finger - 3 : 4 * finger + 1]
        g = GIRTH[finger]
        add(knuckle, middle, 0.052 * g, 0.0445 * g, 0.043 * g)
        add(middle, last, 0.0435 * g, 0.040 * g, 0.040 * g)
        add(last, tip - 0.016 * unit(tip - last), 0.0395 * g, 0.0345 * g, 0.035 * g)
        reach = 0.063 if finger in (3, 4) else 0.056
        add(bases[finger], knuckle + 0.028 * unit(middle - knuckle), 0.075, reach, 0.056)
    root, knuckle, last, tip = joints[1:5]
    add(root, knuckle, 0.075, 0.060, 0.054)
    add(knuckle, last, 0.056, 0.048, 0.047)
    add(last, tip - 0.016 * unit(tip - last), 0.047, 0.037, 0.040)
    web = 0.45 * root + 0.55 * knuckle
    add(web, bases[2] + 0.55 * (joints[5] - bases[2]), 0.050, 0.045, 0.050)
    add((-0.085, 0.15), 0.3 * bases[5] + 0.7 * joints[17], 0.070, 0.062, 0.056)  # the palm's heel
    add((0.135, 0.125), (0.050, 0.01), 0.058, 0.072, 0.060)  # ball of the thumb
    add((-0.055, 0.10), (0.075, 0.11), 0.088, 0.088, 0.064)  # carpus
    for x in (-0.060, 0.045):
        bend = turn(np.array([x, -0.10]), bent)
        add(turn(np.array([x, 0.04]), bent / 2), bend, 0.082 * wrist, 0.086 * wrist, 0.066)
        add(bend, turn(np.array([x * 1.05, -1.4]), bent), 0.086 * wrist, 0.150 * wrist, 0.076)
    return parts
