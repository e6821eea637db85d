"""Predicted ages with the interval of each image."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from boneage_jax.figures import style

_MANY = 150  # images beyond which lines are thin and flags are not marked one by one


def by_image(title: str, images: dict[str, np.ndarray]) -> Figure:
    """The images in the order of their predicted ages, each with its interval as a line.

    Args:
        title: of the figure.
        images: columns `[N]`: `prediction`, `lower`, `upper` in months; where they are known `age`,
            NaN where it is not, and `flagged` (bool).
    """
    order = np.argsort(images['prediction'], kind='stable')
    prediction, lower, upper = (images[name][order] for name in ('prediction', 'lower', 'upper'))
    places = np.arange(1, len(order) + 1)
    many = len(order) > _MANY
    figure = Figure(figsize=(6.4, 3.6))
    axes = figure.subplots()
    axes.vlines(
        places,
        lower,
        upper,
        color=style.GREY,
        linewidth=0.6 if many else 2.0,
        label='90% interval',
        rasterized=many,
    )
    axes.plot(places, prediction, color=style.INK, linewidth=1.0, label='predicted')
    if not many:
        axes.scatter(places, prediction, color=style.INK, s=10, zorder=3)
    if 'age' in images:
        _draw_ages(axes, places, images['age'][order], lower, upper, 6 if many else 18)
    flagged = images.get('flagged', np.zeros(len(order), bool))[order]
    if flagged.any():
        axes.scatter(
            places[flagged],
            np.zeros(flagged.sum()),
            marker='|',
            color=style.ACCENT,
            s=40,
            clip_on=False,
            label=f'flagged ({flagged.sum():,})',
        )
    axes.set(
        ylim=(0, None),
        xlabel='images, by predicted age',
        ylabel='bone age (months)',
        title=title,
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc='upper left')
    return figure


def _draw_ages(axes, places, age, lower, upper, size):
    """The true ages: a dot inside of its interval, a cross outside."""
    inside = (lower <= age) & (age <= upper)
    outside = ~inside & np.isfinite(age)
    for chosen, marker, colour, name in (
        (inside, 'o', style.BLUE, 'true age, inside'),
        (outside, 'x', style.ACCENT, 'outside'),
    ):
        if chosen.any():
            axes.scatter(
                places[chosen],
                age[chosen],
                s=size,
                marker=marker,
                color=colour,
                linewidths=1.0 if marker == 'x' else 0,
                label=f'{name} ({chosen.sum():,})',
                zorder=2.5,
            )
