"""The page: tables of sweeps, runs at a glance, a section for each run, what other commands left."""

import csv
import datetime
import json
import pathlib
import string

from boneage_jax.analysis import table as table_lib
from boneage_jax.data import splits as splits_lib
from boneage_jax.figures import agreement, training
from boneage_jax.report import collect, numbers, pictures, runs
from boneage_jax.report.html import table, tag
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import files, log

SAID = {  # figures of `inside` and `embeddings` in words
    'part_mae': 'age from one part alone: MAE (months)',
    'in_corner': 'share of parts in a corner of the image',
    'in_corner_by_age': 'share of parts in a corner',
    'on_bones': 'share of parts on a growth plate or the carpus',
    'on_bones_by_chance': 'the same of anchors drawn by chance',
    'orderedness': 'Spearman correlation of embeddings and ages',
}
_TEMPLATE = pathlib.Path(__file__).with_name('page.html')


def write(folders, output, *, title='', data_dir=None, images=True):
    """Writes the page over everything below `folders`; -> its path. UserError where nothing lies
    there.
    """
    output = pathlib.Path(output)
    found, sweeps, extras = collect.find(folders)
    # What was found inside a run stands behind it.
    parts = [
        [run, *(extra for extra in extras if extra.place.is_relative_to(run.place))]
        for run in found
    ]
    parts = [thing for part in parts for thing in part]
    parts += [extra for extra in extras if extra not in parts]
    anchors = {id(thing): f's{i}' for i, thing in enumerate([*sweeps, *parts])}
    title = title or f'Bone age: {found[0].name if len(found) == 1 else f"{len(found)} runs"}'
    sections = []
    for number, thing in enumerate(parts, 1):
        log.info(f'[{number}/{len(parts)}] {thing.name}')
        anchor = anchors[id(thing)]
        sections.append(
            _extra(thing, anchor)
            if isinstance(thing, collect.Extra)
            else runs.section(thing, anchor, data_dir, images)
        )
    body = [
        _header(title, found, sweeps),
        tag(
            'main',
            [
                tag(
                    'nav',
                    [
                        tag('a', _name(thing), href=f'#{anchors[id(thing)]}')
                        for thing in [*sweeps, *parts]
                    ],
                    aria_label='contents',
                ),
                [_sweep(sweep, anchors[id(sweep)], found) for sweep in sweeps],
                _overview(found, anchors),
                sections,
                _footer(images),
            ],
        ),
    ]
    text = string.Template(_TEMPLATE.read_text()).substitute(
        title=tag('i', title)[3:-4], body=''.join(body)
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(output, text)
    log.info(
        f'{output}: {len(found)} runs, {len(sweeps)} tables, {len(text) / 1e6:.1f} MB; open it in a browser.'
    )
    return output


def _name(thing):
    kind = {collect.Sweep: 'Table: ', collect.Extra: f'{getattr(thing, "kind", "")}: '}.get(
        type(thing), ''
    )
    return f'{kind}{thing.name}'


def _header(title, found, sweeps):
    finished = sum(run.report is not None for run in found)
    what = [f'{finished} finished run{"s" * (finished != 1)}']
    what += [f'{len(found) - finished} not finished'] if finished < len(found) else []
    what += [f'{len(sweeps)} table{"s" * (len(sweeps) != 1)}'] if sweeps else []
    commit = workdir_lib.provenance()['commit']
    made = f'{datetime.datetime.now():%d %B %Y, %H:%M}' + (
        f', boneage_jax {commit}' if commit else ''
    )
    return tag(
        'header',
        tag(
            'div',
            tag('h1', title),
            tag('p', ', '.join(what), f'. Written {made}.'),
            tag(
                'p',
                'Validation selects checkpoints and is not a result; holdout and test are reported once and select nothing. '
                'Intervals are 95% bootstrap intervals over images.',
            ),
        ),
    )


def _sweep(sweep, anchor, found):
    """The paper's table beside ours, as table.csv and table.md say."""
    lines = [{key: _number(value) for key, value in line.items()} for line in sweep.lines]
    scale, drawn = numbers.forest(
        [(line['ours'], line['lower'], line['upper'], line['paper']) for line in lines]
    )

    def interval(line, value, lower, upper, sign=''):
        if not isinstance(line[value], float):
            return '–'
        return [
            f'{line[value]:{sign}.{digits}f}',
            ' ',
            tag(
                'span',
                f'({line[lower]:{sign}.{digits}f} to {line[upper]:{sign}.{digits}f})',
                class_='range',
            ),
        ]

    digits = (
        2 if any(isinstance(line['ours'], float) and line['ours'] > 1.5 for line in lines) else 4
    )
    minus, named = table_lib.references(sweep.lines)
    rows = [
        [
            line['row'],
            '–' if line['paper'] is None else f'{line["paper"]:g}',
            interval(line, 'ours', 'lower', 'upper'),
            picture,
            *cells,
            interval(line, 'delta', 'delta_lower', 'delta_upper', '+'),
            f'{line["seeds"]:g}',
            line['split'],
            '–' if line['minutes'] is None else f'{line["minutes"]:.1f}',
            ' '.join(name[:7] for name in raw['commit'].split()) or '–',
        ]
        for line, raw, picture, cells in zip(lines, sweep.lines, drawn, named)
    ]
    header = [
        'row',
        'paper',
        'ours (95% interval)',
        scale,
        *minus,
        'seeds',
        'split',
        'minutes a run',
        'commit',
    ]
    numeric = [header.index(name) for name in ('paper', 'seeds', 'minutes a run')]
    inner = [
        run
        for run in found
        if run.history and run.place.absolute().is_relative_to(sweep.place.absolute())
    ]
    return tag(
        'section',
        tag('h2', 'Table: ', sweep.name, ' ', tag('small', sweep.title)),
        table(header, rows, numbers=numeric),
        tag(
            'p', 'Dot and bar: ours with its 95% interval; open diamond: the paper.', class_='range'
        ),
        tag('ul', [tag('li', note) for note in sweep.notes], class_='notes')
        if sweep.notes
        else None,
        _curves({run.place.relative_to(sweep.place).as_posix(): run for run in inner}),
        id=anchor,
    )


def _curves(named):
    """One chart of the validation figure of several runs over their epochs."""
    histories = {name: run.history for name, run in named.items()}
    key = next(
        (
            key
            for key in training.SELECTING
            if histories
            and all(
                any(key in line for line in lines if line['kind'] == 'eval')
                for lines in histories.values()
            )
        ),
        None,
    )
    if key is None or len(histories) < 2:
        return None
    uri = pictures.chart(agreement.curves, histories, key, training.SELECTING[key][0])
    caption = 'What selected the checkpoints, run by run.'
    return tag(
        'div',
        tag('figure', tag('img', src=uri, alt=caption), tag('figcaption', caption)),
        class_='figures narrow',
    )


def _number(text):
    if text in ('', None):
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _overview(found, anchors):
    """Runs at a glance, a table for each kind; a line for each split that a run reported."""
    parts = [tag('h2', 'Runs at a glance')]
    for kind, title in numbers.TITLES.items():
        chosen = [
            (run, split, of['overall'])
            for run in found
            if run.kind == kind
            for split, of in run.complete.items()
            if split in splits_lib.REPORTED
        ]
        if not chosen:
            continue
        measures = [
            m for m in numbers.MEASURES[kind] if any(m.texts(overall) for _, _, overall in chosen)
        ]
        first = measures[0]
        scale, drawn = numbers.forest(
            [
                (
                    *(
                        first.factor * overall[first.key][part]
                        for part in ('value', 'lower', 'upper')
                    ),
                    None,
                )
                for _, _, overall in chosen
            ]
        )
        rows = [
            [
                tag('a', run.name, href=f'#{anchors[id(run)]}'),
                split,
                f'{run.splits[split].get("images", 0):,}',
                first.cell(overall),
                picture,
                *(m.cell(overall) for m in measures[1:]),
            ]
            for (run, split, overall), picture in zip(chosen, drawn)
        ]
        header = ['run', 'split', 'images', first.title, scale, *(m.title for m in measures[1:])]
        parts += [tag('h3', title), table(header, rows, numbers=(2,), class_='glance')]
    rest = [run for run in found if not any(split in splits_lib.REPORTED for split in run.splits)]
    if rest:
        parts += [
            tag('h3', 'Without a reported split'),
            tag(
                'ul',
                [
                    tag(
                        'li',
                        tag('a', run.name, href=f'#{anchors[id(run)]}'),
                        f' {runs.describe(run)}. ',
                        ' '.join(run.notes),
                    )
                    for run in rest
                ],
            ),
        ]
    return tag('section', parts) if len(parts) > 1 else None


def _extra(extra, anchor):
    """What `embeddings`, `stress`, `near_edges` and `inside` left: their figures, their pictures."""
    body = [tag('h2', f'{extra.kind}: {extra.name}')]
    try:
        if extra.file.suffix == '.csv':
            with extra.file.open(newline='') as file:
                header, *rows = csv.reader(file)
            body.append(table(header, rows))
        else:
            report = json.loads(extra.file.read_text())
            if 'split' in report:
                body.append(tag('p', f'Of {report["images"]:,} {report["split"]} images.'))
            body.append(table(['figure', 'value (95% interval)', 'images'], list(_flat(report))))
    except (OSError, ValueError) as error:
        body.append(tag('div', f'{extra.file.name} cannot be read ({error}).', class_='warning'))
    return tag(
        'section', tag('div', body, class_='whole'), runs.left_pictures(extra.place), id=anchor
    )


def _flat(report, name=''):
    """Lines of every figure with an interval in a nested report."""
    for key, value in report.items():
        key = SAID.get(key, key.replace('_', ' '))
        place = f'{name}, {key}' if name else key
        if isinstance(value, dict) and {'value', 'lower', 'upper'} <= set(value):
            yield [
                place,
                [
                    f'{value["value"]:.4g} ',
                    tag('span', f'({value["lower"]:.4g} to {value["upper"]:.4g})', class_='range'),
                ],
                f'{value.get("count", "–")}',
            ]
        elif isinstance(value, dict):
            yield from _flat(value, place)


def _footer(images):
    lines = ['Research code; not a medical device.']
    if images:
        lines.append(
            'This page holds radiographs: their terms of use apply to it as well (--noimages leaves them out).'
        )
    return tag('footer', ' '.join(lines))
