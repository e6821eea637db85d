"""Boxes on images: anchors, and the parts that a network selected."""

from __future__ import annotations

import pathlib

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from boneage_jax.figures import style
from tfds_rsna.errors import UserError


def parts(
    images: np.ndarray,
    maps: np.ndarray | None,
    boxes: np.ndarray,
    captions: list,
    path: pathlib.Path,
    valid: np.ndarray | None = None,
) -> pathlib.Path:
    """Draws a column for each image: the image, its relation map, the selected parts on it.

    Ji et al. 2019, figure 5. The maps share one scale, from their least value to their greatest.

    Args:
        images: [N, H, W, 1], as in `image_sheet`.
        maps: [N, h, w] in 0..1, or None.
        boxes: [N, M, 4] (row0, column0, row1, column1 in pixels), the best first.
        captions: one for each image.
        path: the PNG to write.
        valid: [N, M], False for a box that is none.

    Returns:
        `path`.

    Raises:
        UserError: shapes or lengths do not fit.
    """
    images = np.asarray(images)
    boxes = np.asarray(boxes)
    captions = [str(caption) for caption in captions]
    valid = np.ones(boxes.shape[:2], bool) if valid is None else np.asarray(valid)
    lengths = {len(images), len(boxes), len(captions), len(valid)}
    if maps is not None:
        lengths.add(len(maps))
    if images.ndim != 4 or boxes.ndim != 3 or len(lengths) != 1:
        raise UserError(
            'figures.parts needs images [N, H, W, 1], maps [N, h, w], boxes [N, M, 4], N captions; '
            f'found images {images.shape}, boxes {boxes.shape}, {len(captions)} captions'
        )
    return style.save(_part_sheet, pathlib.Path(path), images[..., 0], maps, boxes, captions, valid)


def anchors(
    image: np.ndarray, boxes: np.ndarray, level: np.ndarray, path: pathlib.Path
) -> pathlib.Path:
    """Draws the shapes of anchors on an image, a panel for each level (Ji et al. 2019, figure 3).

    A panel has all anchors of the place nearest to the image's centre, and the centres of all
    places.

    Args:
        image: [H, W, 1].
        boxes: [N, 4], as `models.parts.anchors` gives them.
        level: [N], likewise.
        path: the PNG to write.

    Returns:
        `path`.
    """
    image = np.asarray(image)[..., 0]
    return style.save(
        _anchor_sheet, pathlib.Path(path), image, np.asarray(boxes), np.asarray(level)
    )


def _part_sheet(images, maps, boxes, captions, valid):
    count, height, width = images.shape
    names = ['image', 'parts'] if maps is None else ['image', 'relation', 'parts']
    figure = Figure(figsize=(1.35 * count, 1.35 * height / width * len(names) + 0.22))
    cells = figure.subplots(len(names), count, squeeze=False)
    frame = (0, width, height, 0)  # as boxes count: pixel (r, c) covers [r, r + 1] x [c, c + 1]
    for axes in cells.ravel():
        style.bare(axes)
    for row in (0, -1):
        for axes, image in zip(cells[row], images):
            axes.imshow(image, cmap='gray', vmin=0, vmax=style.white(image), extent=frame)
    if maps is not None:
        for axes, relation in zip(cells[1], maps):
            axes.imshow(
                relation,
                cmap='inferno',
                vmin=np.min(maps),
                vmax=np.max(maps),
                extent=frame,
                interpolation='bilinear',
            )
    for axes, selected, real, caption in zip(cells[-1], boxes, valid, captions):
        for rank in reversed(np.flatnonzero(real)):  # the best one on top
            colour = style.RANKS[min(rank, len(style.RANKS) - 1)]
            _draw_box(axes, selected[rank], colour, str(rank + 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_xlabel(caption, fontsize=7, labelpad=2)
    for axes, name in zip(cells[:, 0], names):
        axes.set_ylabel(name, fontsize=7, labelpad=2)
    style.tight(figure)
    return figure


def _anchor_sheet(image, boxes, level):
    levels = np.unique(level)
    height, width = image.shape
    beyond = max(0, -boxes[:, :2].min(), (boxes[:, 2:] - [height, width]).max())
    reach = beyond / 4
    figure = Figure(figsize=(2.4 * len(levels), 2.4 * height / width + 0.3))
    panels = figure.subplots(1, len(levels), squeeze=False)[0]
    for axes, number in zip(panels, levels):
        frame = (0, width, height, 0)
        axes.imshow(image, cmap='gray', vmin=0, vmax=style.white(image), extent=frame)
        chosen = boxes[level == number]
        centres = (chosen[:, :2] + chosen[:, 2:]) / 2
        distance = np.abs(centres - [height / 2, width / 2]).sum(1)
        # Of equally near places the first is taken. The centres of its anchors differ by rounding
        # alone.
        nearest = np.flatnonzero(np.abs(centres - centres[distance.argmin()]).max(1) < 0.01)
        axes.scatter(*centres.T[::-1], s=2, color=style.BLUE, linewidths=0)
        for i, box in enumerate(chosen[nearest]):
            _draw_box(axes, box, style.RANKS[i // 3 % len(style.RANKS)])
        style.bare(axes)
        axes.set(xlim=(-reach, width + reach), ylim=(height + reach, -reach))
        axes.set_title(
            f'res{number + 3}: {len(chosen):,} anchors, {len(nearest)} a place', fontsize=7
        )
    return figure


def _draw_box(axes, box, colour, text=''):
    top, left, bottom, right = box
    outline = Rectangle(
        (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.2
    )
    axes.add_patch(outline)
    if text:
        axes.text(
            max(left, 0),
            max(top, 0),
            text,
            fontsize=6,
            color='black',
            va='top',
            clip_on=True,
            bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 0.8},
        )
