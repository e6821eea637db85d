"""Attention maps on their images (Castillo et al. 2018, figure 10)."""

from __future__ import annotations

import pathlib

import numpy as np
from matplotlib.figure import Figure

from boneage_jax.figures import style

_ROWS = ('image', 'attention', 'multiply layer')


def draw_attention(
    images: np.ndarray, captions: list[str], aux: dict, path: pathlib.Path
) -> pathlib.Path:
    """Draws the attention of a network on `images`, from its auxiliary outputs.

    Args:
        images: [N, H, W, 1] uint8.
        captions: one for each image.
        aux: what a network with attention returned beside its prediction: `attention` [N, h, w],
            `masked` [N, h, w, C], `map_box` [N, 4].
        path: the PNG to write.

    Returns:
        `path`.
    """
    # Batch normalisation centres the channels, so their plain mean would be noise.
    multiplied = np.abs(aux['masked']).mean(-1)
    return attention(images, aux['attention'], multiplied, aux['map_box'][0], captions, path)


def attention(
    images: np.ndarray,
    maps: np.ndarray,
    multiplied: np.ndarray,
    box: np.ndarray,
    captions: list[str],
    path: pathlib.Path,
) -> pathlib.Path:
    """Draws a column for each image: the image, its attention map and the multiply layer's output.

    Each kind of map has one scale for all images, from its least value to its greatest.

    Args:
        images: [N, H, W, 1] uint8.
        maps: [N, h, w], drawn over the image.
        multiplied: [N, h, w], the same of the multiply layer.
        box: (row0, column0, row1, column1) in pixels, the rectangle that the maps cover.
        captions: one for each image.
        path: the PNG to write.

    Returns:
        `path`.
    """
    grey = np.asarray(images)[..., 0]
    return style.save(
        _draw, pathlib.Path(path), grey, np.asarray(maps), np.asarray(multiplied), box, captions
    )


def _draw(images, maps, multiplied, box, captions):
    count, height, width = images.shape
    figure = Figure(figsize=(1.35 * count + 0.5, 1.35 * height / width * len(_ROWS) + 0.35))
    cells = figure.subplots(len(_ROWS), count, squeeze=False)
    for axes in cells.ravel():
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
    for axes_of_row in cells:
        for axes, image in zip(axes_of_row, images):
            axes.imshow(image, cmap='gray', vmin=0, vmax=255, extent=(0, width, height, 0))
    for row, values in ((1, maps), (2, multiplied)):
        _draw_maps(figure, cells[row], values, box)
    for axes in cells.ravel():
        axes.set(xlim=(0, width), ylim=(height, 0), aspect='equal')
    for axes, caption in zip(cells[-1], captions):
        axes.set_xlabel(caption, fontsize=6.5, labelpad=2)
    for axes, name in zip(cells[:, 0], _ROWS):
        axes.set_ylabel(name, fontsize=7, labelpad=2)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return figure


def _draw_maps(figure, row, values, box):
    """Draws `values` [N, h, w] over the images of a row of axes, with their colour bar."""
    top, left, bottom, right = box
    for axes, value in zip(row, values):
        drawn = axes.imshow(
            value,
            cmap='inferno',
            vmin=values.min(),
            vmax=values.max(),
            alpha=0.6,
            extent=(left, right, bottom, top),
            interpolation='bilinear',
        )
    bar = figure.colorbar(drawn, ax=list(row), shrink=0.8, pad=0.01, aspect=12)
    bar.solids.set_alpha(1)
    bar.ax.tick_params(labelsize=6)
    bar.outline.set_visible(False)
