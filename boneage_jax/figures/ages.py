"""Predicted ages against the true ones, and errors over age, of one split."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from boneage_jax.figures import style
from boneage_jax.tasks import metrics

_MIN_IMAGES = 5  # fewer images than this in an age bin: no mean is drawn


def predicted_against_true(split, images):
    """A scatter of predicted against true age in months, years on the far axes."""
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
        axes.vlines(
            age,
            images['lower'],
            images['upper'],
            color='#777777',
            linewidth=0.6,
            alpha=0.6,
            zorder=1.5,
        )
    # Mixed order: neither sex is painted over the other.
    size, alpha = (20, 0.85) if len(age) <= 200 else (13, 0.75) if len(age) <= 2000 else (6, 0.4)
    order = np.random.default_rng(0).permutation(len(age))
    for part in np.array_split(order, max(1, min(20, len(order) // 10))):
        for name, chosen in _by_sex(male[part]):
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
    for name, chosen in _by_sex(male):
        error = np.abs(prediction - age)[chosen]
        label = f'{name} (n = {len(error):,}, MAE {error.mean():.1f})'
        axes.scatter([], [], s=18, label=label, **style.SEXES[name])
    lower, upper = metrics.bootstrap(np.abs(prediction - age))
    axes.set(
        xlim=ends,
        ylim=ends,
        xlabel='true bone age (months)',
        ylabel='predicted bone age (months)',
        title=f'{split.capitalize()}: MAE {np.abs(prediction - age).mean():.2f} months '
        f'[{lower:.2f}, {upper:.2f}], {len(age):,} images',
    )
    step = 24 if high - low > 72 else 12
    for axis, second in ((axes.xaxis, axes.secondary_xaxis), (axes.yaxis, axes.secondary_yaxis)):
        axis.set_major_locator(MultipleLocator(step))
        horizontal = axis is axes.xaxis
        other = second(
            'top' if horizontal else 'right', functions=(lambda m: m / 12, lambda y: y * 12)
        )
        (other.xaxis if horizontal else other.yaxis).set_major_locator(MultipleLocator(step // 12))
        (other.set_xlabel if horizontal else other.set_ylabel)('years')
    if 'lower' in images:
        inside = (images['lower'] <= age) & (age <= images['upper'])
        axes.text(
            0.97,
            0.03,
            f'intervals hold {100 * inside.mean():.0f} % of images',
            ha='right',
            va='bottom',
            fontsize=8,
            transform=axes.transAxes,
        )
    axes.legend(loc='upper left', borderaxespad=0.3, handletextpad=0.4)
    return figure


def error_by_age(split, images):
    """Two panels over true age: the mean absolute error, and the signed errors with their mean (the
    bias).
    """
    age, male = images['age'], images['male']
    error = images['prediction'] - age
    figure = Figure(figsize=(6.4, 5.6))
    top, bottom = figure.subplots(2, 1, sharex=True)
    edges = np.arange(0, age.max() + 24, 12 if len(age) >= 500 else 24)
    edges = edges[: np.searchsorted(edges, age.max(), side='right') + 1]

    middle, count, value, lower, upper = _binned(age, np.abs(error), edges)
    top.fill_between(
        middle, lower, upper, color='#000000', alpha=0.13, linewidth=0, label='95 % bootstrap'
    )
    top.plot(middle, value, color=style.INK, linewidth=1.6, label='mean')
    for name, chosen in _by_sex(male):
        places, _, means, _, _ = _binned(age[chosen], np.abs(error[chosen]), edges)
        top.plot(
            places,
            means,
            linewidth=0.9,
            markersize=3.5,
            label=name,
            **style.SEXES[name],
            linestyle='--' if name == 'girls' else '-.',
        )
    mean = np.abs(error).mean()
    top.axhline(mean, color=style.INK, linewidth=0.7, linestyle=':', zorder=1, label='all ages')
    highest = np.nanmax(np.append(upper, mean))
    top.set(
        ylim=(0, 1.25 * highest),
        ylabel='mean absolute error (months)',
        title=f'{split.capitalize()}: MAE {mean:.2f} months, bias {error.mean():+.2f} months, '
        f'{len(age):,} images',
    )
    top.annotate(
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
        top.annotate(
            f'{number}',
            (place, 1),
            (0, -2),
            xycoords=('data', 'axes fraction'),
            textcoords='offset points',
            fontsize=6.5,
            ha='center',
            va='top',
        )
    top.legend(loc='upper right', ncols=5, bbox_to_anchor=(1, 0.95))

    limit = 1.05 * np.abs(error).max() + 1
    for name, chosen in _by_sex(male):
        bottom.scatter(
            age[chosen],
            error[chosen],
            s=7,
            alpha=0.45,
            linewidths=0,
            rasterized=True,
            **style.SEXES[name],
        )
    bottom.axhline(0, color=style.INK, linewidth=0.6)
    middle, count, value, lower, upper = _binned(age, error, edges)
    bottom.fill_between(middle, lower, upper, color='#000000', alpha=0.2, linewidth=0)
    bottom.plot(middle, value, color=style.INK, linewidth=1.6, label='bias (mean error)')
    bottom.set(
        ylim=(-limit, limit),
        xlim=(edges[0], edges[-1]),
        xlabel='true bone age (months)',
        ylabel='predicted − true age (months)',
    )
    bottom.xaxis.set_major_locator(MultipleLocator(24))
    bottom.legend(loc='upper right')
    years = top.secondary_xaxis('top', functions=(lambda m: m / 12, lambda y: y * 12))
    years.set_xlabel('years')
    years.xaxis.set_major_locator(MultipleLocator(2))
    return figure


def _binned(age, values, edges):
    """Means by age: middles, counts, means, bootstrap bounds, each [bins]; NaN where images are
    few.
    """
    index = np.digitize(age, edges) - 1
    rows = []
    for i in range(len(edges) - 1):
        inside = values[index == i]
        few = len(inside) < _MIN_IMAGES
        rows.append(
            (len(inside), *((np.nan,) * 3 if few else (inside.mean(), *metrics.bootstrap(inside))))
        )
    return (edges[:-1] + edges[1:]) / 2, *np.asarray(rows, np.float64).T


def _by_sex(male):
    """(name, [N] bool) for each sex that has images."""
    return [(name, chosen) for name, chosen in (('girls', ~male), ('boys', male)) if chosen.any()]
