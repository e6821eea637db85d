"""What the members of an ensemble have in common: the correlation of their errors."""

from __future__ import annotations

import pathlib

import numpy as np
from matplotlib.figure import Figure

from boneage_jax.figures import style


def error_correlation(
    matrix: np.ndarray, names: list[str], split: str, path: pathlib.Path
) -> pathlib.Path:
    """Draws the correlation of the errors of an ensemble's members.

    Args:
        matrix: [M, M]; NaN where two members have no images in common.
        names: those of the members.
        split: the split that the errors are of.
        path: the PNG to write.

    Returns:
        `path`.
    """
    return style.save(_matrix, pathlib.Path(path), np.asarray(matrix), list(names), split)


def _matrix(matrix, names, split):
    size = 1.2 + 0.6 * len(names) + 0.06 * max(map(len, names))
    figure = Figure(figsize=(size + 0.8, size))
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap='Blues', vmin=min(0.0, np.nanmin(matrix)), vmax=1.0)
    for (row, column), value in np.ndenumerate(matrix):
        text = '–' if np.isnan(value) else f'{value:.2f}'
        colour = 'white' if value > 0.6 else style.INK
        axes.text(column, row, text, ha='center', va='center', color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha='right', rotation_mode='anchor')
    axes.set_yticks(range(len(names)), names)
    axes.set_title(f'Correlation of errors, {split}')
    axes.spines[:].set_visible(False)
    figure.colorbar(image, shrink=0.8).outline.set_visible(False)
    return figure
