"""Boxes on images: anchors, and the parts that a network selected."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from boneage_jax.figures import style
from tfds_rsna.errors import UserError


def parts(images, maps, boxes, captions, path, valid=None):
    """Ji 2019, figure 5, a column an image: the image, its relation map, the selected parts on it;
    -> path.

    Images [N, H, W, 1] as in `image_sheet`, maps [N, h, w] in 0..1 or None, boxes [N, M, 4] (row0,
    column0, row1, column1 in pixels, best first), valid [N, M]: False for a box that is none. The
    maps share one scale, from their least value to their greatest.
    """
    images, boxes, captions = (
        np.asarray(images),
        np.asarray(boxes),
        [str(caption) for caption in captions],
    )
    valid = np.ones(boxes.shape[:2], bool) if valid is None else np.asarray(valid)
    lengths = {len(x) for x in (images, boxes, captions, valid, images if maps is None else maps)}
    if images.ndim != 4 or boxes.ndim != 3 or lengths != {len(images)}:
        raise UserError(
            'figures.parts needs images [N, H, W, 1], maps [N, h, w], boxes [N, M, 4], N captions; '
            f'found images {images.shape}, boxes {boxes.shape}, {len(captions)} captions'
        )
    return style.save(_part_sheet, Path(path), images[..., 0], maps, boxes, captions, valid)


def anchors(image, boxes, level, path):
    """Ji 2019, figure 3: the shapes of anchors on an image [H, W, 1], a panel for each level; ->
    path.

    Boxes [N, 4] and level [N] as `models.parts.anchors` gives them: drawn are all anchors of the
    place nearest to the image's centre, and the centres of all places.
    """
    return style.save(
        _anchor_sheet, Path(path), np.asarray(image)[..., 0], np.asarray(boxes), np.asarray(level)
    )


def _part_sheet(images, maps, boxes, captions, valid):
    rows = 2 if maps is None else 3
    tall = images.shape[1] / images.shape[2]
    figure = Figure(figsize=(1.35 * len(images), 1.35 * tall * rows + 0.22))
    cells = figure.subplots(rows, len(images), squeeze=False)
    frame = (
        0,
        images.shape[2],
        images.shape[1],
        0,
    )  # as boxes count: pixel (r, c) covers [r, r + 1] x [c, c + 1]
    for axes in cells.ravel():
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
    for row in (0, -1):
        for axes, image in zip(cells[row], images):
            axes.imshow(
                image, cmap='gray', vmin=0, vmax=255 if image.dtype == np.uint8 else 1, extent=frame
            )
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
    for axes, example, real, caption in zip(cells[-1], boxes, valid, captions):
        for rank in reversed(np.flatnonzero(real)):  # the best one on top
            _draw_box(
                axes, example[rank], style.RANKS[min(rank, len(style.RANKS) - 1)], str(rank + 1)
            )
        axes.set(xlim=(0, images.shape[2]), ylim=(images.shape[1], 0))
        axes.set_xlabel(caption, fontsize=7, labelpad=2)
    for axes, name in zip(cells[:, 0], ['image', 'relation', 'parts'][:: 1 if rows == 3 else 2]):
        axes.set_ylabel(name, fontsize=7, labelpad=2)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return figure


def _anchor_sheet(image, boxes, level):
    levels = np.unique(level)
    height, width = image.shape
    reach = max(0, -boxes[:, :2].min(), (boxes[:, 2:] - [height, width]).max()) / 4
    figure = Figure(figsize=(2.4 * len(levels), 2.4 * height / width + 0.3))
    for axes, number in zip(figure.subplots(1, len(levels), squeeze=False)[0], levels):
        axes.imshow(
            image,
            cmap='gray',
            vmin=0,
            vmax=255 if image.dtype == np.uint8 else 1,
            extent=(0, width, height, 0),
        )
        chosen = boxes[level == number]
        centres = (chosen[:, :2] + chosen[:, 2:]) / 2
        distance = np.abs(centres - [height / 2, width / 2]).sum(1)
        # Of equally near places the first; its anchors stand together, their centres apart by
        # rounding alone.
        nearest = np.flatnonzero(np.abs(centres - centres[distance.argmin()]).max(1) < 0.01)
        axes.scatter(*centres.T[::-1], s=2, color=style.SEXES['boys']['color'], linewidths=0)
        for i, box in enumerate(chosen[nearest]):
            _draw_box(axes, box, style.RANKS[i // 3 % len(style.RANKS)])
        axes.set(xticks=[], yticks=[], xlim=(-reach, width + reach), ylim=(height + reach, -reach))
        axes.set_frame_on(False)
        axes.set_title(
            f'res{number + 3}: {len(chosen):,} anchors, {len(nearest)} a place', fontsize=7
        )
    return figure


def _draw_box(axes, box, colour, text=''):
    axes.add_patch(
        Rectangle(
            (box[1], box[0]),
            box[3] - box[1],
            box[2] - box[0],
            fill=False,
            edgecolor=colour,
            linewidth=1.2,
        )
    )
    if text:
        axes.text(
            max(box[1], 0),
            max(box[0], 0),
            text,
            fontsize=6,
            color='black',
            va='top',
            clip_on=True,
            bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 0.8},
        )
