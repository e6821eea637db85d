"""Affine transforms of images: composed as matrices, then applied once to pixels, points and boxes.

A transform is a float64 [3, 3] matrix on (row, column, 1); pixel (r, c) has its centre at (r, c).
`second @ first` does first `first`. Composing costs nothing and resampling costs sharpness: so
native -> padded -> registered -> region is one matrix, and `warp` reads the native image once.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from tfds_rsna.errors import UserError


def shift(rows: float, columns: float) -> np.ndarray:
    """[3, 3] that moves by (rows, columns) pixels."""
    return np.array([[1, 0, rows], [0, 1, columns], [0, 0, 1]], np.float64)


def zoom(rows: float, columns: float) -> np.ndarray:
    """[3, 3] that enlarges the pixel grid by these factors.

    Edges stay edges, so p -> (p + 1/2) factor - 1/2.
    """
    return np.array(
        [[rows, 0, (rows - 1) / 2], [0, columns, (columns - 1) / 2], [0, 0, 1]], np.float64
    )


def mirror(width: int) -> np.ndarray:
    """[3, 3] that mirrors an image of `width` columns left to right."""
    return np.array([[1, 0, 0], [0, -1, width - 1], [0, 0, 1]], np.float64)


def fit(shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """[3, 3] from an image of `shape` (rows, columns) into `size`, centred, its aspect kept."""
    factor = min(size[0] / shape[0], size[1] / shape[1])
    centre = shift((size[0] - factor * shape[0]) / 2, (size[1] - factor * shape[1]) / 2)
    return centre @ zoom(factor, factor)


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [..., 2] (row, column) moved, float32; NaN stays NaN."""
    points = np.asarray(points, np.float64)
    return (points @ transform[:2, :2].T + transform[:2, 2]).astype(np.float32)


def apply_boxes(transform: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Boxes [..., 4] (row0, column0, row1, column1) moved, float32.

    A moved box is the upright one around its moved corners.
    """
    corners = np.asarray(boxes)[..., [[0, 1], [0, 3], [2, 1], [2, 3]]]
    moved = apply(transform, corners)
    return np.concatenate([moved.min(-2), moved.max(-2)], -1)


def magnification(transform: np.ndarray) -> float:
    """Pixels of the target per pixel of the source (the geometric mean over directions)."""
    return math.sqrt(abs(np.linalg.det(transform[:2, :2])))


def warp(
    image: np.ndarray, transform: np.ndarray, size: tuple[int, int], *, fill=0, method=None
) -> np.ndarray:
    """The image under `transform` on a canvas of `size`, read once from its own pixels.

    Where the image shrinks by a factor f, it is read on a grid ceil(f) times finer than the target
    and averaged down: the area average, at any angle. Bicubic up to f = 2; beyond, bilinear does as
    well. Measured on a 1514x2044 image turned by 13 degrees and shrunk by 4, against the area
    average of a grid three times finer still: 0.3 grey levels RMS in 76 ms on one core; Pillow's
    bicubic without a filter 3.2 (aliased trabeculae, 24 ms); a reduction by a whole factor first,
    then bicubic, 2.4 (16 ms); a Gaussian first, as scikit-image does, 1.6 (159 ms).

    Args:
        image: uint8 [H, W].
        transform: [3, 3], source -> target.
        size: (rows, columns) of the target.
        fill: grey of what is outside the image.
        method: of the read, one of Pillow's; None chooses as above.

    Returns:
        uint8 [rows, columns].
    """
    rows, columns = size
    image = np.asarray(image)
    if image.ndim != 2 or image.dtype != np.uint8:
        raise UserError(
            f'warp takes an 8-bit grey image [H, W], not {image.dtype} {list(image.shape)}'
        )
    if abs(np.linalg.det(transform[:2, :2])) < 1e-12 or not np.isfinite(transform).all():
        raise UserError('warp: the transform is not invertible; are two key points the same?')
    if tuple(size) == image.shape and np.allclose(transform, np.eye(3), atol=1e-6):
        return image.copy()
    finer = max(1, math.ceil(1 / magnification(transform) - 1e-3))
    back = np.linalg.inv(zoom(finer, finer) @ transform)
    # Pillow's affine works on (x, y) with pixel centres at halves.
    back = shift(0.5, 0.5) @ back @ shift(-0.5, -0.5)
    data = (back[1, 1], back[1, 0], back[1, 2], back[0, 1], back[0, 0], back[0, 2])
    if method is None and finer <= 2:
        method = Image.Resampling.BICUBIC
    elif method is None:
        method = Image.Resampling.BILINEAR
    out = Image.fromarray(image).transform(
        (columns * finer, rows * finer), Image.Transform.AFFINE, data, method, fillcolor=fill
    )
    if finer > 1:
        out = out.reduce(finer)
    return np.asarray(out)


def warp_mask(mask: np.ndarray, transform: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As `warp` for a mask: uint8 [rows, columns], 1 where at least half of the pixel is hand."""
    grey = np.where(mask, np.uint8(255), np.uint8(0))
    grey = warp(grey, transform, size, method=Image.Resampling.BILINEAR)
    return (grey >= 128).astype(np.uint8)


def move_example(
    example: dict, *, image: Callable, mask: Callable, points: Callable, boxes: Callable
) -> dict:
    """An image dict with everything moved that moves with its image: the one list of it.

    Args:
        example: `image` uint8 [H, W], and any others; entries that are absent are passed over.
        image: how the pixels of `image` move.
        mask: how those of `hand_mask` move.
        points: how `keypoints` and `coco_keypoints` [..., 2] (row, column) move.
        boxes: how `bone_boxes` [..., 4] (row0, column0, row1, column1) move.

    Returns:
        A new dict; the other entries are as they were.
    """
    moves = {
        'image': image,
        'hand_mask': mask,
        'keypoints': points,
        'coco_keypoints': points,
        'bone_boxes': boxes,
    }
    moved = {name: move(example[name]) for name, move in moves.items() if name in example}
    return example | moved


def transform_example(example: dict, transform: np.ndarray, size: tuple[int, int]) -> dict:
    """An image dict under `transform` on a canvas of `size`, with all that moves with its image.

    Its entry `transform`, float32 [3, 3], leads from the image before the first such step to the
    image as it is now. What a model finds can be drawn on the native image through its inverse.
    """
    moved = move_example(
        example,
        image=lambda pixels: warp(pixels, transform, size),
        mask=lambda mask: warp_mask(mask, transform, size),
        points=lambda points: apply(transform, points),
        boxes=lambda boxes: apply_boxes(transform, boxes),
    )
    before = np.asarray(example.get('transform', np.eye(3)), np.float64)
    return moved | {'transform': (transform @ before).astype(np.float32)}
