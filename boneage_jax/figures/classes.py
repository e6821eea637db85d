"""Figures of age classes: who was taken for whom, and what a second run gains near the edges."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from boneage_jax.figures import style


def confusion(split: str, table: np.ndarray, names: list[str]) -> Figure:
    """Images by true class (rows) and predicted class, `table` [K, K].

    The colour is the share of the row; a cell has its count and its share in words.
    """
    table = np.asarray(table)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    size = 2.2 + 0.55 * len(names)
    figure = Figure(figsize=(size + 0.6, size))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        if count:
            share = shares[row, column]
            axes.text(
                column,
                row,
                f'{count:,}\n{100 * share:.0f}%',
                ha='center',
                va='center',
                fontsize=7,
                color='white' if share > 0.55 else style.INK,
            )
    axes.set_xticks(range(len(names)), names, rotation=45, ha='right', rotation_mode='anchor')
    axes.set_yticks(range(len(names)), names)
    accuracy = np.trace(table) / max(table.sum(), 1)
    axes.set(
        xlabel='predicted class (months)',
        ylabel='true class (months)',
        title=f'{split.capitalize()}: accuracy {100 * accuracy:.1f}%, {table.sum():,} images',
    )
    axes.spines[:].set_visible(False)
    figure.colorbar(image, shrink=0.8, label='share of the true class').outline.set_visible(False)
    return figure


def confusion_of(
    split: str, images: dict[str, np.ndarray], by_class: list[dict]
) -> tuple[str, np.ndarray, list[str]]:
    """The arguments of `confusion` for one split of a classifier.

    `images` is its table of `runs.predictions`, `by_class` the list of metrics.json.
    """
    names = [row['months'] for row in by_class]
    table = np.zeros((len(names), len(names)), int)
    np.add.at(table, (images['true_class'], images['class']), 1)
    return split, table, names


def counts(
    months: np.ndarray, male: np.ndarray, edges=(), title: str = 'Training images'
) -> Figure:
    """Images per year of age, by sex, class edges as lines (Hamrouni 2023, figure 3)."""
    months = np.asarray(months)
    male = np.asarray(male, bool)
    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.subplots()
    groups = {name: months[chosen] for name, chosen in style.by_sex(male)}
    axes.hist(
        list(groups.values()),
        np.arange(0, months.max() + 13, 12),
        color=[style.SEXES[name]['color'] for name in groups],
        label=[f'{name} (n = {len(ages):,})' for name, ages in groups.items()],
    )
    label = 'class edges'
    for edge in edges[1:-1]:
        axes.axvline(edge, color=style.INK, linewidth=0.8, linestyle=':', label=label)
        label = None  # one entry in the legend is enough
    axes.set(
        xlabel='bone age (months)',
        ylabel='images per year of age',
        title=f'{title}: {len(months):,}',
    )
    axes.xaxis.set_major_locator(MultipleLocator(24))
    axes.legend(loc='upper left')
    return figure


def near_edges(split: str, lines: list[dict], names: tuple[str, str]) -> Figure:
    """Accuracy of two runs `names` by distance to the nearest class edge, and the difference.

    `lines` are those of `analysis.class_edges`.
    """
    figure = Figure(figsize=(6.4, 5.2))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    places = np.arange(len(lines))
    for key, name, colour, shift in (
        ('first', names[0], style.GREY, -0.2),
        ('second', names[1], style.BLUE, 0.2),
    ):
        accuracy = [100 * line[key] for line in lines]
        top.bar(places + shift, accuracy, 0.38, color=colour, label=name)
    total = sum(line['images'] for line in lines)
    top.set(ylabel='accuracy (%)', ylim=(0, 112), title=f'{split.capitalize()}: {total:,} images')
    top.legend(loc='upper left', ncols=2)

    gain = 100 * np.array([(line['gain'], line['lower'], line['upper']) for line in lines])
    reach = np.abs(gain[:, 1:] - gain[:, :1]).T
    bottom.errorbar(places, gain[:, 0], reach, fmt='o', color=style.INK, capsize=3)
    bottom.axhline(0, color=style.INK, linewidth=0.6)
    bottom.set(ylabel='gain (points)', xlabel='months from the true age to the nearest class edge')
    bottom.set_xticks(places, [f'{line["months"]}\n{line["images"]} images' for line in lines])
    return figure
