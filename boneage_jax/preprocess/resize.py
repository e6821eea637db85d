"""An image at the size that a network sees, and the way back."""

import functools

import numpy as np
from PIL import Image

from boneage_jax.preprocess import transform as transforms

STRETCHED = 0.02  # by which aspect ratios differ before an image counts as stretched


def inner(
    shape: tuple[int, int], size: tuple[int, int], fit: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(rows, columns) that an image of `shape` takes of `size`, and the (row, column) it begins at.

    `fit`: 'pad' keeps the aspect ratio and centres the image, 'stretch' fills the `size`.
    """
    rows, columns = size
    if fit != 'pad':
        return (rows, columns), (0, 0)
    factor = min(rows / shape[0], columns / shape[1])
    taken = (
        min(rows, max(1, round(shape[0] * factor))),
        min(columns, max(1, round(shape[1] * factor))),
    )
    return taken, ((rows - taken[0]) // 2, (columns - taken[1]) // 2)


def resize(example: dict, size: tuple[int, int], fit: str) -> dict:
    """An image dict at `size` (rows, columns): images `[rows, columns, 1]`, points moved along.

    `pad` keeps the aspect ratio, centres the image and fills with zeros; `stretch` stretches it.
    Images are averaged down (antialiased bilinear), masks take the nearest pixel; an image that has
    the size already is left untouched. Pixel (r, c) has its centre at (r, c), so a point moves as
    (p + 1/2) scale - 1/2 + offset. An image that was stretched before it came here has its former
    shape in `native_shape` (rows, columns): `pad` gives it that aspect ratio back.
    """
    shape = example['image'].shape[:2]
    example = dict(example)
    taken, offset = inner(example.pop('native_shape', shape), size, fit)
    scale = np.array([taken[0] / shape[0], taken[1] / shape[1]], np.float32)

    move = functools.partial(_scaled, scale=scale, offset=offset)
    place = functools.partial(_place, taken=taken, offset=offset, size=size)
    return transforms.move_example(
        example,
        image=functools.partial(place, method=Image.Resampling.BILINEAR, reducing_gap=3.0),
        mask=functools.partial(place, method=Image.Resampling.NEAREST),
        points=move,
        boxes=move,
    )


def restore_aspect(example: dict, native_shape: tuple[int, int]) -> dict:
    """An image dict at the aspect ratio of `native_shape` (rows, columns).

    The side that lost more is enlarged, so nothing is thrown away. An image whose ratio is within
    `STRETCHED` of it is left as it is.
    """
    rows, columns = example['image'].shape[:2]
    stretch = rows * native_shape[1] / (columns * native_shape[0])
    if abs(stretch - 1) <= STRETCHED:
        return example
    shape = (round(rows * max(1, 1 / stretch)), round(columns * max(1, stretch)))
    scale = np.array([shape[0] / rows, shape[1] / columns])

    def stretched(method):
        return lambda pixels: np.asarray(Image.fromarray(pixels).resize(shape[::-1], method))

    move = functools.partial(_scaled, scale=scale, offset=(0, 0))
    return transforms.move_example(
        example,
        image=stretched(Image.Resampling.BILINEAR),
        mask=stretched(Image.Resampling.NEAREST),
        points=move,
        boxes=move,
    )


def _scaled(points, *, scale, offset):
    """Points, or corners of boxes, of an image that was scaled edge to edge and then moved."""
    points = np.asarray(points, np.float32)
    moved = (points.reshape(-1, 2) + 0.5) * scale - 0.5 + np.array(offset, np.float32)
    return moved.reshape(points.shape).astype(np.float32)


def _place(pixels, *, taken, offset, size, method, reducing_gap=None):
    """Pixels [H, W] resized to `taken` and placed at `offset` of an empty [rows, columns, 1]."""
    if pixels.shape[:2] != taken:
        image = Image.fromarray(pixels)
        pixels = np.asarray(image.resize(taken[::-1], method, reducing_gap=reducing_gap))
    canvas = np.zeros((*size, 1), np.uint8)
    top, left = offset
    canvas[top : top + taken[0], left : left + taken[1], 0] = pixels
    return canvas


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask (bool or 0 and other numbers) `[H, W]` at `shape`, edge to edge: uint8 of 0 and 1.

    A pixel belongs to it where at least half of what it covers does.
    """
    if mask.shape == tuple(shape):
        return (mask > 0).astype(np.uint8)
    grey = Image.fromarray((mask > 0).astype(np.uint8) * 255)
    grey = grey.resize(shape[::-1], Image.Resampling.BILINEAR)
    return (np.asarray(grey) >= 128).astype(np.uint8)


def restore_points(
    points: np.ndarray, shape: tuple[int, int], size: tuple[int, int], fit: str
) -> np.ndarray:
    """Points (row, column) `[..., 2]` of the resized image in pixels of the image of `shape`."""
    taken, offset = inner(shape, size, fit)
    scale = np.array([taken[0] / shape[0], taken[1] / shape[1]], np.float32)
    placed = np.asarray(points, np.float32) - np.array(offset, np.float32)
    return ((placed + 0.5) / scale - 0.5).astype(np.float32)


def uncovered(pixels: np.ndarray, shape: tuple[int, int], fit: str) -> np.ndarray:
    """`[rows, columns]` of a resized image without padding: what the image of `shape` covered."""
    taken, offset = inner(shape, pixels.shape[:2], fit)
    return pixels[offset[0] : offset[0] + taken[0], offset[1] : offset[1] + taken[1]]
