"""The section of one run: its figures, its errors by group, its worst images, how it was made."""

from __future__ import annotations

import pathlib

import numpy as np

from boneage_jax.analysis import table as table_lib
from boneage_jax.data import splits as splits_lib
from boneage_jax.figures import ages, agreement, classes, training
from boneage_jax.figures import intervals as interval_figure
from boneage_jax.inference import intervals
from boneage_jax.report import collect, pictures
from boneage_jax.report.html import Html, table, tag
from boneage_jax.report.numbers import AGES, MEASURES, card
from boneage_jax.report.provenance import provenance

WORST = 12  # images of each reported split
_GROUPS = {'by_sex': 'sex', 'by_stage': 'stage', 'by_source': 'source'}
_COVERED = {'by_sex': 'sex', 'by_stage': 'stage', 'by_width': 'width', 'by_flag': 'flag'}
# Figures of a run that the page draws anew, as SVG.
_DRAWN = ('predictions_', 'error_by_age_', 'bland_altman_', 'confusion_', 'training')
CAPTIONS = {
    'inputs': 'The first training images as the network sees them, augmented.',
    'counts': 'Training images by age and sex, with the class edges where the run has classes.',
    'components': 'The mean image, the first principal components, and the validation error by the '
    'number of components.',
    'attention': 'Where the attention lies.',
    'anchors': 'The anchors that parts are chosen from.',
    'parts': 'The selected parts, best first.',
    'parts_res3': 'Relation map of res3 and the selected parts.',
    'parts_res4': 'Relation map of res4 and the selected parts.',
    'parts_res5': 'Relation map of res5 and the selected parts.',
    'tsne': 't-SNE of the embeddings, coloured by age.',
    'robustness': 'MAE against the strength of each disturbance.',
}


def section(run: collect.Run, anchor: str, data_dir=None, images: bool = True) -> Html:
    """The `<section>` of a run.

    Args:
        run: the run.
        anchor: the id of the section.
        data_dir: as of the commands; where the records of the worst images may be.
        images: whether to show the worst images.
    """
    reported = [split for split in run.splits if split in splits_lib.REPORTED]
    others = [split for split in run.splits if split not in reported]
    body = [_cards(run, split) for split in reported or others]
    body.append(_drawn(run, reported))
    for split in reported:
        body.append(_groups(run, split))
        body.append(_coverage(run, split))
        if images:
            body.append(_worst(run, split, data_dir))
    if reported and others:
        title = f'{", ".join(others).capitalize()}: what selected the checkpoint, not a result'
        inner = [[_cards(run, split), _groups(run, split)] for split in others]
        body.append(tag('details', tag('summary', title), inner, class_='long'))
    body += [left_pictures(run.place), provenance(run)]
    # Last: reading the files above may have added some notes.
    notes = None
    if run.notes:
        lines = [tag('div', note) for note in dict.fromkeys(run.notes)]
        notes = tag('div', lines, class_='warning')
    heading = tag('h2', run.name, ' ', tag('small', describe(run)))
    return tag('section', heading, notes, body, id=anchor, class_='run')


def describe(run: collect.Run) -> str:
    """'age_parts, prsnet, rsna_bone_age/rsna100 100x100' of a run, as far as its config says."""
    report = run.report or {}
    if run.config is None:
        if report.get('members') and 'folds' in report:
            return f'cross-validation of {report["folds"]} folds, {report.get("data", "")}'
        if report.get('members'):
            return f'mean of {len(report["members"])} runs'
        return f'scores of {report["run"]}' if 'run' in report else ''
    try:
        names = (run.config['task']['name'], run.config['model']['name'])
        return ', '.join([*names, table_lib.describe(run.config['data'])])
    except (KeyError, TypeError):
        return ''


def left_pictures(place: pathlib.Path) -> Html | None:
    """What a run and the commands on it drew, except the charts that the page draws itself."""
    paths = []
    for path in sorted(place.glob('figures/*.png')):
        if not path.name.startswith(_DRAWN):
            paths.append(path)
    paths += sorted(place.glob('*.png'))
    found = []
    for path in paths:
        uri = pictures.of_file(path)
        if uri:
            caption = CAPTIONS.get(path.stem, path.stem.replace('_', ' '))
            found.append(_figure(uri, caption, 'chart' if path.stem == 'counts' else None))
    return tag('div', found, class_='figures wide') if found else None


def _figure(uri, caption, class_=None):
    picture = tag('img', src=uri, alt=caption)
    return tag('figure', picture, tag('figcaption', caption), class_=class_)


def _cards(run, split):
    of_split = run.complete[split]
    cards = []
    for measure in MEASURES.get(run.kind, ()):
        texts = measure.texts(of_split['overall'])
        if texts:
            cards.append(card(measure.title, *texts))
    floor = of_split.get('median_mae')
    if floor:
        cards.append(
            card('predicting the median', f'{floor["value"]:.2f}', 'MAE (months): the floor')
        )
    role = 'selects'
    if of_split.get('role') == 'reported':
        role = 'reported, selects nothing'
    title = (
        f'{split.capitalize()}: {of_split.get("images", "?"):,} images ({role}), with 95% intervals'
    )
    return [tag('h3', title), tag('div', cards, class_='cards')]


def _drawn(run, splits):
    """The charts of the reported splits and of the training, None where there are none."""
    drawn = []
    for split in splits:
        drawn += _charts(run, split)
    if run.history:
        uri = pictures.chart(training.draw, run.history)
        drawn.append(_figure(uri, 'Loss and validation figure over the epochs.'))
    return tag('div', drawn, class_='figures') if drawn else None


def _charts(run, split):
    images = run.images.get(split)
    of_split = run.complete[split]
    if images is None:
        return []
    if run.kind in collect.VALUES:
        title = MEASURES[run.kind][0].title
        uri = pictures.chart(agreement.spread, split, images['value'], title, title)
        return [_figure(uri, f'{title} of each image.')]
    drawn = []
    if 'class' in images and 'by_class' in of_split:
        shown = classes.confusion_of(split, images, of_split['by_class'])
        uri = pictures.chart(classes.confusion, *shown)
        drawn.append(_figure(uri, 'Images by true and predicted class.'))
    for draw, caption in (
        (ages.predicted_against_true, 'Predicted against true age.'),
        (ages.error_by_age, 'Error over age.'),  # beside the first: they are of like heights
        (
            agreement.bland_altman,
            'Bland-Altman: the error over the mean of both ages, with its limits.',
        ),
    ):
        drawn.append(_figure(pictures.chart(draw, split, images), caption))
    if of_split.get('by_sex'):
        uri = pictures.chart(agreement.groups, split, of_split)
        drawn.append(_figure(uri, 'Error by sex, stage of puberty and source.'))
    bounded = None if of_split.get('intervals') else run.bounded(split)
    if bounded is not None:
        title = f'{split.capitalize()}: 90% intervals fitted on {splits_lib.SELECTING}'
        uri = pictures.chart(interval_figure.by_image, title, bounded)
        drawn.append(_figure(uri, 'The interval of each image, and whether it holds the age.'))
    return drawn


def _groups(run, split):
    rows = []
    for key, what in _GROUPS.items():
        for name, found in run.complete[split].get(key, {}).items():
            cells = [measure.cell(found) for measure in AGES]
            rows.append([name, what, f'{found["mae"]["count"]:,}', *cells])
    if not rows:
        return None
    header = ['group', 'of', 'images', *(measure.title for measure in AGES)]
    title = f'{split.capitalize()}, by group'
    return [tag('h3', title), table(header, rows, numbers=range(2, len(header)), label=title)]


def _coverage(run, split):
    """What 90% intervals hold of a split, by group; None of a run that has none."""
    found = run.splits[split].get('intervals') or _fitted_coverage(run, split)
    if not found:
        return None
    rows = [_covered('all', '', found['overall'])]
    for key, what in _COVERED.items():
        rows += [_covered(name, what, figures) for name, figures in found.get(key, {}).items()]
    header = [
        'group',
        'of',
        'images',
        'in their interval (%)',
        '95% interval',
        'mean width (months)',
        'constant intervals (months)',
    ]
    title = f'{split.capitalize()}: what 90% prediction intervals hold, fitted on validation'
    return [tag('h3', title), table(header, rows, numbers=range(2, len(header)), label=title)]


def _covered(name, what, found):
    shares = [f'{100 * found[key]:.1f}' for key in ('value', 'lower', 'upper')]
    widths = [f'{found[key]:.1f}' for key in ('width', 'constant_width')]
    return [name, what, f'{found["count"]:,}', shares[0], f'{shares[1]} to {shares[2]}', *widths]


def _fitted_coverage(run, split):
    """The same figures from the run's own validation images; None where they are not at hand."""
    images = run.images.get(split)
    fitted = run.fitted
    if fitted is None or images is None:
        return None
    overall = intervals.coverage(fitted, images, split)['overall']
    return {'overall': overall, **intervals.conditional_coverage(fitted, images, split)}


def _worst(run, split, data_dir):
    """The images with the largest error, with their pictures where the records are at hand."""
    images = run.images.get(split)
    if not run.splits[split].get('intervals'):
        images = run.bounded(split) or images
    if images is None:
        return None
    order = np.argsort(-_badness(run, images), kind='stable')[:WORST]
    names = [str(images['id'][i]) for i in order]
    found, note = pictures.images(run, names, data_dir)
    cells = []
    for i, name in zip(order, names):
        picture = None
        if name in found:
            picture = tag('img', src=pictures.of_image(found[name]), alt=f'image {name}')
        elif found:
            picture = tag('div', 'no picture', class_='none')
        cells.append(tag('figure', picture, tag('figcaption', _what_happened(run, images, i))))
    return [
        tag('h3', f'{split.capitalize()}: the {len(order)} images that went worst'),
        tag('div', cells, class_='images'),
        tag('p', note, class_='range') if note else None,
    ]


def _badness(run, images):
    """[N], larger is worse."""
    if run.kind in collect.AGES:
        return np.abs(images['prediction'] - images['age'])
    return -images['value'] if run.kind == 'segmentation' else images['value']


def _what_happened(run, images, i):
    name = tag('b', images['id'][i])
    if run.kind in collect.VALUES:
        measure = MEASURES[run.kind][0]
        return [name, tag('br'), f'{measure.title} {measure.number(images["value"][i])}']
    age, prediction = images['age'][i], images['prediction'][i]
    lines = [
        f'true {age:.0f}, predicted {prediction:.0f}',
        tag('b', f'{prediction - age:+.0f} months'),
    ]
    if 'lower' in images:
        lines.append(f'interval {images["lower"][i]:.0f} to {images["upper"][i]:.0f}')
    if 'flags' in images and images['flags'][i]:
        lines.append(images['flags'][i].replace(';', ', '))
    text = [name, ' boy' if images['male'][i] else ' girl']
    for line in lines:
        text += [tag('br'), line]
    return text
