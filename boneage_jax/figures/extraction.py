"""The steps of the classical hand extraction (Castillo et al. 2018, figure 3)."""

from __future__ import annotations

import pathlib

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from boneage_jax.figures import style
from boneage_jax.preprocess import hand_mask

_SEGMENTS = ListedColormap(['#222222', '#0072B2', '#E69F00'])  # undecided, background, hand


def extraction(image: np.ndarray, path: pathlib.Path) -> pathlib.Path:
    """Draws an image [H, W] uint8 and the steps from its gradient to the hand; returns `path`."""
    return style.save(_extraction, pathlib.Path(path), image, hand_mask.classical_steps(image))


def _extraction(image, steps):
    upright = 255 - image if steps.inverted else image
    hand = np.where(steps.mask, upright, 0)
    if steps.mask.any():
        hand = hand_mask.crop(hand, steps.mask)
    panels = {
        'image': (image, 'gray'),
        'Sobel gradient': (np.sqrt(steps.gradient), 'gray'),
        'markers': (steps.markers, _SEGMENTS),
        'watershed': (steps.segments, _SEGMENTS),
        'largest component': (steps.mask, 'gray'),
        'hand': (hand, 'gray'),
    }
    tall = image.shape[0] / image.shape[1]
    figure = Figure(figsize=(1.5 * len(panels), 1.5 * tall + 0.3))
    cells = figure.subplots(1, len(panels))
    for axes, (name, (pixels, colours)) in zip(cells, panels.items(), strict=True):
        if colours is _SEGMENTS:
            axes.imshow(pixels, cmap=colours, interpolation='nearest', vmin=0, vmax=2)
        else:
            axes.imshow(pixels, cmap=colours)
        style.bare(axes)
        axes.set_xlabel(name, fontsize=8)
    return figure
