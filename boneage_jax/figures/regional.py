"""Regional age nets: MAE by region and stage of puberty (Iglovikov 2018, figures 5 and 6)."""

from __future__ import annotations

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


def bars(split: str, lines: dict, columns: list, paper: dict, path: pathlib.Path) -> pathlib.Path:
    """Draws the MAE of every finished cell, and the paper's as diamonds.

    Args:
        split: the split that the errors are of.
        lines: {(form, sex, region): line of `analysis.regional_table`}.
        columns: (form, sex) of each group of bars.
        paper: {(form, sex, region): months} as far as it prints them.
        path: the PNG to write.

    Returns:
        `path`.
    """
    return style.save(_bars, pathlib.Path(path), split, lines, columns, paper)


def _bars(split, lines, columns, paper):
    figure = Figure(figsize=(8.4, 3.8))
    axes = figure.subplots()
    for number, region in enumerate(REGIONS):
        shift = 0.2 * (number - 1.5)
        _draw_ours(axes, region, shift, lines, columns)
        _draw_theirs(axes, region, shift, paper, columns)
    ticks = []
    for form, sex in columns:
        ticks.append('all of\none sex' if form == 'all' else f'{form}\n{sex}')
    axes.set_xticks(range(len(columns)), ticks)
    counts = [line['images'] for line in lines.values()]
    axes.set(
        ylabel='mean absolute error (months)',
        title=f'{split.capitalize()}: MAE with 95% intervals, '
        f'{min(counts):,} to {max(counts):,} images a bar',
    )
    axes.margins(y=0.25)
    axes.legend(loc='upper left', ncols=3)
    return figure


def _draw_ours(axes, region, shift, lines, columns):
    places = []
    values = []
    for column, (form, sex) in enumerate(columns):
        line = lines.get((form, sex, region))
        if line is not None:
            places.append(column + shift)
            values.append(_with_interval(line))
    if not places:
        return
    values = np.array(values)
    name, colour = REGIONS[region]
    axes.bar(
        places,
        values[:, 0],
        0.18,
        color=colour,
        label=name,
        yerr=np.abs(values[:, 1:] - values[:, :1]).T,
        error_kw={'elinewidth': 0.8, 'ecolor': '#777777'},
    )


def _draw_theirs(axes, region, shift, paper, columns):
    points = []
    for column, (form, sex) in enumerate(columns):
        if (form, sex, region) in paper:
            points.append((column + shift, paper[form, sex, region]))
    if not points:
        return
    axes.plot(
        *zip(*points),
        'D',
        markersize=3.5,
        markerfacecolor='white',
        markeredgecolor=style.INK,
        linestyle='none',
        label="the paper's, of its own images" if region == 'all' else None,
    )


def stages(split: str, lines: list[dict], path: pathlib.Path) -> pathlib.Path:
    """Draws the MAE by stage of puberty and region, a panel for each sex; returns `path`.

    `lines` are those of `analysis.regional_table` by stage.
    """
    return style.save(_stages, pathlib.Path(path), split, lines)


def _stages(split, lines):
    figure = Figure(figsize=(8.4, 3.8))
    panels = figure.subplots(1, len(_SEXES), sharey=True)
    known = {}  # of the legend, {name: handle}
    for axes, (sex, title) in zip(panels, _SEXES.items()):
        here = [line for line in lines if line['sex'] == sex]
        of_stage = {line['stage']: line for line in here}
        for number, region in enumerate(REGIONS):
            places = {}
            for place, stage in enumerate(of_stage):
                places[stage] = place + 0.09 * (number - 1.5)
            chosen = [line for line in here if line['region'] == region]
            _draw_region(axes, region, chosen, places)
        axes.set_xticks(range(len(of_stage)), [_tick(line) for line in of_stage.values()])
        axes.set(title=f'{title}, {split}', xlabel='stage, months, images')
        handles, names = axes.get_legend_handles_labels()
        known.update(zip(names, handles))
    panels[0].set_ylabel('mean absolute error (months)')
    panels[0].set_ylim(bottom=0)  # of both panels, once all is drawn
    figure.legend(known.values(), known.keys(), loc='outside upper center', ncols=len(REGIONS))
    return figure


def _draw_region(axes, region, lines, places):
    if not lines:
        return
    name, colour = REGIONS[region]
    at = [places[line['stage']] for line in lines]
    value, lower, upper = np.array([_with_interval(line) for line in lines]).T
    axes.errorbar(
        at,
        value,
        [value - lower, upper - value],
        fmt='o-',
        color=colour,
        capsize=2,
        markersize=4,
        linewidth=1.2,
        label=name,
    )


def _with_interval(line):
    return line['ours'], line['lower'], line['upper']


def _tick(line):
    stage = line['stage'].replace(' puberty', '\npuberty')
    to = 'on' if line['to_months'] is None else f'to {line["to_months"]}'
    return f'{stage}\n{line["from_months"]} {to}\nn = {line["images"]}'
