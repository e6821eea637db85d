"""What every reader of image files needs: the error, the limit of pixels, and the way to 8 bits."""

import numpy as np
from PIL import Image

from tfds_rsna.errors import UserError

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
DEPTHS = (8, 10, 12, 14, 16)


class ImageError(UserError):
    """An image that cannot be read; the message names the file, what was found, what to do."""


def scale(values: np.ndarray, depth: int | None = None) -> np.ndarray:
    """Values of any type -> uint8 of the same shape, by the rule of depths in `decoding`.

    Raises:
        ValueError: values that are not finite.
    """
    if values.dtype == np.uint8 and depth in (None, 8):
        return values
    low = values.min()
    high = values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError('pixel values that are not finite numbers')
    if np.issubdtype(values.dtype, np.integer) and low >= 0 and high < 2**16:
        low = 0
        high = 2 ** (depth or _least_depth(high)) - 1
    elif low == high:
        return np.zeros(values.shape, np.uint8)
    factor = np.float32(255 / (float(high) - float(low)))
    grey = (values.astype(np.float32) - np.float32(low)) * factor
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _least_depth(high: int) -> int:
    """The least of `DEPTHS` that holds a value below 2**16."""
    return next(bits for bits in DEPTHS if high < 2**bits)
