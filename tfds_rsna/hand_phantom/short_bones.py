"""The carpals and the thumb's sesamoid."""
import numpy as np

from tfds_rsna.hand_phantom.shapes import Blob, turn, unit

# Centre x, y; half axes across and along; turn in degrees towards the thumb; outline harmonics (order, share,
# phase in degrees, 0 = thumb side, 90 = fingertips) that make the adult's shape out of the child's round one.
_CARPALS = {
    'capitate': (.022, .124, .0345, .0580, 0, ((4, .05, 180), (3, .03, 90))),
    'hamate': (-.045, .131, .0400, .0470, 12, ((3, .13, 90), (5, .03, 0))),
    'triquetrum': (-.083, .077, .0330, .0340, 25, ((3, .07, 20), (4, .04, 10))),
    'lunate': (-.015, .038, .0410, .0310, -8, ((2, .05, 90), (3, .10, -90))),
    'scaphoid': (.065, .062, .0300, .0500, 42, ((2, .05, 0), (3, .07, 30))),
    'trapezoid': (.081, .150, .0290, .0330, 10, ((3, .09, 90), (4, .05, 45))),
    'trapezium': (.128, .127, .0320, .0370, -38, ((3, .06, 0), (4, .07, 45))),
    'pisiform': (-.080, .085, .0190, .0220, 0, ()),
}
CARPALS = tuple(_CARPALS)
#: Corners of the carpus's region, hand units.
CARPUS = np.array([(-.130, 0), (.172, 0), (.172, .190), (-.130, .190)])


def short_bones(joints, stages, rng):
    """(blobs of the centres that have appeared, the capitate's centre [2])."""
    blobs, capitate = [], None
    jitter = rng.normal(0, 1, (len(_CARPALS), 5))
    for (bone, (x, y, across, along, angle, shape)), noise in zip(_CARPALS.items(), jitter):
        centre, near = np.array([x, y]) + noise[:2] * .003, stages[bone]
        capitate = centre if bone == 'capitate' else capitate
        if not near.present:
            continue
        size, ripe, mean = .20 + .80 * near.growth ** .62, .45 + .55 * near.growth, np.sqrt(across * along)
        # a young centre is rounder than the bone that it becomes
        radii = tuple(size * (1 + .03 * wobble) * (radius * ripe + mean * (1 - ripe))
                      for radius, wobble in zip((across, along), noise[3:]))
        axis = turn(np.array([0., 1.]), np.radians(angle + 3 * noise[2]))
        shape = tuple((order, share * near.growth, np.radians(phase)) for order, share, phase in shape)
        blobs.append(Blob(bone, centre, axis, np.array([axis[1], -axis[0]]), radii, shape, .0035))
    near = stages['sesamoid']
    if near.present:
        axis = unit(joints[2] - joints[1])
        side = np.array([axis[1], -axis[0]])
        size = .007 + .006 * near.growth ** .6
        centre = joints[2] - side * .042 - axis * .004
        blobs.append(Blob('sesamoid', centre, axis, side, (size, size * 1.25), (), .003))
    return blobs, capitate
