"""Predicted ages against the true ones, and errors over age, of one split.

`images` is a table of `runs.predictions`, of one split.
"""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from boneage_jax.figures import style
from boneage_jax.tasks import metrics

_MIN_IMAGES = 5  # fewer images than this in an age bin: no mean is drawn


def predicted_against_true(split: str, images: dict[str, np.ndarray]) -> Figure:
    """A scatter of predicted against true age in months, with years on the far axes."""
    age, prediction, male = images['age'], images['prediction'], images['male']
    figure = Figure(figsize=(5.2, 5.4))
    axes = figure.add_subplot(aspect='equal')
    low = min(0, 12 * math.floor(prediction.min() / 12))
    high = max(24, 12 * math.ceil(max(age.max(), prediction.max()) / 12))
    ends = np.asarray([low, high])
    axes.fill_between(
        ends, ends - 12, ends + 12, color='black', alpha=0.07, linewidth=0, label='±12 months'
    )
    axes.plot(ends, ends, color=style.INK, linewidth=0.8, label='identity')
    if 'lower' in images:
        _draw_intervals(axes, images)
    _scatter_mixed(axes, age, prediction, male)

    error = np.abs(prediction - age)
    for name, chosen in style.by_sex(male):
        label = f'{name} (n = {chosen.sum():,}, MAE {error[chosen].mean():.1f})'
        axes.scatter([], [], s=18, label=label, **style.SEXES[name])
    lower, upper = metrics.bootstrap(error)
    axes.set(
        xlim=ends,
        ylim=ends,
        xlabel='true bone age (months)',
        ylabel='predicted bone age (months)',
        title=f'{split.capitalize()}: MAE {error.mean():.2f} months '
        f'[{lower:.2f}, {upper:.2f}], {len(age):,} images',
    )
    _add_years(axes, 24 if high - low > 72 else 12)
    axes.legend(loc='upper left', borderaxespad=0.3, handletextpad=0.4)
    return figure


def error_by_age(split: str, images: dict[str, np.ndarray]) -> Figure:
    """Two panels over true age: the mean absolute error, and the signed errors with their bias."""
    age, male = images['age'], images['male']
    error = images['prediction'] - age
    figure = Figure(figsize=(6.4, 5.6))
    top, bottom = figure.subplots(2, 1, sharex=True)
    edges = np.arange(0, age.max() + 24, 12 if len(age) >= 500 else 24)
    edges = edges[: np.searchsorted(edges, age.max(), side='right') + 1]
    _draw_absolute(top, age, np.abs(error), male, edges)
    top.set_title(
        f'{split.capitalize()}: MAE {np.abs(error).mean():.2f} months, bias '
        f'{error.mean():+.2f} months, {len(age):,} images'
    )
    _draw_signed(bottom, age, error, male, edges)
    years = top.secondary_xaxis('top', functions=(_months_to_years, _years_to_months))
    years.set_xlabel('years')
    years.xaxis.set_major_locator(MultipleLocator(2))
    return figure


def _months_to_years(months):
    return months / 12


def _years_to_months(years):
    return years * 12


def _draw_intervals(axes, images):
    """The prediction intervals as lines, and the share of images whose age they hold."""
    age, lower, upper = images['age'], images['lower'], images['upper']
    axes.vlines(age, lower, upper, color='#777777', linewidth=0.6, alpha=0.6, zorder=1.5)
    inside = (lower <= age) & (age <= upper)
    axes.text(
        0.97,
        0.03,
        f'intervals hold {100 * inside.mean():.0f} % of images',
        ha='right',
        va='bottom',
        fontsize=8,
        transform=axes.transAxes,
    )


def _scatter_mixed(axes, age, prediction, male):
    """Points of both sexes in mixed order, so that neither is painted over the other."""
    size, alpha = _look_of(len(age))
    order = np.random.default_rng(0).permutation(len(age))
    for part in np.array_split(order, max(1, min(20, len(order) // 10))):
        for name, chosen in style.by_sex(male[part]):
            axes.scatter(
                age[part][chosen],
                prediction[part][chosen],
                s=size,
                alpha=alpha,
                linewidths=0.3,
                edgecolors='white',
                rasterized=True,
                **style.SEXES[name],
            )


def _look_of(count):
    """Size and opacity of points that still show how dense they are."""
    if count <= 200:
        return 20, 0.85
    if count <= 2000:
        return 13, 0.75
    return 6, 0.4


def _add_years(axes, step):
    """Ticks every `step` months, and years on the axes above and at the right."""
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.yaxis.set_major_locator(MultipleLocator(step))
    functions = (_months_to_years, _years_to_months)
    above = axes.secondary_xaxis('top', functions=functions)
    above.xaxis.set_major_locator(MultipleLocator(step // 12))
    above.set_xlabel('years')
    right = axes.secondary_yaxis('right', functions=functions)
    right.yaxis.set_major_locator(MultipleLocator(step // 12))
    right.set_ylabel('years')


def _draw_absolute(axes, age, error, male, edges):
    """The mean absolute error by age, of all and of each sex, with the counts of images above."""
    middle, _, value, lower, upper = _binned(age, error, edges)
    axes.fill_between(
        middle, lower, upper, color='#000000', alpha=0.13, linewidth=0, label='95 % bootstrap'
    )
    axes.plot(middle, value, color=style.INK, linewidth=1.6, label='mean')
    dashes = {'girls': '--', 'boys': '-.'}
    for name, chosen in style.by_sex(male):
        places, _, means, _, _ = _binned(age[chosen], error[chosen], edges)
        axes.plot(
            places,
            means,
            linewidth=0.9,
            markersize=3.5,
            label=name,
            linestyle=dashes[name],
            **style.SEXES[name],
        )
    mean = error.mean()
    axes.axhline(mean, color=style.INK, linewidth=0.7, linestyle=':', zorder=1, label='all ages')
    highest = np.nanmax(np.append(upper, mean))
    axes.set(ylim=(0, 1.25 * highest), ylabel='mean absolute error (months)')
    axes.annotate(
        'images:',
        (0, 1),
        (-4, -2),
        xycoords='axes fraction',
        textcoords='offset points',
        fontsize=6.5,
        va='top',
        ha='right',
    )
    for place, number in zip((edges[:-1] + edges[1:]) / 2, np.histogram(age, edges)[0]):
        axes.annotate(
            f'{number}',
            (place, 1),
            (0, -2),
            xycoords=('data', 'axes fraction'),
            textcoords='offset points',
            fontsize=6.5,
            ha='center',
            va='top',
        )
    axes.legend(loc='upper right', ncols=5, bbox_to_anchor=(1, 0.95))


def _draw_signed(axes, age, error, male, edges):
    """The error of each image, and its mean by age (the bias)."""
    for name, chosen in style.by_sex(male):
        axes.scatter(
            age[chosen],
            error[chosen],
            s=7,
            alpha=0.45,
            linewidths=0,
            rasterized=True,
            **style.SEXES[name],
        )
    axes.axhline(0, color=style.INK, linewidth=0.6)
    middle, _, value, lower, upper = _binned(age, error, edges)
    axes.fill_between(middle, lower, upper, color='#000000', alpha=0.2, linewidth=0)
    axes.plot(middle, value, color=style.INK, linewidth=1.6, label='bias (mean error)')
    limit = 1.05 * np.abs(error).max() + 1
    axes.set(
        ylim=(-limit, limit),
        xlim=(edges[0], edges[-1]),
        xlabel='true bone age (months)',
        ylabel='predicted − true age (months)',
    )
    axes.xaxis.set_major_locator(MultipleLocator(24))
    axes.legend(loc='upper right')


def _binned(age, values, edges):
    """Means of `values` by age: middles, counts, means, lower and upper bounds, each [bins].

    Mean and bootstrap bounds are NaN where images are few.
    """
    index = np.digitize(age, edges) - 1
    rows = []
    for i in range(len(edges) - 1):
        inside = values[index == i]
        if len(inside) < _MIN_IMAGES:
            rows.append((len(inside), np.nan, np.nan, np.nan))
        else:
            rows.append((len(inside), inside.mean(), *metrics.bootstrap(inside)))
    return (edges[:-1] + edges[1:]) / 2, *np.asarray(rows, np.float64).T
