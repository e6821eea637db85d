"""The phantom's hand as shapes: bones and soft tissue as functions of (months, male) and of chance.

Hand units: the wrist joint lies at the origin, the middle finger's tip about 1 away; x points to the thumb's
side, y to the fingertips. Joints after the median of 430 annotated RSNA hands (they hardly depend on age);
widths and carpal positions measured on a 15-year-old's film. Nothing here but the ossification centres
depends on age: pose, widths, cortex and soft tissue are drawn independently of it.
"""
from typing import NamedTuple

import numpy as np

from tfds_rsna.hand_phantom.schedule import SCHEDULE, maturity, stage

#: COCO-hand's 21 points: wrist, then four of the thumb and of each finger, base to tip; (x, y), hand units.
JOINTS = np.array([
    (0, 0), (.172, .150), (.297, .347), (.365, .493), (.419, .585),
    (.130, .535), (.148, .742), (.157, .859), (.160, .945), (0, .530), (-.014, .761), (-.027, .904), (-.036, .997),
    (-.110, .477), (-.154, .685), (-.180, .825), (-.192, .920),
    (-.204, .414), (-.284, .558), (-.327, .647), (-.356, .727)])
_BASES = {2: (.081, .187), 3: (.019, .184), 4: (-.035, .181), 5: (-.086, .166)}  # of the metacarpals
_GIRTH = {1: 1.0, 2: .97, 3: 1.0, 4: .93, 5: .80}
# Half widths of base, waist and head, before _GIRTH.
_WIDTHS = {'mc': (.031, .0175, .033), 'pp': (.036, .0195, .026), 'mp': (.030, .0165, .0235),
           'dp': (.024, .0105, .0150), 'mc1': (.036, .0210, .033), 'pp1': (.034, .0185, .026),
           'dp1': (.029, .0140, .0180)}
# centre x, y; half axes across and along; turn in degrees towards the thumb; outline harmonics (order, share,
# phase in degrees) that make the adult's shape out of the child's round one.
_CARPALS = {
    'capitate': (.022, .124, .0315, .056, 0, ((2, .03, 0), (3, .07, 90), (4, .05, 45))),
    'hamate': (-.043, .133, .036, .044, 10, ((3, .15, 90), (5, .03, 0))),
    'triquetrum': (-.080, .078, .030, .031, 25, ((3, .08, 20), (4, .04, 10))),
    'lunate': (-.014, .037, .037, .028, -8, ((2, .05, 90), (3, .12, -90))),
    'scaphoid': (.064, .062, .028, .045, 42, ((2, .06, 0), (3, .08, 30))),
    'trapezoid': (.080, .148, .027, .030, 10, ((3, .10, 90), (4, .05, 45))),
    'trapezium': (.126, .126, .029, .034, -38, ((3, .06, 0), (4, .08, 45))),
    'pisiform': (-.078, .085, .019, .022, 0, ()),
}

_LONG = ([f'mc{f}' for f in range(1, 6)] + [f'pp{f}' for f in range(1, 6)] + [f'mp{f}' for f in range(2, 6)]
         + [f'dp{f}' for f in range(1, 6)] + ['radius', 'ulna'])
#: Rows of `bone_boxes`: each whole bone, its epiphysis, the region of its growth plate, the carpals, the carpus.
BONE_NAMES = tuple(_LONG + [f'{b}_epiphysis' for b in _LONG] + [f'{b}_growth_plate' for b in _LONG]
                   + list(_CARPALS) + ['sesamoid', 'carpus'])


class Strip(NamedTuple):
    """A shape along an axis: `half` and `cortex` are half width and cortical thickness, evenly sampled on
    [start, stop]; `plates` the thickness of bone closing the two ends; `wedge` thickens it on the +side."""
    bone: str
    origin: np.ndarray
    axis: np.ndarray
    side: np.ndarray
    start: float
    stop: float
    half: np.ndarray
    cortex: np.ndarray
    plates: tuple
    weight: float = 1.0
    wedge: float = 0.0


class Blob(NamedTuple):
    """A short bone: an ellipsoid whose outline radius is modulated by `harmonics` (order, share, radians)."""
    bone: str
    centre: np.ndarray
    axis: np.ndarray
    side: np.ndarray
    radii: tuple
    harmonics: tuple
    cortex: float


class Capsule(NamedTuple):
    """Soft tissue between two points with their radii; `depth` is half its thickness towards the film."""
    start: np.ndarray
    stop: np.ndarray
    radii: tuple
    depth: float


class Hand(NamedTuple):
    joints: np.ndarray   # [21, 2] COCO order
    capitate: np.ndarray  # [2]
    strips: list
    blobs: list
    flesh: list
    regions: dict        # name -> [4, 2] corners: growth plates and carpus, at any age


def _unit(vector):
    return vector / np.hypot(*vector)


def _turn(vector, angle):
    """Turns (x, y) by radians towards the thumb's side (clockwise, y up)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * vector[0] + s * vector[1], -s * vector[0] + c * vector[1]])


def pose(rng):
    """Draws the joints [21, 2] and the metacarpals' bases {finger: [2]} of one posture; hand units."""
    spread = np.clip(rng.normal(0, .055), -.11, .13)
    bases = {f: np.array(b) for f, b in _BASES.items()}
    joints = JOINTS.copy()
    lean = {1: np.clip(rng.normal(.0, .10), -.2, .2), 2: spread, 3: 0., 4: -.6 * spread, 5: -1.3 * spread}
    bend = rng.normal(0, .028, (6, 4))
    length = np.clip(rng.normal(1, .018, (6, 4)), .95, 1.05)
    for finger in range(1, 6):
        first = 4 * finger - 3
        chain = JOINTS[first:first + 4] if finger == 1 else np.vstack([bases[finger], JOINTS[first:first + 4]])
        turn, point = .25 * lean[finger] + .3 * bend[finger, 0], chain[0]
        new = [point]
        if finger == 1:
            turn = lean[1]
        for k, step in enumerate(np.diff(chain, axis=0)):
            if k == 1 and finger != 1:
                turn += .75 * lean[finger]
            turn += bend[finger, k] * (0 if k == 0 else 1)
            point = point + _turn(step, turn) * length[finger, k]
            new.append(point)
        joints[first:first + 4] = np.array(new) if finger == 1 else np.array(new[1:])
    bases[1] = joints[1]
    return joints, bases


def _profile(knots, values, samples=49):
    """Half widths through the knots, evenly sampled and smoothed."""
    line = np.interp(np.linspace(0, 1, samples), knots, values)
    padded = np.pad(line, 3, mode='edge')
    return np.convolve(padded, np.array([1, 2, 3, 4, 3, 2, 1]) / 16, mode='valid')


def _dome(power, samples=49):
    """A closed outline, 0 at both ends, 1 in the middle."""
    return (1 - np.abs(np.linspace(-1, 1, samples)) ** power) ** (1 / power)


def _growing(bone, at, girth, rng_shape, room, near, profile, waist, width, joint, wedge=0., dome=3.0, full=1.06,
             flat=.9):
    """A long bone with a growth plate at its near end: shaft, epiphysis (if present), and the bridge that
    closes the plate. `at` = (origin, axis, side, length), origin at the joint on the plate's side; `room` =
    (child's, adult's) distance from joint to metaphysis; `near` the `Stage`; `profile` = (knots, values); `flat` = thickness over width."""
    origin, axis, side, length = at
    space = room[0] + (room[1] - room[0]) * near.growth
    gap = (.0065 + .006 * (1 - near.growth)) * (1 - near.fusion)
    cortex = np.interp(np.linspace(0, 1, 49), (0, .12, .35, .7, .9, 1), (.08, .14, .40, .38, .15, .10)) * waist
    plate = .0030 * (1 - .75 * near.fusion)
    strips = [Strip(bone, origin, axis, side, space, length, _profile(*profile), np.maximum(cortex * rng_shape, .0016),
                    (plate, .0026), flat)]
    if not near.present:
        return strips
    relative = (.20 + (full - .20) * (1 - (1 - near.growth) ** 2.2)) * (1 - .02 * near.fusion)
    thick = (space - joint - gap) * (.30 + .70 * near.growth ** .75)
    middle = joint + (space - joint - gap) / 2
    strips.append(Strip(f'{bone}_epiphysis', origin, axis, side, middle - thick / 2, middle + thick / 2,
                        width * relative * _dome(dome), np.full(49, .0022),
                        (.0026, plate), flat, wedge * near.growth))
    if near.fusion > 0:
        bridge = np.linspace(width * relative * .97, profile[1][0], 49)
        strips.append(Strip(bone, origin, axis, side, middle, space + .012, bridge, np.full(49, .0020),
                            (0, 0), flat * near.fusion))
    return strips


def _stages(months, male, rng):
    """Every centre's `Stage`; each has its own small lead or lag, as real hands do (ours)."""
    lag = dict(zip(SCHEDULE, rng.normal(0, 1, len(SCHEDULE))))
    return {name: stage(name, max(months + lag[name] * (.4 + .022 * months), .5), male) for name in SCHEDULE}


def _long_bones(joints, bases, stages, open_joint, rng):
    """Strips and growth-plate regions of metacarpals and phalanges."""
    strips, regions = [], {}
    stout, cortex = np.clip(rng.normal(1, .05), .88, 1.12), np.clip(rng.normal(1, .12), .7, 1.3)
    chains = {'mc1': (1, 2), 'pp1': (2, 3), 'dp1': (3, 4)}
    for f in range(2, 6):
        first = 4 * f - 3
        chains |= {f'mc{f}': (None, first), f'pp{f}': (first, first + 1), f'mp{f}': (first + 1, first + 2),
                   f'dp{f}': (first + 2, first + 3)}
    for bone, (a, b) in chains.items():
        kind, finger = bone[:2], int(bone[2])
        start, stop = bases[finger] if a is None else joints[a], joints[b]
        base, waist, head = np.array(_WIDTHS.get(bone, _WIDTHS[kind])) * _GIRTH[finger] * stout
        axis, length, near = _unit(stop - start), np.hypot(*(stop - start)), stages[f'{bone}_epiphysis']
        side, joint = np.array([axis[1], -axis[0]]), .005 + .5 * open_joint
        if a is None:  # the plate lies at the head: the strip runs from the knuckle down
            at = (stop, -axis, -side, length - .003 - .6 * open_joint)
            profile = ((0, .05, .11, .2, .34, .55, .76, .91, .97, 1),
                       (head * .90, head * .94, head * .86, waist * 1.35, waist * 1.06, waist, waist * 1.2, base, base, base * .8))
            strips += _growing(bone, at, finger, cortex, (.066, .050), near, profile, waist, head, joint, dome=2.3, full=1.03)
            room = .066
        else:
            room = .015 + .11 * length
            end = length - (.001 if kind == 'dp' else .004 + open_joint * .7)
            if kind == 'dp':
                profile = ((0, .05, .3, .6, .8, .93, 1), (base * .96, base * .97, waist * 1.25, waist, head * .95, head, head * .55))
            else:
                profile = ((0, .05, .22, .52, .74, .88, .95, 1),
                           (base * .93, base * .98, waist * 1.32, waist, waist * 1.12, head, head * .97, head * .70))
            strips += _growing(bone, (start, axis, side, end), finger, cortex, (room * 1.15 + .003, room * .95), near, profile,
                               waist, base, joint)
        origin, along = (stop, -axis) if a is None else (start, axis)
        corners = [(u, v) for u in (-.015, room * 1.15 + .028) for v in (-.042, .042)]
        regions[f'{bone}_growth_plate'] = np.array([origin + u * along + v * side for u, v in corners])
    return strips, regions


def _forearm(stages, turn, rng):
    strips, regions = [], {}
    cortex = np.clip(rng.normal(1, .12), .7, 1.3)
    shapes = {'radius': ((.050, -.010), 7, (.062, .050), (.073, .036), .24, .35),
              'ulna': ((-.088, -.020), 0, (.058, .046), (.038, .027), .14, -.25)}
    for bone, (origin, lean, room, (width, waist), flare, wedge) in shapes.items():
        axis = _turn(np.array([.012 if bone == 'radius' else -.035, -1.]), turn)
        axis = _unit(axis)
        side = np.array([-axis[1], axis[0]])  # towards the thumb, as the axis points down
        knots = (0, .012, flare * .12, flare * .3, flare * .55, flare, 1)
        profile = (knots, (width * .96, width * .97, width * .90 + waist * .1, width * .55 + waist * .45, waist * 1.18,
                           waist, waist * .95))
        at = (_turn(np.array(origin), turn), axis, side, 1.5)
        strips += _growing(bone, at, 1, cortex, room, stages[f'{bone}_epiphysis'], profile, waist, width, .001, wedge, flat=.50)
        corners = [(u, v) for u in (-.015, .10) for v in (-1.25 * width, 1.25 * width)]
        regions[f'{bone}_growth_plate'] = np.array([at[0] + u * axis + v * side for u, v in corners])
    return strips, regions


def _short_bones(joints, stages, months, male, rng):
    blobs, jitter = [], rng.normal(0, 1, (len(_CARPALS), 4))
    capitate = None
    for (bone, (x, y, a, b, angle, shape)), noise in zip(_CARPALS.items(), jitter):
        centre = np.array([x, y]) + noise[:2] * .003
        capitate = centre if bone == 'capitate' else capitate
        near = stages[bone]
        if not near.present:
            continue
        size = .20 + .80 * near.growth ** .62
        round_ = np.sqrt(a * b)  # a young centre is rounder than the bone it becomes
        radii = tuple(size * (1 + .04 * noise[2 + k]) * (r * (.45 + .55 * near.growth) + round_ * .55 * (1 - near.growth))
                      for k, r in enumerate((a, b)))
        axis = _turn(np.array([0., 1.]), np.radians(angle + 3 * noise[3]))
        shape = tuple((n, share * near.growth, np.radians(phase)) for n, share, phase in shape)
        blobs.append(Blob(bone, centre, axis, np.array([axis[1], -axis[0]]), radii, shape, .0035))
    if stages['sesamoid'].present:
        axis = _unit(joints[2] - joints[1])
        side = np.array([axis[1], -axis[0]])
        size = .006 + .006 * stages['sesamoid'].growth ** .6
        blobs.append(Blob('sesamoid', joints[2] - side * .036 - axis * .004, axis, side, (size, size * 1.25), (), .002))
    return blobs, capitate


def _flesh(joints, bases, turn, rng):
    """Skin outline as capsules; `plump` is drawn independently of age."""
    plump = np.clip(rng.normal(1.06, .08), .88, 1.24)
    parts = []

    def add(start, stop, r0, r1, depth):
        parts.append(Capsule(np.asarray(start, float), np.asarray(stop, float), (r0 * plump, r1 * plump), depth * plump))

    for f in range(2, 6):
        knuckle, middle, last, tip = joints[4 * f - 3:4 * f + 1]
        g = _GIRTH[f]
        add(knuckle, middle, .052 * g, .0445 * g, .043 * g)
        add(middle, last, .0435 * g, .040 * g, .040 * g)
        add(last, tip - .016 * _unit(tip - last), .0395 * g, .0345 * g, .035 * g)
        add(bases[f], knuckle + .028 * _unit(middle - knuckle), .075, .063 if f in (3, 4) else .056, .068)
    root, knuckle, last, tip = joints[1:5]
    add(root, knuckle, .075, .060, .062)
    add(knuckle, last, .056, .048, .047)
    add(last, tip - .016 * _unit(tip - last), .047, .037, .040)
    add(.45 * root + .55 * knuckle, bases[2] + .55 * (joints[5] - bases[2]), .050, .045, .058)  # the thumb's web
    add((-.085, .15), .3 * bases[5] + .7 * joints[17], .070, .062, .066)                          # hypothenar
    add((.135, .125), (.050, .01), .058, .072, .070)                                              # wrist's thumb side
    add((-.055, .10), (.075, .11), .088, .088, .078)                                              # carpus
    wrist = np.clip(rng.normal(1, .05), .88, 1.12)
    for x in (-.060, .045):
        add(_turn(np.array([x, .04]), turn / 2), _turn(np.array([x, -.10]), turn), .082 * wrist, .086 * wrist, .080)
        add(_turn(np.array([x, -.10]), turn), _turn(np.array([x * 1.05, -1.4]), turn), .086 * wrist, .150 * wrist, .092)
    return parts


def hand(months, male, rng):
    """Draws the `Hand` of a bone age in months and a sex."""
    shape, age = rng.spawn(2)  # the pose's draws do not depend on how many the bones take
    joints, bases = pose(shape)
    turn = np.clip(shape.normal(0, .09), -.22, .22)
    stages = _stages(months, male, age)
    open_joint = .010 * (1 - maturity(months, male))
    strips, regions = _long_bones(joints, bases, stages, open_joint, age)
    forearm, more = _forearm(stages, turn, age)
    blobs, capitate = _short_bones(joints, stages, months, male, age)
    regions |= more
    regions['carpus'] = np.array([(-.125, 0), (.170, 0), (.170, .185), (-.125, .185)])
    return Hand(joints, capitate, strips + forearm, blobs, _flesh(joints, bases, turn, shape), regions)
