"""The error against the strength of each disturbance (`boneage_jax/analysis/robustness.py`)."""

import pathlib
import textwrap

import numpy as np
from matplotlib.figure import Figure

from boneage_jax.figures import style


def draw(lines, kinds, about, path):
    """One panel for each of `kinds` {name: (strengths, neutral, what)}; `lines` as `stress.stress`
    gives them. -> path.
    """
    return style.save(_panels, pathlib.Path(path), lines, kinds, about)


def _panels(lines, kinds, about):
    columns, rows = 4, -(-len(kinds) // 4)
    figure = Figure(figsize=(2.9 * columns, 2.75 * rows + 0.4))
    cells = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, (kind, (_, neutral, what)) in zip(cells, kinds.items()):
        of = [line for line in lines if line['kind'] == kind]
        table = np.array(
            [[line[key] for key in ('strength', 'mae', 'lower', 'upper')] for line in of]
        )
        at = next(line for line in of if line['strength'] == neutral)
        axes.axhline(at['mae'], color=style.GREY, linewidth=0.9)
        if len(of) > 2:
            axes.fill_between(
                table[:, 0],
                table[:, 2],
                table[:, 3],
                color=style.SEXES['boys']['color'],
                alpha=0.18,
                linewidth=0,
            )
            axes.plot(
                table[:, 0],
                table[:, 1],
                color=style.SEXES['boys']['color'],
                marker='o',
                markersize=3.5,
            )
            axes.plot(
                neutral, at['mae'], marker='D', color=style.INK, markersize=5, linestyle='none'
            )
        else:
            axes.bar(
                ('no', 'yes'), table[:, 1], 0.55, color=(style.GREY, style.SEXES['boys']['color'])
            )
            axes.errorbar(
                ('no', 'yes'),
                table[:, 1],
                np.abs(table[:, 2:] - table[:, 1:2]).T,
                fmt='none',
                color=style.INK,
                capsize=3,
            )
        axes.set_title(kind)
        axes.set_xlabel('\n'.join(textwrap.wrap(what, 34)), fontsize=7)
        axes.grid(axis='y', color='#E5E5E5', linewidth=0.6)
    for axes in cells[::columns]:
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
