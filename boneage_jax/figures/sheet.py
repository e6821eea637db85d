"""Sheets of images."""

from __future__ import annotations

import math
import pathlib

import numpy as np
from matplotlib.figure import Figure

from boneage_jax.figures import style
from tfds_rsna.errors import UserError


def image_sheet(
    images: np.ndarray, captions: list, path: pathlib.Path, columns: int = 8
) -> pathlib.Path:
    """Draws a sheet of grey images, a caption below each.

    Args:
        images: [N, H, W, 1], uint8 or float in 0..1.
        captions: one for each image.
        path: the PNG to write.
        columns: images in a row, at most.

    Returns:
        `path`.

    Raises:
        UserError: the shape is another one, or there are not as many captions.
    """
    images = np.asarray(images)
    captions = [str(caption) for caption in captions]
    if images.ndim != 4 or images.shape[-1] != 1 or not len(images):
        raise UserError(
            f'image_sheet needs images [N, H, W, 1], N at least 1; found shape {images.shape}'
        )
    if len(images) != len(captions):
        raise UserError(f'image_sheet: {len(images)} images but {len(captions)} captions')
    columns = min(columns, len(images))
    return style.save(_sheet, pathlib.Path(path), images[..., 0], captions, columns)


def _sheet(images, captions, columns):
    count, height, width = images.shape
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(1.35 * columns, (1.35 * height / width + 0.22) * rows))
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, image, caption in zip(cells, images, captions):
        axes.imshow(image, cmap='gray', vmin=0, vmax=style.white(image))
        axes.set_xlabel(caption, fontsize=7, labelpad=2)
    for place, axes in enumerate(cells):
        style.bare(axes)
        axes.set_visible(place < count)
    style.tight(figure)
    return figure
