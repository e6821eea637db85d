"""What the cells of any CSV of numbers are checked for, whoever wrote it."""

import math
from collections.abc import Sequence

from tfds_rsna.errors import UserError
from tfds_rsna.problems import duplicates


def number(text: str) -> float:
    """The number in a cell, NaN where Python alone would read one (`1_000`); else ValueError."""
    return math.nan if '_' in text else float(text)


def refuse_twice(header: Sequence[str], path) -> None:
    """UserError for a CSV that has a column twice."""
    twice = duplicates(header)
    if twice:
        raise UserError(f'{path}: column {", ".join(sorted(twice))} occurs twice; leave one out')


def refuse_spare(row: dict, where: str) -> None:
    """UserError for a row of `csv.DictReader` with more cells than columns.

    A comma in a number has moved what is behind it. Empty ones are taken out of the row.
    """
    if any(cell.strip() for cell in row.pop(None, ())):
        raise UserError(
            f'{where}: more cells than columns; is a comma part of a number there? '
            'Decimals are written with a point'
        )
