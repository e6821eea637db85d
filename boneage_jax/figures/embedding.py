"""Embeddings in the plane, coloured by age (Bae 2018, figure 3)."""

from pathlib import Path

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from boneage_jax.figures import style

_SEXES = {'female': 'girls', 'male': 'boys'}
_COLOURS = 'RdYlBu_r'  # from blue to red, older, as the paper's


def tsne(panels, path):
    """Writes a column of panels for each sex, girls left: `panels` of (run, 'female' or 'male',
    points `[N, 2]`, months `[N]`, orderedness `{'value', 'lower', 'upper'}`). One scale of colours
    for all.
    """
    return style.save(_draw, Path(path), panels)


def _draw(panels):
    columns = {
        sex: [panel for panel in panels if panel[1] == sex]
        for sex in sorted({panel[1] for panel in panels})
    }
    size = max(map(len, columns.values())), len(columns)
    ages = Normalize(
        min(panel[3].min() for panel in panels), max(panel[3].max() for panel in panels)
    )
    figure = Figure(figsize=(3.4 * size[1] + 0.9, 3.3 * size[0]))
    axes = figure.subplots(*size, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    places = [
        place for column, inside in zip(axes.T, columns.values()) for place in zip(column, inside)
    ]
    for ax, (run, sex, points, months, order) in places:
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
        ax.set(
            xticks=[],
            yticks=[],
            aspect='equal',
            title=f'{run}: {len(points):,} {_SEXES[sex]}\norderedness '
            f'{order["value"]:.2f} [{order["lower"]:.2f}, {order["upper"]:.2f}]',
        )
        ax.set_adjustable('datalim')
    bar = figure.colorbar(ScalarMappable(ages, _COLOURS), ax=axes, shrink=0.7, pad=0.02)
    bar.set_label('bone age (months)')
    return figure
