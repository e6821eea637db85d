"""Metacarpals, phalanges, radius and ulna: shaft, epiphysis, and the bridge that closes the growth
plate.
"""

from typing import NamedTuple

import numpy as np

from tfds_rsna.hand_phantom.flesh import GIRTH
from tfds_rsna.hand_phantom.shapes import Strip, turn, unit

_SAMPLES = 49
# Half widths of base, waist and head of the middle finger's bones and the thumb's, hand units.
_WIDTHS = {
    'mc': (0.030, 0.0160, 0.033),
    'pp': (0.036, 0.0185, 0.026),
    'mp': (0.030, 0.0160, 0.0235),
    'dp': (0.024, 0.0105, 0.0150),
    'mc1': (0.036, 0.0200, 0.033),
    'pp1': (0.034, 0.0180, 0.026),
    'dp1': (0.029, 0.0140, 0.0180),
}
# Profiles from the growth plate to the other end: (place, which width, its share).
_PROFILES = {
    'mc': (
        (0, 'head', 0.92),
        (0.04, 'head', 0.93),
        (0.10, 'head', 0.80),
        (0.20, 'waist', 1.25),
        (0.34, 'waist', 1.02),
        (0.58, 'waist', 1),
        (0.78, 'waist', 1.25),
        (0.91, 'base', 1),
        (0.96, 'base', 0.98),
        (1, 'base', 0.66),
    ),
    'pp': (
        (0, 'base', 0.93),
        (0.05, 'base', 0.97),
        (0.14, 'base', 0.80),
        (0.30, 'waist', 1.15),
        (0.52, 'waist', 1),
        (0.74, 'waist', 1.12),
        (0.88, 'head', 1),
        (0.95, 'head', 0.97),
        (1, 'head', 0.68),
    ),
    'dp': (
        (0, 'base', 0.96),
        (0.05, 'base', 0.97),
        (0.3, 'waist', 1.25),
        (0.6, 'waist', 1),
        (0.8, 'head', 0.95),
        (0.93, 'head', 1),
        (1, 'head', 0.55),
    ),
}
# Where the wrist's two bones begin (x, y), their lean, room for the epiphysis (child, adult), half
# widths of end and shaft, where the flare has run out, the epiphysis's wedge.
_FOREARM = {
    'radius': ((0.050, -0.010), 0.012, (0.062, 0.050), (0.073, 0.035), 0.24, 0.35),
    'ulna': ((-0.088, -0.020), -0.035, (0.058, 0.046), (0.038, 0.026), 0.14, -0.25),
}


class Frame(NamedTuple):
    """Where a long bone lies: origin at the joint on the growth plate's side, `axis` into the bone."""

    origin: np.ndarray
    axis: np.ndarray
    side: np.ndarray
    length: float


class Form(NamedTuple):
    """What a long bone looks like: half widths of its profile, waist and epiphysis, `room` =
    distance from joint to shaft (child, adult), cortex relative to the usual, and the details of
    its epiphysis.
    """

    half: np.ndarray
    waist: float
    width: float
    room: tuple
    cortex: np.ndarray
    joint: float
    dome: float = 3.0
    full: float = 1.14
    density: float = 0.9
    wedge: float = 0.0


def _smooth(places, values):
    """Evenly sampled values through the knots, corners rounded."""
    line = np.interp(np.linspace(0, 1, _SAMPLES), places, values)
    return np.convolve(np.pad(line, 2, mode='edge'), np.array([1, 2, 3, 2, 1]) / 9, mode='valid')


def _cortex(share, reach=1.0):
    """Dense bone as a share of the waist's half width, thickest in mid-shaft, `reach` = 1 or
    sooner.
    """
    places = np.array((0, 0.10, 0.33, 0.70, 0.88, 1)) * reach
    return np.interp(
        np.linspace(0, 1, _SAMPLES), places, np.array((0.09, 0.14, 0.42, 0.40, 0.15, 0.10)) * share
    )


def _grown(bone, frame, form, near):
    """The strips of one bone whose growth plate has come to the `Stage` near."""
    origin, axis, side, length = frame
    room = form.room[0] + (form.room[1] - form.room[0]) * near.growth
    gap = (0.0050 + 0.010 * (1 - near.growth)) * (1 - near.fusion)
    plate = 0.0032 * (1 - 0.7 * near.fusion)  # what is left of it after fusion is the scar
    cortex = np.maximum(form.cortex * form.waist, 0.0016)
    strips = [
        Strip(
            bone, origin, axis, side, room, length, form.half, cortex, (plate, 0.0026), form.density
        )
    ]
    if not near.present:
        return strips
    width = (
        form.width
        * (0.20 + (form.full - 0.20) * (1 - (1 - near.growth) ** 1.7))
        * (1 - 0.08 * near.fusion)
    )
    space = room - form.joint - gap
    thick, middle = space * (0.35 + 0.65 * near.growth**0.7), form.joint + space / 2
    dome = (1 - np.abs(np.linspace(-1, 1, _SAMPLES)) ** form.dome) ** (1 / form.dome)
    strips.append(
        Strip(
            f'{bone}_epiphysis',
            origin,
            axis,
            side,
            middle - thick / 2,
            middle + thick / 2,
            width * dome,
            np.full(_SAMPLES, 0.0022),
            (0.0026, plate),
            form.density,
            form.wedge * near.growth,
        )
    )
    if near.fusion > 0:
        bridge = np.linspace(width * 0.97, form.half[0], _SAMPLES)
        strips.append(
            Strip(
                bone,
                origin,
                axis,
                side,
                middle,
                room + 0.012,
                bridge,
                np.full(_SAMPLES, 0.0020),
                (0, 0),
                form.density * near.fusion,
            )
        )
    return strips


def _region(frame, reach, half):
    """Corners [4, 2] of the growth plate's region, from just beyond the joint to `reach`."""
    corners = [(u, v) for u in (-0.015, reach) for v in (-half, half)]
    return np.array([frame.origin + u * frame.axis + v * frame.side for u, v in corners])


def fingers(joints, bases, stages, open_joint, rng):
    """(strips, regions) of metacarpals and phalanges; `open_joint`: the cartilage of a child's
    joint.
    """
    stout, dense = np.clip(rng.normal(1, 0.05), 0.88, 1.12), np.clip(rng.normal(1, 0.12), 0.7, 1.3)
    ends = {
        'mc1': (joints[1], joints[2]),
        'pp1': (joints[2], joints[3]),
        'dp1': (joints[3], joints[4]),
    }
    for finger in range(2, 6):
        points = [bases[finger], *joints[4 * finger - 3 : 4 * finger + 1]]
        ends |= {
            f'{kind}{finger}': points[k : k + 2] for k, kind in enumerate(('mc', 'pp', 'mp', 'dp'))
        }
    strips, regions = [], {}
    for bone, (start, stop) in ends.items():
        kind, finger = bone[:2], int(bone[2])
        widths = np.array(_WIDTHS.get(bone, _WIDTHS[kind])) * GIRTH[finger] * stout
        widths = dict(zip(('base', 'waist', 'head'), widths))
        axis, length = unit(stop - start), np.hypot(*(stop - start))
        side = np.array([axis[1], -axis[0]])
        if (
            kind == 'mc' and finger > 1
        ):  # its plate lies at the head: described from the knuckle down
            frame = Frame(stop, -axis, -side, length - 0.003 - 0.6 * open_joint)
            profile, width, room = _PROFILES['mc'], widths['head'], (0.064, 0.048)
            look = {'dome': 2.3, 'full': 1.10}
        else:
            short = 0.001 if kind == 'dp' else 0.004 + 0.7 * open_joint
            frame = Frame(start, axis, side, length - short)
            profile, width, look = _PROFILES['dp' if kind == 'dp' else 'pp'], widths['base'], {}
            room = (0.020 + 0.127 * length, 0.0142 + 0.104 * length)
        half = _smooth(
            [p for p, _, _ in profile], [widths[which] * share for _, which, share in profile]
        )
        form = Form(
            half, widths['waist'], width, room, _cortex(dense), 0.005 + 0.5 * open_joint, **look
        )
        strips += _grown(bone, frame, form, stages[f'{bone}_epiphysis'])
        regions[f'{bone}_growth_plate'] = _region(frame, room[0] + 0.025, 0.042)
    return strips, regions


def forearm(stages, bent, rng):
    """(strips, regions) of radius and ulna, running off the image; `bent` is the forearm's turn in
    radians.
    """
    dense = np.clip(rng.normal(1, 0.12), 0.7, 1.3)
    strips, regions = [], {}
    for bone, (origin, lean, room, (end, shaft), flare, wedge) in _FOREARM.items():
        axis = turn(unit(np.array([lean, -1.0])), bent)
        side = np.array([-axis[1], axis[0]])  # towards the thumb: the axis points down
        frame = Frame(turn(np.array(origin), bent), axis, side, 1.5)
        flaring = np.array((0.95, 0.97, 0.9, 0.55, 0, 0, 0)) * end
        half = _smooth(
            (0, 0.012, flare * 0.12, flare * 0.3, flare * 0.55, flare, 1),
            flaring + np.array((0, 0, 0.1, 0.45, 1.18, 1, 1)) * shaft,
        )
        form = Form(half, shaft, end, room, _cortex(dense, 0.45), 0.001, density=0.5, wedge=wedge)
        strips += _grown(bone, frame, form, stages[f'{bone}_epiphysis'])
        regions[f'{bone}_growth_plate'] = _region(frame, 0.10, 1.25 * end)
    return strips, regions
