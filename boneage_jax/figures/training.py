"""The course of a training, from metrics.jsonl."""

from __future__ import annotations

import json
import pathlib

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from boneage_jax.figures import style
from tfds_rsna.errors import UserError

# The metric of the right panel by what a run learns: the label of its axis and the title. It
# selects the checkpoint, except for accuracy: there the loss does.
SELECTING = {
    'accuracy': ('accuracy', 'Accuracy'),
    'mae': ('MAE (months)', 'Mean absolute error'),
    'iou_miss': ('1 - IoU', 'Masks'),
    'error_percent': ("error (% of the hand's length)", 'Key points'),
}
_NEEDED = {'train': ('epoch', 'loss'), 'eval': ('epoch', 'split')}
_POINTS = 60  # lines of the log above which their running mean is drawn too


def read(path: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl; a last line cut short by a kill is dropped.

    Raises UserError for another line that cannot be read, and where no training line is there.
    """
    lines = []
    texts = path.read_text().splitlines()
    for number, text in enumerate(texts, 1):
        try:
            lines.append(_line(text))
        except (ValueError, KeyError, TypeError) as error:
            if number < len(texts):
                raise UserError(
                    f'{path}, line {number}: not a line of the log: {text[:80]!r}'
                ) from error
    if not _of_kind(lines, 'train'):
        raise UserError(f'{path} holds no training line; did the run take a step?')
    return lines


def _line(text):
    """One line of the log; KeyError where it lacks what a figure of its kind needs."""
    line = json.loads(text)
    for name in _NEEDED.get(line['kind'], ()):
        line[name]
    return line


def _of_kind(lines, kind):
    return [line for line in lines if line['kind'] == kind]


def draw(lines: list[dict]) -> Figure:
    """Two panels over epochs: the losses, and the metric that selects, its best value marked.

    Of classes the second is accuracy, in training and on validation (Hamrouni 2023, figures 8 to
    13), with that at the lowest validation loss marked.
    """
    evaluations = _of_kind(lines, 'eval')
    selecting = 'mae'
    for name in SELECTING:
        if any(name in line for line in evaluations):
            selecting = name
            break
    figure = Figure(figsize=(8.2, 3.3))
    left, right = figure.subplots(1, 2)
    _draw_losses(left, _of_kind(lines, 'train'), evaluations)
    _draw_metric(right, _of_kind(lines, 'train'), evaluations, selecting)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis='y', color=style.GRID, linewidth=0.6)
    return figure


def _draw_losses(axes, train, evaluations):
    epochs, losses = _curve(train, 'loss').T
    width = max(1, len(losses) // _POINTS)
    if width == 1:
        axes.plot(epochs, losses, color=style.BLUE, label='training')
    else:
        label = 'training, each line of the log'
        axes.plot(epochs, losses, color=style.GREY, linewidth=0.7, label=label)
        smooth = np.convolve(losses, np.ones(width) / width, mode='valid')
        label = f'training, mean of {width} lines'
        axes.plot(epochs[width - 1 :], smooth, color=style.BLUE, linewidth=1.4, label=label)
    drawn = list(losses)
    for split, points in _by_split(evaluations).items():
        curve = _curve(points, 'loss')
        if len(curve):
            _draw_split(axes, split, curve)
            drawn += list(curve[:, 1])
    if _wide(np.array(drawn)):
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel='epoch', ylabel='loss', title='Loss')
    axes.legend(loc='upper right')


def _draw_metric(axes, train, evaluations, selecting):
    of_classes = selecting == 'accuracy'
    if of_classes:
        axes.plot(*_by_epoch(train, selecting), color=style.BLUE, label='training')
    for split, points in _by_split(evaluations).items():
        curve = _curve(points, selecting)
        if not len(curve):
            continue
        _draw_split(axes, split, curve)
        judged = curve[:, 1]
        if of_classes:
            judged = [line['loss'] for line in points]
        _mark_best(axes, curve, judged)
    label, title = SELECTING[selecting]
    axes.set(xlabel='epoch', ylabel=label, title=title)
    if axes.lines:
        axes.legend(loc='lower right' if of_classes else 'upper right')
    else:
        axes.text(
            0.5,
            0.5,
            'no evaluation in the log yet',
            ha='center',
            va='center',
            transform=axes.transAxes,
        )


def _by_split(evaluations):
    splits = {}
    for line in evaluations:
        splits.setdefault(line['split'], []).append(line)
    return splits


def _curve(lines, name):
    """[N, 2]: epoch and value of the lines that have `name`."""
    points = [(line['epoch'], line[name]) for line in lines if name in line]
    return np.asarray(points, np.float64).reshape(-1, 2)


def _draw_split(axes, split, curve):
    axes.plot(
        *curve.T,
        color=style.ACCENT,
        linewidth=1.2,
        marker='o',
        markersize=2.5,
        linestyle='-' if split == 'validation' else '--',
        label=split,
    )


def _wide(values):
    """Whether positive values range so far that a logarithmic axis shows them better."""
    if not np.isfinite(values).all() or not (values > 0).all():
        return False
    return values.max() > 20 * values.min()


def _by_epoch(lines, name):
    """Epochs and the mean of the log's lines in each, two arrays."""
    ends = np.ceil([line['epoch'] for line in lines])
    epochs = np.unique(ends)
    values = np.asarray([line[name] for line in lines], np.float64)
    return epochs, np.array([values[ends == epoch].mean() for epoch in epochs])


def _mark_best(axes, curve, judged):
    """A star and the value at the point of `curve` [N, 2] whose `judged` [N] is the lowest."""
    if not np.isfinite(judged).any():
        return
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
