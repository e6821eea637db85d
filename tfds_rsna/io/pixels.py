"""What every reader of image files needs: errors, the limit of pixels, and the way to 8 bits."""

import dataclasses

import numpy as np
from PIL import Image

from tfds_rsna.errors import UserError

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
DEPTHS = (8, 10, 12, 14, 16)
_FLAT = 16  # grey levels: where 98% of the pixels span fewer, nothing can be made out
_FAINT = 40  # likewise, of an image by a window: then that was not meant for it
_BLANK = 2  # grey levels: where 95% of the pixels span no more, there is no picture
_SQUARE = 1.02  # height by width of a pixel that still counts as square
_NO_DEVICE = 4.0  # beyond that a header is wrong
_STRETCH = (0.5, 99.5)  # percentiles that become black and white


class ImageError(UserError):
    """An image that cannot be read; the message names the file, what was found, what to do."""


class NotAnImageError(ImageError):
    """A whole file that holds no image, such as the directory of a CD or a report."""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What an image file holds.

    Attributes:
        grey: uint8 [H, W], C-contiguous.
        flags: what was decided where the file did not say it, or said what cannot be; in a word
            each, such as 'window_ignored'.
        male: the sex that the file's header gives, None where it gives none.
        refused: why the header says that this is no radiograph of a hand, '' where it does not.
    """

    grey: np.ndarray
    flags: tuple[str, ...] = ()
    male: bool | None = None
    refused: str = ''


def scale(
    values: np.ndarray, depth: int | None = None, void: np.ndarray | None = None
) -> np.ndarray:
    """Values of any type -> uint8 of the same shape, by the rule of depths in `decoding`.

    Args:
        values: of any type and shape.
        depth: bits that hold the values; None: see `decoding`.
        void: bool, as `values`: pixels that are none. They become 0 and decide nothing.

    Raises:
        ValueError: values that are not finite, or all void.
    """
    if void is None and values.dtype == np.uint8 and depth in (None, 8):
        return values
    low, high = _range(values, void)
    if np.issubdtype(values.dtype, np.integer) and low >= 0 and high < 2**16:
        low = 0
        high = 2 ** (depth or _least_depth(high)) - 1
    return _linear(values, low, high, void)


def scale_or_stretch(
    values: np.ndarray, depth: int | None = None, void: np.ndarray | None = None
) -> tuple[np.ndarray, list[str]]:
    """`scale`, and where nothing could be made out then, `stretch`; (uint8, flags).

    An isolated extreme value (-32768 around an image of 0 to 4095) counts as void.
    """
    flags = []
    guessed = _isolated(values, void)
    if guessed is not None:
        void = guessed
        flags.append('padding_guessed')
    grey = scale(values, depth, void)
    low, high = _range(values, void)
    if span(grey, void) < _FLAT <= high - low and depth is None:
        grey = stretch(values, void)
        flags.append('stretched')
    return grey, flags


def stretch(values: np.ndarray, void: np.ndarray | None = None) -> np.ndarray:
    """Values -> uint8, linear between two percentiles of the pixels that are not void."""
    inside = values if void is None else values[~void]
    low, high = np.percentile(inside, _STRETCH)
    if low == high:
        low, high = _range(values, void)
    return _linear(values, low, high, void)


def span(grey: np.ndarray, void: np.ndarray | None = None, *, share: float = 0.98) -> int:
    """Grey levels between which the middle `share` of the pixels (uint8, any shape) lies."""
    inside = grey if void is None else grey[~void]
    summed = np.cumsum(np.bincount(inside.ravel(), minlength=256))
    outside = (1 - share) / 2 * inside.size
    low = np.searchsorted(summed, outside, side='right')
    high = np.searchsorted(summed, inside.size - outside)
    return max(0, int(high) - int(low))


def is_blank(grey: np.ndarray) -> bool:
    """Whether an image [H, W] uint8 is one grey value, but for single pixels and small letters."""
    return span(grey, share=0.95) <= _BLANK


def is_flat(grey: np.ndarray) -> bool:
    """Whether hardly anything can be made out in an image [H, W] uint8."""
    return span(grey) < _FLAT


def is_lost(grey: np.ndarray, values: np.ndarray, void: np.ndarray | None = None) -> bool:
    """Whether `grey` shows little of `values`: it is faint, or black and white alone.

    An image that has no more than two values is not lost in them.
    """
    inside = grey if void is None else grey[~void]
    source = values if void is None else values[~void]
    low, high = np.percentile(source, _STRETCH)
    between = (source > low) & (source < high)
    if between.mean() < 0.02:
        return False
    shown = (inside > 0) & (inside < 255)
    return span(grey, void) < _FAINT or shown.mean() < 0.02


def square(decoded: Decoded, height: float) -> Decoded:
    """An image whose pixels are `height` times as high as wide, enlarged so that they are square.

    A height that is hardly another than 1, or that no device has, changes nothing.
    """
    ratio = max(height, 1 / height) if height > 0 else 0
    rows, columns = decoded.grey.shape
    if height > 1:
        rows = round(rows * height)
    elif height > 0:
        columns = round(columns / height)
    if not _SQUARE < ratio <= _NO_DEVICE or rows * columns > MAX_PIXELS:
        return decoded
    image = Image.fromarray(decoded.grey).resize((columns, rows), Image.Resampling.BILINEAR)
    flags = (*decoded.flags, 'pixels_made_square')
    return dataclasses.replace(decoded, grey=np.array(image), flags=flags)


def _range(values, void) -> tuple[float, float]:
    inside = values if void is None else values[~void]
    if not inside.size:
        raise ValueError('no pixel value but padding')
    low = inside.min()
    high = inside.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError('pixel values that are not finite numbers')
    return low.item(), high.item()


def _linear(values, low, high, void) -> np.ndarray:
    """`low` to `high` as 0 to 255, clipped; zeros where there is no range."""
    if low == high:
        return np.zeros(values.shape, np.uint8)
    factor = np.float32(255 / (float(high) - float(low)))
    if void is not None:
        values = np.where(void, np.asarray(low, values.dtype), values)
    grey = (values.astype(np.float32) - np.float32(low)) * factor
    grey = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    if void is not None:
        grey[void] = 0
    return grey


def _isolated(values, void) -> np.ndarray | None:
    """`void`, widened by the values that stand for no data though nobody says so; None: no such.

    These are what is not finite, and an extreme value farther from all others than they are from
    each other. An integer counts only below 0, and from the largest of 15 bits on.
    """
    if values.dtype == np.uint8:
        return None
    found = np.zeros(values.shape, bool) if void is None else void.copy()
    before = found.sum()
    real = values.dtype.kind == 'f'
    if real:
        found |= ~np.isfinite(values)
    for extreme, end in ((np.min, -1), (np.max, 1)):
        inside = values[~found]
        if not inside.size:
            break
        value = extreme(inside)
        if not real and 0 <= value < 2**15 - 1:
            continue
        rest = inside[inside != value]
        if rest.size < 0.02 * values.size:
            continue
        low = float(rest.min())
        high = float(rest.max())
        gap = low - float(value) if end < 0 else float(value) - high
        if high > low and gap > high - low:
            found |= values == value
    return found if found.sum() > before else None


def _least_depth(high: int) -> int:
    """The least of `DEPTHS` that holds a value below 2**16."""
    return next(bits for bits in DEPTHS if high < 2**bits)
