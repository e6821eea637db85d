"""predictions.csv of a run of an age model, read back and checked."""

import csv
import math
import pathlib

import numpy as np

from tfds_rsna.errors import UserError

COLUMNS = ('id', 'split', 'male', 'age', 'prediction')
_CLASSES = ('class', 'true_class')
_TRUTH = {'true': True, '1': True, 'false': False, '0': False}


def read(path):
    """The columns as arrays `[N]`: `id`, `split` (str), `male` (bool), `age`, `prediction`[,
    `lower`, `upper`] (months); of a classifier also `class`, `true_class` (int) and `probability_0`
    and so on.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is empty, lacks columns or holds something unreadable; the message names file
        and line.
    """
    path = pathlib.Path(path)
    with path.open(newline='') as file:
        reader = csv.DictReader(file)
        found = reader.fieldnames or []
        missing = [name for name in COLUMNS if name not in found]
        if missing:
            raise UserError(
                f'{path}: column{"s" * (len(missing) > 1)} {", ".join(missing)} missing; found '
                f'{", ".join(found) or "nothing"}. Predicted ages need {",".join(COLUMNS)}.'
            )
        numbers = ['age', 'prediction'] + ['lower', 'upper'] * ({'lower', 'upper'} <= set(found))
        if set(_CLASSES) <= set(found):
            numbers += [*_CLASSES, *(name for name in found if name.startswith('probability_'))]
        rows = []
        for row in reader:
            try:
                values = [float(row[name]) for name in numbers]
                if not all(map(math.isfinite, values)):
                    raise UserError('a number that is not finite')
                rows.append((row['id'], row['split'], _TRUTH[row['male'].strip().lower()], *values))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f'{path}, line {reader.line_num}: cannot read {row} ({error})'
                ) from error
    if not rows:
        raise UserError(f'{path} holds no predictions; was the run evaluated?')
    columns = {
        name: np.asarray(column)
        for name, column in zip(('id', 'split', 'male', *numbers), zip(*rows))
    }
    return columns | {name: columns[name].astype(int) for name in _CLASSES if name in columns}


def of_split(images, split):
    """The images of one split, in the same form."""
    return {name: column[images['split'] == split] for name, column in images.items()}
