"""Attention maps on their images (Castillo et al. 2018, figure 10)."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from boneage_jax.figures import style

_ROWS = ('image', 'attention', 'multiply layer')


def attention(images, maps, multiplied, box, captions, path):
    """A column an image: the image, its attention map over it, the multiply layer's output; ->
    path.

    Images `[N, H, W, 1]` uint8, maps and multiplied `[N, h, w]`, `box` (row0, column0, row1,
    column1 in pixels) the rectangle that the maps are spread over. Each kind of map has one scale
    for all images, from its least value to its greatest.
    """
    return style.save(
        _draw,
        Path(path),
        np.asarray(images)[..., 0],
        np.asarray(maps),
        np.asarray(multiplied),
        box,
        captions,
    )


def _draw(images, maps, multiplied, box, captions):
    count, (height, width) = len(images), images.shape[1:3]
    figure = Figure(figsize=(1.35 * count + 0.5, 1.35 * height / width * len(_ROWS) + 0.35))
    cells = figure.subplots(len(_ROWS), count, squeeze=False)
    for axes in cells.ravel():
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
    for row, axes_of_row in enumerate(cells):
        for axes, image in zip(axes_of_row, images):
            axes.imshow(image, cmap='gray', vmin=0, vmax=255, extent=(0, width, height, 0))
    for row, values in ((1, maps), (2, multiplied)):
        for axes, value in zip(cells[row], values):
            drawn = axes.imshow(
                value,
                cmap='inferno',
                vmin=values.min(),
                vmax=values.max(),
                alpha=0.6,
                extent=(box[1], box[3], box[2], box[0]),
                interpolation='bilinear',
            )
        bar = figure.colorbar(drawn, ax=list(cells[row]), shrink=0.8, pad=0.01, aspect=12)
        bar.solids.set_alpha(1)
        bar.ax.tick_params(labelsize=6)
        bar.outline.set_visible(False)
    for axes in cells.ravel():
        axes.set(xlim=(0, width), ylim=(height, 0), aspect='equal')
    for axes, caption in zip(cells[-1], captions):
        axes.set_xlabel(caption, fontsize=6.5, labelpad=2)
    for axes, name in zip(cells[:, 0], _ROWS):
        axes.set_ylabel(name, fontsize=7, labelpad=2)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return figure
