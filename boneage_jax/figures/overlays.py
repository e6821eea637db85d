"""One image with what a network made of it: the age as caption, the selected parts, relation or
attention maps.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.transforms import Affine2D
from PIL import Image

from boneage_jax.figures import style

_HEIGHT = 4.5  # inches of the image
_SIDE = 900  # pixels: a larger image is drawn smaller, in its own coordinates


def overlay(
    image,
    caption,
    path,
    *,
    boxes=None,
    valid=None,
    maps=None,
    boxes_of_maps=None,
    size=None,
    matrix=None,
):
    """Writes an image [H, W] uint8, caption above it; -> path.

    `boxes` [M, 4] (row0, column0, row1, column1, best first), `valid` [M] (False: no box) and the
    `maps`, {title: [h, w]}, are of the image as the network saw it, `size` = (rows, columns); a map
    covers all of it, or its box in `boxes_of_maps`. `matrix` [2, 3] takes places there to places on
    `image`, both (row, column) with pixel (r, c) covering [r, r + 1] x [c, c + 1]; None where the
    two are one. The maps stand beside the image in its own frame, each from its least value to its
    greatest.
    """
    size = image.shape[:2] if size is None else size
    matrix = np.eye(2, 3) if matrix is None else np.asarray(matrix, np.float64)
    boxes = np.zeros((0, 4)) if boxes is None else np.asarray(boxes, np.float64)
    valid = np.ones(len(boxes), bool) if valid is None else np.asarray(valid, bool)
    return style.save(
        _draw,
        Path(path),
        np.asarray(image),
        caption,
        boxes,
        valid,
        maps or {},
        boxes_of_maps or {},
        size,
        matrix,
    )


def _draw(image, caption, boxes, valid, maps, boxes_of_maps, size, matrix):
    height, width = image.shape[:2]
    image_width = max(_HEIGHT * width / height, 2.6)  # a narrow image leaves room for its caption
    map_width = _HEIGHT / 3 * width / height if maps else 0
    figure = Figure(figsize=(image_width + map_width, _HEIGHT + 0.45))
    grid = figure.add_gridspec(
        max(len(maps), 1), 2 if maps else 1, width_ratios=(image_width, map_width) if maps else (1,)
    )
    axes = figure.add_subplot(grid[:, 0])
    small = Image.fromarray(image)
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    axes.imshow(small, cmap='gray', vmin=0, vmax=255, extent=(0, width, height, 0))
    for rank in reversed(np.flatnonzero(valid)):  # the best one on top
        _draw_box(
            axes,
            _corners(boxes[rank], matrix),
            style.RANKS[min(rank, len(style.RANKS) - 1)],
            str(rank + 1),
        )
    figure.suptitle(caption, fontsize=8)
    cells = [axes]
    for row, (title, values) in enumerate(maps.items()):
        top, left, bottom, right = boxes_of_maps.get(title, (0, 0, *size))
        cell = figure.add_subplot(grid[row, 1])
        (a, b, c), (d, e, f) = matrix
        place = Affine2D(
            np.array([[e, d, f], [b, a, c], [0, 0, 1]])
        )  # matplotlib counts x, y: columns, rows
        drawn = cell.imshow(
            values, cmap='inferno', extent=(left, right, bottom, top), interpolation='bilinear'
        )
        drawn.set_transform(place + cell.transData)
        cell.set_title(title, fontsize=7, pad=2)
        cells.append(cell)
    for cell in cells:
        cell.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0), aspect='equal')
        cell.set_frame_on(False)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return figure


def _corners(box, matrix):
    """The four corners [4, 2] of a box on the image, in turn."""
    top, left, bottom, right = box
    corners = np.array([[top, left], [top, right], [bottom, right], [bottom, left]])
    return corners @ matrix[:, :2].T + matrix[:, 2]


def _draw_box(axes, corners, colour, text):
    axes.add_patch(
        Polygon(corners[:, ::-1], closed=True, fill=False, edgecolor=colour, linewidth=1.4)
    )
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
