"""Regression on principal components (Castillo et al. 2018, figure 4)."""

import numpy as np
from matplotlib.figure import Figure

from boneage_jax.figures import style

_SHOWN = 4  # components
_NAMES = {False: 'girls', True: 'boys'}


def draw(model, size: tuple[int, int]) -> Figure:
    """A row for each sex: mean image, first components, weights, errors.

    The weights (linear regression alone) are months a grey value: red pixels make an image older
    where they are brighter. `model` is a `training.classical.PCARegression` on images of `size`
    (rows, columns).
    """
    figure = Figure(figsize=(1.35 * (_SHOWN + 2) + 2.6, 1.75 * len(model.models)))
    grid = figure.add_gridspec(
        len(model.models), _SHOWN + 3, width_ratios=[1] * (_SHOWN + 2) + [1.9]
    )
    for row, sex in enumerate(model.models):
        for place, (title, pixels, signed) in enumerate(_panels(model, sex)):
            axes = figure.add_subplot(grid[row, place])
            _draw_pixels(axes, pixels.reshape(size), signed)
            axes.set_title(title if row == 0 else '', fontsize=7)
            if place == 0:
                axes.set_ylabel(_NAMES[sex], fontsize=8)
        axes = figure.add_subplot(grid[row, -1])
        _draw_errors(axes, model.curve[sex], model.components[sex], _NAMES[sex])
        axes.set_title('components' if row == 0 else '', fontsize=7)
    return figure


def _panels(model, sex):
    """(title, pixels, whether they have a sign) of each picture in the row of a sex."""
    pca, regression = model.models[sex]
    panels = [('mean image', pca.mean_, False)]
    for i, part in enumerate(pca.components_[:_SHOWN]):
        panels.append((f'component {i + 1}', part, False))
    if hasattr(regression, 'model'):  # linear: its weights on the pixels
        kept = model.components[sex]
        weights = regression.model.coef_ @ pca.components_[:kept] / 255
        panels.append(('weights', weights, True))
    return panels


def _draw_pixels(axes, pixels, signed):
    if signed:
        limit = np.quantile(np.abs(pixels), 0.995)
        axes.imshow(pixels, cmap='RdBu_r', vmin=-limit, vmax=limit)
    else:
        axes.imshow(pixels, cmap='gray')
    style.bare(axes)


def _draw_errors(axes, curve, kept, name):
    """The validation error by the number of components tried, {number: months}."""
    tried = sorted(curve)
    errors = [curve[number] for number in tried]
    axes.plot(tried, errors, markersize=4, linewidth=1, **style.SEXES[name])
    axes.annotate(
        f'{kept} kept: {curve[kept]:.1f}',
        (kept, curve[kept]),
        (0, 8),
        textcoords='offset points',
        fontsize=7,
        ha='center',
    )
    axes.set(xscale='log', ylabel='validation MAE\n(months)')
    axes.set_xticks(tried, [str(number) for number in tried])
    axes.minorticks_off()
    axes.margins(0.15, 0.3)
