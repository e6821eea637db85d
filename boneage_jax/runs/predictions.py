"""predictions.csv, read back and checked: the one reader of what runs predicted.

A table is a dict of columns, arrays `[N]` in the order of the file:

    table = predictions.read(workdir / 'predictions.csv')
    boys = predictions.of_sex(predictions.of_split(table, 'holdout'), True)
    error = boys['prediction'] - boys['age']
"""

import csv
import json
import math
import pathlib

import numpy as np

from boneage_jax.runtime import log
from tfds_rsna import cells, sexes
from tfds_rsna.errors import UserError

COLUMNS = ('id', 'split', 'male', 'age', 'prediction')  # of a run that predicts ages
_TEXTS = ('id', 'split', 'status', 'flags')
OK = 'ok'  # the status of an image that was predicted
REFUSED = 'refused'  # of one that shows no hand: its prediction is empty
UNREADABLE = 'unreadable'  # of one that could not be decoded
_UNPREDICTED = (REFUSED, UNREADABLE)
_CLASSES = ('class', 'true_class')
_INTERVAL = ('lower', 'upper')  # empty where the network has no intervals
_DOUBTFUL = ('spread',)  # NaN where it holds no number: its readers do without
_KNOWN = (*_INTERVAL, *_CLASSES)  # optional, but nothing unreadable may stand in them

# What tells the kind of a run that was written before metrics.json had `kind`: the first of these
# that its metrics, or the columns of its predictions.csv, have. Kinds as `tasks.Task.kind`.
_TELLING = {
    'accuracy': 'age_classes',
    'class': 'age_classes',
    'mae': 'age',
    'prediction': 'age',
    'iou': 'segmentation',
    'degrees': 'similarity',
    'error_percent': 'keypoints',
}


def read(path, required=COLUMNS, *, skip_incomplete=False) -> dict[str, np.ndarray]:
    """The columns of a predictions.csv, or of a CSV like it, as arrays `[N]`.

    `id` and `split` are str, `male` is bool, `class` and `true_class` are int, all others are
    float: `age`, `prediction`[, `lower`, `upper`] in months; `probability_0` and so on of a
    classifier; `iou` of masks; `error_percent` of key points.

    Rows whose `status` is 'refused' or 'unreadable' were not predicted: they are left out, and
    counted in a line that is logged. A table without that column has all of its rows.

    Args:
        path: the file.
        required: columns that must be there and readable. `('id', 'split')` reads the tables of
            masks and points too. A further column that does not hold numbers is left out.
        skip_incomplete: leave out the rows in which a required column is empty or, of `male`,
            tells no sex; such a row is an error otherwise.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is empty, lacks columns, has one twice, a row with more cells than columns or
            an image twice in a split, or holds something unreadable; the message names file and
            line.
    """
    path = pathlib.Path(path)
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            reader = csv.DictReader(file, strict=True)
            found = reader.fieldnames or []
            numbered = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path}: damaged, or no CSV in UTF-8 ({error})') from error
    _require_columns(path, required, found)
    for line, row in numbered:
        cells.refuse_spare(row, f'{path}, line {line}')
    numbered = _predicted(path, numbered)
    if skip_incomplete:
        male = _meanings(path, numbered) if 'male' in required else {}
        numbered = [(line, row) for line, row in numbered if _is_complete(row, required, male)]
    if not numbered:
        raise UserError(f'{path} holds no predictions; was the run evaluated?')
    _refuse_twice(path, numbered)

    table = {}
    for name in found:
        if name in _INTERVAL and not any((row[name] or '').strip() for _, row in numbered):
            continue
        try:
            table[name] = _column(path, name, numbered)
        except UserError:
            if name in required or name in _KNOWN or name.startswith('probability_'):
                raise
    return table


def _predicted(path, numbered):
    """The rows of images that were predicted; says how many were not."""
    kept = []
    for line, row in numbered:
        if (row.get('status') or '').strip().casefold() not in _UNPREDICTED:
            kept.append((line, row))
    if len(kept) < len(numbered):
        log.info(
            f'{path}: {len(numbered) - len(kept)} of {len(numbered)} images were not predicted '
            '(column status) and are left out.'
        )
    return kept


def _require_columns(path, required, found):
    missing = [name for name in required if name not in found]
    if missing:
        plural = 's' if len(missing) > 1 else ''
        raise UserError(
            f'{path}: column{plural} {", ".join(missing)} missing; found '
            f'{", ".join(found) or "nothing"}. It needs {",".join(required)}, with commas between.'
        )
    cells.refuse_twice(found, path)


def _refuse_twice(path, numbered):
    seen = {}
    for line, row in numbered:
        image = (row.get('id'), row.get('split'))
        if image in seen:
            where = f'in {image[1]} twice' if image[1] else 'there twice'
            raise UserError(
                f'{path}, line {line}: image {image[0]} is {where}, first in line {seen[image]}; '
                'leave one out'
            )
        if row.get('id'):
            seen[image] = line


def _meanings(path, numbered):
    """{value of the column male: whether it is male}."""
    return sexes.meanings('male', [row['male'] or '' for _, row in numbered], str(path))


def _is_complete(row, required, male):
    for name in required:
        text = (row[name] or '').strip()
        if not text or (name == 'male' and sexes.normal(text) not in male):
            return False
    return True


def _column(path, name, numbered):
    values = []
    male = _meanings(path, numbered) if name == 'male' else {}
    for line, row in numbered:
        try:
            values.append(_value(name, row[name], male))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f'{path}, line {line}: cannot read {row} ({error})') from error
    values = np.asarray(values)
    return values.astype(int) if name in _CLASSES else values


def _value(name, text, male):
    if name in _TEXTS:
        return text.strip() if name == 'split' else text
    if name == 'male':
        return male[sexes.normal(text)]
    if name in _DOUBTFUL:
        return number_or_nan(text)
    number = cells.number(text)
    if not math.isfinite(number):
        raise UserError('a number that is not finite')
    return number


def number_or_nan(text: str | None) -> float:
    """The number of a cell; NaN where it holds none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def splits(table) -> list[str]:
    """The splits of a table, in the order of their first rows."""
    return list(dict.fromkeys(table['split'].tolist()))


def rows(table, index) -> dict[str, np.ndarray]:
    """The rows `index` (positions, or a mask `[N]`) of a table, in the same form."""
    return {name: column[index] for name, column in table.items()}


def of_split(table, split: str) -> dict[str, np.ndarray]:
    """The rows of one split."""
    return rows(table, table['split'] == split)


def of_sex(table, male: bool) -> dict[str, np.ndarray]:
    """The rows of one sex."""
    return rows(table, table['male'] == male)


def align(table, reference, *, where: str, name, other) -> dict[str, np.ndarray]:
    """The rows of `table` in the order of `reference['id']`.

    Args:
        table: the rows to order.
        reference: a table of the same images.
        where: what both are of, for the message: 'holdout' or 'holdout, boys'.
        name: the run that `table` is of, for the message.
        other: the run that `reference` is of.

    Raises:
        UserError: an image is in one of them only.
    """
    ids = reference['id'].tolist()
    place = {image: i for i, image in enumerate(table['id'].tolist())}
    _refuse_missing(where, other, ids, name, place)
    _refuse_missing(where, name, list(place), other, set(ids))
    return rows(table, np.asarray([place[image] for image in ids], int))


def _refuse_missing(where, one, ids, two, known):
    alone = [image for image in ids if image not in known]
    if alone:
        raise UserError(
            f'{where}: {len(alone)} of the {len(ids)} images of {one} are not in {two}, the first: '
            f'{alone[0]}; compare runs of the same data, data.split_seed, data.validation and '
            'data.holdout'
        )


def join(tables) -> dict[str, np.ndarray]:
    """One table of all images of `tables`, each once, as the first table that has it says.

    It has the columns that all of them have.
    """
    names = [name for name in tables[0] if all(name in table for table in tables)]
    whole = {name: np.concatenate([table[name] for table in tables]) for name in names}
    _, first = np.unique(whole['id'], return_index=True)
    return rows(whole, np.sort(first))


def kind_of(workdir) -> str:
    """What a run predicts, as `tasks.Task.kind`: 'age', 'age_classes', 'segmentation' and so on.

    metrics.json says it. For a run that an older release wrote, or one that has predictions.csv
    alone, its figures or columns tell. Raises FileNotFoundError where it has neither file.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / 'metrics.json'
    if path.exists():
        kind = kind_in(json.loads(path.read_text()))
        if kind is not None:
            return kind
    with (workdir / 'predictions.csv').open(newline='') as file:
        columns = next(csv.reader(file), [])
    return _told_by(columns) or 'age'


def kind_in(report) -> str | None:
    """The same from the content of metrics.json; None where it reports nothing."""
    if 'kind' in report:
        return report['kind']
    for split in report.get('splits', {}).values():
        return _told_by(split.get('overall', {}))
    return None


def _told_by(names):
    return next((kind for name, kind in _TELLING.items() if name in names), None)
