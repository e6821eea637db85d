"""Where on an image the hand is, on a coarse grid: many thresholds, and the most hand-like parts.

Thresholds are taken of the image itself, of the image minus its ground (a grey opening wider than a
palm), and of the image in units of its local spread. Before that, a grey opening cuts thin bright
rims off. Opening and threshold commute, so every threshold costs one labelling. A component is
judged by what holds for any hand (`MEASURES`); the best ones vote.
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

# What a component is judged by, with mean and standard deviation over 45,000 components of real
# radiographs.
MEASURES = {
    'area': (-1.689, 1.014),  # logarithm of the share of the image
    'residue': (0.326, 0.217),  # root of the share no disc wider than a finger reaches
    'solidity': (0.718, 0.192),  # share of the convex hull
    # mean slope of the image across the outline, positive inwards, clipped to -1..1
    'edge': (0.577, 0.265),
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
# of the votes that makes a pixel hand: high scores go to thresholds that lose thin skin
_SHARE = 0.2
_NEAR = 0.6  # of the best score: who has less does not vote


def find(image: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """The hand's silhouette on a coarse image.

    Args:
        image: uint8 [h, w], at most about `SIDE` pixels.

    Returns:
        (bool [h, w], score, inverted): the mask, all false where no component is the size of a
        hand; its score, about 1 for a hand and below `DOUBTFUL` for what is hardly one; whether the
        hand is darker than its ground.
    """
    grey = ndimage.gaussian_filter(image.astype(np.float32), 0.8)
    mask, bright = _best(grey)
    found = [(mask, bright, False)]
    if bright < DOUBTFUL:
        found.append((*_best(255 - grey), True))
    field = _field(grey) if bright < _SURE else None
    if field is not None:
        edge = np.median(grey[field & (_inside(field) < 3)])
        found.append((*_best(np.where(field, grey, edge), field), False))
    return max(found, key=lambda one: one[1])


def _field(grey):
    """The collimator's field, shrunk: the largest part that fills its convex hull; None if none."""
    best = None
    for sign in (1, -1):
        for mask in _components(sign * grey):
            mask = ndimage.binary_fill_holes(mask)
            even = 0.12 < mask.mean() < 0.9 and mask_checks.solidity(mask) > 0.9
            if even and (best is None or mask.sum() > best.sum()):
                best = mask
    if best is None:
        return None
    field = _inside(best) > 4
    return field if field.any() else None


def _best(grey, field=None):
    """The mask on which the best components agree, and the best one's score."""
    slopes = _slopes(grey)
    voters = []
    for mask in _components(grey, field):
        # Ground, or a forearm, which takes 0.6 at most. This saves a third of the time.
        if _on_border(mask) > 1.5 * np.sqrt(np.count_nonzero(mask)):
            continue
        mask = ndimage.binary_fill_holes(mask)
        value = score(mask, slopes)
        if value:
            voters.append((value, mask))
    if not voters:
        return np.zeros(grey.shape, bool), 0.0
    voters = sorted(voters, key=lambda voter: -voter[0])[:_VOTERS]
    highest, best = voters[0]
    votes = []
    for value, mask in voters:
        if value > _NEAR * highest and mask_checks.iou(mask, best) > 0.7:
            votes.append((value, mask))
    share = sum(value * mask for value, mask in votes) / sum(value for value, _ in votes)
    return share > _SHARE, float(highest)


def _components(grey, field=None):
    """Every component of the size of a hand, of every threshold.

    Levels are quantiles of the image, or of its `field` where that is given.
    """
    least, largest = (share * grey.size for share in _AREA)
    for flat in _flattened(grey):
        measured = flat if field is None else flat[field]
        levels = np.quantile(measured, np.linspace(0.15, 0.95, _LEVELS))
        for radius in _RADII:
            opened = ndimage.grey_opening(flat, footprint=_disc(radius)) if radius else flat
            last = [0, 0]
            for level in levels:
                labels, count = ndimage.label(opened > level)
                areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
                for rank, i in enumerate(np.argsort(-areas)[:2]):
                    area = areas[i]
                    # Of the same component at a level that hardly changes it, one is enough.
                    changed = abs(area - last[rank]) > 0.01 * area
                    if least <= area <= largest and changed:
                        last[rank] = area
                        yield labels == i + 1


def _flattened(grey):
    """The image, the image minus its ground, and the image in units of its local spread."""
    side = max(grey.shape)
    blur = functools.partial(ndimage.gaussian_filter, mode='nearest')
    ground = ndimage.grey_opening(grey, size=(int(0.35 * side) | 1,) * 2)
    mean = blur(grey, 0.12 * side)
    spread = np.sqrt(np.maximum(blur((grey - mean) ** 2, 0.12 * side), 1))
    return grey, grey - blur(ground, 0.05 * side), (grey - mean) / (spread + 3)


def _slopes(grey):
    """(down, across, cap): the image's gradient by Sobel, and the steepness that counts at most."""
    down = ndimage.sobel(grey, 0) / 8
    across = ndimage.sobel(grey, 1) / 8
    return down, across, np.quantile(np.hypot(down, across), 0.9) + 0.3


def measures(mask: np.ndarray, slopes: tuple) -> np.ndarray:
    """The `MEASURES` of a filled component, float64 [7], in their order.

    `mask` is bool [h, w], on an image with these `_slopes`.
    """
    down, across, cap = slopes
    size = np.count_nonzero(mask)
    reach = 0.105 * np.sqrt(size)
    core = _inside(mask) > reach  # of a hand, the palm and the forearm
    if core.any():
        reached = np.count_nonzero(mask & (ndimage.distance_transform_edt(~core) <= reach))
    else:
        reached = 0
    soft = ndimage.uniform_filter(mask.astype(np.float32), 3, mode='nearest')
    in_down = ndimage.sobel(soft, 0)
    in_across = ndimage.sobel(soft, 1)
    length = np.hypot(in_down, in_across)
    outline = length > 0.5 * length.max()
    along = down[outline] * in_down[outline] + across[outline] * in_across[outline]
    fall = along / length[outline] / cap
    long = np.count_nonzero(outline) / 2 + 1
    on_border = _on_border(mask)
    edge = weakest = 0
    if fall.size:
        edge = np.clip(fall, -1, 1).mean()
        weakest = np.quantile(fall, 0.15)
    return np.array(
        [
            np.log(size / mask.size),
            np.sqrt(1 - reached / size),
            mask_checks.solidity(mask),
            edge,
            weakest,
            np.log(long**2 / size),
            np.sqrt(on_border / (on_border + long)),
        ]
    )


def score(mask: np.ndarray, slopes: tuple) -> float:
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
    if mask.all():
        return np.full(mask.shape, float(max(mask.shape)))
    return ndimage.distance_transform_edt(np.pad(mask, 1, mode='edge'))[1:-1, 1:-1]


@functools.cache
def _disc(radius):
    reach = np.arange(-int(radius), int(radius) + 1)
    return reach[:, None] ** 2 + reach[None] ** 2 <= radius**2


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outline of a mask [h, w] in pixels, positive inside.

    The image's border is no outline.
    """
    if mask.all() or not mask.any():
        return np.where(mask, 1.0, -1.0) * max(mask.shape)
    inside = ndimage.distance_transform_edt(mask)
    outside = ndimage.distance_transform_edt(~mask)
    return np.where(mask, inside - 0.5, 0.5 - outside)
