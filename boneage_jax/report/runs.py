"""The section of one run: its figures, its errors by group, its worst images, with what it was
made.
"""

import json

import numpy as np

from boneage_jax.analysis import table as table_lib
from boneage_jax.data import splits as splits_lib
from boneage_jax.figures import ages, agreement, classes, training
from boneage_jax.report import pictures
from boneage_jax.report.html import table, tag
from boneage_jax.report.numbers import AGES, MEASURES

WORST = 12  # images of each reported split
_GROUPS = {'by_sex': 'sex', 'by_stage': 'stage', 'by_source': 'source'}
_DRAWN = (
    'predictions_',
    'error_by_age_',
    'bland_altman_',
    'confusion_',
    'training',
)  # drawn here anew, as SVG
CAPTIONS = {
    'inputs': 'The first training images as the network sees them, augmented.',
    'counts': 'Training images by age and sex, with the class edges where the run has classes.',
    'components': 'The mean image, the first principal components, and the validation error by the number of components.',
    'attention': 'Where the attention lies.',
    'anchors': 'The anchors that parts are chosen from.',
    'parts': 'The selected parts, best first.',
    **{f'parts_res{k}': f'Relation map of res{k} and the selected parts.' for k in (3, 4, 5)},
    'tsne': 't-SNE of the embeddings, coloured by age.',
    'stress': 'MAE against the strength of each disturbance.',
}


def section(run, anchor, data_dir=None, images=True):
    """The `<section>` of a run."""
    reported = [split for split in run.splits if split in splits_lib.REPORTED]
    others = [split for split in run.splits if split not in reported]
    body = [tag('h2', run.name, ' ', tag('small', describe(run)))]
    for split in reported or others:
        body.append(_cards(run, split))
    drawn = [chart for split in reported for chart in _charts(run, split)]
    if run.history:
        drawn.append(
            _figure(
                pictures.chart(training.draw, run.history),
                'Loss and validation figure over the epochs.',
            )
        )
    body.append(tag('div', drawn, class_='figures') if drawn else None)
    for split in reported:
        body += [_groups(run, split), _worst(run, split, data_dir) if images else None]
    if reported and others:
        title = f'{", ".join(others).capitalize()}: what selected the checkpoint, not a result'
        inner = [[_cards(run, split), _groups(run, split)] for split in others]
        body.append(tag('details', tag('summary', title), inner, class_='long'))
    body += [left_pictures(run.place), _provenance(run)]
    if run.notes:  # last: reading the files above may have added some
        body.insert(
            1, tag('div', [tag('div', note) for note in dict.fromkeys(run.notes)], class_='warning')
        )
    return tag('section', body, id=anchor, class_='run')


def describe(run):
    """'age_parts, prsnet, rsna_bone_age/rsna100 100x100' of a run, as far as its config says."""
    if run.config is None:
        members = (run.report or {}).get('members')
        return (
            f'mean of {len(members)} runs'
            if members
            else f'scores of {run.report["run"]}'
            if (run.report and 'run' in run.report)
            else ''
        )
    try:
        return ', '.join(
            [
                run.config['task']['name'],
                run.config['model']['name'],
                table_lib.describe(run.config['data']),
            ]
        )
    except (KeyError, TypeError):
        return ''


def left_pictures(place):
    """What the run and the commands on it drew, but for the charts that stand here already."""
    paths = [
        path for path in sorted(place.glob('figures/*.png')) if not path.name.startswith(_DRAWN)
    ]
    paths += sorted(place.glob('*.png'))
    found = [(path, pictures.of_file(path)) for path in paths]
    found = [
        _figure(
            uri,
            CAPTIONS.get(path.stem, path.stem.replace('_', ' ')),
            'chart' if path.stem == 'counts' else None,
        )
        for path, uri in found
        if uri
    ]
    return tag('div', found, class_='figures wide') if found else None


def _figure(uri, caption, class_=None):
    return tag(
        'figure', tag('img', src=uri, alt=caption), tag('figcaption', caption), class_=class_
    )


def _cards(run, split):
    of = run.complete[split]
    cards = []
    for measure in MEASURES.get(run.kind, ()):
        if texts := measure.texts(of['overall']):
            cards.append(
                tag(
                    'div',
                    tag('span', measure.title),
                    tag('b', texts[0]),
                    tag('span', texts[1]),
                    class_='card',
                )
            )
    floor = of.get('median_mae')
    if floor:
        cards.append(
            tag(
                'div',
                tag('span', 'predicting the median'),
                tag('b', f'{floor["value"]:.2f}'),
                tag('span', 'MAE (months): the floor'),
                class_='card',
            )
        )
    role = 'reported, selects nothing' if of.get('role') == 'reported' else 'selects'
    return [
        tag(
            'h3',
            f'{split.capitalize()}: {of.get("images", "?"):,} images ({role}), with 95% intervals',
        ),
        tag('div', cards, class_='cards'),
    ]


def _charts(run, split):
    images, of = run.images.get(split), run.complete[split]
    if images is None:
        return []
    if run.kind in ('masks', 'points'):
        measure = MEASURES[run.kind][0]
        return [
            _figure(
                pictures.chart(
                    agreement.spread, split, images['value'], measure.title, measure.title
                ),
                f'{measure.title} of each image.',
            )
        ]
    drawn = []
    if 'class' in images and 'by_class' in of:
        names = [row['months'] for row in of['by_class']]
        counted = np.zeros((len(names), len(names)), int)
        np.add.at(counted, (images['true_class'], images['class']), 1)
        drawn.append(
            (classes.confusion, (split, counted, names), 'Images by true and predicted class.')
        )
    drawn += [
        (
            ages.predicted_against_true,
            (split, images),
            'Predicted against true age.',
        ),  # two in a row, of like heights
        (ages.error_by_age, (split, images), 'Error over age.'),
        (
            agreement.bland_altman,
            (split, images),
            'Bland-Altman: the error over the mean of both ages, with its limits.',
        ),
    ]
    if run.complete[split].get('by_sex'):
        drawn.append(
            (
                agreement.groups,
                (split, run.complete[split]),
                'Error by sex, stage of puberty and source.',
            )
        )
    return [
        _figure(pictures.chart(draw, *arguments), caption) for draw, arguments, caption in drawn
    ]


def _groups(run, split):
    of, rows = run.complete[split], []
    for key, what in _GROUPS.items():
        rows += [
            [name, what, f'{found["mae"]["count"]:,}', *(measure.cell(found) for measure in AGES)]
            for name, found in of.get(key, {}).items()
        ]
    if not rows:
        return None
    header = ['group', 'of', 'images', *(measure.title for measure in AGES)]
    return [
        tag('h3', f'{split.capitalize()}, by group'),
        table(header, rows, numbers=range(2, len(header))),
    ]


def _worst(run, split, data_dir):
    """The images with the largest error, with their pictures where the records are at hand."""
    images = run.images.get(split)
    if images is None:
        return None
    if run.kind in ('ages', 'classes'):
        size = np.abs(images['prediction'] - images['age'])
    else:
        size = -images['value'] if run.kind == 'masks' else images['value']
    order = np.argsort(-size, kind='stable')[:WORST]
    found, note = pictures.images(run, [str(images['id'][i]) for i in order], data_dir)
    cells = []
    for i in order:
        name = str(images['id'][i])
        image = (
            tag('img', src=pictures.of_image(found[name]), alt=f'image {name}')
            if name in found
            else tag('div', 'no picture', class_='none')
            if found
            else None
        )
        cells.append(tag('figure', image, tag('figcaption', _what_happened(run, images, i))))
    return [
        tag('h3', f'{split.capitalize()}: the {len(order)} images that went worst'),
        tag('div', cells, class_='images'),
        tag('p', note, class_='range') if note else None,
    ]


def _what_happened(run, images, i):
    name = tag('b', images['id'][i])
    if run.kind in ('ages', 'classes'):
        age, prediction = images['age'][i], images['prediction'][i]
        return [
            name,
            f' {"boy" if images["male"][i] else "girl"}',
            tag('br'),
            f'true {age:.0f}, predicted {prediction:.0f}',
            tag('br'),
            tag('b', f'{prediction - age:+.0f} months'),
        ]
    measure = MEASURES[run.kind][0]
    return [name, tag('br'), f'{measure.title} {measure.number(images["value"][i])}']


def _provenance(run):
    report, config, rows = run.report or {}, run.config or {}, [('folder', run.place)]
    for key, what in {
        'commit': 'commit',
        'processor': 'processor',
        'device': 'devices',
        'minutes': 'minutes',
        'step': 'step of the checkpoint',
        'epoch': 'epoch of the checkpoint',
        'selected_by': 'selected by',
        'flip_tta': 'averaged with the mirror image',
        'components': 'components',
        'run': 'run',
        'records': 'records',
    }.items():
        if report.get(key) is not None:
            value = report[key]
            rows.append(
                (
                    what,
                    ('no', 'yes')[value]
                    if isinstance(value, bool)
                    else f'{value:.4g}'
                    if isinstance(value, float)
                    else json.dumps(value)
                    if isinstance(value, dict)
                    else value,
                )
            )
    if 'versions' in report:
        rows.append(
            (
                'versions',
                ', '.join(f'{name} {version}' for name, version in report['versions'].items()),
            )
        )
    labels = report.get('labels')
    if isinstance(labels, dict):
        rows += [
            (
                f'labels of {split}',
                f'{of.get("images", 0):,} images, SHA-256 {of.get("sha256", "")[:16]}',
            )
            for split, of in labels.items()
            if isinstance(of, dict)
        ]
    elif report and 'members_differ' not in report:
        rows.append(('labels', 'no fingerprint: this run predates it'))
    if isinstance(report.get('leaks'), dict):
        rows.append(
            (
                'leak check',
                ', '.join(
                    f'{key.replace("_", " ")}: {value}' for key, value in report['leaks'].items()
                ),
            )
        )
    if 'seed' in config:
        rows.append(('seed', config['seed']))
    rows += [
        (
            'computed for this page',
            f'{missing} of {", ".join(splits)}, by the same functions: metrics.json has no {missing} '
            '(an older release)',
        )
        for missing, splits in run.older.items()
    ]
    rows += [
        (f'{what}, where members differ', f'{member}: {_said(value)}')
        for what, values in report.get('members_differ', {}).items()
        for member, value in values.items()
    ]
    rows += [('member', member) for member in report.get('members', [])]
    return [
        tag('h3', 'With what it was made'),
        tag('dl', [tag('div', tag('dt', key), tag('dd', value)) for key, value in rows]),
        tag(
            'details',
            tag('summary', 'config.json, whole'),
            tag('pre', json.dumps(config, indent=1)),
            class_='long',
        )
        if config
        else None,
    ]


def _said(value):
    """What a member of an ensemble says of its labels, or of one kind of leak."""
    if isinstance(value, dict):
        return f'{value["images"]:,} images, SHA-256 {value["sha256"][:16]}'
    return 'nothing said' if value is None else value
