"""What the shipped networks see of an image, as numbers by which `hand_check` judges it.

One network finds the hand's mask and one its three key points; both look at the image as it is and
turned by a quarter. The network of ages sees it once, upright as the points say: how far it is from
all training images tells more than any other number.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from boneage_jax.inference import neighbours
from boneage_jax.preprocess import hand_mask, mask_checks, register, resize

NAMES = ('hand_mask', 'hand_points', 'bone_age')
VIEWS = 4  # images at once: one program is compiled for each network, whatever the number of images
_UPRIGHT = 55.0  # degrees from upright up to which a hand is left as it is

# What the judge reads, in the order of `hand_check.json`; the last two are of the age network.
FEATURES = (
    'area',  # root of the mask's share of the image
    'solidity',  # share of its convex hull that the mask fills
    'border',  # share of its outline on the image's border
    'whole',  # share of all pixels above the threshold that are the largest component
    'sureness',  # mean |logit| of the mask network, at most 6
    'tip_height',  # log of the peaks of the three heat maps
    'thumb_height',
    'capitate_height',
    'outside',  # distance of the worst point from the mask, by the root of its area
    'length',  # |log| of capitate to fingertip by the root of the mask's area, beside a hand's
    'reach',  # |log| of capitate to thumb tip by capitate to fingertip, beside a hand's
    'thumb_angle',  # radians by which the angle between the two is another than a hand's
    'beyond',  # how far the mask goes on behind the fingertip, by that length, beside a hand's
    'reasons',  # how many speak against the points, at most 3: `register.implausible`
    'contrast',  # grey in the mask minus that around it, in deviations of the image
    'skewness',  # of fine detail in the mask: bones are bright lines on darker flesh
    'edges',  # mean gradient in the mask, in deviations of the image
    'agreement',  # IoU with the mask of the turned image
    'moved',  # farthest way of a point when the image is turned, by the length
    # log of how far the image, put upright, is from the nearest training images of the age network,
    # and of what no training image has of it (`neighbours`), beside theirs
    'distance',
    'unlike',
)
_MOVED = 2.0  # at most
# A hand's own: medians of the limits in `preprocess/register.py`.
_LENGTH = 1.30
_REACH = 0.69
_THUMB_ANGLE = 0.9
_BEYOND = 0.03


class Networks(NamedTuple):
    """The shipped networks, as functions of images.

    Attributes:
        mask: of the hand's mask.
        points: of the key points.
        ages: of the age.
        reference: the training images of `ages`.
    """

    mask: Callable
    points: Callable
    ages: Callable
    reference: neighbours.Reference


@functools.cache
def networks() -> Networks:
    """The shipped networks, each with `VIEWS` images at once."""
    # Imported here: workers that only need a verdict's class do without JAX.
    from boneage_jax.runs import predictor as predictor_lib

    predictors = [predictor_lib.Predictor(name, batch_size=VIEWS) for name in NAMES]
    return Networks(*predictors, neighbours.read(NAMES[-1]))


@dataclasses.dataclass(frozen=True)
class Look:
    """An image in one polarity, through the networks.

    Attributes:
        features: float64 [N] of `FEATURES`.
        mask: the largest component, bool [h, w], of what the image covers.
        points: fingertip, thumb tip and capitate [3, 2] (row, column) in pixels of `mask`.
        axis: fingertip and capitate [2, 2] (row, column) in pixels of `mask`, as they were found on
            the image or else on the turned one; None where neither can be right.
        second: the second largest component, by the largest.
        fingers_cut: whether the mask meets a border on the fingers' side of the capitate.
    """

    features: np.ndarray
    mask: np.ndarray
    points: np.ndarray
    axis: np.ndarray | None
    second: float
    fingers_cut: bool


def look_at(
    images: Sequence[np.ndarray], chosen: Sequence[int], inverted: bool, networks: Networks
) -> list[Look]:
    """The looks of `images[i]`, i in `chosen`, [H, W] uint8, or of their negatives."""
    if not chosen:
        return []
    seen = [255 - images[i] if inverted else images[i] for i in chosen]
    masks = []
    points = []
    for image in seen:
        for views, network in ((masks, networks.mask), (points, networks.points)):
            canvas = _canvas(image, network)
            views += [canvas, np.rot90(canvas)]
    logits, _ = _through(networks.mask, masks)
    found, aux = _through(networks.points, points)
    looks = []
    for at, image in enumerate(seen):
        both = slice(2 * at, 2 * at + 2)
        canvas = masks[2 * at][..., 0]
        looks.append(_look(canvas, image.shape, logits[both], found[both], aux['heights'][both]))
    whole = []
    for look, values in zip(looks, _distances(seen, looks, networks)):
        features = np.concatenate([look.features, values])
        whole.append(dataclasses.replace(look, features=features))
    return whole


def turns_to_upright(axis: np.ndarray) -> int:
    """Quarter turns against the clock that bring the fingers up.

    Args:
        axis: fingertip and capitate [2, 2] (row, column).

    Returns:
        0 to 3; 0 for a hand within `_UPRIGHT` degrees of upright, which no reader would turn.
    """
    tip, capitate = axis
    angle = np.degrees(np.arctan2(tip[1] - capitate[1], capitate[0] - tip[0]))  # with the clock
    if abs(angle) <= _UPRIGHT:
        return 0
    return max(1, round((angle % 360) / 90)) % 4


def _canvas(image, network):
    return resize.resize({'image': image}, network.config.data.size, 'pad')['image']


def _through(network, canvases):
    """What a network makes of images [N, h, w, 1], always `VIEWS` at once."""
    count = len(canvases)
    filled = np.pad(np.stack(canvases), ((0, -count % VIEWS), (0, 0), (0, 0), (0, 0)))
    prediction, aux = network(filled, np.zeros(len(filled), bool))
    return np.asarray(prediction)[:count], {
        name: np.asarray(array)[:count] for name, array in aux.items()
    }


def _distances(images, looks, networks):
    """The features `distance` and `unlike` of each image, [N, 2]."""
    canvases = []
    for image, look in zip(images, looks):
        turns = 0 if look.axis is None else turns_to_upright(look.axis)
        canvases.append(_canvas(np.ascontiguousarray(np.rot90(image, turns)), networks.ages))
    reference = networks.reference
    embeddings = _through(networks.ages, canvases)[1]['embeddings']
    distance = reference.distance(embeddings) / np.median(reference.leave_one_out)
    rest = reference.reduce(embeddings)[:, -1] / np.median(reference.vectors[:, -1])
    return np.log(np.maximum(np.stack([distance, rest], -1), 1e-3))


def _look(canvas, shape, logits, points, heights):
    """A look by masks and points alone: its features lack those of the age network."""
    side = canvas.shape[0]
    plain = np.asarray(logits[0], np.float64)
    found = resize.uncovered(plain > 0, shape, 'pad')
    mask = hand_mask.largest_component(found)
    back = np.rot90(np.asarray(logits[1]) > 0, -1)
    turned = hand_mask.largest_component(resize.uncovered(back, shape, 'pad'))
    _, offset = resize.inner(shape, canvas.shape, 'pad')
    own = points[0] * side - 0.5 - np.array(offset)
    # A quarter turn against the clock takes (row, column) to (1 - column, row).
    again = np.stack([points[1][:, 1], 1 - points[1][:, 0]], -1) * side - 0.5 - np.array(offset)
    grey = resize.uncovered(canvas, shape, 'pad').astype(np.float64)
    sureness = float(np.minimum(np.abs(resize.uncovered(plain, shape, 'pad')), 6).mean())

    area = max(1.0, float(mask.sum()))
    length = max(1.0, float(np.hypot(*(own[0] - own[2]))))
    second = float(hand_mask.largest_component(found & ~mask).sum()) / area
    measured = mask_checks.measures(mask)
    thumb = own[1] - own[2]
    axis = own[0] - own[2]
    cosine = (thumb @ axis) / max(1e-6, np.hypot(*thumb) * length)
    values = {
        'area': np.sqrt(mask.mean()),
        'solidity': measured.get('solidity', 1.0),
        'border': measured.get('border', 1.0),
        'whole': float(mask.sum()) / max(1.0, float(found.sum())),
        'sureness': sureness,
        'outside': min(2.0, _outside(mask, own) / np.sqrt(area)),
        'length': min(2.0, abs(np.log(length / np.sqrt(area) / _LENGTH))),
        'reach': min(2.0, abs(np.log(max(1.0, np.hypot(*thumb)) / length / _REACH))),
        'thumb_angle': abs(np.arccos(np.clip(cosine, -1, 1)) - _THUMB_ANGLE),
        'beyond': abs(_beyond(mask, own, length) - _BEYOND),
        'reasons': min(3, len(register.implausible(own, mask, mask.shape))),
        **_appearance(grey, mask),
        'agreement': mask_checks.iou(mask, turned) if mask.any() else 0.0,
        'moved': min(_MOVED, float(np.hypot(*(again - own).T).max()) / length),
    }
    for name, height in zip(('tip', 'thumb', 'capitate'), heights.min(0)):
        values[f'{name}_height'] = float(np.log(max(1e-4, height)))
    features = np.array([values[name] for name in FEATURES if name in values], np.float64)
    axis = _axis(mask, own, again)
    return Look(features, mask, own, axis, second, _fingers_cut(mask, axis))


def _axis(mask, *candidates):
    """Fingertip and capitate of the first points [3, 2] that can be right, or None."""
    for points in candidates:
        reasons = register.implausible(points, mask, mask.shape)
        if all(reason.startswith('thumb') for reason in reasons):
            return points[[0, 2]]
    return None


def _outside(mask, points):
    """Pixels between the mask and the point that is farthest from it."""
    places = np.argwhere(mask)
    if not len(places):
        return float(max(mask.shape))
    away = [np.hypot(*(places - point).T).min() for point in points]
    return float(max(away))


def _beyond(mask, points, length):
    places = np.argwhere(mask)
    if not len(places):
        return 0.0
    along = (places - points[0]) @ (points[0] - points[2]) / length**2
    return float(np.clip(along.max(), -1, 1))


def _appearance(grey, mask):
    """Contrast, skewness and edges of an image [h, w], see `FEATURES`."""
    deviation = max(1.0, grey.std())
    ring = ndimage.binary_dilation(mask, iterations=6) & ~ndimage.binary_dilation(mask)
    if mask.sum() < 20 or not ring.any():
        return {'contrast': 0.0, 'skewness': 0.0, 'edges': 0.0}
    contrast = (grey[mask].mean() - grey[ring].mean()) / deviation
    inner = ndimage.binary_erosion(mask, iterations=2)
    inner = inner if inner.sum() > 20 else mask
    detail = (grey - ndimage.gaussian_filter(grey, 4.0))[inner]
    spread = max(0.5, detail.std())
    skewness = np.clip((((detail - detail.mean()) / spread) ** 3).mean(), -3, 3)
    edges = np.hypot(*np.gradient(ndimage.gaussian_filter(grey, 0.7)))[inner].mean() / deviation
    return {'contrast': float(contrast), 'skewness': float(skewness), 'edges': float(edges)}


def _fingers_cut(mask, axis):
    """Whether a tenth of the hand's length lies on a border, on the fingers' side."""
    if axis is None:
        return False
    rows, columns = mask.shape
    tip, capitate = axis
    length = np.hypot(*(tip - capitate))
    places = np.argwhere(mask)
    on_border = ((places == 0) | (places == np.array([rows - 1, columns - 1]))).any(1)
    along = (places - capitate) @ (tip - capitate) / length**2
    return bool((on_border & (along > 0.15)).sum() > 0.1 * length)
