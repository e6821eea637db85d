"""Figures of age classes: who was taken for whom, and what a second run gains near the edges."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from boneage_jax.figures import style


def confusion(split, table, names):
    """Images by true (rows) and predicted class `[K, K]`: shares of the row as colour and below the
    counts.
    """
    table = np.asarray(table)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    size = 2.2 + 0.55 * len(names)
    figure = Figure(figsize=(size + 0.6, size))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        if count:
            axes.text(
                column,
                row,
                f'{count:,}\n{100 * shares[row, column]:.0f}%',
                ha='center',
                va='center',
                fontsize=7,
                color='white' if shares[row, column] > 0.55 else style.INK,
            )
    axes.set_xticks(range(len(names)), names, rotation=45, ha='right', rotation_mode='anchor')
    axes.set_yticks(range(len(names)), names)
    axes.set(
        xlabel='predicted class (months)',
        ylabel='true class (months)',
        title=f'{split.capitalize()}: accuracy {100 * np.trace(table) / max(table.sum(), 1):.1f}%, '
        f'{table.sum():,} images',
    )
    axes.spines[:].set_visible(False)
    figure.colorbar(image, shrink=0.8, label='share of the true class').outline.set_visible(False)
    return figure


def counts(months, male, edges=(), title='Training images'):
    """Images per year of age, by sex, class edges as lines (Fig. 3 of Hamrouni 2023)."""
    months, male = np.asarray(months), np.asarray(male, bool)
    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.subplots()
    bins = np.arange(0, months.max() + 13, 12)
    groups = [
        (name, months[chosen])
        for name, chosen in (('girls', ~male), ('boys', male))
        if chosen.any()
    ]
    axes.hist(
        [ages for _, ages in groups],
        bins,
        color=[style.SEXES[name]['color'] for name, _ in groups],
        label=[f'{name} (n = {len(ages):,})' for name, ages in groups],
    )
    for number, edge in enumerate(edges[1:-1]):
        axes.axvline(
            edge,
            color=style.INK,
            linewidth=0.8,
            linestyle=':',
            label='class edges' if number == 0 else None,
        )
    axes.set(
        xlabel='bone age (months)',
        ylabel='images per year of age',
        title=f'{title}: {len(months):,}',
    )
    axes.xaxis.set_major_locator(MultipleLocator(24))
    axes.legend(loc='upper left')
    return figure


def near_edges(split, lines, names):
    """Accuracy of two runs `names` by distance to the nearest edge, and the difference; `lines` of
    near_edges.py.
    """
    figure = Figure(figsize=(6.4, 5.2))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    places = np.arange(len(lines))
    colours = (style.GREY, style.SEXES['boys']['color'])
    for key, name, colour, shift in zip(('first', 'second'), names, colours, (-0.2, 0.2)):
        top.bar(places + shift, [100 * line[key] for line in lines], 0.38, color=colour, label=name)
    total = sum(line['images'] for line in lines)
    top.set(ylabel='accuracy (%)', ylim=(0, 112), title=f'{split.capitalize()}: {total:,} images')
    top.legend(loc='upper left', ncols=2)
    gain = 100 * np.array([[line['gain'], line['lower'], line['upper']] for line in lines])
    bottom.errorbar(
        places, gain[:, 0], np.abs(gain[:, 1:] - gain[:, :1]).T, fmt='o', color=style.INK, capsize=3
    )
    bottom.axhline(0, color=style.INK, linewidth=0.6)
    bottom.set(ylabel='gain (points)', xlabel='months from the true age to the nearest class edge')
    bottom.set_xticks(places, [f'{line["months"]}\n{line["images"]} images' for line in lines])
    return figure
