"""Posture and soft tissue: drawn from one stream that never sees the age."""
import numpy as np

from tfds_rsna.hand_phantom.shapes import Capsule, turn, unit

#: COCO-hand's 21 points: wrist, then four of the thumb and of each finger, base to tip; (x, y) in hand units.
JOINTS = np.array([
    (0, 0), (.172, .150), (.297, .347), (.365, .493), (.419, .585),
    (.130, .535), (.148, .742), (.157, .859), (.160, .945),
    (0, .530), (-.014, .761), (-.027, .904), (-.036, .997),
    (-.110, .477), (-.154, .685), (-.180, .825), (-.192, .920),
    (-.204, .414), (-.284, .558), (-.327, .647), (-.356, .727)])
_BASES = {2: (.081, .187), 3: (.019, .184), 4: (-.035, .181), 5: (-.086, .166)}  # of the metacarpals
#: Thickness of a finger relative to the middle one.
GIRTH = {1: 1.0, 2: .97, 3: 1.0, 4: .93, 5: .80}


def pose(rng):
    """Draws one posture: joints [21, 2] and the metacarpals' bases {finger: [2]}, hand units."""
    spread = np.clip(rng.normal(0, .055), -.11, .13)
    lean = {1: np.clip(rng.normal(0, .10), -.2, .2), 2: spread, 3: 0., 4: -.6 * spread, 5: -1.3 * spread}
    bend = rng.normal(0, .028, (6, 4))
    length = np.clip(rng.normal(1, .018, (6, 4)), .95, 1.05)
    joints, bases = JOINTS.copy(), {finger: np.array(base) for finger, base in _BASES.items()}
    for finger in range(1, 6):
        rows = slice(4 * finger - 3, 4 * finger + 1)
        chain = JOINTS[rows] if finger == 1 else np.vstack([bases[finger], JOINTS[rows]])
        # A finger leans mostly at its knuckle, the thumb where it meets the wrist.
        angle = lean[1] if finger == 1 else .25 * lean[finger] + .3 * bend[finger, 0]
        new = [chain[0]]
        for k, step in enumerate(np.diff(chain, axis=0)):
            if k == 1 and finger != 1:
                angle += .75 * lean[finger]
            if k > 0:
                angle += bend[finger, k]
            new.append(new[-1] + turn(step, angle) * length[finger, k])
        joints[rows] = new[-4:]
    return joints, bases | {1: joints[1]}


def flesh(joints, bases, bent, rng):
    """Draws the skin's outline as a list of `Capsule`s; `bent` is the forearm's turn in radians."""
    plump, wrist = np.clip(rng.normal(1.06, .08), .88, 1.24), np.clip(rng.normal(1, .05), .88, 1.12)
    parts = []

    def add(start, stop, first, last, depth):
        radii = (first * plump, last * plump)
        parts.append(Capsule(np.asarray(start, float), np.asarray(stop, float), radii, depth * plump))

    for finger in range(2, 6):
        knuckle, middle, last, tip = joints[4 * finger - 3:4 * finger + 1]
        g = GIRTH[finger]
        add(knuckle, middle, .052 * g, .0445 * g, .043 * g)
        add(middle, last, .0435 * g, .040 * g, .040 * g)
        add(last, tip - .016 * unit(tip - last), .0395 * g, .0345 * g, .035 * g)
        reach = .063 if finger in (3, 4) else .056
        add(bases[finger], knuckle + .028 * unit(middle - knuckle), .075, reach, .056)
    root, knuckle, last, tip = joints[1:5]
    add(root, knuckle, .075, .060, .054)
    add(knuckle, last, .056, .048, .047)
    add(last, tip - .016 * unit(tip - last), .047, .037, .040)
    web = .45 * root + .55 * knuckle
    add(web, bases[2] + .55 * (joints[5] - bases[2]), .050, .045, .050)
    add((-.085, .15), .3 * bases[5] + .7 * joints[17], .070, .062, .056)  # the palm's heel
    add((.135, .125), (.050, .01), .058, .072, .060)  # ball of the thumb
    add((-.055, .10), (.075, .11), .088, .088, .064)  # carpus
    for x in (-.060, .045):
        bend = turn(np.array([x, -.10]), bent)
        add(turn(np.array([x, .04]), bent / 2), bend, .082 * wrist, .086 * wrist, .066)
        add(bend, turn(np.array([x * 1.05, -1.4]), bent), .086 * wrist, .150 * wrist, .076)
    return parts
