"""Finished runs -> the paper's table, ours beside theirs.

`table.md` is to read, `table.csv` to compute with.

A line for each row of the sweep and each split that its runs reported (holdout or test, never
validation). `ours` is the mean over the seeds of the figures in their metrics.json. Its interval
resamples images, each image's value being averaged over the seeds. So does the difference to the
reference row, image by image on the same images.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from boneage_jax import config as config_lib
from boneage_jax import renamed
from boneage_jax.analysis import ensemble
from boneage_jax.data import splits
from boneage_jax.runs import predictions
from boneage_jax.runs import workdir as workdir_lib
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
_AGREES = 1e-3  # metrics.json and predictions.csv, relative: the latter is rounded

# {split: (ids, values [N])}: a value an image, whose mean is the figure.
OfImages = dict[str, tuple[list, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure that a table can hold, by its name in metrics.json.

    Attributes:
        title: what it is called.
        unit: what it is in.
        digits: behind the point.
        images: `(workdir) -> {split: (ids, values [N])}` of one run.
        mean: `(workdirs) -> ` the same of the mean prediction of several; None where predictions
            cannot be averaged.
    """

    title: str
    unit: str
    digits: int
    images: Callable[[pathlib.Path], OfImages]
    mean: Callable[[Sequence[pathlib.Path]], OfImages] | None


def _absolute_errors(workdir):
    return _sizes(ensemble.read(workdir))


def _absolute_errors_of_mean(workdirs):
    _, mean, _ = ensemble.load(workdirs)
    return _sizes(mean)


def _sizes(tables):
    found = {}
    for split, images in tables.items():
        found[split] = (images['id'].tolist(), np.abs(ensemble.errors_of(images)))
    return found


def _column(name):
    """The column `name` of a run's predictions.csv, as `Metric.images` gives it."""

    def images(workdir):
        path = pathlib.Path(workdir) / 'predictions.csv'
        table = predictions.read(path, required=('id', 'split', name))
        found = {}
        for split in predictions.splits(table):
            rows = predictions.of_split(table, split)
            found[split] = (rows['id'].tolist(), rows[name])
        return found

    return images


def _hits(workdir):
    return _hits_of_mean([workdir])


def _hits_of_mean(workdirs):
    """Whether the likeliest class by the runs' mean probabilities is the true one, 0 or 1."""
    tables = []
    for workdir in workdirs:
        tables.append(predictions.read(pathlib.Path(workdir) / 'predictions.csv'))
    names = [name for name in tables[0] if name.startswith('probability_')]
    if not names or any(not set(names) <= set(table) for table in tables):
        raise UserError(
            f'{", ".join(map(str, workdirs))}: not runs that tell the same classes apart'
        )
    found = {}
    for split in predictions.splits(tables[0]):
        first = predictions.of_split(tables[0], split)
        total = _columns(first, names)
        for workdir, table in zip(workdirs[1:], tables[1:]):
            other = predictions.align(
                predictions.of_split(table, split),
                first,
                where=split,
                name=workdir,
                other=workdirs[0],
            )
            total += _columns(other, names)
        # Of one run its own class: printed probabilities may tie.
        chosen = first['class'] if len(tables) == 1 else np.argmax(total, axis=1)
        found[split] = (first['id'].tolist(), (chosen == first['true_class']).astype(float))
    return found


def _columns(table, names):
    return np.stack([table[name] for name in names], axis=1)


# A config names its table's figure as METRIC; 'mae' where it names none.
METRICS = {
    'mae': Metric('MAE', 'months', 2, _absolute_errors, _absolute_errors_of_mean),
    'iou': Metric('IoU', 'shares of the union', 4, _column('iou'), None),
    'error_percent': Metric(
        'Error', "percent of the hand's length", 2, _column('error_percent'), None
    ),
    'accuracy': Metric('Accuracy', 'share of images in their class', 4, _hits, _hits_of_mean),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """One row on one split.

    Attributes:
        row: its name.
        reference: the row that it is compared with.
        split: whose images.
        paper: the published figure, or None.
        value: ours, the mean over the seeds.
        ids: the images.
        values: of each image `[N]`, the mean over the seeds.
        seeds: how many runs.
        reports: metrics.json of each run.
        data: the images in a few words.
    """

    row: str
    reference: str
    split: str
    paper: float | None
    value: float
    ids: list
    values: np.ndarray
    seeds: int
    reports: list
    data: str


def results(
    row: config_lib.Row, reference: str, workdirs: Sequence[pathlib.Path], name: str
) -> list[Result]:
    """The results of the finished runs of one row: each reported split, and the seeds' ensemble.

    Args:
        row: the row.
        reference: the name of the row that it is compared with.
        workdirs: one for each seed.
        name: of `METRICS`.

    Raises:
        UserError: the seeds' images differ, or a run's predictions.csv does not belong to its
            metrics.json.
    """
    metric = METRICS[name]
    workdirs = list(map(pathlib.Path, workdirs))
    reports = list(map(workdir_lib.read_metrics, workdirs))
    for workdir, report in zip(workdirs, reports):
        splits.refuse_selected(report, workdir)
    data = reports[0].get('data')  # of all folds of a cross-validation, which has no config.json
    if data is None:
        config = renamed.config(workdir_lib.read_json(workdirs[0] / 'config.json'))
        data = describe(config['data'])
    runs = list(map(metric.images, workdirs))
    mean = {}
    if metric.mean and len(workdirs) > 1:
        mean = metric.mean(workdirs)

    found = []
    for split, entry in reports[0]['splits'].items():
        if entry['role'] != 'reported':
            continue
        figures = []
        for workdir, report, run in zip(workdirs, reports, runs):
            if split not in run or split not in report['splits']:
                raise UserError(f'{workdir} reports no {split}, but {workdirs[0]} does')
            figures.append(_figure(workdir, report, run, split, name))
        ids, _ = runs[0][split]
        result = Result(
            row=row.name,
            reference=reference,
            split=split,
            paper=row.paper_value,
            value=float(np.mean(figures)),
            ids=ids,
            values=_mean_of_seeds(split, workdirs, runs),
            seeds=len(workdirs),
            reports=reports,
            data=data,
        )
        found.append(result)
        if split in mean:
            ids, values = mean[split]
            of_mean = dataclasses.replace(
                result,
                row=f'{row.name}, ensemble of {len(workdirs)}',
                paper=None,
                value=float(values.mean()),
                ids=ids,
                values=values,
            )
            found.append(of_mean)
    return found


def _figure(workdir, report, run, split, name):
    """The figure of metrics.json, which predictions.csv must bear out."""
    overall = report['splits'][split]['overall']
    if name not in overall:
        raise UserError(
            f'{workdir}: metrics.json has no {name} of {split}; found {", ".join(overall)}'
        )
    reported = overall[name]['value']
    _, values = run[split]
    if abs(values.mean() - reported) > _AGREES * max(1.0, abs(reported)):
        raise UserError(
            f'{workdir}: metrics.json has {reported:.4f} on {split}, predictions.csv '
            f'{values.mean():.4f}: not of the same run'
        )
    return reported


def _mean_of_seeds(split, workdirs, runs):
    """The value of each image `[N]`, averaged over the runs."""
    first, _ = runs[0][split]
    of_runs = []
    for workdir, run in zip(workdirs, runs):
        ids, values = run[split]
        of_runs.append(_in_order(split, workdirs[0], first, workdir, ids, values))
    return np.mean(of_runs, axis=0)


def _in_order(split, first, wanted, name, ids, values):
    """The values of run `name` in the order of the images `wanted` of run `first`."""
    table = {'id': np.asarray(ids), 'value': np.asarray(values)}
    reference = {'id': np.asarray(wanted)}
    return predictions.align(table, reference, where=split, name=name, other=first)['value']


def describe(data: Mapping) -> str:
    """`config.data` in a few words: rsna_bone_age/rsna100 100x100."""
    source = data['source']
    if source == 'rsna_bone_age':
        place = data['folder']
    elif source == 'image_folder':
        place = pathlib.Path(data['image_folder']['images']).name
    else:
        place = ''
    rows, columns = data['size']
    return ' '.join(
        [f'{source}/{place}' if place else source, *data['stages'], f'{rows}x{columns}']
    )


def lines(found: Sequence[Result]) -> tuple[list[dict], list[str]]:
    """(the lines of table.csv, notes): results, each beside the one of its reference.

    A line whose images are not the reference's gets no difference. A note for all lines of the same
    images names the first image that differs.
    """
    base = {(result.row, result.split): result for result in found}
    table = []
    refused = {}  # {the images: (rows, reference, why)}
    for result in found:
        lower, upper = metrics.bootstrap(result.values)
        line = dict.fromkeys(COLUMNS)
        line.update(
            row=result.row,
            paper=result.paper,
            ours=result.value,
            lower=lower,
            upper=upper,
            seeds=result.seeds,
            split=result.split,
            data=result.data,
            minutes=_mean_minutes(result.reports),
            commit=_commits(result.reports),
        )
        other = base.get((result.reference, result.split))
        if other and other is not result:
            try:
                line.update(_difference(result, other))
            except UserError as error:
                images = (other.row, result.split, tuple(sorted(result.ids)))
                rows, *_ = refused.setdefault(images, ([], other.row, error))
                rows.append(result.row)
        table.append(line)
    notes = []
    for rows, reference, why in refused.values():
        notes.append(f'{", ".join(rows)}: no difference to {reference}; {why}')
    return table, notes


def _difference(result, other):
    """The cells of a line that compare it with its reference, image by image."""
    values = _in_order(result.split, other.row, other.ids, result.row, result.ids, result.values)
    delta, lower, upper = metrics.paired_difference(values, other.values)
    return {'reference': other.row, 'delta': delta, 'delta_lower': lower, 'delta_upper': upper}


def _mean_minutes(reports):
    minutes = [report['minutes'] for report in reports if 'minutes' in report]
    return round(float(np.mean(minutes)), 2) if minutes else None


def _commits(reports):
    commits = [report['commit'] for report in reports if report.get('commit')]
    return ' '.join(dict.fromkeys(commits))


def references(table: Iterable[Mapping]) -> tuple[list[str], list[list[str]]]:
    """(headings, the cells of each line before its difference): what lines are compared with.

    One row: its name is in the heading. Several: a column names them.
    """
    names = [line['reference'] or '' for line in table]
    different = sorted(set(names) - {''})
    if len(different) > 1:
        headings = ['beside', 'difference (95% interval)']
        return headings, [[name or '–'] for name in names]
    one = different[0] if different else 'the reference'
    return [f'minus {one} (95% interval)'], [[]] * len(names)


def write(
    workdir: pathlib.Path,
    found: Sequence[Result],
    *,
    metric: str,
    title: str,
    notes: Iterable[str] = (),
) -> list[dict]:
    """Writes table.md and table.csv into `workdir`; returns the lines.

    Args:
        workdir: the folder.
        found: what `results` gave of all rows.
        metric: of `METRICS`.
        title: the heading.
        notes: sentences below the table.
    """
    workdir = pathlib.Path(workdir)
    table, refused = lines(found)
    figure = METRICS[metric]
    exact = ('paper', 'minutes')
    files.write_rows(workdir / 'table.csv', COLUMNS, table, digits=figure.digits + 2, exact=exact)

    header, rows = _cells(table, figure.digits)
    text = [f'# {title}', '', *_markdown(header, rows), '']
    for note in [*_about(found, figure), *notes, *dict.fromkeys(refused)]:
        text.append(f'- {note}')
    files.write_atomic(workdir / 'table.md', '\n'.join(text) + '\n')
    return table


def _cells(table, digits):
    """(header, rows) of table.md."""
    several = len({line['data'] for line in table}) > 1
    minus, named = references(table)
    header = ['row', 'paper', 'ours (95% interval)', *minus, 'seeds', 'split']
    if several:
        header.append('data')
    header += ['minutes a run', 'commit']

    rows = []
    for line, reference in zip(table, named):
        row = [
            line['row'],
            _number(line['paper'], digits),
            _interval(line, ('ours', 'lower', 'upper'), f'.{digits}f'),
            *reference,
            _interval(line, ('delta', 'delta_lower', 'delta_upper'), f'+.{digits}f'),
            str(line['seeds']),
            line['split'],
        ]
        if several:
            row.append(line['data'])
        row += [_number(line['minutes'], 1), line['commit'] or '–']
        rows.append(row)
    return header, rows


def _number(value, digits):
    return '–' if value is None else f'{value:.{digits}f}'


def _interval(line, names, form):
    value, lower, upper = map(line.get, names)
    if value is None:
        return '–'
    return f'{value:{form}} ({lower:{form}} to {upper:{form}})'


def _about(found, figure):
    """Sentences on what the table holds, on which images, by which machines."""
    images = [f'{len(result.ids):,} {result.split} images of {result.data}' for result in found]
    hardware = []
    for result in found:
        for report in result.reports:
            if {'device', 'processor'} <= set(report):
                hardware.append(f'{report["device"]} ({report["processor"]})')
    return [
        f'Ours: {figure.title} in {figure.unit}, the mean over the seeds; intervals by bootstrap '
        'over images (averaged over the seeds), differences on the same images. Validation '
        'selected the checkpoints and is not shown.',
        f'Data: {"; ".join(dict.fromkeys(images))}.',
        f'Hardware: {"; ".join(dict.fromkeys(hardware)) or "not recorded"}.',
    ]


def _markdown(header, rows):
    """A table that is also readable as plain text."""
    table = []
    for row in [header, *rows]:
        table.append(list(map(_escaped, row)))
    widths = [max(map(len, column)) for column in zip(*table)]
    table.insert(1, ['-' * width for width in widths])
    text = []
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        text.append('| ' + ' | '.join(cells) + ' |')
    return text


def _escaped(cell):
    return cell.replace('|', '\\|')
