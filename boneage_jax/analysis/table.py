"""Finished runs -> the paper's table, ours beside theirs: table.md to read, table.csv to compute
with.

A line for each row of the sweep and each split that its runs reported (holdout or test, never
validation). `ours` is the mean over the seeds of what their metrics.json says; its interval
resamples images, each image's value being averaged over the seeds; so does the difference to the
reference row, image by image on the same images.
"""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Callable

import numpy as np

from boneage_jax.analysis import ensemble
from boneage_jax.data import splits
from boneage_jax.runs import predictions
from boneage_jax.runtime import files
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError

COLUMNS = (
    'row',
    'paper',
    'ours',
    'lower',
    'upper',
    'reference',
    'delta',
    'delta_lower',
    'delta_upper',
    'seeds',
    'split',
    'data',
    'minutes',
    'commit',
)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure that a table can hold, by its name in metrics.json
    (`splits[split]['overall'][name]`).

    `images(workdir)` and `mean(workdirs)` give `{split: (ids, values [N])}`, a value an image,
    their mean being the figure: of one run, and of the mean prediction of several (None where
    predictions cannot be averaged).
    """

    title: str
    unit: str
    digits: int
    images: Callable
    mean: Callable | None


def _absolute_errors(workdir):
    return {
        split: (images.ids, np.abs(images.errors))
        for split, images in ensemble.read(workdir).items()
    }


def _absolute_errors_of_mean(workdirs):
    return {
        split: (images.ids, np.abs(images.errors))
        for split, images in ensemble.load(workdirs)[1].items()
    }


def _column(name):
    def images(workdir):
        path, found = pathlib.Path(workdir) / 'predictions.csv', {}
        with path.open(newline='') as file:
            for row in csv.DictReader(file):
                try:
                    found.setdefault(row['split'], []).append((row['id'], float(row[name])))
                except (KeyError, ValueError, TypeError) as error:
                    raise UserError(f'{path}: no {name} to read in {row}') from error
        return {
            split: (list(ids), np.asarray(values))
            for split, (ids, values) in ((split, zip(*pairs)) for split, pairs in found.items())
        }

    return images


def _hits(workdirs):
    """Whether the likeliest class by the mean of the runs' probabilities is the true one, 0 or 1
    for each image.
    """
    tables, found = (
        [predictions.read(pathlib.Path(workdir) / 'predictions.csv') for workdir in workdirs],
        {},
    )
    for split in dict.fromkeys(tables[0]['split'].tolist()):
        first, *others = (predictions.of_split(table, split) for table in tables)
        names, ids = (
            [name for name in first if name.startswith('probability_')],
            first['id'].tolist(),
        )
        if not names or any(not set(names) <= set(other) for other in others):
            raise UserError(
                f'{", ".join(map(str, workdirs))}: not runs that tell the same classes apart'
            )
        total = np.stack([first[name] for name in names], axis=1)
        for workdir, other in zip(workdirs[1:], others):
            order = ensemble.align(split, workdirs[0], ids, workdir, other['id'].tolist())
            total += np.stack([other[name] for name in names], axis=1)[order]
        chosen = (
            np.argmax(total, axis=1) if others else first['class']
        )  # printed probabilities may tie
        found[split] = ids, (chosen == first['true_class']).astype(float)
    return found


# A config names its table's figure as METRIC; 'mae' where it names none.
METRICS = {
    'mae': Metric('MAE', 'months', 2, _absolute_errors, _absolute_errors_of_mean),
    'iou': Metric('IoU', 'shares of the union', 4, _column('iou'), None),
    'error_percent': Metric(
        'Error', "percent of the hand's length", 2, _column('error_percent'), None
    ),
    'accuracy': Metric(
        'Accuracy', 'share of images in their class', 4, lambda workdir: _hits([workdir]), _hits
    ),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """One row on one split: `value`, and `values` `[N]` of its images `ids`."""

    row: str
    reference: str  # the row that it is compared with
    split: str
    paper: float | None
    value: float
    ids: list
    values: np.ndarray
    seeds: int
    reports: list  # metrics.json of each run
    data: str


def results(row, reference, workdirs, name):
    """The Results of the finished runs (seeds) of one config.Row: each reported split, and the
    ensemble of several seeds.

    Raises UserError where the seeds' images differ, or a run's predictions.csv does not belong to
    its metrics.json.
    """
    metric, workdirs = METRICS[name], [pathlib.Path(workdir) for workdir in workdirs]
    reports = [_read(workdir / 'metrics.json') for workdir in workdirs]
    for workdir, report in zip(workdirs, reports):
        splits.refuse_selected(report, workdir)
    data = describe(_read(workdirs[0] / 'config.json')['data'])
    images = [metric.images(workdir) for workdir in workdirs]
    mean = metric.mean(workdirs) if metric.mean and len(workdirs) > 1 else {}
    found = []
    for split in (
        name for name, report in reports[0]['splits'].items() if report['role'] == 'reported'
    ):
        values, aligned = [], []
        for workdir, report, run in zip(workdirs, reports, images):
            if split not in run or split not in report['splits']:
                raise UserError(f'{workdir} reports no {split}, but {workdirs[0]} does')
            overall, (ids, of_images) = report['splits'][split]['overall'], run[split]
            if name not in overall:
                raise UserError(
                    f'{workdir}: metrics.json has no {name} of {split}; found {", ".join(overall)}'
                )
            values.append(overall[name]['value'])
            if abs(of_images.mean() - values[-1]) > 1e-3 * max(1.0, abs(values[-1])):
                raise UserError(
                    f'{workdir}: metrics.json says {values[-1]:.4f} on {split}, predictions.csv '
                    f'{of_images.mean():.4f}: not of the same run'
                )
            first = images[0][split][0]
            aligned.append(of_images[ensemble.align(split, workdirs[0], first, workdir, ids)])
        found.append(
            Result(
                row.name,
                reference,
                split,
                row.paper_value,
                float(np.mean(values)),
                first,
                np.mean(aligned, axis=0),
                len(workdirs),
                reports,
                data,
            )
        )
        if split in mean:
            ids, of_images = mean[split]
            found.append(
                Result(
                    f'{row.name}, ensemble of {len(workdirs)}',
                    reference,
                    split,
                    None,
                    float(of_images.mean()),
                    ids,
                    of_images,
                    len(workdirs),
                    reports,
                    data,
                )
            )
    return found


def describe(data):
    """`config.data` in a few words: rsna_bone_age/rsna100 100x100."""
    place = {
        'rsna_bone_age': data['folder'],
        'image_folder': pathlib.Path(data['image_folder']['images']).name,
    }
    source = '/'.join(filter(None, (data['source'], place.get(data['source']))))
    return ' '.join([source, *data['stages'], '{}x{}'.format(*data['size'])])


def lines(found):
    """(the lines of table.csv as dicts, notes): Results `found`, each beside the one of its
    reference.

    A line whose images are not the reference's gets no difference; a note for all lines of the same
    images says which image was the first to differ.
    """
    base = {(result.row, result.split): result for result in found}
    table, refused = [], {}  # refused: {the images: (rows, why)}
    for result in found:
        lower, upper = metrics.bootstrap(result.values)
        delta, other = (None,) * 4, base.get((result.reference, result.split))
        if other and other is not result:
            try:
                order = ensemble.align(result.split, other.row, other.ids, result.row, result.ids)
                delta = other.row, *metrics.paired_difference(result.values[order], other.values)
            except UserError as error:
                refused.setdefault(
                    (other.row, result.split, tuple(sorted(result.ids))), ([], error)
                )[0].append(result.row)
        minutes = [report['minutes'] for report in result.reports if 'minutes' in report]
        commits = dict.fromkeys(
            report['commit'] for report in result.reports if report.get('commit')
        )
        values = (
            result.row,
            result.paper,
            result.value,
            lower,
            upper,
            *delta,
            result.seeds,
            result.split,
            result.data,
            round(float(np.mean(minutes)), 2) if minutes else None,
            ' '.join(commits),
        )
        table.append(dict(zip(COLUMNS, values, strict=True)))
    return table, [
        f'{", ".join(rows)}: no difference to {reference}; {why}'
        for (reference, *_), (rows, why) in refused.items()
    ]


def references(table):
    """(headings, the cells of each line before its difference): what the lines of `table` say of
    the rows they are compared with.

    One row: its name stands in the heading. Several: a column names them.
    """
    names = [line['reference'] or '' for line in table]
    different = sorted(filter(None, set(names)))
    if len(different) > 1:
        return ['beside', 'difference (95% interval)'], [[name or '–'] for name in names]
    return [f'minus {different[0] if different else "the reference"} (95% interval)'], [
        [] for _ in names
    ]


def write(workdir, found, *, metric, title, notes=()):
    """Writes table.md and table.csv into `workdir`; returns the lines. `notes`: sentences below the
    table.
    """
    workdir, table_metric = pathlib.Path(workdir), METRICS[metric]
    table, refused = lines(found)
    digits = table_metric.digits
    files.write_rows(
        workdir / 'table.csv', COLUMNS, table, digits=digits + 2, exact=('paper', 'minutes')
    )

    def interval(line, value, lower, upper, sign=''):
        if line[value] is None:
            return '–'
        return f'{line[value]:{sign}.{digits}f} ({line[lower]:{sign}.{digits}f} to {line[upper]:{sign}.{digits}f})'

    several = len({line['data'] for line in table}) > 1
    minus, named = references(table)
    header = [
        'row',
        'paper',
        'ours (95% interval)',
        *minus,
        'seeds',
        'split',
        *(['data'] if several else []),
        'minutes a run',
        'commit',
    ]
    rows = [
        [
            line['row'],
            '–' if line['paper'] is None else f'{line["paper"]:.{digits}f}',
            interval(line, 'ours', 'lower', 'upper'),
            *cells,
            interval(line, 'delta', 'delta_lower', 'delta_upper', '+'),
            str(line['seeds']),
            line['split'],
            *([line['data']] if several else []),
            '–' if line['minutes'] is None else f'{line["minutes"]:.1f}',
            line['commit'] or '–',
        ]
        for line, cells in zip(table, named)
    ]
    where = dict.fromkeys(f'{len(r.ids):,} {r.split} images of {r.data}' for r in found)
    hardware = dict.fromkeys(
        f'{report["device"]} ({report["processor"]})'
        for r in found
        for report in r.reports
        if {'device', 'processor'} <= set(report)
    )
    below = [
        f'Ours: {table_metric.title} in {table_metric.unit}, the mean over the seeds; intervals by bootstrap over images '
        '(averaged over the seeds), differences on the same images. Validation selected the checkpoints and is not '
        'shown.',
        f'Data: {"; ".join(where)}.',
        f'Hardware: {"; ".join(hardware) or "not recorded"}.',
        *notes,
        *dict.fromkeys(refused),
    ]
    body = [f'# {title}', '', *_markdown(header, rows), '', *(f'- {note}' for note in below)]
    files.write_atomic(workdir / 'table.md', '\n'.join(body) + '\n')
    return table


def _markdown(header, rows):
    """A table that is also readable as plain text."""
    rows = [[cell.replace('|', '\\|') for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rows.insert(1, ['-' * width for width in widths])
    return [
        '| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths)) + ' |'
        for row in rows
    ]


def _read(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: cannot be read ({error})') from error
