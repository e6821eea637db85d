"""Label tables: CSV or xlsx -> checked (id, months, male)."""

import csv
import dataclasses
import io
import math
import re
import zipfile

from tfds_rsna.problems import DataError, Problems, duplicates

MONTHS = (0.0, 240.0)
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
# These answer the question in the column's header, so that must ask for boys.
_ANSWERS = {'true', '1', '1.0', 'yes', 't', 'false', '0', '0.0', 'no'}
_ASKS_FOR_BOYS = re.compile(r'(?<!fe)male|boy|masc|männ|(?<![a-z])m(an)?(?![a-z])', re.IGNORECASE)
_YEARS_BELOW = 25.0  # no set of images in months ends below that, unless it is of toddlers
_MANY = 20


@dataclasses.dataclass(frozen=True)
class Label:
    """One row: the image's id, its age in months, its sex, the image's name where the table gives
    one, the patient (or study) it belongs to, '' where nothing says so, and where it comes from (a
    hospital), None without such a column.
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


def read_table(data: bytes, name: str) -> list[dict[str, str]]:
    """Rows of a CSV (comma, semicolon or tab; UTF-8 or Latin-1) or of an xlsx's first sheet, all as
    text.

    Raises:
        DataError: empty, without rows, or not such a file.
    """
    if not data:
        raise DataError(f'{name}: zero bytes; a label table is needed')
    rows = _read_xlsx(data, name) if data[:4] == b'PK\x03\x04' else _read_csv(data, name)
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if len(rows) < 2:
        raise DataError(f'{name}: no rows below the header')
    header = [cell.strip() for cell in rows[0]]
    twice = duplicates(filter(None, header))
    if twice:
        raise DataError(f'{name}: column {", ".join(sorted(twice))} occurs twice')
    return [
        dict(zip(header, [cell.strip() for cell in row] + [''] * (len(header) - len(row))))
        for row in rows[1:]
    ]


def _read_csv(data: bytes, name: str) -> list[list[str]]:
    if b'\0' in data[:4096]:
        raise DataError(f'{name}: not a text file; labels are read from CSV or xlsx')
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError:
        text = data.decode('latin-1')
    header = text.split('\n', 1)[0]
    delimiter = max(',;\t', key=header.count)
    rows = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter)
    # Where semicolons part the columns, the comma is the decimal mark (the spreadsheets of half of
    # Europe).
    decimal = re.compile(r'^\s*-?\d+,\d+\s*$')
    try:
        return [
            [
                cell.replace(',', '.') if delimiter == ';' and decimal.match(cell) else cell
                for cell in row
            ]
            for row in rows
        ]
    except csv.Error as error:
        raise DataError(f'{name}: not a readable CSV ({error})') from error


def _read_xlsx(data: bytes, name: str) -> list[list[str]]:
    import openpyxl  # a second to import, and only RSNA's test labels need it

    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise DataError(f'{name}: not a readable xlsx ({error})') from error
    rows = [[_text(cell) for cell in row] for row in book.worksheets[0].iter_rows(values_only=True)]
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
        problems: takes rows without an id, ids that occur twice (all of them are dropped: nothing
            says which is right), ages that are no numbers or outside `MONTHS`, and sexes that
            cannot be told.

    Returns:
        The good rows in the table's order.

    Raises:
        DataError: a column is missing (the message lists those that are there), or sexes are given
            as answers (0 and 1, yes and no) under a header that does not ask for boys.
    """
    wanted = [
        columns.id,
        columns.months,
        columns.male,
        *filter(None, (columns.image, columns.group, columns.source)),
    ]
    missing = [column for column in wanted if column not in rows[0]]
    if missing:
        raise DataError(
            f'{name}: no column {", ".join(map(repr, missing))}; it has '
            f'{", ".join(map(repr, rows[0]))}. Name the columns that are meant: '
            'data.image_folder.id_column=..., and so on with months_column, male_column, image_column, '
            'group_column and source_column'
        )
    _check_sexes(rows, columns.male, name)
    twice = duplicates(filter(None, (row[columns.id] for row in rows)))
    labels = []
    for line, row in enumerate(rows, start=2):
        example = row[columns.id]
        if not example:
            problems.add('row without an id', '', name, f'row {line}')
        elif example in twice:
            problems.add('id that occurs more than once', example, name, f'row {line}')
        elif (months := _months(row[columns.months], columns.per_year)) is None:
            problems.add('age that is no number', example, name, f'{row[columns.months]!r}')
        elif not MONTHS[0] <= months <= MONTHS[1]:
            problems.add(
                f'age outside {MONTHS[0]:g} to {MONTHS[1]:g} months',
                example,
                name,
                f'{months:g} months',
            )
        elif (male := MALE.get(row[columns.male].lower())) is None:
            problems.add(
                'sex that cannot be told',
                example,
                name,
                f'{row[columns.male]!r}; say M or F, male or female, True (male) or False',
            )
        else:
            labels.append(
                Label(
                    example,
                    months,
                    male,
                    row[columns.image] if columns.image else None,
                    row[columns.group] if columns.group else '',
                    row[columns.source] if columns.source else None,
                )
            )
    return labels


def check_unit(labels: list[Label], columns: Columns, name: str) -> None:
    """DataError where ages called months look like years: none reaches 25, and some have fractions
    or 20 and more labels end at 20. A header that says months is believed.
    """
    if columns.per_year != 1 or not labels or 'month' in columns.months.lower():
        return
    oldest = max(label.months for label in labels)
    fractions = any(not label.months.is_integer() for label in labels)
    if oldest < _YEARS_BELOW and (fractions or (len(labels) >= _MANY and oldest <= 20)):
        raise DataError(
            f'{name}: no age in column {columns.months!r} is above {oldest:g}, so these look like years, '
            'and they would be read as months. If they are years: data.image_folder.age_unit=years. If '
            'they are months: say so in the header (age_months, and '
            'data.image_folder.months_column=age_months)'
        )


def _check_sexes(rows: list[dict[str, str]], column: str, name: str) -> None:
    answers = sorted({row[column].lower() for row in rows} & _ANSWERS)
    if answers and not _ASKS_FOR_BOYS.search(column):
        raise DataError(
            f'{name}: column {column!r} holds {" and ".join(answers[:3])}, which does not say who is male. '
            "Write male and female (or M and F), or name the column by its meaning: 'male', where the "
            'boys have 1 (and data.image_folder.male_column=male)'
        )


def _months(text: str, per_year: int) -> float | None:
    try:
        value = float(text) * per_year
    except ValueError:
        return None
    return value if math.isfinite(value) else None
