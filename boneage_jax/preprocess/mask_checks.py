"""Review of hand masks by rule: what a mask must look like before mining may train on it.

Every rule is a measured number with a least and a largest value (`LIMITS`), so a refusal names what
was found and what would have passed. The measures are taken on a grid of at most 128 pixels, so
they hardly depend on the image's size.
"""

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

_SIDE = 128

# name -> (least, largest, what the measure is)
LIMITS = {
    'area': (0.04, 0.80, 'share of the image that is hand'),
    'border': (0.0, 0.40, "share of the mask's outline that lies on the image's border"),
    'sides': (0, 3, 'borders of the image that the mask covers by a tenth or more'),
    'components': (1, 1, 'pieces larger than a hundredth of the mask'),
    'holes': (0.0, 0.03, 'share of the mask that holes would add'),
    'smoothness': (0.94, 1.0, 'IoU of the mask with itself smoothed'),
    'solidity': (0.40, 0.94, 'share of its convex hull that the mask fills'),
    'agreement': (0.90, 1.0, 'IoU with the other mask'),
}


def measures(mask: np.ndarray, other: np.ndarray | None = None) -> dict[str, float]:
    """The measures of `LIMITS` as a dict of floats.

    Args:
        mask: bool or uint8 [H, W], non-zero in the hand.
        other: a second mask of the same image, [H, W], for `agreement`; None leaves it out.

    Returns:
        {name: value}; an empty mask has `area` 0 and nothing else is measured.
    """
    mask = np.asarray(mask) > 0
    small = reduced(mask)
    found = {'area': float(mask.mean())}
    if other is not None:
        found['agreement'] = iou(mask, other)
    size = small.sum()
    if not size:
        return found
    filled = ndimage.binary_fill_holes(small)
    covered = [small[0].mean(), small[-1].mean(), small[:, 0].mean(), small[:, -1].mean()]
    on_border = small[0].sum() + small[-1].sum() + small[1:-1, 0].sum() + small[1:-1, -1].sum()
    # Pixels on the border count as outline.
    outline = (filled & ~ndimage.binary_erosion(filled)).sum()
    labels, _ = ndimage.label(small, structure=np.ones((3, 3)))
    pieces = np.bincount(labels.ravel())[1:]
    smooth = ndimage.gaussian_filter(small.astype(np.float32), 0.02 * np.sqrt(size), mode='nearest')
    found.update(
        border=float(on_border / outline),
        sides=float(sum(share >= 0.1 for share in covered)),
        components=float(max(1, (pieces > 0.01 * size).sum())),
        holes=float((filled.sum() - size) / size),
        smoothness=iou(small, smooth > 0.5),
        solidity=solidity(filled),
    )
    return found


def violations(
    mask: np.ndarray,
    other: np.ndarray | None = None,
    limits: dict[str, tuple[float, float]] | None = None,
) -> list[str]:
    """Why a mask is refused: one sentence for each broken rule, an empty list where it passes.

    Args:
        mask: as for `measures`.
        other: as for `measures`.
        limits: replaces single entries of `LIMITS`, `{name: (least, largest)}`.
    """
    return reasons(measures(mask, other), limits)


def reasons(
    measured: dict[str, float], limits: dict[str, tuple[float, float]] | None = None
) -> list[str]:
    """The sentences of `violations`, from `measures` that were taken before."""
    chosen = {name: (least, largest) for name, (least, largest, _) in LIMITS.items()}
    chosen.update(limits or {})
    unknown = set(chosen) - set(LIMITS)
    if unknown:
        raise ValueError(f'no such rule: {", ".join(sorted(unknown))}; known: {", ".join(LIMITS)}')
    if not measured['area']:
        return ['area: the mask is empty']
    sentences = []
    for name, value in measured.items():
        least, largest = chosen[name]
        if not least <= value <= largest:
            what = LIMITS[name][2]
            sentences.append(f'{name}: {value:.3g} ({what}), not {least:g} to {largest:g}')
    return sentences


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks [H, W]; two empty masks agree (1)."""
    mask = np.asarray(mask) > 0
    other = np.asarray(other) > 0
    union = np.count_nonzero(mask | other)
    if not union:
        return 1.0
    return np.count_nonzero(mask & other) / union


def solidity(mask: np.ndarray) -> float:
    """Share of its convex hull that a mask [H, W] fills; 1 for what is too small to have a hull."""
    rows, columns = np.nonzero(mask & ~ndimage.binary_erosion(mask))
    corners = np.array([(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)])
    points = (np.stack([rows, columns], -1)[:, None] + corners).reshape(-1, 2)
    try:
        return float(min(1.0, mask.sum() / ConvexHull(points).volume))
    except (QhullError, ValueError):
        return 1.0


def reduced(mask: np.ndarray, side: int = _SIDE) -> np.ndarray:
    """A mask [H, W] on a grid of at most `side` pixels: a pixel is in where most of its area is."""
    factor = side / max(mask.shape)
    if factor >= 1:
        return mask
    rows = max(1, round(mask.shape[0] * factor))
    columns = max(1, round(mask.shape[1] * factor))
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(
        (columns, rows), Image.Resampling.BOX
    )
    return np.asarray(grey) > 127
