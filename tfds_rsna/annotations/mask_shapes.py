"""Draws the shapes that annotation files hold: polygons, boxes, circles and small bitmaps."""

import base64
import io
import zlib
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

# Draws one shape on an image of a size (rows, columns), as bool [H, W].
Shape = Callable[[tuple[int, int]], np.ndarray]


def polygon(points: list, holes: Iterable[list] = ()) -> Shape:
    """The inside of a ring of (x, y) corners without its `holes`."""

    def draw(size):
        mask = np.zeros(size, bool)
        _fill(mask, points, True)
        for hole in holes:
            _fill(mask, hole, False)
        return mask

    return draw


def _fill(mask: np.ndarray, ring: list, value: bool) -> None:
    """Sets the pixels inside a ring of (x, y) corners."""
    if len(ring) < 3:
        raise ValueError(f'a polygon of {len(ring)} points')
    # Annotations count from the pixel's corner, we from its centre.
    x, y = np.asarray(ring, float).T - 0.5
    if not np.isfinite([x, y]).all():
        raise ValueError('a polygon with a corner that is not finite')
    mask[_inside(y, x, mask.shape)] = value


def _inside(y: np.ndarray, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which pixels have their centre inside a ring (even-odd rule), bool of `size`.

    Every edge flips, in each row that it crosses, all pixels to the right of it.
    """
    flips = np.zeros((size[0], size[1] + 1), bool)
    for y0, x0, y1, x1 in zip(y, x, np.roll(y, -1), np.roll(x, -1), strict=True):
        low, high = np.clip(np.ceil(sorted((y0, y1))), 0, size[0]).astype(int)
        if low < high:
            rows = np.arange(low, high)
            crossed = x0 + (rows - y0) * ((x1 - x0) / (y1 - y0))
            # An edge crosses a row once, so no pixel is here twice.
            flips[rows, np.clip(np.ceil(crossed), 0, size[1]).astype(int)] ^= True
    return np.logical_xor.accumulate(flips[:, :-1], axis=1)


def box(points: list) -> Shape:
    """The rectangle between two opposite (x, y) corners."""
    (x0, y0), (x1, y1) = points
    return polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def circle(points: list) -> Shape:
    """A circle by its centre and a point on its edge, as a polygon of 90 corners."""
    (x, y), edge = points
    radius = np.hypot(edge[0] - x, edge[1] - y)
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return polygon(list(zip(x + radius * np.cos(angles), y + radius * np.sin(angles))))


def bitmap(decode: Callable[[], np.ndarray], left: int, top: int) -> Shape:
    """A small mask, `decode() -> bool [h, w]`, laid at (left, top) and cut at the image's edges."""

    def draw(size):
        small = decode()
        y0, y1 = np.clip((top, top + small.shape[0]), 0, size[0])
        x0, x1 = np.clip((left, left + small.shape[1]), 0, size[1])
        mask = np.zeros(size, bool)
        mask[y0:y1, x0:x1] = small[y0 - top : y1 - top, x0 - left : x1 - left]
        return mask

    return draw


def packed_png_bits(text: str) -> np.ndarray:
    """The mask in a PNG that zlib packed and base 64 wrote, bool [h, w]."""
    return png_bits(zlib.decompress(base64.b64decode(text)))


def png_bits(data: bytes) -> np.ndarray:
    """The mask in a PNG, bool [h, w]."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode in ('1', 'L', 'P', 'I'):
            return np.asarray(image.convert('L')) > 0
        pixels = np.asarray(image)
    if pixels.ndim == 3:
        # The last channel is the alpha of Supervisely's bitmaps, the mask itself elsewhere.
        pixels = pixels[..., -1]
    return pixels > 0
