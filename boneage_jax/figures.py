"""The figures of a run, drawn from predictions.csv and metrics.jsonl, and sheets of images.

Every figure is its own object (no pyplot: nothing global is left behind) and is written whole or not at all.
Girls are orange circles, boys blue triangles: apart in colour (Okabe and Ito's colour-blind-safe palette),
in brightness when printed grey, and in shape.
"""

import csv
import json
import math
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, MultipleLocator, NullFormatter, StrMethodFormatter

from boneage_jax import metrics
from tfds_rsna.errors import UserError

_SEXES = {'girls': {'color': '#E69F00', 'marker': 'o'}, 'boys': {'color': '#0072B2', 'marker': '^'}}
_RANKS = ('#F0E442', '#56B4E9', '#D55E00')  # boxes, best first
_GREY, _INK, _ACCENT = '#BBBBBB', '#222222', '#D55E00'
_STYLE = {
    'figure.constrained_layout.use': True, 'figure.dpi': 200, 'font.size': 9, 'axes.titlesize': 10,
    'axes.labelsize': 9, 'legend.fontsize': 8, 'legend.frameon': False, 'xtick.labelsize': 8,
    'ytick.labelsize': 8,
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.edgecolor': _INK, 'axes.labelcolor': _INK,
    'text.color': _INK, 'xtick.color': _INK, 'ytick.color': _INK, 'axes.axisbelow': True,
}
_COLUMNS = ('id', 'split', 'male', 'age', 'prediction')
_TRUTH = {'true': True, '1': True, 'false': False, '0': False}
_MIN_FILMS = 5      # fewer films than this in an age bin: no mean is drawn


def from_run(workdir):
    """Draws the figures of the run in `workdir` into `workdir/figures/`; returns their paths.

    From `predictions.csv` (`id,split,male,age,prediction[,lower,upper]`, months), for each split in it:
    `predictions_SPLIT.png` and `error_by_age_SPLIT.png`. From `metrics.jsonl`, which a classical run does not have:
    `training.png`.

    Raises:
        FileNotFoundError: there is no predictions.csv.
        UserError: it is empty, lacks columns or holds something unreadable; the message names file and line.
    """
    workdir = Path(workdir)
    films, history = _read_predictions(workdir / 'predictions.csv'), workdir / 'metrics.jsonl'
    folder, paths = workdir / 'figures', []
    for split in dict.fromkeys(films['split']):
        chosen = {name: column[films['split'] == split] for name, column in films.items()}
        paths.append(_save(_predicted_against_true, folder / f'predictions_{split}.png', split, chosen))
        paths.append(_save(_error_by_age, folder / f'error_by_age_{split}.png', split, chosen))
    if history.exists():
        paths.append(_save(_training, folder / 'training.png', _read_curves(history)))
    return paths


def image_sheet(images, captions, path, columns=8):
    """Writes a sheet of grey images [N, H, W, 1] (uint8, or float in 0..1), a caption below each; -> path."""
    images, captions = np.asarray(images), [str(caption) for caption in captions]
    if images.ndim != 4 or images.shape[-1] != 1 or not len(images):
        raise UserError(f'image_sheet needs images [N, H, W, 1], N at least 1; found shape {images.shape}')
    if len(images) != len(captions):
        raise UserError(f'image_sheet: {len(images)} images but {len(captions)} captions')
    return _save(_sheet, Path(path), images[..., 0], captions, min(columns, len(images)))


def parts(images, maps, boxes, captions, path, valid=None):
    """Ji 2019, figure 5, a column a film: the film, its relation map, the selected parts on it; -> path.

    Images [N, H, W, 1] as in `image_sheet`, maps [N, h, w] in 0..1 or None, boxes [N, M, 4] (row0, column0,
    row1, column1 in pixels, best first), valid [N, M]: False for a box that is none. The maps share one
    scale, from their least value to their greatest.
    """
    images, boxes, captions = np.asarray(images), np.asarray(boxes), [str(caption) for caption in captions]
    valid = np.ones(boxes.shape[:2], bool) if valid is None else np.asarray(valid)
    lengths = {len(x) for x in (images, boxes, captions, valid, images if maps is None else maps)}
    if images.ndim != 4 or boxes.ndim != 3 or lengths != {len(images)}:
        raise UserError('figures.parts needs images [N, H, W, 1], maps [N, h, w], boxes [N, M, 4], N captions; '
                        f'found images {images.shape}, boxes {boxes.shape}, {len(captions)} captions')
    return _save(_part_sheet, Path(path), images[..., 0], maps, boxes, captions, valid)


def anchors(image, boxes, level, path):
    """Ji 2019, figure 3: the shapes of anchors on a film [H, W, 1], a panel for each level; -> path.

    Boxes [N, 4] and level [N] as `models.parts.anchors` gives them: drawn are all anchors of the place
    nearest to the film's centre, and the centres of all places.
    """
    return _save(_anchor_sheet, Path(path), np.asarray(image)[..., 0], np.asarray(boxes), np.asarray(level))


def _predicted_against_true(split, films):
    """A scatter of predicted against true age in months, years on the far axes."""
    age, prediction, male = films['age'], films['prediction'], films['male']
    figure = Figure(figsize=(5.2, 5.4))
    axes = figure.add_subplot(aspect='equal')
    low = min(0, 12 * math.floor(prediction.min() / 12))
    high = max(24, 12 * math.ceil(max(age.max(), prediction.max()) / 12))
    ends = np.asarray([low, high])
    axes.fill_between(ends, ends - 12, ends + 12, color='black', alpha=0.07, linewidth=0, label='±12 months')
    axes.plot(ends, ends, color=_INK, linewidth=0.8, label='identity')
    if 'lower' in films:
        axes.vlines(age, films['lower'], films['upper'], color='#777777', linewidth=0.6, alpha=0.6,
                    zorder=1.5)
    # Mixed order: neither sex is painted over the other.
    size, alpha = (20, 0.85) if len(age) <= 200 else (13, 0.75) if len(age) <= 2000 else (6, 0.4)
    order = np.random.default_rng(0).permutation(len(age))
    for part in np.array_split(order, max(1, min(20, len(order) // 10))):
        for name, chosen in _by_sex(male[part]):
            axes.scatter(age[part][chosen], prediction[part][chosen], s=size, alpha=alpha, linewidths=0.3,
                         edgecolors='white', rasterized=True, **_SEXES[name])
    for name, chosen in _by_sex(male):
        error = np.abs(prediction - age)[chosen]
        label = f'{name} (n = {len(error):,}, MAE {error.mean():.1f})'
        axes.scatter([], [], s=18, label=label, **_SEXES[name])
    lower, upper = metrics.bootstrap(np.abs(prediction - age))
    axes.set(xlim=ends, ylim=ends, xlabel='true bone age (months)', ylabel='predicted bone age (months)',
             title=f'{split.capitalize()}: MAE {np.abs(prediction - age).mean():.2f} months '
                   f'[{lower:.2f}, {upper:.2f}], {len(age):,} films')
    step = 24 if high - low > 72 else 12
    for axis, second in ((axes.xaxis, axes.secondary_xaxis), (axes.yaxis, axes.secondary_yaxis)):
        axis.set_major_locator(MultipleLocator(step))
        horizontal = axis is axes.xaxis
        other = second('top' if horizontal else 'right', functions=(lambda m: m / 12, lambda y: y * 12))
        (other.xaxis if horizontal else other.yaxis).set_major_locator(MultipleLocator(step // 12))
        (other.set_xlabel if horizontal else other.set_ylabel)('years')
    if 'lower' in films:
        inside = (films['lower'] <= age) & (age <= films['upper'])
        axes.text(0.97, 0.03, f'intervals hold {100 * inside.mean():.0f} % of films', ha='right', va='bottom',
                  fontsize=8, transform=axes.transAxes)
    axes.legend(loc='upper left', borderaxespad=0.3, handletextpad=0.4)
    return figure


def _error_by_age(split, films):
    """Two panels over true age: the mean absolute error, and the signed errors with their mean (the bias)."""
    age, male = films['age'], films['male']
    error = films['prediction'] - age
    figure = Figure(figsize=(6.4, 5.6))
    top, bottom = figure.subplots(2, 1, sharex=True)
    edges = np.arange(0, age.max() + 24, 12 if len(age) >= 500 else 24)
    edges = edges[:np.searchsorted(edges, age.max(), side='right') + 1]

    middle, count, value, lower, upper = _binned(age, np.abs(error), edges)
    top.fill_between(middle, lower, upper, color='#000000', alpha=0.13, linewidth=0, label='95 % bootstrap')
    top.plot(middle, value, color=_INK, linewidth=1.6, label='mean')
    for name, chosen in _by_sex(male):
        places, _, means, _, _ = _binned(age[chosen], np.abs(error[chosen]), edges)
        top.plot(places, means, linewidth=0.9, markersize=3.5, label=name, **_SEXES[name],
                 linestyle='--' if name == 'girls' else '-.')
    mean = np.abs(error).mean()
    top.axhline(mean, color=_INK, linewidth=0.7, linestyle=':', zorder=1, label='all ages')
    highest = np.nanmax(np.append(upper, mean))
    top.set(ylim=(0, 1.25 * highest), ylabel='mean absolute error (months)',
            title=f'{split.capitalize()}: MAE {mean:.2f} months, bias {error.mean():+.2f} months, '
                  f'{len(age):,} films')
    top.annotate('films:', (0, 1), (-4, -2), xycoords='axes fraction', textcoords='offset points',
                 fontsize=6.5, va='top', ha='right')
    for place, number in zip((edges[:-1] + edges[1:]) / 2, np.histogram(age, edges)[0]):
        top.annotate(f'{number}', (place, 1), (0, -2), xycoords=('data', 'axes fraction'),
                     textcoords='offset points', fontsize=6.5, ha='center', va='top')
    top.legend(loc='upper right', ncols=5, bbox_to_anchor=(1, 0.95))

    limit = 1.05 * np.abs(error).max() + 1
    for name, chosen in _by_sex(male):
        bottom.scatter(age[chosen], error[chosen], s=7, alpha=0.45, linewidths=0, rasterized=True,
                       **_SEXES[name])
    bottom.axhline(0, color=_INK, linewidth=0.6)
    middle, count, value, lower, upper = _binned(age, error, edges)
    bottom.fill_between(middle, lower, upper, color='#000000', alpha=0.2, linewidth=0)
    bottom.plot(middle, value, color=_INK, linewidth=1.6, label='bias (mean error)')
    bottom.set(ylim=(-limit, limit), xlim=(edges[0], edges[-1]), xlabel='true bone age (months)',
               ylabel='predicted − true age (months)')
    bottom.xaxis.set_major_locator(MultipleLocator(24))
    bottom.legend(loc='upper right')
    years = top.secondary_xaxis('top', functions=(lambda m: m / 12, lambda y: y * 12))
    years.set_xlabel('years')
    years.xaxis.set_major_locator(MultipleLocator(2))
    return figure


def _training(lines):
    """Two panels over epochs: the losses, and the validation MAE with its best value marked."""
    train = [line for line in lines if line['kind'] == 'train']
    evaluations = [line for line in lines if line['kind'] == 'eval']
    figure = Figure(figsize=(8.2, 3.3))
    left, right = figure.subplots(1, 2)
    epochs, losses = np.asarray([(line['epoch'], line['loss']) for line in train], np.float64).T
    width = max(1, len(losses) // 60)
    colour = _SEXES['boys']['color']
    raw = {'color': _GREY, 'linewidth': 0.7, 'label': 'training, each line of the log'}
    left.plot(epochs, losses, **(raw if width > 1 else {'color': colour, 'label': 'training'}))
    if width > 1:
        smooth = np.convolve(losses, np.ones(width) / width, mode='valid')
        left.plot(epochs[width - 1:], smooth, color=colour, linewidth=1.4,
                  label=f'training, mean of {width} lines')
    drawn = list(losses)
    for split in dict.fromkeys(line['split'] for line in evaluations):
        points = [line for line in evaluations if line['split'] == split]
        for axes, name in ((left, 'loss'), (right, 'mae')):
            curve = np.asarray([(line['epoch'], line[name]) for line in points if name in line], np.float64)
            if not len(curve):
                continue
            axes.plot(*curve.T, color=_ACCENT, linewidth=1.2, marker='o', markersize=2.5,
                      linestyle='-' if split == 'validation' else '--', label=split)
            if axes is left:
                drawn += list(curve[:, 1])
            else:
                _mark_best(axes, curve)
    finite = [value for value in drawn if np.isfinite(value) and value > 0]
    if len(finite) == len(drawn) and finite and max(finite) > 20 * min(finite):
        left.set_yscale('log')
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
        left.yaxis.set_minor_formatter(NullFormatter())
    left.set(xlabel='epoch', ylabel='loss', title='Loss')
    right.set(xlabel='epoch', ylabel='MAE (months)', title='Mean absolute error')
    left.legend(loc='upper right')
    if right.lines:
        right.legend(loc='upper right')
    else:
        right.text(0.5, 0.5, 'no evaluation in the log yet', ha='center', va='center',
                   transform=right.transAxes)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis='y', color='#E5E5E5', linewidth=0.6)
    return figure


def _mark_best(axes, curve):
    """A star at the lowest MAE of `curve` [N, 2] and its value beside it."""
    if np.isfinite(curve[:, 1]).any():
        epoch, best = curve[np.nanargmin(curve[:, 1])]
        axes.plot(epoch, best, marker='*', markersize=11, color=_INK, linestyle='none', zorder=5,
                  label=f'best: {best:.2f} at epoch {epoch:g}')
        axes.axhline(best, color=_GREY, linewidth=0.8, linestyle=':', zorder=1)


def _sheet(images, captions, columns):
    rows = math.ceil(len(images) / columns)
    tall = images.shape[1] / images.shape[2]
    figure = Figure(figsize=(1.35 * columns, (1.35 * tall + 0.22) * rows))
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, image, caption in zip(cells, images, captions):
        axes.imshow(image, cmap='gray', vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
        axes.set_xlabel(caption, fontsize=7, labelpad=2)
    for place, axes in enumerate(cells):
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
        axes.set_visible(place < len(images))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return figure


def _part_sheet(images, maps, boxes, captions, valid):
    rows = 2 if maps is None else 3
    tall = images.shape[1] / images.shape[2]
    figure = Figure(figsize=(1.35 * len(images), 1.35 * tall * rows + 0.22))
    cells = figure.subplots(rows, len(images), squeeze=False)
    frame = (0, images.shape[2], images.shape[1], 0)  # as boxes count: pixel (r, c) covers [r, r + 1] x [c, c + 1]
    for axes in cells.ravel():
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
    for row in (0, -1):
        for axes, image in zip(cells[row], images):
            axes.imshow(image, cmap='gray', vmin=0, vmax=255 if image.dtype == np.uint8 else 1, extent=frame)
    if maps is not None:
        for axes, relation in zip(cells[1], maps):
            axes.imshow(relation, cmap='inferno', vmin=np.min(maps), vmax=np.max(maps), extent=frame,
                        interpolation='bilinear')
    for axes, film, real, caption in zip(cells[-1], boxes, valid, captions):
        for rank in reversed(np.flatnonzero(real)):  # the best one on top
            _draw_box(axes, film[rank], _RANKS[min(rank, len(_RANKS) - 1)], str(rank + 1))
        axes.set(xlim=(0, images.shape[2]), ylim=(images.shape[1], 0))
        axes.set_xlabel(caption, fontsize=7, labelpad=2)
    for axes, name in zip(cells[:, 0], ['film', 'relation', 'parts'][::1 if rows == 3 else 2]):
        axes.set_ylabel(name, fontsize=7, labelpad=2)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return figure


def _anchor_sheet(image, boxes, level):
    levels = np.unique(level)
    height, width = image.shape
    reach = max(0, -boxes[:, :2].min(), (boxes[:, 2:] - [height, width]).max()) / 4
    figure = Figure(figsize=(2.4 * len(levels), 2.4 * height / width + 0.3))
    for axes, number in zip(figure.subplots(1, len(levels), squeeze=False)[0], levels):
        axes.imshow(image, cmap='gray', vmin=0, vmax=255 if image.dtype == np.uint8 else 1,
                    extent=(0, width, height, 0))
        chosen = boxes[level == number]
        centres = (chosen[:, :2] + chosen[:, 2:]) / 2
        distance = np.abs(centres - [height / 2, width / 2]).sum(1)
        # Of equally near places the first; its anchors stand together, their centres apart by rounding alone.
        nearest = np.flatnonzero(np.abs(centres - centres[distance.argmin()]).max(1) < 0.01)
        axes.scatter(*centres.T[::-1], s=2, color=_SEXES['boys']['color'], linewidths=0)
        for i, box in enumerate(chosen[nearest]):
            _draw_box(axes, box, _RANKS[i // 3 % len(_RANKS)])
        axes.set(xticks=[], yticks=[], xlim=(-reach, width + reach), ylim=(height + reach, -reach))
        axes.set_frame_on(False)
        axes.set_title(f'res{number + 3}: {len(chosen):,} anchors, {len(nearest)} a place', fontsize=7)
    return figure


def _draw_box(axes, box, colour, text=''):
    axes.add_patch(Rectangle((box[1], box[0]), box[3] - box[1], box[2] - box[0], fill=False, edgecolor=colour,
                             linewidth=1.2))
    if text:
        axes.text(max(box[1], 0), max(box[0], 0), text, fontsize=6, color='black', va='top', clip_on=True,
                  bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 0.8})


def _by_sex(male):
    """(name, [N] bool) for each sex that has films."""
    return [(name, chosen) for name, chosen in (('girls', ~male), ('boys', male)) if chosen.any()]


def _binned(age, values, edges):
    """Means by age: middles, counts, means, bootstrap bounds, each [bins]; NaN where films are few."""
    index = np.digitize(age, edges) - 1
    rows = []
    for i in range(len(edges) - 1):
        inside = values[index == i]
        few = len(inside) < _MIN_FILMS
        rows.append((len(inside), *((np.nan,) * 3 if few else (inside.mean(), *metrics.bootstrap(inside)))))
    return (edges[:-1] + edges[1:]) / 2, *np.asarray(rows, np.float64).T


def _save(draw, path, *arguments):
    """Draws in this module's style and writes through a temporary name: `path` is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.tmp')
    with matplotlib.rc_context(_STYLE):
        try:
            draw(*arguments).savefig(temporary, format=path.suffix[1:] or 'png')
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def _read_predictions(path):
    """predictions.csv as arrays: split (str), male (bool), age, prediction[, lower, upper] (months)."""
    with path.open(newline='') as file:
        reader = csv.DictReader(file)
        found = reader.fieldnames or []
        missing = [name for name in _COLUMNS if name not in found]
        if missing:
            raise UserError(f'{path}: column{"s" * (len(missing) > 1)} {", ".join(missing)} missing; found '
                             f'{", ".join(found) or "nothing"}. Figures of ages need {",".join(_COLUMNS)}.')
        numbers = ['age', 'prediction'] + ['lower', 'upper'] * ({'lower', 'upper'} <= set(found))
        rows = []
        for row in reader:
            try:
                values = [float(row[name]) for name in numbers]
                if not all(map(math.isfinite, values)):
                    raise UserError('a number that is not finite')
                rows.append((row['split'], _TRUTH[row['male'].strip().lower()], *values))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f'{path}, line {reader.line_num}: cannot read {row} ({error})') from error
    if not rows:
        raise UserError(f'{path} holds no predictions; was the run evaluated?')
    return {name: np.asarray(column) for name, column in zip(('split', 'male', *numbers), zip(*rows))}


def _read_curves(path):
    """The lines of metrics.jsonl; a last line cut short by a kill is dropped."""
    lines, texts = [], path.read_text().splitlines()
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            for name in {'train': ('epoch', 'loss'), 'eval': ('epoch', 'split')}.get(line['kind'], ()):
                line[name]      # a KeyError here is better than one while drawing
            lines.append(line)
        except (ValueError, KeyError, TypeError) as error:
            if number < len(texts):
                raise UserError(f'{path}, line {number}: not a line of the log: {text[:80]!r}') from error
    if not any(line['kind'] == 'train' for line in lines):
        raise UserError(f'{path} holds no training line; did the run take a step?')
    return lines
