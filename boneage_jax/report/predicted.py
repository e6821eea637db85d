"""The section of a table that `predict` wrote: ages, intervals, flags and refusals by image."""

from __future__ import annotations

import collections
import math

import numpy as np

from boneage_jax.figures import intervals as figure
from boneage_jax.inference.intervals import wilson
from boneage_jax.report import collect, pictures
from boneage_jax.report.html import Html, table, tag
from boneage_jax.report.numbers import card
from boneage_jax.runs import predictions
from boneage_jax.tasks import metrics
from boneage_jax.web import words

SHOWN = 300  # images, one a line
_FAR = f'farther than {100 * words.FARTHEST:g}% of training images'  # of `predict --distance`
_SEXES = {'True': 'boy', 'False': 'girl'}


def section(found: collect.Predicted, anchor: str) -> Html:
    """The `<section>` of a table of predicted ages."""
    rows = [row for row in found.rows if row['status'] == predictions.OK]
    images = _columns(rows)
    missing = _missing(found)
    heading = tag('h2', 'Predicted ages: ', found.name)
    notes = tag('div', found.notes, class_='warning') if found.notes else None
    parts = [_cards(found, rows, images, missing)]
    bounded = np.isfinite(images['lower']) & np.isfinite(images['upper'])
    if bounded.sum() > 1:
        parts.append(_chart({name: values[bounded] for name, values in images.items()}))
    if rows:
        parts += [_flags(rows, images), _images(rows, images)]
    parts.append(_refusals(missing))
    return tag('section', heading, notes, parts, id=anchor, class_='run')


def _columns(rows):
    """The numbers of the predicted images `[N]`, NaN where there is none, and `flagged`."""
    images = {}
    for name in ('prediction', 'lower', 'upper', 'age', 'distance_quantile'):
        images[name] = np.array(
            [predictions.number_or_nan(row.get(name)) for row in rows], np.float64
        )
    images['flagged'] = np.array([bool(row['flags']) for row in rows], bool)
    return images


def _missing(found):
    """(id, kind, reason) of every image without an age."""
    missing = []
    refused = set()
    for row in found.rows:
        if row['status'] != predictions.OK:
            refused.add(row['id'])
            reason = ' '.join(words.of_flags(row['flags']))
            missing.append((row['id'], row['status'], reason))
    for row in found.rejected:
        if row['id'] not in refused or not row['id']:
            reason = words.of_reason(row['reason'] or '', row['file'] or '')
            missing.append((row['id'] or row['file'], predictions.UNREADABLE, reason))
    return missing


def _cards(found, rows, images, missing):
    total = len(rows) + len(missing)
    kinds = collections.Counter(kind for _, kind, _ in missing)
    cards = [card('predicted', f'{len(rows):,}', f'of {_counted(total)}')]
    for kind, about in (
        (predictions.REFUSED, 'show no whole hand'),
        (predictions.UNREADABLE, 'cannot be read'),
    ):
        cards.append(card(kind, f'{kinds[kind]:,}', about))
    flagged = int(images['flagged'].sum())
    cards.append(card('flagged', f'{flagged:,}', 'of those predicted'))
    widths = (images['upper'] - images['lower'])[np.isfinite(images['upper'] - images['lower'])]
    if len(widths):
        below = 'months from end to end'
        if np.ptp(widths) > 0.05:
            below += f'; {widths.min():.1f} to {widths.max():.1f}'
        cards.append(card('mean 90% interval', f'{widths.mean():.1f}', below))
    error = np.abs(images['prediction'] - images['age'])
    error = error[np.isfinite(error)]
    if len(error):
        lower, upper = metrics.bootstrap(error)
        below = f'({lower:.2f} to {upper:.2f}), {_counted(len(error))} of known age'
        cards.append(card('MAE (months)', f'{error.mean():.2f}', below))
        share = _share(images, np.ones(len(rows), bool))
        if share:
            cards.append(card('ages in their interval', *share))
    return tag('div', cards, class_='cards')


def _counted(count):
    return '1 image' if count == 1 else f'{count:,} images'


def _share(images, chosen):
    """('91.0%', '(80.0 to 99.0%)') of the chosen images that are judged; None of none."""
    judged = chosen & np.isfinite(images['age']) & np.isfinite(images['lower'])
    count = int(judged.sum())
    if not count:
        return None
    age = images['age'][judged]
    inside = int(((images['lower'][judged] <= age) & (age <= images['upper'][judged])).sum())
    lower, upper = wilson(inside, count)
    return f'{100 * inside / count:.1f}%', f'({100 * lower:.1f} to {100 * upper:.1f}%)'


def _chart(images):
    if not np.isfinite(images['age']).any():
        images = {name: values for name, values in images.items() if name != 'age'}
    caption = (
        'Predicted age and 90% interval of each image; true ages where they are known, and marks '
        'below the images with flags. The table below has the numbers.'
    )
    title = f'90% intervals of {len(images["prediction"]):,} images'
    picture = tag('img', src=pictures.chart(figure.by_image, title, images), alt=caption)
    inner = tag('figure', picture, tag('figcaption', caption))
    return tag('div', inner, class_='figures narrow')


def _flags(rows, images):
    """What is unusual, in words, with the error and the coverage of each flag."""
    names = [{flag.partition(': ')[0] for flag in row['flags'].split(';') if flag} for row in rows]
    groups = [('none', 'nothing unusual', ~images['flagged'])]
    counted = collections.Counter(name for each in names for name in each)
    for name, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
        chosen = np.array([name in each for each in names], bool)
        groups.append((name, ' '.join(words.of_flags(name)), chosen))
    far = images['distance_quantile'] > words.FARTHEST
    if far.any():
        groups.append((_FAR, words.FAR, far))
    knows_ages = np.isfinite(images['prediction'] - images['age']).any()
    lines = []
    for name, about, chosen in groups:
        line = [name, f'{chosen.sum():,}', f'{100 * chosen.mean():.1f}']
        if knows_ages:
            line += [_mean_error(images, chosen), _in_interval(images, chosen)]
        lines.append([*line, about])
    header = ['flag', 'images', '%']
    if knows_ages:
        header += ['MAE (months)', 'ages in their interval']
    header.append('what it says')
    numbers = range(1, len(header) - 1)
    title = 'Flags of the predicted images'
    return [tag('h3', title), table(header, lines, numbers=numbers, label=title, class_='prose')]


def _mean_error(images, chosen):
    error = np.abs(images['prediction'] - images['age'])[chosen]
    error = error[np.isfinite(error)]
    return f'{error.mean():.2f}' if len(error) else '–'


def _in_interval(images, chosen):
    share = _share(images, chosen)
    return [share[0], ' ', tag('span', share[1], class_='range')] if share else '–'


def _images(rows, images):
    """One line an image: the flagged ones first, then the widest intervals."""
    width = np.nan_to_num(images['upper'] - images['lower'], nan=-1.0)
    order = np.lexsort((-width, ~images['flagged']))[:SHOWN]
    knows_ages = np.isfinite(images['age']).any()
    header = ['image', 'sex', 'age', 'months', '90% interval', 'width']
    if knows_ages:
        header += ['true age', 'error', 'in its interval']
    knows_distances = np.isfinite(images['distance_quantile']).any()
    if knows_distances:
        header.append('farther than')
    header.append('flags')
    lines = []
    for i in order:
        row = rows[i]
        lower = images['lower'][i]
        upper = images['upper'][i]
        line = [row['id'], _SEXES.get(row.get('male'), '–'), row.get('years') or '–']
        line.append(_shown(images['prediction'][i], '.1f'))
        line.append(f'{lower:.0f} to {upper:.0f}' if width[i] >= 0 else '–')
        line.append(f'{width[i]:.1f}' if width[i] >= 0 else '–')
        if knows_ages:
            age = images['age'][i]
            line += [_shown(age, '.1f'), _shown(images['prediction'][i] - age, '+.1f')]
            known = math.isfinite(age) and width[i] >= 0
            line.append(('yes' if lower <= age <= upper else 'no') if known else '–')
        if knows_distances:
            share = _shown(100 * images['distance_quantile'][i], '.1f')
            line.append(f'{share}% of training images')
        lines.append([*line, row['flags'].replace(';', ', ') or '–'])
    title = 'Image by image: the flagged ones, then the widest intervals first'
    if len(rows) > SHOWN:
        title += f' (the first {SHOWN} of {len(rows):,})'
    inner = table(header, lines, numbers=range(3, len(header) - 1), label=title)
    summary = tag('summary', title)
    return tag('details', summary, inner, open=len(rows) <= 20, class_='long')


def _shown(value, form):
    return f'{value:{form}}' if math.isfinite(value) else '–'


def _refusals(missing):
    if not missing:
        return None
    title = 'Images without an age'
    header = ['image', 'status', 'why']
    return [tag('h3', title), table(header, missing[:SHOWN], label=title, class_='prose')]
