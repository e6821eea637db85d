"""Bland and Altman's plot, and the errors of groups of images."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from boneage_jax.figures import style
from boneage_jax.tasks import metrics

_LIMITS = {'agreement_upper': 'upper limit', 'bias': 'bias', 'agreement_lower': 'lower limit'}
_MARKS = 'os^Dv*XP'
_DASHES = ('-', '--', '-.', ':')


def bland_altman(split: str, images: dict[str, np.ndarray]) -> Figure:
    """Predicted minus true age over the mean of both, with the bias and its limits of agreement.

    Bland and Altman 1986. `images` is a table of `runs.predictions`, of one split.
    """
    prediction, age, male = images['prediction'], images['age'], images['male']
    error = prediction - age
    mean = (prediction + age) / 2
    found = metrics.age_metrics(prediction, age, male)['overall']
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.subplots()
    for name, chosen in style.by_sex(male):
        axes.scatter(
            mean[chosen],
            error[chosen],
            s=9,
            alpha=0.5,
            linewidths=0,
            rasterized=True,
            label=name,
            **style.SEXES[name],
        )
    axes.axhline(0, color=style.INK, linewidth=0.5, linestyle=':')
    for key, name in _LIMITS.items():
        _draw_level(axes, name, found[key], '-' if key == 'bias' else '--')
    farthest = max(np.abs(error).max(), *(abs(found[key]['value']) for key in _LIMITS))
    limit = 1.08 * farthest + 1
    axes.set(
        ylim=(-limit, limit),
        xlabel='mean of predicted and true age (months)',
        ylabel='predicted − true age (months)',
        title=f'{split.capitalize()}: 95% limits of agreement, {len(error):,} images',
    )
    axes.xaxis.set_major_locator(MultipleLocator(24))
    axes.legend(loc='upper left', ncols=2)
    return figure


def _draw_level(axes, name, found, linestyle):
    """A horizontal line at a figure of metrics.json, with its interval as a band, and its name."""
    value = found['value']
    axes.axhspan(found['lower'], found['upper'], color='black', alpha=0.12, linewidth=0)
    axes.axhline(value, color=style.INK, linewidth=1.2, linestyle=linestyle)
    axes.annotate(
        f'{name} {value:+.1f}',
        (1, value),
        (4, 0),
        xycoords=('axes fraction', 'data'),
        textcoords='offset points',
        va='center',
        fontsize=8,
        annotation_clip=False,
    )


def groups(split: str, report: dict) -> Figure:
    """MAE and bias of the groups of one split of metrics.json, each with its interval.

    Groups are all images, then those by sex, stage of puberty and source.
    """
    rows = [('all images', report['overall'])]
    for key in ('by_sex', 'by_stage', 'by_source'):
        rows += report.get(key, {}).items()
    figure = Figure(figsize=(6.4, 0.9 + 0.27 * len(rows)))
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))[::-1]
    colours = [style.ACCENT, *[style.BLUE] * (len(rows) - 1)]
    for axes, key, title in ((left, 'mae', 'MAE (months)'), (right, 'bias', 'bias (months)')):
        found = [of[key] for _, of in rows]
        values = np.array([(one['value'], one['lower'], one['upper']) for one in found])
        neutral = values[0, 0] if key == 'mae' else 0
        axes.axvline(neutral, color=style.GREY, linewidth=0.8, zorder=0)
        axes.hlines(places, values[:, 1], values[:, 2], color=style.INK, linewidth=1.2)
        axes.scatter(values[:, 0], places, s=22, color=colours, zorder=3)
        axes.set(title=title)
        axes.grid(axis='x', color=style.GRID, linewidth=0.6)
    left.set_xlim(left=0)
    left.set_yticks(places, [f'{name} (n = {of["mae"]["count"]:,})' for name, of in rows])
    left.set_ylim(-0.7, len(rows) - 0.3)
    figure.suptitle(f'{split.capitalize()}: error by group, 95% intervals', fontsize=10)
    return figure


def curves(histories: dict[str, list[dict]], selecting: str, label: str) -> Figure:
    """The validation figure `selecting` of several runs over their epochs.

    `histories` maps the name of a run to the lines of its metrics.jsonl.
    """
    rows = -(-len(histories) // 3)
    figure = Figure(figsize=(6.4, 3.2 + 0.2 * rows))
    axes = figure.subplots()
    for number, (name, lines) in enumerate(histories.items()):
        points = []
        for line in lines:
            if line['kind'] == 'eval' and selecting in line:
                points.append((line['epoch'], line[selecting]))
        axes.plot(
            *np.array(points, np.float64).reshape(-1, 2).T,
            marker=_MARKS[number % len(_MARKS)],
            markersize=3,
            linewidth=1.2,
            linestyle=_DASHES[number // len(_MARKS) % len(_DASHES)],
            color=style.SERIES[number % len(style.SERIES)],
            label=name,
        )
    axes.set(xlabel='epoch', ylabel=label, title='Validation during training')
    axes.grid(axis='y', color=style.GRID, linewidth=0.6)
    figure.legend(loc='outside lower center', ncols=3)  # below: it would hide curves
    return figure


def spread(split: str, values: np.ndarray, title: str, label: str) -> Figure:
    """A histogram of one figure of each image `[N]`, with its median."""
    figure = Figure(figsize=(6.4, 3.0))
    axes = figure.subplots()
    axes.hist(values, bins=min(40, max(8, len(values) // 8)), color=style.BLUE)
    median = np.median(values)
    axes.axvline(median, color=style.ACCENT, linewidth=1.2, label=f'median {median:.4g}')
    axes.set(
        xlabel=label,
        ylabel='images',
        title=f'{split.capitalize()}: {title}, {len(values):,} images',
    )
    axes.legend()
    return figure
