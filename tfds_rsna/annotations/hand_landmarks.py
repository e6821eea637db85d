"""Reads the 37 landmarks of the Digital Hand Atlas from their CSV.

Payer et al., Medical Image Analysis 2019.
"""

import csv
import math
import pathlib

import numpy as np

from tfds_rsna import cells
from tfds_rsna.errors import UserError

COUNT = 37
THUMB_TIP, MIDDLE_TIP = 20, 28  # tips of the distal phalanges
_HEADER = ['id', *(f'{axis}{number}' for number in range(COUNT) for axis in 'xy')]
BESIDE_CAPITATE = (10, 15)  # the capitate's centre is midway between them


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The landmarks in a CSV: {image id: float32 [37, 2] (row, column)}.

    They are in pixels of the native image; pixel (r, c) has its centre at (r, c). The CSV has a
    header `id,x0,y0,...,x36,y36`, or is as its authors give it: no header, the same columns.

    Raises:
        UserError: a file that is missing or holds something else, has these columns in another
            order, or an image twice; names file and line.
    """
    path = pathlib.Path(path)
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f'{path}: cannot be read ({error}); give the CSV with the 37 landmarks of each image'
        ) from error
    header = bool(lines) and lines[0][0].strip().lower() == 'id'
    if header and [cell.strip().lower() for cell in lines[0]] != _HEADER:
        raise UserError(
            f'{path}: the columns are {", ".join(lines[0][:6])}, ...; expected are '
            f'{", ".join(_HEADER[:5])}, ..., {_HEADER[-1]} in this order'
        )
    landmarks = {}
    for number, line in enumerate(lines[header:], start=1 + header):
        name = line[0].strip()
        if not name:
            raise UserError(f'{path}, line {number}: no id')
        if name in landmarks:
            raise UserError(
                f'{path}, line {number}: image {name} stands there twice; leave one out'
            )
        landmarks[name] = _points(line[1:], f'{path}, line {number}')
    if not landmarks:
        raise UserError(
            f'{path}: no landmarks in it; expected lines id,x0,y0,...,x{COUNT - 1},y{COUNT - 1}'
        )
    return landmarks


def _points(texts: list[str], where: str) -> np.ndarray:
    try:
        values = [cells.number(text) for text in texts]
    except ValueError as error:
        raise UserError(f'{where}: {error}; expected an id and {2 * COUNT} numbers') from error
    if len(values) != 2 * COUNT or not all(map(math.isfinite, values)):
        raise UserError(
            f'{where}: expected an id and {2 * COUNT} finite numbers (x, y of {COUNT} landmarks), '
            f'found {len(values)}'
        )
    return np.array(values, np.float32).reshape(COUNT, 2)[:, ::-1]
