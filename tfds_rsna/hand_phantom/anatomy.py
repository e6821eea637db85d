"""The phantom's hand as a function of (months, male) and of chance.

Hand units: the wrist joint is the origin, and the middle finger's tip is about 1 away. x points to
the thumb's side, y to the fingertips. Joints are the medians of 430 annotated RSNA hands (in these
units they hardly depend on age). Widths and carpal positions were measured on the radiograph of a
15-year-old. Only the ossification centres depend on age: posture, stoutness, cortex and soft tissue
are drawn independently of it.
"""

import numpy as np

from tfds_rsna.hand_phantom import long_bones
from tfds_rsna.hand_phantom.flesh import flesh, pose
from tfds_rsna.hand_phantom.raster import View
from tfds_rsna.hand_phantom.schedule import SCHEDULE, Stage, maturity, stage
from tfds_rsna.hand_phantom.shapes import Hand
from tfds_rsna.hand_phantom.short_bones import CARPALS, CARPUS, short_bones

_LONG = (
    *(f'mc{finger}' for finger in range(1, 6)),
    *(f'pp{finger}' for finger in range(1, 6)),
    *(f'mp{finger}' for finger in range(2, 6)),  # the thumb has none
    *(f'dp{finger}' for finger in range(1, 6)),
    'radius',
    'ulna',
)
#: Rows of `bone_boxes`: long bones (whole), their epiphyses, regions of their growth plates,
#: carpals, carpus.
BONE_NAMES = (
    *_LONG,
    *(f'{bone}_epiphysis' for bone in _LONG),
    *(f'{bone}_growth_plate' for bone in _LONG),
    *CARPALS,
    'sesamoid',
    'carpus',
)


def _stages(months: float, male: bool, rng: np.random.Generator) -> dict[str, Stage]:
    """Every centre's `Stage`; each leads or lags a little, as in real hands (how much: ours)."""
    spread = 0.4 + 0.022 * months
    lag = rng.normal(0, spread, len(SCHEDULE))
    return {name: stage(name, max(months + late, 0.5), male) for name, late in zip(SCHEDULE, lag)}


def hand(months: float, male: bool, rng: np.random.Generator) -> Hand:
    """Draws the `Hand` of a bone age in months and a sex."""
    # Two streams: what the bones take leaves posture and flesh as they are.
    body, bones = rng.spawn(2)
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


def boxes(drawn: Hand, view: View) -> np.ndarray:
    """The bones' boxes in the order of `BONE_NAMES`, float32 [N, 4], NaN where not ossified.

    A box is (row0, column0, row1, column1) in pixels.
    """
    outlines = {name: [corners] for name, corners in drawn.regions.items()}
    for shape in drawn.strips + drawn.blobs:
        for name in {shape.bone, shape.bone.removesuffix('_epiphysis')}:
            outlines.setdefault(name, []).append(shape.outline())
    table = np.full((len(BONE_NAMES), 4), np.nan, np.float32)
    for row, name in enumerate(BONE_NAMES):
        if name in outlines:
            points = view.points(np.concatenate(outlines[name]))[:, ::-1]
            table[row] = *points.min(0), *points.max(0)
    return table
