"""The phantom's hand as a function of (months, male) and of chance.

Hand units: the wrist joint is the origin, the middle finger's tip lies about 1 away; x points to
the thumb's side, y to the fingertips. Joints are the medians of 430 annotated RSNA hands (in these
units they hardly depend on age), widths and carpal positions were measured on the image of a
15-year-old. Only the ossification centres depend on age: posture, stoutness, cortex and soft tissue
are drawn independently of it.
"""

import numpy as np

from tfds_rsna.hand_phantom import long_bones
from tfds_rsna.hand_phantom.flesh import flesh, pose
from tfds_rsna.hand_phantom.schedule import SCHEDULE, maturity, stage
from tfds_rsna.hand_phantom.shapes import Hand
from tfds_rsna.hand_phantom.short_bones import CARPALS, CARPUS, short_bones

_LONG = tuple(
    f'{kind}{finger}'
    for kind, first in (('mc', 1), ('pp', 1), ('mp', 2), ('dp', 1))
    for finger in range(first, 6)
) + ('radius', 'ulna')
# : Rows of `bone_boxes`: long bones (whole), their epiphyses, regions of their growth plates,
# carpals, carpus.
BONE_NAMES = (
    *_LONG,
    *(f'{bone}_epiphysis' for bone in _LONG),
    *(f'{bone}_growth_plate' for bone in _LONG),
    *CARPALS,
    'sesamoid',
    'carpus',
)


def _stages(months, male, rng):
    """Every centre's `Stage`; each centre leads or lags a little, as in real hands (how much:
    ours).
    """
    spread = 0.4 + 0.022 * months
    lag = rng.normal(0, spread, len(SCHEDULE))
    return {name: stage(name, max(months + late, 0.5), male) for name, late in zip(SCHEDULE, lag)}


def hand(months, male, rng):
    """Draws the `Hand` of a bone age in months and a sex."""
    body, bones = rng.spawn(
        2
    )  # two streams: what the bones take leaves posture and flesh as they are
    joints, bases = pose(body)
    bent = np.clip(body.normal(0, 0.09), -0.22, 0.22)
    stages = _stages(months, male, bones)
    open_joint = 0.010 * (1 - maturity(months, male))
    strips, regions = long_bones.fingers(joints, bases, stages, open_joint, bones)
    more_strips, more_regions = long_bones.forearm(stages, bent, bones)
    blobs, capitate = short_bones(joints, stages, bones)
    return Hand(
        joints,
        capitate,
        strips + more_strips,
        blobs,
        flesh(joints, bases, bent, body),
        regions | more_regions | {'carpus': CARPUS},
    )


def boxes(drawn, view):
    """[N, 4] float32 (row0, column0, row1, column1), pixels, ordered as BONE_NAMES; NaN: not
    ossified.
    """
    found = dict(drawn.regions)
    for shape in drawn.strips + drawn.blobs:
        for name in {shape.bone, shape.bone.removesuffix('_epiphysis')}:
            found[name] = (
                np.concatenate([found[name], shape.outline()]) if name in found else shape.outline()
            )
    table = np.full((len(BONE_NAMES), 4), np.nan, np.float32)
    for row, name in enumerate(BONE_NAMES):
        if name in found:
            points = view.points(found[name])[:, ::-1]
            table[row] = *points.min(0), *points.max(0)
    return table
