"""Sheets of images."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from boneage_jax.figures import style
from tfds_rsna.errors import UserError


def image_sheet(images, captions, path, columns=8):
    """Writes a sheet of grey images [N, H, W, 1] (uint8, or float in 0..1), a caption below each;
    -> path.
    """
    images, captions = np.asarray(images), [str(caption) for caption in captions]
    if images.ndim != 4 or images.shape[-1] != 1 or not len(images):
        raise UserError(
            f'image_sheet needs images [N, H, W, 1], N at least 1; found shape {images.shape}'
        )
    if len(images) != len(captions):
        raise UserError(f'image_sheet: {len(images)} images but {len(captions)} captions')
    return style.save(_sheet, Path(path), images[..., 0], captions, min(columns, len(images)))


def _sheet(images, captions, columns):
    rows = math.ceil(len(images) / columns)
    tall = images.shape[1] / images.shape[2]
    figure = Figure(figsize=(1.35 * columns, (1.35 * tall + 0.22) * rows))
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, image, caption in zip(cells, images, captions):
        axes.imshow(image, cmap='gray', vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
        axes.set_xlabel(caption, fontsize=7, labelpad=2)
    for place, axes in enumerate(cells):
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
        axes.set_visible(place < len(images))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return figure
