"""Embeddings in the plane, coloured by age (Bae 2018, figure 3)."""

from __future__ import annotations

import pathlib

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from boneage_jax.figures import style

_SEXES = {'female': 'girls', 'male': 'boys'}
_COLOURS = 'RdYlBu_r'  # from blue to red, older, as the paper's


def tsne(panels: list[tuple], path: pathlib.Path) -> pathlib.Path:
    """Draws a column of panels for each sex, girls left, with one scale of colours for all.

    A panel is (run, 'female' or 'male', points `[N, 2]`, months `[N]`, the distance-age
    correlation as `{'value', 'lower', 'upper'}`). Returns `path`.
    """
    return style.save(_draw, pathlib.Path(path), panels)


def _draw(panels):
    columns = {}
    for panel in sorted(panels, key=_sex_of):
        columns.setdefault(_sex_of(panel), []).append(panel)
    rows = max(map(len, columns.values()))
    youngest = min(months.min() for _, _, _, months, _ in panels)
    oldest = max(months.max() for _, _, _, months, _ in panels)
    ages = Normalize(youngest, oldest)

    figure = Figure(figsize=(3.4 * len(columns) + 0.9, 3.3 * rows))
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for places, inside in zip(axes.T, columns.values()):
        for ax, panel in zip(places, inside):
            _draw_panel(ax, *panel, ages)
    bar = figure.colorbar(ScalarMappable(ages, _COLOURS), ax=axes, shrink=0.7, pad=0.02)
    bar.set_label('bone age (months)')
    return figure


def _sex_of(panel):
    return panel[1]


def _draw_panel(ax, run, sex, points, months, correlation, ages):
    ax.set_axis_on()
    ax.scatter(
        *points.T,
        c=months,
        norm=ages,
        cmap=_COLOURS,
        s=22 if len(points) <= 200 else 10,
        linewidths=0.2,
        edgecolors=style.INK,
        marker=style.SEXES[_SEXES[sex]]['marker'],
        rasterized=True,
    )
    interval = f'[{correlation["lower"]:.2f}, {correlation["upper"]:.2f}]'
    ax.set(
        xticks=[],
        yticks=[],
        aspect='equal',
        title=f'{run}: {len(points):,} {_SEXES[sex]}\ndistance-age correlation '
        f'{correlation["value"]:.2f} {interval}',
    )
    ax.set_adjustable('datalim')
