"""The page: tables of sweeps, runs at a glance, a section for each run and each other result."""

from __future__ import annotations

import csv
import datetime
import pathlib
import string

from boneage_jax.analysis import table as table_lib
from boneage_jax.data import splits as splits_lib
from boneage_jax.figures import agreement, training
from boneage_jax.report import collect, numbers, pictures, predicted, runs
from boneage_jax.report.html import table, tag
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import files, log
from tfds_rsna.errors import UserError

SAID = {  # figures of `interpret` and `embeddings` in words
    'part_mae': 'age from one part alone: MAE (months)',
    'in_corner': 'share of parts in a corner of the image',
    'in_corner_by_age': 'share of parts in a corner',
    'on_bones': 'share of parts on a growth plate or the carpus',
    'on_bones_by_chance': 'the same of anchors drawn by chance',
    'distance_age_correlation': 'Spearman correlation of embeddings and ages',
}
_ROLES = (
    'Validation selects checkpoints and is not a result; holdout and test are reported once and '
    'select nothing.'
)
_TEMPLATE = pathlib.Path(__file__).with_name('page.html')


def write(
    folders: list, output: pathlib.Path, *, title: str = '', data_dir=None, images: bool = True
) -> pathlib.Path:
    """Writes the page over everything below `folders`.

    Args:
        folders: of runs, sweeps and results, and tables that `predict` wrote.
        output: the HTML file to write.
        title: its heading; '' makes one of what was found.
        data_dir: as of the commands; where the records of the worst images may be.
        images: whether the page shows radiographs.

    Returns:
        `output`.

    Raises:
        UserError: there is nothing to show, or `output` is there and no page of this command.
    """
    output = pathlib.Path(output)
    _refuse_foreign(output)
    found, sweeps, extras, tables = collect.find(folders)
    parts = [*tables, *_in_order(found, extras)]
    anchors = {id(thing): f's{i}' for i, thing in enumerate([*sweeps, *parts])}
    if not title:
        title = f'Bone age: {_subject(found, tables)}'
    links = []
    for thing in [*sweeps, *parts]:
        links.append(tag('a', _name(thing), href=f'#{anchors[id(thing)]}'))
    main = tag(
        'main',
        tag('nav', links, aria_label='contents'),
        [_sweep(sweep, anchors[id(sweep)], found) for sweep in sweeps],
        _overview(found, anchors),
        _sections(parts, anchors, data_dir, images),
        _footer(images),
    )
    text = string.Template(_TEMPLATE.read_text()).substitute(
        title=tag('i', title)[3:-4], body=_header(title, found, sweeps, tables) + main
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(output, text)
    log.info(
        f'{output}: {len(found)} runs, {len(sweeps) + len(tables)} tables, '
        f'{len(text) / 1e6:.1f} MB; open it in a browser.'
    )
    return output


def _subject(found, tables):
    if not found and len(tables) == 1:
        return tables[0].name
    return found[0].name if len(found) == 1 else f'{len(found)} runs'


def _refuse_foreign(output):
    """Refuses (UserError) a file that is there already, unless it is an earlier page."""
    if not output.exists() or files.is_special(output):
        return
    [mark] = [line for line in _TEMPLATE.read_text().splitlines() if 'Security-Policy' in line]
    with output.open('rb') as file:
        if mark.encode() not in file.read(10_000):
            raise UserError(f'{output} exists and is no page of this command; give another name')


def _in_order(found, extras):
    """Runs and extras as the page shows them: what was found inside a run follows it."""
    parts = []
    for run in found:
        parts.append(run)
        parts += [extra for extra in extras if extra.place.is_relative_to(run.place)]
    return parts + [extra for extra in extras if extra not in parts]


def _sections(parts, anchors, data_dir, images):
    sections = []
    for number, thing in enumerate(parts, 1):
        log.info(f'[{number}/{len(parts)}] {thing.name}')
        anchor = anchors[id(thing)]
        if isinstance(thing, collect.Extra):
            sections.append(_extra(thing, anchor))
        elif isinstance(thing, collect.Predicted):
            sections.append(predicted.section(thing, anchor))
        else:
            sections.append(runs.section(thing, anchor, data_dir, images))
    return sections


def _name(thing):
    if isinstance(thing, collect.Sweep):
        return f'Table: {thing.name}'
    if isinstance(thing, collect.Extra):
        return f'{thing.kind}: {thing.name}'
    if isinstance(thing, collect.Predicted):
        return f'Predicted ages: {thing.name}'
    return thing.name


def _header(title, found, sweeps, tables):
    finished = sum(run.report is not None for run in found)
    what = [_counted(finished, 'finished run')] if found or not tables else []
    if finished < len(found):
        what.append(f'{len(found) - finished} not finished')
    if sweeps:
        what.append(_counted(len(sweeps), 'table'))
    if tables:
        what.append(_counted(len(tables), 'table') + ' of predicted ages')
    made = f'{datetime.datetime.now():%d %B %Y, %H:%M}'
    commit = workdir_lib.provenance()['commit']
    if commit:
        made += f', boneage_jax {commit}'
    about = 'Intervals of errors and shares are 95% intervals over images.'
    if found or sweeps:
        about = f'{_ROLES} {about}'
    if tables:
        about += ' Intervals of predicted ages are meant to hold 90% of the ages.'
    lines = [tag('p', ', '.join(what), f'. Written {made}.'), tag('p', about)]
    return tag('header', tag('div', tag('h1', title), lines))


def _counted(number, what):
    return f'{number} {what}' if number == 1 else f'{number} {what}s'


def _sweep(sweep, anchor, found):
    """The paper's table beside ours, as table.csv and table.md say."""
    lines = []
    for line in sweep.lines:
        lines.append({key: _number(value) for key, value in line.items()})
    scale, drawn = numbers.forest(
        [(line['ours'], line['lower'], line['upper'], line['paper']) for line in lines]
    )
    large = any(isinstance(line['ours'], float) and line['ours'] > 1.5 for line in lines)
    digits = 2 if large else 4
    minus, named = table_lib.references(sweep.lines)
    rows = []
    for line, texts, picture, references in zip(lines, sweep.lines, drawn, named):
        ours = _interval(line['ours'], line['lower'], line['upper'], f'.{digits}f')
        delta = _interval(line['delta'], line['delta_lower'], line['delta_upper'], f'+.{digits}f')
        rows.append(
            [
                line['row'],
                _or_dash(line['paper'], 'g'),
                ours,
                picture,
                *references,
                delta,
                f'{line["seeds"]:g}',
                line['split'],
                _or_dash(line['minutes'], '.1f'),
                ' '.join(name[:7] for name in texts['commit'].split()) or '–',
            ]
        )
    header = ['row', 'paper', 'ours (95% interval)', scale, *minus]
    header += ['seeds', 'split', 'minutes a run', 'commit']
    numeric = [header.index(name) for name in ('paper', 'seeds', 'minutes a run')]
    legend = 'Dot and bar: ours with its 95% interval; open diamond: the paper.'
    notes = [tag('li', note) for note in sweep.notes]
    return tag(
        'section',
        tag('h2', 'Table: ', sweep.name, ' ', tag('small', sweep.title)),
        table(header, rows, numbers=numeric, label=f'Table: {sweep.name}'),
        tag('p', legend, class_='range'),
        tag('ul', notes, class_='notes') if notes else None,
        _curves(_inside(sweep, found)),
        id=anchor,
    )


def _or_dash(value, form):
    return '–' if value is None else f'{value:{form}}'


def _interval(value, lower, upper, form):
    """A cell with a figure and its interval, a dash where it is no number."""
    if not isinstance(value, float):
        return '–'
    interval = f'({lower:{form}} to {upper:{form}})'
    return [f'{value:{form}}', ' ', tag('span', interval, class_='range')]


def _inside(sweep, found):
    """{path below the sweep's folder: the lines of its log} of the runs of a sweep."""
    histories = {}
    for run in found:
        if run.history and run.place.absolute().is_relative_to(sweep.place.absolute()):
            histories[run.place.relative_to(sweep.place).as_posix()] = run.history
    return histories


def _curves(histories):
    """One chart of the validation figure of several runs over their epochs."""
    if len(histories) < 2:
        return None
    for key, (label, _) in training.SELECTING.items():
        if all(_has(lines, key) for lines in histories.values()):
            uri = pictures.chart(agreement.curves, histories, key, label)
            break
    else:
        return None
    caption = 'What selected the checkpoints, run by run.'
    figure = tag('figure', tag('img', src=uri, alt=caption), tag('figcaption', caption))
    return tag('div', figure, class_='figures narrow')


def _has(lines, key):
    return any(key in line for line in lines if line['kind'] == 'eval')


def _number(text):
    if text in ('', None):
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _overview(found, anchors):
    """Runs at a glance, a table for each kind; a line for each split that a run reported."""
    parts = []
    for title, kinds in numbers.TITLES.items():
        chosen = []
        for run in found:
            if run.kind not in kinds:
                continue
            for split, of_split in run.complete.items():
                if split in splits_lib.REPORTED:
                    chosen.append((run, split, of_split['overall']))
        if chosen:
            glance = _glance(title, chosen, numbers.MEASURES[kinds[0]], anchors)
            parts += [tag('h3', title), glance]
    rest = []
    for run in found:
        if not set(run.splits) & set(splits_lib.REPORTED):
            link = tag('a', run.name, href=f'#{anchors[id(run)]}')
            rest.append(tag('li', link, f' {runs.describe(run)}. ', ' '.join(run.notes)))
    if rest:
        parts += [tag('h3', 'Without a reported split'), tag('ul', rest)]
    return tag('section', tag('h2', 'Runs at a glance'), parts) if parts else None


def _glance(title, chosen, measures, anchors):
    """One table of (run, split, its overall figures)."""
    shown = []
    for measure in measures:
        if any(measure.texts(overall) for _, _, overall in chosen):
            shown.append(measure)
    first, *others = shown
    intervals = []
    for _, _, overall in chosen:
        found = overall[first.key]
        bounds = [first.factor * found[part] for part in ('value', 'lower', 'upper')]
        intervals.append((*bounds, None))
    scale, drawn = numbers.forest(intervals)
    rows = []
    for (run, split, overall), picture in zip(chosen, drawn):
        link = tag('a', run.name, href=f'#{anchors[id(run)]}')
        images = f'{run.splits[split].get("images", 0):,}'
        cells = [measure.cell(overall) for measure in others]
        rows.append([link, split, images, first.cell(overall), picture, *cells])
    header = ['run', 'split', 'images', first.title, scale]
    header += [measure.title for measure in others]
    return table(header, rows, numbers=(2,), label=title, class_='glance')


def _extra(extra, anchor):
    """What `embeddings`, `robustness`, `compare_classes` or `interpret` left, and its pictures."""
    body = [tag('h2', f'{extra.kind}: {extra.name}')]
    if extra.file.suffix == '.csv':
        body.append(_csv(extra.file))
    else:
        body += _json(extra.file)
    pictures_of = runs.left_pictures(extra.place)
    return tag('section', tag('div', body, class_='whole'), pictures_of, id=anchor)


def _csv(path):
    try:
        with path.open(newline='') as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError) as error:
        return _warning(f'{path.name} cannot be read ({error}).')
    return table(header, rows, label=path.stem.replace('_', ' '))


def _json(path):
    notes = []
    report = collect.read_report(path, notes)
    if report is None:
        return [_warning(note) for note in notes]
    parts = []
    if 'split' in report:
        parts.append(tag('p', f'Of {report["images"]:,} {report["split"]} images.'))
    header = ['figure', 'value (95% interval)', 'images']
    return [*parts, table(header, list(_flat(report)), label=path.stem.replace('_', ' '))]


def _warning(text):
    return tag('div', text, class_='warning')


def _flat(report, name=''):
    """Lines of every figure with an interval in a nested report."""
    for key, value in report.items():
        if not isinstance(value, dict):
            continue
        words = SAID.get(key, key.replace('_', ' '))
        place = f'{name}, {words}' if name else words
        if {'value', 'lower', 'upper'} <= set(value):
            interval = f'({value["lower"]:.4g} to {value["upper"]:.4g})'
            figure = [f'{value["value"]:.4g} ', tag('span', interval, class_='range')]
            yield [place, figure, f'{value.get("count", "–")}']
        else:
            yield from _flat(value, place)


def _footer(images):
    lines = ['Research code; not a medical device.']
    if images:
        lines.append(
            'This page holds radiographs: their terms of use apply to it as well (--noimages '
            'leaves them out).'
        )
    return tag('footer', ' '.join(lines))
