"""One image with what a network made of it: the age, the selected parts, its maps."""

from __future__ import annotations

import pathlib

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.transforms import Affine2D
from PIL import Image

from boneage_jax.figures import style

_HEIGHT = 4.5  # inches of the image
_SIDE = 900  # pixels: a larger image is drawn smaller, in its own coordinates


def overlay(
    image: np.ndarray,
    caption: str,
    path: pathlib.Path,
    *,
    boxes: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    maps: dict[str, np.ndarray] | None = None,
    boxes_of_maps: dict[str, tuple] | None = None,
    size: tuple[int, int] | None = None,
    matrix: np.ndarray | None = None,
) -> pathlib.Path:
    """Draws an image with its caption above, boxes on it and maps beside it.

    Boxes and maps are of the image as the network saw it. Places are (row, column), and pixel
    (r, c) covers [r, r + 1] x [c, c + 1]. The maps are drawn in the image's own frame, each from
    its least value to its greatest.

    Args:
        image: [H, W] uint8.
        caption: the text above it.
        path: the PNG to write.
        boxes: [M, 4] (row0, column0, row1, column1), the best first.
        valid: [M], False for a box that is none.
        maps: {title: [h, w]}; a map covers all that the network saw.
        boxes_of_maps: {title: box} of the maps that cover a box alone.
        size: (rows, columns) of what the network saw; None where that is `image`.
        matrix: [2, 3], takes places there to places on `image`; None where the two are one.

    Returns:
        `path`.
    """
    size = image.shape[:2] if size is None else size
    matrix = np.eye(2, 3) if matrix is None else np.asarray(matrix, np.float64)
    boxes = np.zeros((0, 4)) if boxes is None else np.asarray(boxes, np.float64)
    valid = np.ones(len(boxes), bool) if valid is None else np.asarray(valid, bool)
    places = {}
    for title in maps or {}:
        places[title] = (boxes_of_maps or {}).get(title, (0, 0, *size))
    return style.save(
        _draw,
        pathlib.Path(path),
        np.asarray(image),
        caption,
        boxes,
        valid,
        maps or {},
        places,
        matrix,
    )


def _draw(image, caption, boxes, valid, maps, places, matrix):
    height, width = image.shape[:2]
    image_width = max(_HEIGHT * width / height, 2.6)  # a narrow image leaves room for its caption
    widths = (image_width,)
    if maps:
        widths = (image_width, _HEIGHT / 3 * width / height)
    figure = Figure(figsize=(sum(widths), _HEIGHT + 0.45))
    grid = figure.add_gridspec(max(len(maps), 1), len(widths), width_ratios=widths)

    axes = figure.add_subplot(grid[:, 0])
    small = Image.fromarray(image)
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    axes.imshow(small, cmap='gray', vmin=0, vmax=255, extent=(0, width, height, 0))
    for rank in reversed(np.flatnonzero(valid)):  # the best one on top
        colour = style.RANKS[min(rank, len(style.RANKS) - 1)]
        _draw_box(axes, corners(boxes[rank], matrix), colour, str(rank + 1))
    figure.suptitle(caption, fontsize=8)

    cells = [axes]
    for row, (title, values) in enumerate(maps.items()):
        cell = figure.add_subplot(grid[row, 1])
        _draw_map(cell, values, places[title], matrix)
        cell.set_title(title, fontsize=7, pad=2)
        cells.append(cell)
    for cell in cells:
        style.bare(cell)
        cell.set(xlim=(0, width), ylim=(height, 0), aspect='equal')
    style.tight(figure)
    return figure


def _draw_map(axes, values, box, matrix):
    """A map over its box of what the network saw, moved to its place on the image."""
    top, left, bottom, right = box
    drawn = axes.imshow(
        values, cmap='inferno', extent=(left, right, bottom, top), interpolation='bilinear'
    )
    # matplotlib counts x, y: columns, rows
    (a, b, c), (d, e, f) = matrix
    place = Affine2D(np.array([[e, d, f], [b, a, c], [0, 0, 1]]))
    drawn.set_transform(place + axes.transData)


def corners(box, matrix):
    """The four corners [4, 2] of a box on the image, in turn."""
    top, left, bottom, right = box
    places = np.array([[top, left], [top, right], [bottom, right], [bottom, left]])
    return places @ matrix[:, :2].T + matrix[:, 2]


def _draw_box(axes, corners, colour, text):
    outline = Polygon(corners[:, ::-1], closed=True, fill=False, edgecolor=colour, linewidth=1.4)
    axes.add_patch(outline)
    row, column = np.maximum(corners[corners.sum(axis=1).argmin()], 0)
    axes.text(
        column,
        row,
        text,
        fontsize=7,
        color='black',
        va='top',
        clip_on=True,
        bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 0.8},
    )
