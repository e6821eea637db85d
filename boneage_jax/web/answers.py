"""A predicted image as the API tells it, and the table of all."""

from collections.abc import Mapping, Sequence

import numpy as np

from boneage_jax.inference import ages as ages_lib
from boneage_jax.inference import images as images_lib
from boneage_jax.inference import intervals, neighbours
from boneage_jax.runtime import files
from boneage_jax.web import views, words, worker
from tfds_rsna.errors import UserError

UNPREDICTED = 'unpredicted'  # the status of an image that has no row in the table
COLUMNS = (  # of every row of the table, see `ages.Ages.rows`
    'id',
    'file',
    'male',
    'prediction',
    'years',
    'lower',
    'upper',
    'status',
    'flags',
    'age',
)


def unpredicted(file: str, code: str, reason: str) -> dict:
    """The result of an image that no network saw.

    `code` is `unreadable`, `no_image`, `sex_needed`, `other_sex` or `fault`.
    """
    words_of_it = words.of_reason(reason, file)
    return {'file': file, 'status': UNPREDICTED, 'code': code, 'reason': words_of_it, 'row': None}


def result(
    answer: worker.Answer,
    reference: neighbours.Reference | None,
    *,
    trained_on: bool = False,
    pictures: bool,
) -> dict:
    """The result of an image that a network was asked about, JSON-ready.

    Args:
        answer: what the worker gave.
        reference: the training images, None where they are not known.
        trained_on: whether one of them has its id.
        pictures: whether to show the image.
    """
    seen = answer.seen
    file = seen.listed.entry.path
    if isinstance(seen, images_lib.Unseen):
        return unpredicted(file, 'unreadable', seen.reason)
    row = answer.row
    told = {
        'file': file,
        'status': row['status'],
        'reason': seen.refusal,
        'row': row,
        'cells': ages_lib.cells(row),
        'interval': _interval(row),
        'flags': words.of_flags(row['flags']),
    }
    if seen.refusal:
        told['flags'] = [each for each in told['flags'] if seen.refusal not in each]
    elif reference and 'embeddings' in answer.aux:
        near = _near(reference, answer.aux['embeddings'])
        told['neighbours'] = near
        if near and near['distance_quantile'] > words.FARTHEST:
            told['flags'].append(words.FAR)
    if trained_on and not seen.refusal:
        told['flags'].append(words.TRAINED_ON)
    if pictures:
        told['view'] = views.view(seen, answer.aux, answer.hidden)
    return told


def _interval(row):
    """The interval in words, '' without one."""
    if row['lower'] is None:
        return ''
    low = round(row['lower'])
    high = round(row['upper'])
    return f'{100 * intervals.LEVEL:g}% interval {low} to {high} months'


def _near(reference, embeddings):
    """Ages and sexes of the nearest training images, and how far they are; None without."""
    own = np.asarray(embeddings)[None]
    try:
        found = reference.nearest(own)
        quantile = float(reference.quantile(own)[0])
    except UserError:
        return None
    return {
        'months': [round(float(months), 1) for months in found.months[0]],
        'male': [bool(male) for male in found.male[0]],
        'distance_quantile': quantile,
    }


def csv_of(rows: Sequence[Mapping]) -> str:
    """The table as `predict` writes it of the same files in a folder: its order and its ids."""
    rows = [dict(row) for row in sorted(rows, key=_place)]
    count = {}
    for row in rows:
        count[row['id']] = count.get(row['id'], 0) + 1
    for row in rows:
        if count[row['id']] > 1:
            row['id'] = row['file']
    return files.table_text(*ages_lib.table(rows))


def _place(row):
    """Where `predict` has an image: by the file's name, then by the place in its zip."""
    outer, _, inner = row['file'].partition('/')
    return outer, inner


def rows_of_cells(sent: object) -> list[dict]:
    """Rows as a page sends them back, `{'rows': [texts by column]}`; UserError for other things."""
    rows = sent.get('rows') if isinstance(sent, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UserError('rows: expected a list of rows, as `cells` of results has them')
    read = []
    for row in rows:
        if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
            raise UserError('rows: expected texts by column, as `cells` of results has them')
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise UserError(f'rows: {", ".join(missing)} missing; send `cells` as they are')
        read.append(row | {'age': row['age'] or None})
    return read
