"""Reads the rows of annotation tables (CSV with a header), and names what is wrong with them."""

import csv
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfds_rsna.cells import number, refuse_spare, refuse_twice
from tfds_rsna.errors import UserError


class Row(NamedTuple):
    """One row of a table."""

    where: str  # 'FILE, line N'
    cells: dict[str, str]  # {column: text}

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """The finite numbers in `columns`, float64 [len(columns)]; UserError for other texts."""
        values = []
        for column in columns:
            text = self.cells[column]
            try:
                value = number(text)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise UserError(f'{self.where}: {column} is {text!r}; expected a finite number')
            values.append(value)
        return np.array(values, np.float64)

    def size(self) -> tuple[int, int]:
        """(rows, columns) of the image, from `height` and `width`; UserError where one is not."""
        found = []
        for column in ('height', 'width'):
            (value,) = self.numbers((column,))
            if value < 1 or value != int(value):
                text = self.cells[column]
                raise UserError(f'{self.where}: {column} is {text!r}; expected a count of pixels')
            found.append(int(value))
        return found[0], found[1]


def read(path: str | pathlib.Path, columns: Sequence[str], what: str) -> Iterator[Row]:
    """The rows of a CSV that has at least `columns`, which have a text in every row.

    Args:
        path: of the file.
        columns: names that its header must have; others may be there too.
        what: what the file should hold, for messages.

    Raises:
        UserError: a file that is missing, unreadable or empty, lacks a column or has one twice, or
            has a row that lacks a cell or has more cells than columns.
    """
    path = pathlib.Path(path)
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or ()
            rows = [Row(f'{path}, line {reader.line_num}', cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path}: cannot be read ({error}); give the CSV with {what}') from error
    missing = [column for column in columns if column not in header]
    if missing:
        raise UserError(
            f'{path}: no column {", ".join(missing)} (found {", ".join(header) or "nothing"}); '
            f'give the CSV with {what}'
        )
    refuse_twice(header, path)
    if not rows:
        raise UserError(f'{path}: a header and no rows; give the CSV with {what}')
    for row in rows:
        refuse_spare(row.cells, row.where)
        for column in columns:
            if not (row.cells[column] or '').strip():
                raise UserError(f'{row.where}: {column} is empty; fill it or leave the row out')
        yield row


def header(path: str | pathlib.Path) -> tuple[str, ...]:
    """The cells of a CSV's first line; UserError where the file cannot be read."""
    path = pathlib.Path(path)
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            return tuple(cell.strip() for cell in next(csv.reader(file), ()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f'{path}: cannot be read ({error}); give a CSV of annotated images'
        ) from error
