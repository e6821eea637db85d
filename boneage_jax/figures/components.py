"""Regression on principal components (Castillo et al. 2018, figure 4): what the images vary in, and
how many of it help.
"""

import numpy as np
from matplotlib.figure import Figure

from boneage_jax.figures import style

_SHOWN = 4  # components
_NAMES = {False: ('girls', 'female'), True: ('boys', 'male')}


def draw(model, size):
    """A row for each sex of a `classical.PCARegression` on images of `size`: mean image, first
    components, weights, errors.

    The weights (linear regression alone) are months a grey value: red pixels make an image older
    where they are brighter.
    """
    figure = Figure(figsize=(1.35 * (_SHOWN + 2) + 2.6, 1.75 * len(model.models)))
    grid = figure.add_gridspec(
        len(model.models), _SHOWN + 3, width_ratios=[1] * (_SHOWN + 2) + [1.9]
    )
    for row, (sex, (pca, regression)) in enumerate(model.models.items()):
        panels = [('mean image', pca.mean_, 'gray', False)]
        panels += [
            (f'component {i + 1}', part, 'gray', False)
            for i, part in enumerate(pca.components_[:_SHOWN])
        ]
        if hasattr(regression, 'model'):  # linear: its weights on the pixels
            kept = model.components[sex]
            panels.append(
                ('weights', regression.model.coef_ @ pca.components_[:kept] / 255, 'RdBu_r', True)
            )
        for place, (name, pixels, colours, signed) in enumerate(panels):
            axes = figure.add_subplot(grid[row, place])
            limit = np.quantile(np.abs(pixels), 0.995)
            axes.imshow(
                pixels.reshape(size),
                cmap=colours,
                **({'vmin': -limit, 'vmax': limit} if signed else {}),
            )
            axes.set(xticks=[], yticks=[])
            axes.set_frame_on(False)
            axes.set_title(name if row == 0 else '', fontsize=7)
            if place == 0:
                axes.set_ylabel(_NAMES[sex][0], fontsize=8)
        axes = figure.add_subplot(grid[row, -1])
        tried = sorted(model.curve[sex])
        axes.plot(
            tried,
            [model.curve[sex][n] for n in tried],
            markersize=4,
            linewidth=1,
            **style.SEXES[_NAMES[sex][0]],
        )
        kept = model.components[sex]
        axes.annotate(
            f'{kept} kept: {model.curve[sex][kept]:.1f}',
            (kept, model.curve[sex][kept]),
            (0, 8),
            textcoords='offset points',
            fontsize=7,
            ha='center',
        )
        axes.set(xscale='log', ylabel='validation MAE\n(months)')
        axes.set_xticks(tried, [str(n) for n in tried])
        axes.minorticks_off()
        axes.margins(0.15, 0.3)
        axes.set_title('components' if row == 0 else '', fontsize=7)
    return figure
