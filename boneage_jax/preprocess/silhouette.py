"""Where on an image the hand is, on a coarse grid: many thresholds, and the components that look
most like a hand.

Thresholds are laid through the image itself, through the image minus its ground (a grey opening
wider than a palm), and through the image in units of its local spread; before that, a grey opening
cuts thin bright rims off. Opening and threshold commute, so every threshold costs one labelling. A
component is judged by what holds for any hand (`MEASURES`); the best ones vote.
"""

import functools

import numpy as np
from scipy import ndimage

from boneage_jax.preprocess import mask_checks

SIDE = 100  # longer side of the coarse grid: that of the smallest images in use
DOUBTFUL = 0.5  # a score below it is hardly a hand's
_SURE = 0.8  # below it, the collimator's field is looked for, and the hand within
_LEVELS = 14
_RADII = (0, 1.5, 2.5)  # of the opening that removes rims, coarse pixels
_AREA = (0.03, 0.80)

# : What a component is judged by, with mean and standard deviation over 45,000 components of real
# images.
MEASURES = {
    'area': (-1.689, 1.014),  # logarithm of the share of the image
    'residue': (0.326, 0.217),  # root of the share no disc wider than a finger reaches
    'solidity': (0.718, 0.192),  # share of the convex hull
    'edge': (
        0.577,
        0.265,
    ),  # mean slope of the image across the outline, positive inwards, clipped to -1..1
    'weakest': (0.283, 0.305),  # its 15th percentile: a component that leaks is open somewhere
    'outline': (3.886, 0.834),  # logarithm of outline squared by area
    'border': (0.254, 0.259),  # root of the share of the outline that lies on the image's border
}
# Logistic regression on the products of (1, the measures standardised). Fitted on every second one
# of 534 annotated RSNA images at 100 px, 45,067 components: a good one holds the 21 key points and
# hardly anything far from them.
_WEIGHTS = np.array(
    [
        (-1.90, 1.72, 1.37, 0.96, 1.03, 1.08, -0.81, -0.63),
        (0.00, -3.26, 1.13, -0.31, 0.21, 1.07, -0.76, -0.01),
        (0.00, 0.00, 0.92, 0.10, 0.95, 1.26, 0.17, -1.08),
        (0.00, 0.00, 0.00, -0.46, 0.51, 0.17, 0.20, -0.05),
        (0.00, 0.00, 0.00, 0.00, -0.40, -0.15, -0.08, -0.17),
        (0.00, 0.00, 0.00, 0.00, 0.00, -0.64, 1.07, 0.03),
        (0.00, 0.00, 0.00, 0.00, 0.00, 0.00, -1.25, 0.26),
        (0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, -1.17),
    ]
)
_VOTERS = 16  # components that vote, best first
_SHARE = (
    0.2  # of the votes that makes a pixel hand: high scores go to thresholds that lose thin skin
)
_NEAR = 0.6  # of the best score: who has less does not vote


def find(image):
    """The hand's silhouette on a coarse image.

    Args:
        image: uint8 [h, w], at most about `SIDE` pixels.

    Returns:
        (bool [h, w], score, inverted): the mask, all false where no component is the size of a
        hand; its score, about 1 for a hand and below `DOUBTFUL` for what is hardly one; whether the
        hand is darker than its ground.
    """
    example = ndimage.gaussian_filter(image.astype(np.float32), 0.8)
    mask, bright = _best(example)
    found = [(mask, bright, False)]
    if bright < DOUBTFUL:
        found.append((*_best(255 - example), True))
    if bright < _SURE and (field := _field(example)) is not None:
        edge = np.median(example[field & (_inside(field) < 3)])
        found.append((*_best(np.where(field, example, edge), field), False))
    return max(found, key=lambda one: one[1])


def _field(example):
    """The collimator's field: the largest part with even outline that fills its convex hull,
    shrunk; None if none.
    """
    best = None
    for sign in (1, -1):
        for mask in _components(sign * example):
            mask = ndimage.binary_fill_holes(mask)
            if (
                0.12 < mask.mean() < 0.9
                and mask_checks.solidity(mask) > 0.9
                and (best is None or mask.sum() > best.sum())
            ):
                best = mask
    field = None if best is None else _inside(best) > 4
    return field if field is not None and field.any() else None


def _best(example, field=None):
    """The mask on which the best components agree, and the best one's score."""
    slopes = _slopes(example)
    voters = []
    for mask in _components(example, field):
        if _on_border(mask) > 1.5 * np.sqrt(np.count_nonzero(mask)):
            continue  # ground; a forearm takes 0.6 at most. Saves a third of the time
        mask = ndimage.binary_fill_holes(mask)
        if value := score(mask, slopes):
            voters.append((value, mask))
    if not voters:
        return np.zeros(example.shape, bool), 0.0
    voters = sorted(voters, key=lambda voter: -voter[0])[:_VOTERS]
    best = voters[0][1]
    votes = [
        (value, mask)
        for value, mask in voters
        if value > _NEAR * voters[0][0] and mask_checks.iou(mask, best) > 0.7
    ]
    share = sum(value * mask for value, mask in votes) / sum(value for value, _ in votes)
    return share > _SHARE, float(voters[0][0])


def _components(example, field=None):
    """Every component, of the size of a hand, of every threshold set; levels are quantiles, of the
    `field` if given.
    """
    size = example.size
    for flat in _flattened(example):
        levels = np.quantile(
            flat if field is None else flat[field], np.linspace(0.15, 0.95, _LEVELS)
        )
        for radius in _RADII:
            opened = ndimage.grey_opening(flat, footprint=_disc(radius)) if radius else flat
            last = (0, 0)
            for level in levels:
                labels, count = ndimage.label(opened > level)
                areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
                for rank, i in enumerate(np.argsort(-areas)[:2]):
                    if (
                        _AREA[0] * size <= areas[i] <= _AREA[1] * size
                        and abs(areas[i] - last[rank]) > 0.01 * areas[i]
                    ):
                        last = (areas[i], last[1]) if rank == 0 else (last[0], areas[i])
                        yield labels == i + 1


def _flattened(example):
    """The image, the image minus its ground, and the image in units of its local spread."""
    side = max(example.shape)
    blur = functools.partial(ndimage.gaussian_filter, mode='nearest')
    ground = ndimage.grey_opening(example, size=(int(0.35 * side) | 1,) * 2)
    mean = blur(example, 0.12 * side)
    spread = np.sqrt(np.maximum(blur((example - mean) ** 2, 0.12 * side), 1))
    return example, example - blur(ground, 0.05 * side), (example - mean) / (spread + 3)


def _slopes(example):
    """(down, across, cap): the image's gradient by Sobel, and the steepness from which on more does
    not count.
    """
    down, across = ndimage.sobel(example, 0) / 8, ndimage.sobel(example, 1) / 8
    return down, across, np.quantile(np.hypot(down, across), 0.9) + 0.3


def measures(mask, slopes):
    """The `MEASURES` of a filled component, bool [h, w], on an image with these `_slopes`; float64
    [7], in their order.
    """
    down, across, cap = slopes
    size = np.count_nonzero(mask)
    core = _inside(mask) > 0.105 * np.sqrt(size)  # of a hand, the palm and the forearm
    reached = (
        mask & (ndimage.distance_transform_edt(~core) <= 0.105 * np.sqrt(size))
        if core.any()
        else core
    )
    soft = ndimage.uniform_filter(mask.astype(np.float32), 3, mode='nearest')
    inwards = ndimage.sobel(soft, 0), ndimage.sobel(soft, 1)
    length = np.hypot(*inwards)
    outline = length > 0.5 * length.max()
    fall = (
        (down[outline] * inwards[0][outline] + across[outline] * inwards[1][outline])
        / length[outline]
        / cap
    )
    long = np.count_nonzero(outline) / 2 + 1
    on_border = _on_border(mask)
    return np.array(
        [
            np.log(size / mask.size),
            np.sqrt(1 - np.count_nonzero(reached) / size),
            mask_checks.solidity(mask),
            np.clip(fall, -1, 1).mean() if fall.size else 0,
            np.quantile(fall, 0.15) if fall.size else 0,
            np.log(long**2 / size),
            np.sqrt(on_border / (on_border + long)),
        ]
    )


def score(mask, slopes):
    """The probability (0 to 1) that a component is a hand."""
    values = measures(mask, slopes)
    if values[1] > 0.85:  # thin all over: a rim
        return 0.0
    mean, deviation = np.array(list(MEASURES.values())).T
    found = np.concatenate([[1], np.clip((values - mean) / deviation, -6, 6)])
    return float(1 / (1 + np.exp(-(found @ _WEIGHTS @ found))))


def _on_border(mask):
    """Pixels of a mask on the image's border."""
    return sum(np.count_nonzero(edge) for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def _inside(mask):
    """Distance of a mask's pixels to its outline; the image's border is none."""
    return (
        ndimage.distance_transform_edt(np.pad(mask, 1, mode='edge'))[1:-1, 1:-1]
        if not mask.all()
        else np.full(mask.shape, float(max(mask.shape)))
    )


@functools.cache
def _disc(radius):
    reach = np.arange(-int(radius), int(radius) + 1)
    return reach[:, None] ** 2 + reach[None] ** 2 <= radius**2


def signed_distance(mask):
    """Distance to the outline of a mask [h, w] in pixels, positive inside; the image's border is no
    outline.
    """
    if mask.all() or not mask.any():
        return np.where(mask, 1.0, -1.0) * max(mask.shape)
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    return np.where(mask, inside - 0.5, 0.5 - outside)
