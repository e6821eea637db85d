"""The course of a training, from metrics.jsonl."""

import json

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from boneage_jax.figures import style
from tfds_rsna.errors import UserError

# The metric of the right panel, by what a run learns: axis and title. It selects; beside accuracy
# the loss does.
SELECTING = {
    'accuracy': ('accuracy', 'Accuracy'),
    'mae': ('MAE (months)', 'Mean absolute error'),
    'iou_miss': ('1 - IoU', 'Masks'),
    'error_percent': ("error (% of the hand's length)", 'Key points'),
}


def read(path):
    """The lines of metrics.jsonl; a last line cut short by a kill is dropped."""
    lines, texts = [], path.read_text().splitlines()
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            for name in {'train': ('epoch', 'loss'), 'eval': ('epoch', 'split')}.get(
                line['kind'], ()
            ):
                line[name]  # a KeyError here is better than one while drawing
            lines.append(line)
        except (ValueError, KeyError, TypeError) as error:
            if number < len(texts):
                raise UserError(
                    f'{path}, line {number}: not a line of the log: {text[:80]!r}'
                ) from error
    if not any(line['kind'] == 'train' for line in lines):
        raise UserError(f'{path} holds no training line; did the run take a step?')
    return lines


def draw(lines):
    """Two panels over epochs: the losses, and the metric that selects with its best value marked;
    of classes accuracy, in training and on validation (Figs. 8-13 of Hamrouni 2023), that at the
    lowest validation loss marked.
    """
    train = [line for line in lines if line['kind'] == 'train']
    evaluations = [line for line in lines if line['kind'] == 'eval']
    selecting = next(
        (name for name in SELECTING if any(name in line for line in evaluations)), 'mae'
    )
    figure = Figure(figsize=(8.2, 3.3))
    left, right = figure.subplots(1, 2)
    epochs, losses = np.asarray([(line['epoch'], line['loss']) for line in train], np.float64).T
    width = max(1, len(losses) // 60)
    colour = style.SEXES['boys']['color']
    raw = {'color': style.GREY, 'linewidth': 0.7, 'label': 'training, each line of the log'}
    if selecting == 'accuracy':
        right.plot(*_by_epoch(train, selecting), color=colour, label='training')
    left.plot(epochs, losses, **(raw if width > 1 else {'color': colour, 'label': 'training'}))
    if width > 1:
        smooth = np.convolve(losses, np.ones(width) / width, mode='valid')
        left.plot(
            epochs[width - 1 :],
            smooth,
            color=colour,
            linewidth=1.4,
            label=f'training, mean of {width} lines',
        )
    drawn = list(losses)
    for split in dict.fromkeys(line['split'] for line in evaluations):
        points = [line for line in evaluations if line['split'] == split]
        for axes, name in ((left, 'loss'), (right, selecting)):
            curve = np.asarray(
                [(line['epoch'], line[name]) for line in points if name in line], np.float64
            )
            if not len(curve):
                continue
            axes.plot(
                *curve.T,
                color=style.ACCENT,
                linewidth=1.2,
                marker='o',
                markersize=2.5,
                linestyle='-' if split == 'validation' else '--',
                label=split,
            )
            if axes is left:
                drawn += list(curve[:, 1])
            else:
                _mark_best(
                    axes,
                    curve,
                    [line['loss'] for line in points] if name == 'accuracy' else curve[:, 1],
                )
    finite = [value for value in drawn if np.isfinite(value) and value > 0]
    if len(finite) == len(drawn) and finite and max(finite) > 20 * min(finite):
        left.set_yscale('log')
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
        left.yaxis.set_minor_formatter(NullFormatter())
    left.set(xlabel='epoch', ylabel='loss', title='Loss')
    right.set(xlabel='epoch', ylabel=SELECTING[selecting][0], title=SELECTING[selecting][1])
    left.legend(loc='upper right')
    if right.lines:
        right.legend(loc='lower right' if selecting == 'accuracy' else 'upper right')
    else:
        right.text(
            0.5,
            0.5,
            'no evaluation in the log yet',
            ha='center',
            va='center',
            transform=right.transAxes,
        )
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis='y', color='#E5E5E5', linewidth=0.6)
    return figure


def _by_epoch(lines, name):
    """Epochs and the mean of the log's lines in each, two arrays."""
    ends = np.ceil([line['epoch'] for line in lines])
    epochs = np.unique(ends)
    values = np.asarray([line[name] for line in lines], np.float64)
    return epochs, np.array([values[ends == epoch].mean() for epoch in epochs])


def _mark_best(axes, curve, judged):
    """A star at the point of `curve` [N, 2] whose value in `judged` [N] is the lowest, and its
    value beside it.
    """
    if np.isfinite(judged).any():
        epoch, best = curve[np.nanargmin(judged)]
        axes.plot(
            epoch,
            best,
            marker='*',
            markersize=11,
            color=style.INK,
            linestyle='none',
            zorder=5,
            label=f'best: {best:.2f} at epoch {epoch:g}',
        )
        axes.axhline(best, color=style.GREY, linewidth=0.8, linestyle=':', zorder=1)
