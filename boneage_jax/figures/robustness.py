"""The error against the strength of each disturbance (`boneage_jax/analysis/robustness.py`)."""

from __future__ import annotations

import pathlib
import textwrap

import numpy as np
from matplotlib.figure import Figure

from boneage_jax.figures import style

_COLUMNS = 4


def draw(lines: list[dict], kinds: dict, about: str, path: pathlib.Path) -> pathlib.Path:
    """Draws the MAE against the strength, a panel for each kind of disturbance.

    Args:
        lines: those of `analysis.robustness`.
        kinds: {name: (strengths, the neutral one, what it is)}.
        about: split and number of images, for the title.
        path: the PNG to write.

    Returns:
        `path`.
    """
    return style.save(_panels, pathlib.Path(path), lines, kinds, about)


def _panels(lines, kinds, about):
    rows = -(-len(kinds) // _COLUMNS)
    figure = Figure(figsize=(2.9 * _COLUMNS, 2.75 * rows + 0.4))
    cells = figure.subplots(rows, _COLUMNS, squeeze=False, sharey=True).ravel()
    for axes, (kind, (_, neutral, what)) in zip(cells, kinds.items()):
        of_kind = [line for line in lines if line['kind'] == kind]
        table = np.array([_numbers(line) for line in of_kind])
        untouched = table[table[:, 0] == neutral][0, 1]
        axes.axhline(untouched, color=style.GREY, linewidth=0.9)
        if len(table) > 2:
            _draw_curve(axes, table)
            axes.plot(
                neutral, untouched, marker='D', color=style.INK, markersize=5, linestyle='none'
            )
        else:
            _draw_pair(axes, table)
        axes.set_title(kind)
        axes.set_xlabel('\n'.join(textwrap.wrap(what, 34)), fontsize=7)
        axes.grid(axis='y', color=style.GRID, linewidth=0.6)
    for axes in cells[::_COLUMNS]:
        axes.set_ylabel('MAE (months)')
    for axes in cells[len(kinds) :]:
        axes.set_visible(False)
    cells[0].set_ylim(bottom=0)
    figure.suptitle(
        f'MAE against the strength of a disturbance, {about}; bands: 95% intervals, line: '
        'untouched images',
        fontsize=10,
    )
    return figure


def _numbers(line):
    return line['strength'], line['mae'], line['lower'], line['upper']


def _draw_curve(axes, table):
    strength, mae, lower, upper = table.T
    axes.fill_between(strength, lower, upper, color=style.BLUE, alpha=0.18, linewidth=0)
    axes.plot(strength, mae, color=style.BLUE, marker='o', markersize=3.5)


def _draw_pair(axes, table):
    """Bars of a disturbance that is there or not."""
    names = ('no', 'yes')
    axes.bar(names, table[:, 1], 0.55, color=(style.GREY, style.BLUE))
    reach = np.abs(table[:, 2:] - table[:, 1:2]).T
    axes.errorbar(names, table[:, 1], reach, fmt='none', color=style.INK, capsize=3)
