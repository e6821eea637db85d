"""The grid of regional age nets: MAE by form, sex and region, and by stage of puberty (Iglovikov
2018, Figs. 5 and 6).
"""

import pathlib

import numpy as np
from matplotlib.figure import Figure

from boneage_jax.figures import style

REGIONS = {  # Okabe and Ito's, without the two that stand for the sexes
    'A': ('A: hand', '#009E73'),
    'B': ('B: carpus', '#CC79A7'),
    'C': ('C: metacarpals, proximal phalanges', '#D55E00'),
    'all': ('mean', style.INK),
}
_SEXES = {'female': 'Girls', 'male': 'Boys'}


def bars(split, lines, columns, paper, path):
    """Draws the MAE of every finished cell `{(form, sex, region): line of grid.lines_of}` by column
    (form, sex), and as diamonds the paper's `{(form, sex, region): months}`; -> path.
    """
    return style.save(_bars, pathlib.Path(path), split, lines, columns, paper)


def _bars(split, lines, columns, paper):
    figure = Figure(figsize=(8.4, 3.8))
    axes = figure.subplots()
    for number, (region, (name, colour)) in enumerate(REGIONS.items()):
        places, found = (
            np.arange(len(columns)) + 0.2 * (number - 1.5),
            [lines.get((*column, region)) for column in columns],
        )
        there = [(place, line) for place, line in zip(places, found) if line is not None]
        if there:
            values = np.array([[line['ours'], line['lower'], line['upper']] for _, line in there])
            axes.bar(
                [place for place, _ in there],
                values[:, 0],
                0.18,
                color=colour,
                label=name,
                yerr=np.abs(values[:, 1:] - values[:, :1]).T,
                error_kw={'elinewidth': 0.8, 'ecolor': '#777777'},
            )
        theirs = [
            (place, paper[*column, region])
            for place, column in zip(places, columns)
            if (*column, region) in paper
        ]
        if theirs:
            axes.plot(
                *zip(*theirs),
                'D',
                markersize=3.5,
                markerfacecolor='white',
                markeredgecolor=style.INK,
                linestyle='none',
                label="the paper's, of its own images" if region == 'all' else None,
            )
    axes.set_xticks(
        range(len(columns)),
        ['all of\none sex' if form == 'all' else f'{form}\n{sex}' for form, sex in columns],
    )
    counts = [line['images'] for line in lines.values()]
    axes.set(
        ylabel='mean absolute error (months)',
        title=f'{split.capitalize()}: MAE with 95% intervals, '
        f'{min(counts):,} to {max(counts):,} images a bar',
    )
    axes.margins(y=0.25)
    axes.legend(loc='upper left', ncols=3)
    return figure


def stages(split, lines, path):
    """Draws the MAE by stage and region, a panel for each sex, from lines of grid.by_stage; ->
    path.
    """
    return style.save(_stages, pathlib.Path(path), split, lines)


def _stages(split, lines):
    figure = Figure(figsize=(8.4, 3.8))
    panels = figure.subplots(1, len(_SEXES), sharey=True)
    for axes, (sex, title) in zip(panels, _SEXES.items()):
        here = [line for line in lines if line['sex'] == sex]
        names = {line['stage']: line for line in here}
        for number, (region, (name, colour)) in enumerate(REGIONS.items()):
            points = [
                (
                    list(names).index(line['stage']) + 0.09 * (number - 1.5),
                    line['ours'],
                    line['lower'],
                    line['upper'],
                )
                for line in here
                if line['region'] == region
            ]
            if points:
                place, value, lower, upper = np.array(points).T
                axes.errorbar(
                    place,
                    value,
                    [value - lower, upper - value],
                    fmt='o-',
                    color=colour,
                    capsize=2,
                    markersize=4,
                    linewidth=1.2,
                    label=name,
                )
        axes.set_xticks(range(len(names)), [_tick(line) for line in names.values()])
        axes.set(title=f'{title}, {split}', xlabel='stage, months, images')
    panels[0].set_ylabel('mean absolute error (months)')
    panels[0].set_ylim(bottom=0)  # of both panels, once all is drawn
    known = {
        name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels())
    }
    figure.legend(known.values(), known.keys(), loc='outside upper center', ncols=len(REGIONS))
    return figure


def _tick(line):
    to = 'on' if line['to_months'] is None else f'to {line["to_months"]}'
    return f'{line["stage"].replace(" puberty", chr(10) + "puberty")}\n{line["from_months"]} {to}\nn = {line["images"]}'
