"""Metacarpals, phalanges, radius and ulna: shaft, epiphysis, and the bridge that closes the growth plate."""
from typing import NamedTuple

import numpy as np

from tfds_rsna.hand_phantom.flesh import GIRTH
from tfds_rsna.hand_phantom.shapes import Strip, turn, unit

_SAMPLES = 49
# Half widths of base, waist and head of the middle finger's bones and the thumb's, hand units.
_WIDTHS = {'mc': (.030, .0160, .033), 'pp': (.036, .0185, .026), 'mp': (.030, .0160, .0235),
           'dp': (.024, .0105, .0150), 'mc1': (.036, .0200, .033), 'pp1': (.034, .0180, .026),
           'dp1': (.029, .0140, .0180)}
# Profiles from the growth plate to the other end: (place, which width, its share).
_PROFILES = {
    'mc': ((0, 'head', .92), (.04, 'head', .93), (.10, 'head', .80), (.20, 'waist', 1.25),
           (.34, 'waist', 1.02), (.58, 'waist', 1), (.78, 'waist', 1.25), (.91, 'base', 1),
           (.96, 'base', .98), (1, 'base', .66)),
    'pp': ((0, 'base', .93), (.05, 'base', .97), (.14, 'base', .80), (.30, 'waist', 1.15), (.52, 'waist', 1),
           (.74, 'waist', 1.12), (.88, 'head', 1), (.95, 'head', .97), (1, 'head', .68)),
    'dp': ((0, 'base', .96), (.05, 'base', .97), (.3, 'waist', 1.25), (.6, 'waist', 1), (.8, 'head', .95),
           (.93, 'head', 1), (1, 'head', .55))}
# Where the wrist's two bones begin (x, y), their lean, room for the epiphysis (child, adult), half widths of
# end and shaft, where the flare has run out, the epiphysis's wedge.
_FOREARM = {'radius': ((.050, -.010), .012, (.062, .050), (.073, .035), .24, .35),
            'ulna': ((-.088, -.020), -.035, (.058, .046), (.038, .026), .14, -.25)}


class Frame(NamedTuple):
    """Where a long bone lies: origin at the joint on the growth plate's side, `axis` into the bone."""
    origin: np.ndarray
    axis: np.ndarray
    side: np.ndarray
    length: float


class Form(NamedTuple):
    """What a long bone looks like: half widths of its profile, waist and epiphysis, `room` = distance from
    joint to shaft (child, adult), cortex relative to the usual, and the details of its epiphysis."""
    half: np.ndarray
    waist: float
    width: float
    room: tuple
    cortex: np.ndarray
    joint: float
    dome: float = 3.0
    full: float = 1.14
    density: float = .9
    wedge: float = 0.


def _smooth(places, values):
    """Evenly sampled values through the knots, corners rounded."""
    line = np.interp(np.linspace(0, 1, _SAMPLES), places, values)
    return np.convolve(np.pad(line, 2, mode='edge'), np.array([1, 2, 3, 2, 1]) / 9, mode='valid')


def _cortex(share, reach=1.):
    """Dense bone as a share of the waist's half width, thickest in mid-shaft, `reach` = 1 or sooner."""
    places = np.array((0, .10, .33, .70, .88, 1)) * reach
    return np.interp(np.linspace(0, 1, _SAMPLES), places, np.array((.09, .14, .42, .40, .15, .10)) * share)


def _grown(bone, frame, form, near):
    """The strips of one bone whose growth plate has come to the `Stage` near."""
    origin, axis, side, length = frame
    room = form.room[0] + (form.room[1] - form.room[0]) * near.growth
    gap = (.0050 + .010 * (1 - near.growth)) * (1 - near.fusion)
    plate = .0032 * (1 - .7 * near.fusion)  # what is left of it after fusion is the scar
    cortex = np.maximum(form.cortex * form.waist, .0016)
    strips = [Strip(bone, origin, axis, side, room, length, form.half, cortex, (plate, .0026), form.density)]
    if not near.present:
        return strips
    width = form.width * (.20 + (form.full - .20) * (1 - (1 - near.growth) ** 1.7)) * (1 - .08 * near.fusion)
    space = room - form.joint - gap
    thick, middle = space * (.35 + .65 * near.growth ** .7), form.joint + space / 2
    dome = (1 - np.abs(np.linspace(-1, 1, _SAMPLES)) ** form.dome) ** (1 / form.dome)
    strips.append(Strip(f'{bone}_epiphysis', origin, axis, side, middle - thick / 2, middle + thick / 2,
                        width * dome, np.full(_SAMPLES, .0022), (.0026, plate), form.density,
                        form.wedge * near.growth))
    if near.fusion > 0:
        bridge = np.linspace(width * .97, form.half[0], _SAMPLES)
        strips.append(Strip(bone, origin, axis, side, middle, room + .012, bridge, np.full(_SAMPLES, .0020),
                            (0, 0), form.density * near.fusion))
    return strips


def _region(frame, reach, half):
    """Corners [4, 2] of the growth plate's region, from just beyond the joint to `reach`."""
    corners = [(u, v) for u in (-.015, reach) for v in (-half, half)]
    return np.array([frame.origin + u * frame.axis + v * frame.side for u, v in corners])


def fingers(joints, bases, stages, open_joint, rng):
    """(strips, regions) of metacarpals and phalanges; `open_joint`: the cartilage of a child's joint."""
    stout, dense = np.clip(rng.normal(1, .05), .88, 1.12), np.clip(rng.normal(1, .12), .7, 1.3)
    ends = {'mc1': (joints[1], joints[2]), 'pp1': (joints[2], joints[3]), 'dp1': (joints[3], joints[4])}
    for finger in range(2, 6):
        points = [bases[finger], *joints[4 * finger - 3:4 * finger + 1]]
        ends |= {f'{kind}{finger}': points[k:k + 2] for k, kind in enumerate(('mc', 'pp', 'mp', 'dp'))}
    strips, regions = [], {}
    for bone, (start, stop) in ends.items():
        kind, finger = bone[:2], int(bone[2])
        widths = np.array(_WIDTHS.get(bone, _WIDTHS[kind])) * GIRTH[finger] * stout
        widths = dict(zip(('base', 'waist', 'head'), widths))
        axis, length = unit(stop - start), np.hypot(*(stop - start))
        side = np.array([axis[1], -axis[0]])
        if kind == 'mc' and finger > 1:  # its plate lies at the head: described from the knuckle down
            frame = Frame(stop, -axis, -side, length - .003 - .6 * open_joint)
            profile, width, room = _PROFILES['mc'], widths['head'], (.064, .048)
            look = {'dome': 2.3, 'full': 1.10}
        else:
            short = .001 if kind == 'dp' else .004 + .7 * open_joint
            frame = Frame(start, axis, side, length - short)
            profile, width, look = _PROFILES['dp' if kind == 'dp' else 'pp'], widths['base'], {}
            room = (.020 + .127 * length, .0142 + .104 * length)
        half = _smooth([p for p, _, _ in profile], [widths[which] * share for _, which, share in profile])
        form = Form(half, widths['waist'], width, room, _cortex(dense), .005 + .5 * open_joint, **look)
        strips += _grown(bone, frame, form, stages[f'{bone}_epiphysis'])
        regions[f'{bone}_growth_plate'] = _region(frame, room[0] + .025, .042)
    return strips, regions


def forearm(stages, bent, rng):
    """(strips, regions) of radius and ulna, running off the film; `bent` is the forearm's turn in radians."""
    dense = np.clip(rng.normal(1, .12), .7, 1.3)
    strips, regions = [], {}
    for bone, (origin, lean, room, (end, shaft), flare, wedge) in _FOREARM.items():
        axis = turn(unit(np.array([lean, -1.])), bent)
        side = np.array([-axis[1], axis[0]])  # towards the thumb: the axis points down
        frame = Frame(turn(np.array(origin), bent), axis, side, 1.5)
        flaring = np.array((.95, .97, .9, .55, 0, 0, 0)) * end
        half = _smooth((0, .012, flare * .12, flare * .3, flare * .55, flare, 1),
                       flaring + np.array((0, 0, .1, .45, 1.18, 1, 1)) * shaft)
        form = Form(half, shaft, end, room, _cortex(dense, .45), .001, density=.5, wedge=wedge)
        strips += _grown(bone, frame, form, stages[f'{bone}_epiphysis'])
        regions[f'{bone}_growth_plate'] = _region(frame, .10, 1.25 * end)
    return strips, regions
