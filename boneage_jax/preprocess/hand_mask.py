"""Hand masks from the image alone (Castillo et al. 2018): gradient, markers, watershed, crop.

The paper sets its markers by a threshold. No single threshold serves real radiographs: some have
bright rims and dark surrounds of collimation, some pale grounds, some two exposures. So
`silhouette` tries many and keeps the one whose component has the shape and the edges of a hand; its
core and its far surroundings are the markers. The watershed on the Sobel gradient then finds the
skin. An opening cuts off what hangs on to the hand and is thinner than a finger, as rims of
collimation are. All of it happens on 256 to 512 pixels; the mask is brought smoothly to the image's
own size.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import filters, segmentation

from boneage_jax.preprocess import mask_checks, silhouette
from tfds_rsna.errors import UserError

FINE = (256, 512)  # longer side, least and largest, on which gradient and watershed work
# shares of the longer side: how far the skin may be inside and outside of the silhouette
_INNER = 0.012
_OUTER = 0.018
# of the root of the mask's area: half the width of what is cut off; of a finger it is 0.04 to 0.07
_THIN = 0.015
# of a pixel of 100: by how much the mask is widened, for the gradient is steepest inside thin skin
_SKIN = 0.4


class Steps(NamedTuple):
    """What `classical` went through, for the figure of the extraction (Castillo et al., Fig. 3)."""

    image: np.ndarray  # uint8 [h, w], FINE pixels, hand brighter than its ground
    gradient: np.ndarray  # float32 [h, w]
    markers: np.ndarray  # uint8 [h, w]: 0 undecided, 1 background, 2 hand
    segments: np.ndarray  # uint8 [h, w]: 1 background, 2 hand
    mask: np.ndarray  # bool [H, W], the image's own size
    inverted: bool  # whether the image was darker in the hand than around it
    score: float  # of the silhouette; below `silhouette.DOUBTFUL` it is hardly a hand


def classical(image: np.ndarray) -> np.ndarray:
    """The hand's mask, bool [H, W], of an image uint8 [H, W]; all false where there is no hand."""
    return classical_steps(image).mask


def classical_steps(image: np.ndarray) -> Steps:
    """`classical` with every step.

    Raises:
        UserError: not a uint8 image, or one under 16 pixels.
    """
    if image.dtype != np.uint8 or image.ndim != 2 or min(image.shape) < 16:
        raise UserError(
            f'hand mask: image {image.dtype} {list(image.shape)}: give a uint8 image [H, W] of 16 '
            'pixels or more'
        )
    small = _resized(image, min(silhouette.SIDE, max(image.shape)))
    coarse, score, inverted = silhouette.find(small)
    fine = _fine(image)
    if inverted:
        fine = 255 - fine
    grown = _grown(fine, coarse, _INNER, _OUTER, image.shape)
    return grown._replace(inverted=inverted, score=score)


def doubts(steps: Steps) -> list[str]:
    """Why a classical mask may be wrong, one sentence each; empty where none."""
    found = mask_checks.violations(steps.mask)
    if steps.mask.any() and steps.score < silhouette.DOUBTFUL:
        found.append(
            f'shape: score {steps.score:.2f} of the silhouette, below {silhouette.DOUBTFUL}'
        )
    return found


def snapped(image: np.ndarray, mask: np.ndarray, *, inner: float, outer: float) -> np.ndarray:
    """A rough mask brought to the skin of its image.

    Args:
        image: uint8 [H, W].
        mask: non-zero in the hand, [h, w] at any scale, as a network gives it.
        inner: what is deeper in the mask is hand; a share of the longer side.
        outer: what is farther outside is not; a share of the longer side. Between the two the
            watershed of `classical` decides, and rims thinner than a finger are cut off.

    Returns:
        bool [H, W].
    """
    return _grown(_fine(image), np.asarray(mask) > 0, inner, outer, image.shape).mask


def _fine(image):
    """The image at the size that gradient and watershed work on."""
    least, largest = FINE
    return _resized(image, min(max(max(image.shape), least), largest))


def _grown(fine, coarse, inner, outer, shape):
    """`Steps` of an image [h, w] on the fine grid from a coarse mask; the mask has `shape`."""
    soft = ndimage.gaussian_filter(fine.astype(np.float32), max(fine.shape) / 512 + 0.3)
    gradient = filters.sobel(soft)
    markers = _markers(coarse, fine.shape, inner, outer)
    segments = _flooded(gradient, markers) if coarse.any() else np.ones(fine.shape, np.uint8)
    small = ndimage.binary_fill_holes(largest_component(_without_thin_parts(segments == 2)))
    mask = _at_size(small, shape)
    return Steps(fine, gradient, markers, segments, mask, inverted=False, score=1.0)


def _flooded(gradient, markers):
    """The watershed of what is undecided, flooded from the markers beside it.

    The markers' insides are left out: they have no part in it, and it is faster without them.
    """
    near = ndimage.binary_dilation(markers == 0, np.ones((3, 3)))
    flooded = segmentation.watershed(gradient, markers.astype(np.int32), mask=near)
    return np.where(near, flooded, markers).astype(np.uint8)


def _markers(coarse, shape, inner, outer):
    """The silhouette's core (2) and what is well outside it (1) on the fine grid of `shape`."""
    signed = silhouette.signed_distance(coarse)  # coarse pixels, positive inside
    rows = np.linspace(0, coarse.shape[0] - 1, shape[0])
    columns = np.linspace(0, coarse.shape[1] - 1, shape[1])
    places = np.meshgrid(rows, columns, indexing='ij')
    signed = ndimage.map_coordinates(signed, places, order=1, mode='nearest')
    longer = max(coarse.shape)
    markers = np.zeros(shape, np.uint8)
    markers[signed < -outer * longer] = 1
    markers[signed > inner * longer] = 2
    return markers


def _without_thin_parts(mask):
    """The mask less what a disc of a finger's width does not fit into.

    Corners that the disc rounds off are given back.
    """
    radius = _THIN * np.sqrt(np.count_nonzero(mask))
    core = largest_component(silhouette.signed_distance(mask) > radius)
    if not core.any():
        return mask
    return mask & (ndimage.distance_transform_edt(~core) <= 1.25 * radius + 1)


def _resized(image, side):
    """The image with `side` pixels along its longer side: averaged down, or interpolated."""
    factor = side / max(image.shape)
    rows = max(1, round(image.shape[0] * factor))
    columns = max(1, round(image.shape[1] * factor))
    if (rows, columns) == image.shape:
        return image
    gap = 3.0 if factor < 1 else None
    resized = Image.fromarray(image).resize(
        (columns, rows), Image.Resampling.BILINEAR, reducing_gap=gap
    )
    return np.asarray(resized)


def _at_size(mask, shape):
    """A mask at another size, its outline smoothed and widened.

    It is smoothed over about a pixel of its own grid and widened by `_SKIN`.
    """
    if not mask.any():
        return np.zeros(shape, bool)
    distance = silhouette.signed_distance(mask) + _SKIN * max(mask.shape) / 100
    soft = ndimage.gaussian_filter(np.clip(distance, -4, 4).astype(np.float32), 1.0, mode='nearest')
    return np.asarray(Image.fromarray(soft).resize(shape[::-1], Image.Resampling.BILINEAR)) > 0


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece (8 neighbours) of a mask [H, W], bool; all false for none."""
    labels, count = ndimage.label(np.asarray(mask) > 0, structure=np.ones((3, 3)))
    if not count:
        return np.zeros(np.shape(mask), bool)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def bounds(mask: np.ndarray, margin: float = 0.0) -> tuple[int, int, int, int]:
    """(first row, first column, end row, end column) of a mask [H, W] with a margin.

    `margin` is a share of the box's longer side; it stops at the image's border.

    Raises:
        UserError: an empty mask.
    """
    mask = np.asarray(mask) > 0
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    if not rows.size:
        raise UserError('crop: the mask is empty, so there is nothing to crop to')
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    more = round(margin * max(bottom - top, right - left))
    return (
        max(top - more, 0),
        max(left - more, 0),
        min(bottom + more, mask.shape[0]),
        min(right + more, mask.shape[1]),
    )


def crop(image: np.ndarray, mask: np.ndarray, margin: float = 0.02) -> np.ndarray:
    """The image [H, W] cut to the box of its mask, background included; `margin` as in `bounds`."""
    top, left, bottom, right = bounds(mask, margin)
    return image[top:bottom, left:right]
