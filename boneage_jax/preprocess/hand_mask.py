"""Hand masks from the image alone (Castillo et al. 2018): Sobel gradient, markers, watershed,
largest component, crop.

The paper sets its markers by a threshold. No single threshold serves real images - bright rims and
dark surrounds of collimation, pale grounds, two exposures on one image - so `silhouette` tries many
and keeps the one whose component has the shape and the edges of a hand; its core and its far
surroundings are the markers. The watershed on the gradient then finds the skin; an opening cuts off
what hangs on to the hand and is thinner than a finger, as rims of collimation are. All of it
happens on 256 to 512 pixels; the mask is brought smoothly to the image's own size.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import filters, segmentation

from boneage_jax.preprocess import mask_checks, silhouette
from tfds_rsna.errors import UserError

FINE = (256, 512)  # longer side, least and largest, on which gradient and watershed work
# of the root of the mask's area: half the width of what is cut off; of a finger it is 0.04 to 0.07
_THIN = 0.015
# of a pixel of 100: by how much the mask is widened, for the gradient is steepest inside thin skin
_SKIN = 0.4
_POINTS = ('keypoints', 'coco_keypoints', 'bone_boxes')


class Steps(NamedTuple):
    """What `classical` went through, for the figure of the extraction (Castillo et al., Fig. 3)."""

    image: np.ndarray  # uint8 [h, w], FINE pixels, hand brighter than its ground
    gradient: np.ndarray  # float32 [h, w]
    markers: np.ndarray  # uint8 [h, w]: 0 undecided, 1 background, 2 hand
    segments: np.ndarray  # uint8 [h, w]: 1 background, 2 hand
    mask: np.ndarray  # bool [H, W], the image's own size
    inverted: bool  # whether the image was darker in the hand than around it
    score: float  # of the silhouette; below `silhouette.DOUBTFUL` it is hardly a hand


def classical(image):
    """The hand's mask: bool [H, W] of an image uint8 [H, W]; all false where nothing looks like a
    hand.
    """
    return classical_steps(image).mask


def classical_steps(image):
    """`classical` with every step, as `Steps`.

    Raises:
        UserError: not a uint8 image, or one under 16 pixels.
    """
    if image.dtype != np.uint8 or image.ndim != 2 or min(image.shape) < 16:
        raise UserError(
            f'hand mask: image {image.dtype} {list(image.shape)}: give a uint8 image [H, W] of 16 pixels or more'
        )
    coarse, score, inverted = silhouette.find(
        _resized(image, min(silhouette.SIDE, max(image.shape)))
    )
    fine = _resized(image, min(max(max(image.shape), FINE[0]), FINE[1]))
    return _grown(
        255 - fine if inverted else fine, coarse, (0.012, 0.018), image.shape, inverted, score
    )


def snapped(image, mask, *, inner=0.005, outer=0.012):
    """A rough mask [h, w] (a network's, at any scale) brought to the skin of its image uint8 [H,
    W]: bool [H, W].

    What lies deeper in the mask than `inner` is hand, what lies farther outside than `outer` is not
    (shares of the longer side); between them the watershed of `classical` decides, and rims thinner
    than a finger are cut off.
    """
    fine = _resized(image, min(max(max(image.shape), FINE[0]), FINE[1]))
    return _grown(fine, np.asarray(mask) > 0, (inner, outer), image.shape, False, 1.0).mask


def _grown(fine, coarse, band, shape, inverted, score):
    """`Steps` of an image [h, w] on the fine grid from a coarse mask: watershed, thin parts off, to
    `shape`.
    """
    soft = ndimage.gaussian_filter(fine.astype(np.float32), max(fine.shape) / 512 + 0.3)
    gradient = filters.sobel(soft)
    markers = _markers(coarse, fine.shape, band)
    segments = _flooded(gradient, markers) if coarse.any() else np.ones(fine.shape, np.uint8)
    small = ndimage.binary_fill_holes(largest_component(_without_thin_parts(segments == 2)))
    return Steps(fine, gradient, markers, segments, _at_size(small, shape), inverted, score)


def _flooded(gradient, markers):
    """The watershed of what is undecided, flooded from the markers beside it; the markers' insides
    have nothing to say.
    """
    near = ndimage.binary_dilation(markers == 0, np.ones((3, 3)))
    return np.where(
        near, segmentation.watershed(gradient, markers.astype(np.int32), mask=near), markers
    ).astype(np.uint8)


def _markers(coarse, shape, band):
    """The silhouette's core (2) and what lies well outside it (1) on the fine grid; `band`: shares
    of the longer side.
    """
    signed = silhouette.signed_distance(coarse)  # coarse pixels, positive inside
    rows, columns = (np.linspace(0, small - 1, large) for small, large in zip(coarse.shape, shape))
    signed = ndimage.map_coordinates(
        signed, np.meshgrid(rows, columns, indexing='ij'), order=1, mode='nearest'
    )
    inner, outer = (share * max(coarse.shape) for share in band)
    return np.where(signed > inner, 2, np.where(signed < -outer, 1, 0)).astype(np.uint8)


def _without_thin_parts(mask):
    """The mask less what a disc of a finger's width does not fit into; corners that it rounds off
    are given back.
    """
    radius = _THIN * np.sqrt(np.count_nonzero(mask))
    core = largest_component(silhouette.signed_distance(mask) > radius)
    if not core.any():
        return mask
    return mask & (ndimage.distance_transform_edt(~core) <= 1.25 * radius + 1)


def _resized(image, side):
    """The image with `side` pixels along its longer side: averaged down, or interpolated."""
    factor = side / max(image.shape)
    rows, columns = (max(1, round(length * factor)) for length in image.shape)
    if (rows, columns) == image.shape:
        return image
    gap = 3.0 if factor < 1 else None
    return np.asarray(
        Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR, reducing_gap=gap)
    )


def _at_size(mask, shape):
    """A mask at another size, its outline smoothed over about a pixel of its own grid and widened
    by `_SKIN`.
    """
    if not mask.any():
        return np.zeros(shape, bool)
    distance = silhouette.signed_distance(mask) + _SKIN * max(mask.shape) / 100
    soft = ndimage.gaussian_filter(np.clip(distance, -4, 4).astype(np.float32), 1.0, mode='nearest')
    return np.asarray(Image.fromarray(soft).resize(shape[::-1], Image.Resampling.BILINEAR)) > 0


def largest_component(mask):
    """The largest connected piece (8 neighbours) of a mask [H, W], bool; all false where there is
    none.
    """
    labels, count = ndimage.label(np.asarray(mask) > 0, structure=np.ones((3, 3)))
    if not count:
        return np.zeros(np.shape(mask), bool)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def bounds(mask, margin=0.0):
    """(first row, first column, end row, end column) of a mask [H, W] with a margin, kept within
    the image.

    `margin`: as a share of the box's longer side.

    Raises:
        UserError: an empty mask.
    """
    mask = np.asarray(mask) > 0
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        raise UserError('crop: the mask is empty, so there is nothing to crop to')
    box = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    more = round(margin * max(box[2] - box[0], box[3] - box[1]))
    return (
        int(max(box[0] - more, 0)),
        int(max(box[1] - more, 0)),
        int(min(box[2] + more, mask.shape[0])),
        int(min(box[3] + more, mask.shape[1])),
    )


def crop(image, mask, margin=0.02):
    """The image [H, W] cut to the box of its mask; `margin` as in `bounds`. The background stays as
    it is.
    """
    top, left, bottom, right = bounds(mask, margin)
    return image[top:bottom, left:right]


def mask_stage(example, *, on_doubt='flag', positive=True):
    """An image dict -> the image with `hand_mask` (uint8 [H, W], 0 or 1) and `mask_doubts` (str, ''
    where there are none).

    Args:
        on_doubt: 'flag' keeps a doubtful mask and says so in `mask_doubts`; 'whole' takes the whole
            image instead; 'error' refuses the image. An empty mask is refused unless 'whole'.
        positive: whether an image found to be inverted (hand darker than its ground) is turned.

    Raises:
        UserError: as said; names the image.
    """
    if on_doubt not in ('flag', 'whole', 'error'):
        raise UserError(f"mask stage: on_doubt={on_doubt!r}; known: 'flag', 'whole', 'error'")
    try:
        steps = classical_steps(example['image'])
    except UserError as error:
        raise UserError(f'image {example.get("id", "")}: {error}') from error
    doubts = mask_checks.violations(steps.mask)
    if steps.mask.any() and steps.score < silhouette.DOUBTFUL:
        doubts.append(
            f'shape: score {steps.score:.2f} of the silhouette, below {silhouette.DOUBTFUL}'
        )
    mask = steps.mask
    if doubts and on_doubt == 'whole':
        mask = np.ones_like(mask)
    elif doubts and (on_doubt == 'error' or not mask.any()):
        raise UserError(
            f'image {example.get("id", "")}: no hand that could be trusted ({"; ".join(doubts)}). Look at the '
            "image; stage option on_doubt='whole' takes such images as they are"
        )
    image = 255 - example['image'] if positive and steps.inverted else example['image']
    return example | {
        'image': image,
        'hand_mask': mask.astype(np.uint8),
        'mask_doubts': '; '.join(doubts),
    }


def crop_stage(example, *, margin=0.02, mask=True):
    """An image dict cut to its hand: image and mask, key points and boxes moved along.

    `mask`: whether the background becomes 0 first; `margin` as in `bounds`. Raises UserError, which
    names the image, where there is no mask or an empty one.
    """
    if 'hand_mask' not in example:
        raise UserError(
            f'crop: image {example.get("id", "")} has no hand_mask; put the mask stage before this one'
        )
    try:
        top, left, bottom, right = bounds(example['hand_mask'], margin)
    except UserError as error:
        raise UserError(f'image {example.get("id", "")}: {error}') from error
    example = dict(example)
    if mask:
        example['image'] = np.where(example['hand_mask'] > 0, example['image'], 0).astype(np.uint8)
    for name in ('image', 'hand_mask'):
        example[name] = np.ascontiguousarray(example[name][top:bottom, left:right])
    for name in _POINTS:
        if name in example:
            points = np.asarray(example[name], np.float32)
            example[name] = (points.reshape(-1, 2) - np.array([top, left], np.float32)).reshape(
                points.shape
            )
    return example
