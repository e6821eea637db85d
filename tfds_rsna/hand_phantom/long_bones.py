"""Metacarpals, phalanges, radius and ulna: shaft, epiphysis, and the bridge between them."""

from typing import NamedTuple

import numpy as np

from tfds_rsna.hand_phantom.flesh import GIRTH
from tfds_rsna.hand_phantom.schedule import Stage
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
    """Where a long bone is."""

    origin: np.ndarray  # the joint on the growth plate's side
    axis: np.ndarray  # into the bone
    side: np.ndarray
    length: float


class Form(NamedTuple):
    """What a long bone looks like."""

    half: np.ndarray  # half widths along the shaft
    waist: float  # half width
    width: float  # half width of the epiphysis
    room: tuple  # distance from the joint to the shaft, of a child and of an adult
    cortex: np.ndarray  # along the shaft, as a share of the waist
    joint: float  # cartilage
    # The epiphysis's outline, its full width relative to `width`, and how it is tilted.
    dome: float = 3.0
    full: float = 1.14
    density: float = 0.9
    wedge: float = 0.0


def _smooth(places, values):
    """Evenly sampled values through the knots, corners rounded."""
    line = np.interp(np.linspace(0, 1, _SAMPLES), places, values)
    return np.convolve(np.pad(line, 2, mode='edge'), np.array([1, 2, 3, 2, 1]) / 9, mode='valid')


def _cortex(share, reach=1.0):
    """Dense bone as a share of the waist's half width, thickest in mid-shaft, up to `reach`."""
    places = np.array((0, 0.10, 0.33, 0.70, 0.88, 1)) * reach
    values = np.array((0.09, 0.14, 0.42, 0.40, 0.15, 0.10)) * share
    return np.interp(np.linspace(0, 1, _SAMPLES), places, values)


def _grown(bone: str, frame: Frame, form: Form, near: Stage) -> list[Strip]:
    """The strips of one bone whose growth plate has come to the `Stage` near."""
    origin, axis, side, length = frame
    room = form.room[0] + (form.room[1] - form.room[0]) * near.growth
    gap = (0.0050 + 0.010 * (1 - near.growth)) * (1 - near.fusion)
    plate = 0.0032 * (1 - 0.7 * near.fusion)  # what is left of it after fusion is the scar
    cortex = np.maximum(form.cortex * form.waist, 0.0016)
    shaft = Strip(
        bone, origin, axis, side, room, length, form.half, cortex, (plate, 0.0026), form.density
    )
    if not near.present:
        return [shaft]
    grown = 0.20 + (form.full - 0.20) * (1 - (1 - near.growth) ** 1.7)
    width = form.width * grown * (1 - 0.08 * near.fusion)
    space = room - form.joint - gap
    thick = space * (0.35 + 0.65 * near.growth**0.7)
    middle = form.joint + space / 2
    dome = (1 - np.abs(np.linspace(-1, 1, _SAMPLES)) ** form.dome) ** (1 / form.dome)
    epiphysis = Strip(
        f'{bone}_epiphysis',
        origin,
        axis,
        side,
        start=middle - thick / 2,
        stop=middle + thick / 2,
        half=width * dome,
        cortex=np.full(_SAMPLES, 0.0022),
        plates=(0.0026, plate),
        density=form.density,
        wedge=form.wedge * near.growth,
    )
    if near.fusion == 0:
        return [shaft, epiphysis]
    bridge = Strip(
        bone,
        origin,
        axis,
        side,
        start=middle,
        stop=room + 0.012,
        half=np.linspace(width * 0.97, form.half[0], _SAMPLES),
        cortex=np.full(_SAMPLES, 0.0020),
        plates=(0, 0),
        density=form.density * near.fusion,
    )
    return [shaft, epiphysis, bridge]


def _region(frame: Frame, reach: float, half: float) -> np.ndarray:
    """Corners [4, 2] of the growth plate's region, from just beyond the joint to `reach`."""
    corners = []
    for u in (-0.015, reach):
        for v in (-half, half):
            corners.append(frame.origin + u * frame.axis + v * frame.side)
    return np.array(corners)


def fingers(
    joints: np.ndarray,
    bases: dict[int, np.ndarray],
    stages: dict[str, Stage],
    open_joint: float,
    rng: np.random.Generator,
) -> tuple[list[Strip], dict[str, np.ndarray]]:
    """Draws metacarpals and phalanges.

    Args:
        joints: [21, 2], from `flesh.pose`.
        bases: of the metacarpals, {finger: [2]}, from `flesh.pose`.
        stages: of the epiphyses.
        open_joint: the cartilage of a child's joint.
        rng: draws how stout and how dense the bones are.

    Returns:
        The strips, and the regions of the growth plates {name: corners [4, 2]}.
    """
    stout = np.clip(rng.normal(1, 0.05), 0.88, 1.12)
    dense = np.clip(rng.normal(1, 0.12), 0.7, 1.3)
    strips = []
    regions = {}
    for bone, (start, stop) in _ends(joints, bases).items():
        frame, form = _finger_bone(bone, start, stop, open_joint, stout, dense)
        strips += _grown(bone, frame, form, stages[f'{bone}_epiphysis'])
        regions[f'{bone}_growth_plate'] = _region(frame, form.room[0] + 0.025, 0.042)
    return strips, regions


def _ends(joints: np.ndarray, bases: dict[int, np.ndarray]) -> dict[str, tuple]:
    """{bone: (start, stop)} of metacarpals and phalanges."""
    ends = {
        'mc1': (joints[1], joints[2]),
        'pp1': (joints[2], joints[3]),
        'dp1': (joints[3], joints[4]),
    }
    for finger in range(2, 6):
        points = [bases[finger], *joints[4 * finger - 3 : 4 * finger + 1]]
        for kind, start, stop in zip(('mc', 'pp', 'mp', 'dp'), points[:-1], points[1:]):
            ends[f'{kind}{finger}'] = (start, stop)
    return ends


def _finger_bone(
    bone: str,
    start: np.ndarray,
    stop: np.ndarray,
    open_joint: float,
    stout: float,
    dense: float,
) -> tuple[Frame, Form]:
    """Where one metacarpal or phalanx is, and what it looks like."""
    kind = bone[:2]
    finger = int(bone[2])
    widths = np.array(_WIDTHS.get(bone, _WIDTHS[kind])) * GIRTH[finger] * stout
    widths = dict(zip(('base', 'waist', 'head'), widths))
    axis = unit(stop - start)
    length = np.hypot(*(stop - start))
    side = np.array([axis[1], -axis[0]])
    if kind == 'mc' and finger > 1:
        # Its plate is at the head: it is described from the knuckle down.
        frame = Frame(stop, -axis, -side, length - 0.003 - 0.6 * open_joint)
        profile = _PROFILES['mc']
        width = widths['head']
        room = (0.064, 0.048)
        look = {'dome': 2.3, 'full': 1.10}
    else:
        short = 0.001 if kind == 'dp' else 0.004 + 0.7 * open_joint
        frame = Frame(start, axis, side, length - short)
        profile = _PROFILES['dp'] if kind == 'dp' else _PROFILES['pp']
        width = widths['base']
        room = (0.020 + 0.127 * length, 0.0142 + 0.104 * length)
        look = {}
    places = [place for place, _, _ in profile]
    half = _smooth(places, [widths[which] * share for _, which, share in profile])
    joint = 0.005 + 0.5 * open_joint
    return frame, Form(half, widths['waist'], width, room, _cortex(dense), joint, **look)


def forearm(
    stages: dict[str, Stage], bent: float, rng: np.random.Generator
) -> tuple[list[Strip], dict[str, np.ndarray]]:
    """(strips, regions) of radius and ulna, which run off the image; `bent`: turn in radians."""
    dense = np.clip(rng.normal(1, 0.12), 0.7, 1.3)
    strips = []
    regions = {}
    for bone, (origin, lean, room, (end, shaft), flare, wedge) in _FOREARM.items():
        axis = turn(unit(np.array([lean, -1.0])), bent)
        side = np.array([-axis[1], axis[0]])  # towards the thumb: the axis points down
        frame = Frame(turn(np.array(origin), bent), axis, side, 1.5)
        places = (0, 0.012, flare * 0.12, flare * 0.3, flare * 0.55, flare, 1)
        flaring = np.array((0.95, 0.97, 0.9, 0.55, 0, 0, 0)) * end
        straight = np.array((0, 0, 0.1, 0.45, 1.18, 1, 1)) * shaft
        half = _smooth(places, flaring + straight)
        form = Form(half, shaft, end, room, _cortex(dense, 0.45), 0.001, density=0.5, wedge=wedge)
        strips += _grown(bone, frame, form, stages[f'{bone}_epiphysis'])
        regions[f'{bone}_growth_plate'] = _region(frame, 0.10, 1.25 * end)
    return strips, regions
