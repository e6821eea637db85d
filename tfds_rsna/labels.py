"""Label tables: CSV or xlsx -> checked (id, months, male)."""

import csv
import dataclasses
import io
import math
import re
import zipfile
from collections.abc import Iterable

from tfds_rsna.problems import DataError, Problems, duplicates

MONTHS = (0.0, 240.0)
# Headers that are understood where no column is named, in lower case: RSNA's, Kaggle's and common
# ones, the likeliest first.
HEADERS = {
    'id': (
        'id',
        'image id',
        'case id',
        'caseid',
        'image_id',
        'case_id',
        'study',
        'image',
        'file',
    ),
    'months': (
        'boneage',
        'bone age (months)',
        'ground truth bone age (months)',
        'bone age',
        'boneage_months',
        'age_months',
        'months',
        'age',
    ),
    'male': ('male', 'sex', 'gender'),
}
MALE = {
    'true': True,
    '1': True,
    '1.0': True,
    'm': True,
    'male': True,
    'boy': True,
    'yes': True,
    't': True,
    'false': False,
    '0': False,
    '0.0': False,
    'f': False,
    'female': False,
    'girl': False,
    'no': False,
    'w': False,
}
# These are answers to the column's header, so the header must ask for boys.
_ANSWERS = {'true', '1', '1.0', 'yes', 't', 'false', '0', '0.0', 'no'}
_ASKS_FOR_BOYS = re.compile(r'(?<!fe)male|boy|masc|männ|(?<![a-z])m(an)?(?![a-z])', re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r'^\s*-?\d+,\d+\s*$')
_YEARS_BELOW = 25.0  # no set of images in months ends below that, unless it is of toddlers
_MANY = 20


@dataclasses.dataclass(frozen=True)
class Label:
    """One row of a label table.

    Attributes:
        id: the image's.
        months: its age.
        male: its sex.
        image: the image's name, where the table gives one.
        group: the patient (or study) it belongs to, '' where unknown.
        source: where it comes from (a hospital), None without such a column.
    """

    id: str
    months: float
    male: bool
    image: str | None = None
    group: str = ''
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns hold what; `per_year` is 12 where ages are in years, 1 where in months."""

    id: str
    months: str
    male: str
    image: str | None = None
    group: str | None = None
    source: str | None = None
    per_year: int = 1


def find_columns(header: Iterable[str]) -> dict[str, str | None]:
    """The columns that hold `id`, `months` and `male` by their headers; None for one not found."""
    by_lower = {column.lower(): column for column in header}
    return {key: _first_known(names, by_lower) for key, names in HEADERS.items()}


def _first_known(names: tuple[str, ...], by_lower: dict[str, str]) -> str | None:
    for name in names:
        if name in by_lower:
            return by_lower[name]
    return None


def read_table(data: bytes, name: str) -> list[dict[str, str]]:
    """Rows of a CSV or of an xlsx's first sheet, all as text.

    A CSV may use commas, semicolons or tabs, and UTF-8 or Latin-1.

    Raises:
        DataError: empty, without rows, or not such a file.
    """
    if not data:
        raise DataError(f'{name}: zero bytes; a label table is needed')
    read = _read_xlsx if data[:4] == b'PK\x03\x04' else _read_csv
    rows = [row for row in read(data, name) if any(cell.strip() for cell in row)]
    if len(rows) < 2:
        raise DataError(f'{name}: no rows below the header')
    header = [cell.strip() for cell in rows[0]]
    twice = duplicates(filter(None, header))
    if twice:
        raise DataError(f'{name}: column {", ".join(sorted(twice))} occurs twice')
    table = []
    for row in rows[1:]:
        cells = [cell.strip() for cell in row]
        cells += [''] * (len(header) - len(cells))
        table.append(dict(zip(header, cells)))
    return table


def _read_csv(data: bytes, name: str) -> list[list[str]]:
    if b'\0' in data[:4096]:
        raise DataError(f'{name}: not a text file; labels are read from CSV or xlsx')
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError:
        text = data.decode('latin-1')
    header = text.split('\n', 1)[0]
    delimiter = max(',;\t', key=header.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=''), delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f'{name}: not a readable CSV ({error})') from error
    # Where semicolons part the columns, the comma is the decimal mark (the spreadsheets of half of
    # Europe).
    if delimiter == ';':
        return [list(map(_decimal_point, row)) for row in rows]
    return rows


def _decimal_point(cell: str) -> str:
    return cell.replace(',', '.') if _DECIMAL_COMMA.match(cell) else cell


def _read_xlsx(data: bytes, name: str) -> list[list[str]]:
    import openpyxl  # a second to import, and only RSNA's test labels need it

    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise DataError(f'{name}: not a readable xlsx ({error})') from error
    rows = [list(map(_text, row)) for row in book.worksheets[0].iter_rows(values_only=True)]
    book.close()
    return rows


def _text(cell) -> str:
    if cell is None:
        return ''
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


def parse(
    rows: list[dict[str, str]], columns: Columns, name: str, problems: Problems
) -> list[Label]:
    """Checks the rows of a table.

    Args:
        rows: from `read_table`.
        columns: the names of the columns.
        name: the table's file, for messages.
        problems: takes rows without an id, ids that occur more than once (all of them are dropped:
            nothing says which is right), ages that are no numbers or outside `MONTHS`, and sexes
            that cannot be told.

    Returns:
        The good rows in the table's order.

    Raises:
        DataError: a column is missing (the message lists those that are there), or sexes are given
            as answers (0 and 1, yes and no) under a header that does not ask for boys.
    """
    optional = filter(None, (columns.image, columns.group, columns.source))
    wanted = [columns.id, columns.months, columns.male, *optional]
    missing = [column for column in wanted if column not in rows[0]]
    if missing:
        raise DataError(
            f'{name}: no column {", ".join(map(repr, missing))}; it has '
            f'{", ".join(map(repr, rows[0]))}. Name the columns that are meant: '
            'data.image_folder.id_column=..., and so on with months_column, male_column, '
            'image_column, group_column and source_column'
        )
    _check_sexes(rows, columns.male, name)
    twice = duplicates(filter(None, (row[columns.id] for row in rows)))
    labels = []
    for line, row in enumerate(rows, start=2):
        problem = _find_problem(row, columns, twice, line)
        if problem:
            kind, reason = problem
            problems.add(kind, row[columns.id], name, reason)
        else:
            labels.append(_label(row, columns))
    return labels


def _find_problem(
    row: dict[str, str], columns: Columns, twice: set[str], line: int
) -> tuple[str, str] | None:
    """(kind, reason) of the first thing that is wrong with a row, or None."""
    if not row[columns.id]:
        return 'row without an id', f'row {line}'
    if row[columns.id] in twice:
        return 'id that occurs more than once', f'row {line}'
    months = _months(row[columns.months], columns.per_year)
    if months is None:
        return 'age that is no number', f'{row[columns.months]!r}'
    if not MONTHS[0] <= months <= MONTHS[1]:
        return f'age outside {MONTHS[0]:g} to {MONTHS[1]:g} months', f'{months:g} months'
    if row[columns.male].lower() not in MALE:
        return (
            'sex that cannot be told',
            f'{row[columns.male]!r}; say M or F, male or female, True (male) or False',
        )
    return None


def _label(row: dict[str, str], columns: Columns) -> Label:
    """The label of a row without problems."""
    return Label(
        id=row[columns.id],
        months=_months(row[columns.months], columns.per_year),
        male=MALE[row[columns.male].lower()],
        image=row[columns.image] if columns.image else None,
        group=row[columns.group] if columns.group else '',
        source=row[columns.source] if columns.source else None,
    )


def check_unit(labels: list[Label], columns: Columns, name: str) -> None:
    """Refuses ages called months that look like years; a header that says months is believed.

    Raises:
        DataError: no age reaches 25, and some have fractions, or 20 and more labels end at 20.
    """
    if columns.per_year != 1 or not labels or 'month' in columns.months.lower():
        return
    oldest = max(label.months for label in labels)
    fractions = any(not label.months.is_integer() for label in labels)
    if oldest < _YEARS_BELOW and (fractions or (len(labels) >= _MANY and oldest <= 20)):
        raise DataError(
            f'{name}: no age in column {columns.months!r} is above {oldest:g}, so these look like '
            'years, and they would be read as months. If they are years: '
            'data.image_folder.age_unit=years. If they are months: say so in the header '
            '(age_months, and data.image_folder.months_column=age_months)'
        )


def _check_sexes(rows: list[dict[str, str]], column: str, name: str) -> None:
    answers = sorted({row[column].lower() for row in rows} & _ANSWERS)
    if answers and not _ASKS_FOR_BOYS.search(column):
        raise DataError(
            f'{name}: column {column!r} holds {" and ".join(answers[:3])}, which does not say who '
            'is male. Write male and female (or M and F), or name the column by its meaning: '
            "'male', where the boys have 1 (and data.image_folder.male_column=male)"
        )


def _months(text: str, per_year: int) -> float | None:
    try:
        value = float(text) * per_year
    except ValueError:
        return None
    return value if math.isfinite(value) else None
