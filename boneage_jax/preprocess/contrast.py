"""Contrast of the hand alone: a linear percentile stretch inside the mask, background 0.

Iglovikov et al. (2018) normalise the contrast right after masking and do not describe how. Their
own registered images show no histogram equalisation, and p1 / p50 / p99 near 11 / 132 / 245 inside
the hand. So the stage's options (ours) bring the 1st percentile to 11 and the 99th to 245; the
median then follows from the image.
"""

import numpy as np

from tfds_rsna.errors import UserError


def stretch(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    low: float,
    high: float,
    bottom: float,
    top: float,
    background: int | None,
) -> np.ndarray:
    """The image with its hand spread over the greys and everything else at `background`.

    Args:
        image: uint8 [H, W].
        mask: bool or uint8 [H, W], non-zero inside the hand.
        low: percentile of the greys inside the mask that becomes `bottom`.
        high: percentile that becomes `top`. Greys beyond the two are stretched the same way and
            clipped to 0..255.
        bottom: grey of the result, 0 to 255.
        top: grey of the result, 0 to 255.
        background: grey outside the mask; None leaves the outside stretched like the hand.

    Returns:
        uint8 [H, W]. A hand of one single grey comes out in the middle of `bottom` and `top`.

    Raises:
        UserError: an empty mask, shapes that differ, options out of order.
    """
    mask = np.asarray(mask) > 0
    if image.dtype != np.uint8 or image.ndim != 2 or mask.shape != image.shape:
        raise UserError(
            f'contrast: image {image.dtype} {list(image.shape)} and mask {list(mask.shape)}: give '
            'a uint8 image [H, W] and a mask of the same shape'
        )
    if not 0 <= low < high <= 100 or not 0 <= bottom < top <= 255:
        raise UserError(
            f'contrast: low={low}, high={high}, bottom={bottom}, top={top}: low must lie below '
            'high (0 to 100) and bottom below top (0 to 255)'
        )
    if not mask.any():
        raise UserError(
            'contrast: the mask is empty, so there is no hand whose contrast could be measured'
        )
    dark, bright = np.percentile(image[mask], (low, high))
    grey = np.arange(256, dtype=np.float64)  # 256 greys only: a table is exact and fast
    if bright > dark:
        grey = bottom + (grey - dark) * (top - bottom) / (bright - dark)
    else:
        grey = grey - dark + (bottom + top) / 2
    result = np.clip(np.rint(grey), 0, 255).astype(np.uint8)[image]
    if background is not None:
        result[~mask] = background
    return result
