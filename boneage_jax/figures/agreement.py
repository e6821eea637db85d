"""How far predicted ages may lie from the true ones: Bland and Altman's plot, and the errors of
groups of images.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from boneage_jax.figures import style
from boneage_jax.tasks import metrics


def bland_altman(split, images):
    """Predicted minus true age over the mean of both (Bland and Altman 1986), with the bias and its
    limits of agreement.
    """
    error, mean, male = (
        images['prediction'] - images['age'],
        (images['prediction'] + images['age']) / 2,
        images['male'],
    )
    found = metrics.age_metrics(images['prediction'], images['age'], male)['overall']
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.subplots()
    for name, chosen in (('girls', ~male), ('boys', male)):
        if chosen.any():
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
    names = {'agreement_upper': 'upper limit', 'bias': 'bias', 'agreement_lower': 'lower limit'}
    for key, what in names.items():
        of = found[key]
        axes.axhspan(of['lower'], of['upper'], color='black', alpha=0.12, linewidth=0)
        axes.axhline(
            of['value'], color=style.INK, linewidth=1.2, linestyle='-' if key == 'bias' else '--'
        )
        axes.annotate(
            f'{what} {of["value"]:+.1f}',
            (1, of['value']),
            (4, 0),
            xycoords=('axes fraction', 'data'),
            textcoords='offset points',
            va='center',
            fontsize=8,
            annotation_clip=False,
        )
    limit = 1.08 * max(np.abs(error).max(), *(abs(found[key]['value']) for key in names)) + 1
    axes.set(
        ylim=(-limit, limit),
        xlabel='mean of predicted and true age (months)',
        ylabel='predicted − true age (months)',
        title=f'{split.capitalize()}: 95% limits of agreement, {len(error):,} images',
    )
    axes.xaxis.set_major_locator(MultipleLocator(24))
    axes.legend(loc='upper left', ncols=2)
    return figure


def groups(split, report):
    """MAE and bias of the groups of one split of metrics.json (sex, stage, source), each with its
    interval.
    """
    rows = [('all images', report['overall'])]
    for key in ('by_sex', 'by_stage', 'by_source'):
        rows += [(name, of) for name, of in report.get(key, {}).items()]
    figure = Figure(figsize=(6.4, 0.9 + 0.27 * len(rows)))
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))[::-1]
    for axes, key, title in ((left, 'mae', 'MAE (months)'), (right, 'bias', 'bias (months)')):
        values = np.array(
            [[of[key][part] for part in ('value', 'lower', 'upper')] for _, of in rows]
        )
        axes.axvline(values[0, 0] if key == 'mae' else 0, color=style.GREY, linewidth=0.8, zorder=0)
        axes.hlines(places, values[:, 1], values[:, 2], color=style.INK, linewidth=1.2)
        axes.scatter(
            values[:, 0],
            places,
            s=22,
            color=[style.ACCENT, *[style.SEXES['boys']['color']] * (len(rows) - 1)],
            zorder=3,
        )
        axes.set(title=title)
        axes.grid(axis='x', color='#E5E5E5', linewidth=0.6)
    left.set_xlim(left=0)
    left.set_yticks(places, [f'{name} (n = {of["mae"]["count"]:,})' for name, of in rows])
    left.set_ylim(-0.7, len(rows) - 0.3)
    figure.suptitle(f'{split.capitalize()}: error by group, 95% intervals', fontsize=10)
    return figure


def curves(histories, selecting, label):
    """The validation figure `selecting` of several runs over their epochs; `histories` `{name:
    lines of the log}`.
    """
    rows = -(-len(histories) // 3)
    figure = Figure(figsize=(6.4, 3.2 + 0.2 * rows))
    axes = figure.subplots()
    marks, dashes = 'os^Dv*XP', ('-', '--', '-.', ':')
    for number, (name, lines) in enumerate(histories.items()):
        curve = np.array(
            [
                (line['epoch'], line[selecting])
                for line in lines
                if line['kind'] == 'eval' and selecting in line
            ],
            np.float64,
        ).reshape(-1, 2)
        axes.plot(
            *curve.T,
            marker=marks[number % len(marks)],
            markersize=3,
            linewidth=1.2,
            linestyle=dashes[number // 8 % len(dashes)],
            color=style.SERIES[number % len(style.SERIES)],
            label=name,
        )
    axes.set(xlabel='epoch', ylabel=label, title='Validation during training')
    axes.grid(axis='y', color='#E5E5E5', linewidth=0.6)
    figure.legend(loc='outside lower center', ncols=3)  # below: it would hide curves
    return figure


def spread(split, values, title, label):
    """A histogram of one figure of each image `[N]`, its median marked."""
    figure = Figure(figsize=(6.4, 3.0))
    axes = figure.subplots()
    axes.hist(values, bins=min(40, max(8, len(values) // 8)), color=style.SEXES['boys']['color'])
    axes.axvline(
        np.median(values),
        color=style.ACCENT,
        linewidth=1.2,
        label=f'median {np.median(values):.4g}',
    )
    axes.set(
        xlabel=label,
        ylabel='images',
        title=f'{split.capitalize()}: {title}, {len(values):,} images',
    )
    axes.legend()
    return figure
