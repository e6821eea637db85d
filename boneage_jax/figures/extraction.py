"""The steps of the classical hand extraction (Castillo et al. 2018, Fig. 3)."""

from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from boneage_jax.figures import style
from boneage_jax.preprocess import hand_mask

_SEGMENTS = ListedColormap(['#222222', '#0072B2', '#E69F00'])  # undecided, background, hand


def extraction(image, path):
    """Writes an image uint8 [H, W] with gradient, markers, segmentation, mask and cropped hand
    beside it; -> path.
    """
    return style.save(_extraction, Path(path), image, hand_mask.classical_steps(image))


def _extraction(image, steps):
    example = 255 - image if steps.inverted else image
    hand = np.where(steps.mask, example, 0)
    panels = {
        'image': (image, 'gray'),
        'Sobel gradient': (np.sqrt(steps.gradient), 'gray'),
        'markers': (steps.markers, _SEGMENTS),
        'watershed': (steps.segments, _SEGMENTS),
        'largest component': (steps.mask, 'gray'),
        'hand': (hand_mask.crop(hand, steps.mask) if steps.mask.any() else hand, 'gray'),
    }
    tall = image.shape[0] / image.shape[1]
    figure = Figure(figsize=(1.5 * len(panels), 1.5 * tall + 0.3))
    for axes, (name, (pixels, colours)) in zip(
        figure.subplots(1, len(panels)), panels.items(), strict=True
    ):
        limits = {'vmin': 0, 'vmax': 2} if colours is _SEGMENTS else {}
        axes.imshow(pixels, cmap=colours, interpolation='nearest' if limits else None, **limits)
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(name, fontsize=8)
        axes.set_frame_on(False)
    return figure
