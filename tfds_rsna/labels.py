"""Label tables: rows of text -> checked (id, months, male)."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from tfds_rsna import sexes, whole_month_labels
from tfds_rsna.columns import (
    Columns,
    find_columns,
    girls_column,
    has_two_units,
    other_unit,
    unit_column,
    unit_in,
    unit_of,
)
from tfds_rsna.problems import DataError, Problems, duplicates
from tfds_rsna.table_files import read_table

__all__ = [
    'MONTHS',
    'Columns',
    'Label',
    'check_unit',
    'doubtful_groups',
    'find_columns',
    'parse',
    'read_table',
]

MONTHS = (0.0, 240.0)
_WITH_NOUGHT = re.compile(r'\d+\.0+')  # 101.0: a number that a program took for a measurement
_WHOLE = re.compile(r'\d+(\.0+)?')
_YEARS_BELOW = 25.0  # no set of images in months ends below that, unless it is of toddlers
_YEARS = 20.0  # ages of children in years are not above
_SOME = 5  # so many ages tell their unit
_NEARLY_ALL = 0.9
_MANY = 0.25  # of a set of children; of RSNA's 0.6% are 20 months or younger


@dataclasses.dataclass(frozen=True)
class Label:
    """One row of a label table.

    Attributes:
        id: the image's.
        months: its age; None where a table need not have it (`parse`).
        male: its sex; None likewise.
        image: the image's name, where the table gives one.
        group: the patient (or study) it belongs to, '' where unknown.
        source: where it comes from (a hospital), None without such a column.
    """

    id: str
    months: float | None
    male: bool | None
    image: str | None = None
    group: str = ''
    source: str | None = None


def parse(
    rows: list[dict[str, str]],
    columns: Columns,
    name: str,
    problems: Problems,
    *,
    partial: bool = False,
    male: bool | None = None,
) -> list[Label]:
    """Checks the rows of a table.

    Args:
        rows: from `read_table`.
        columns: the names of the columns.
        name: the table's file, for messages.
        problems: takes rows without an id, ids that occur more than once (all of them are dropped:
            nothing says which is right), ages that are no numbers or outside `MONTHS`, and sexes
            that cannot be told. A row of units below the header is none.
        partial: a row may lack its age or its sex, which is None then. One that cannot be read is
            a problem and None, too; otherwise such a row is dropped.
        male: the sex of the rows whose sex is empty, and of all where there is no such column.

    Returns:
        The good rows in the table's order. Ids that are numbers as 101.0 come as 101.

    Raises:
        DataError: a column is missing (the message lists those that are there), the sexes cannot
            be told (`sexes.meanings`), a row says otherwise what its letters mean or is the title
            of others, the header has a second row, or the ages are the wrong labels of RSNA's test
            images.
    """
    missing = [column for column in columns.named.values() if column not in rows[0]]
    if missing:
        raise DataError(
            f'{name}: no column {", ".join(map(repr, missing))}; it has '
            f'{", ".join(map(repr, rows[0]))}. Name the columns that are meant: '
            'data.image_folder.id_column=..., and so on with months_column, male_column, '
            'image_column, group_column and source_column; of a table of one sex without such a '
            'column, data.image_folder.sex=male or female'
        )
    twice = duplicates(filter(None, (columns.id, columns.months, columns.male)))
    if twice:
        raise DataError(
            f'{name}: {", ".join(map(repr, sorted(twice)))} is named for two of id, age and sex; '
            'each has a column of its own'
        )
    _refuse_second_header(rows[0], columns, name)
    _refuse_sections(rows, columns, name)
    told = {}
    if columns.male:
        values = (row[columns.male] for row in rows)
        told = sexes.meanings(columns.male, values, name, _legend(rows, columns))
    girls = girls_column(rows[0], columns.male)
    ids = _ids([row[columns.id] for row in rows])
    twice = duplicates(filter(None, ids))
    labels = []
    for line, (row, image) in enumerate(zip(rows, ids), start=2):
        if row is rows[0] and _row_unit(row, columns):
            continue
        if not image:
            problems.add('row without an id', '', name, f'row {line}')
            continue
        if image in twice:
            problems.add('id that occurs more than once', image, name, f'row {line}')
            continue
        months, bad_age = _age(row, columns, partial)
        sex, bad_sex = _sex(row, columns, told, male, partial)
        if sex is not None and girls and _answer(row[girls]) is sex:
            both = f'{row[columns.male]!r} in {columns.male!r} and {row[girls]!r} in {girls!r}'
            bad_sex = ('sex that cannot be told', both)
            sex = None
        bad = [found for found in (bad_age, bad_sex) if found]
        for kind, reason in bad if partial else bad[:1]:
            problems.add(kind, image, name, reason)
        if partial or not bad:
            labels.append(_label(row, image, columns, months, sex))
    _refuse_wrong_labels(labels, name)
    return labels


def _row_unit(row: dict[str, str], columns: Columns) -> str | None:
    """The unit that a row of units below the header gives the ages, None of any other row."""
    return unit_in(row[columns.months]) if columns.months else None


def _refuse_second_header(row: dict[str, str], columns: Columns, name: str) -> None:
    """DataError for a first row that has words in place of an age, and no id."""
    text = row[columns.months] if columns.months else ''
    if row[columns.id] or not re.search(r'[^\W\d_]', text) or _row_unit(row, columns):
        return
    shown = ', '.join(map(repr, filter(None, row.values())))
    raise DataError(
        f'{name}: below the header stands no row but {shown}: a second row of the header? Give '
        'each column one name, in the first row'
    )


def _refuse_sections(rows: list[dict[str, str]], columns: Columns, name: str) -> None:
    """DataError where a row says no more than the sex of all rows below it."""
    for row in rows:
        filled = list(filter(None, row.values()))
        if (
            len(filled) == 1
            and sexes.is_word(filled[0])
            and not (columns.male and row[columns.male])
        ):
            raise DataError(
                f'{name}: a row holds {filled[0]!r} alone, as a title of the rows below it. Give '
                'the sex of each image in its own row'
            )


def _legend(rows: list[dict[str, str]], columns: Columns) -> list[str]:
    """The texts that may say what the codes of the sexes mean: remarks below or above the rows."""
    texts = []
    for row in rows:
        if not row[columns.male]:
            texts += filter(None, row.values())
        elif not row[columns.id]:
            texts.append(row[columns.male])
    return texts


def _answer(text: str) -> bool | None:
    """What a cell of yes or no says, None of any other."""
    value = sexes.normal(text)
    if value in ('1', 'true', 'yes', 'y', 'x'):
        return True
    return False if value in ('0', 'false', 'no', 'n', '') else None


def _ids(cells: list[str]) -> list[str]:
    """The ids; where all are whole numbers, 101.0 is 101."""
    given = list(filter(None, cells))
    if all(map(_WHOLE.fullmatch, given)) and any(map(_WITH_NOUGHT.fullmatch, given)):
        return [cell.split('.')[0] for cell in cells]
    return cells


def _age(
    row: dict[str, str], columns: Columns, partial: bool
) -> tuple[float | None, tuple[str, str] | None]:
    """The age in months and None, or None and (kind, reason) of what is wrong with it."""
    text = row[columns.months] if columns.months else ''
    if partial and not text:
        return None, None
    months = _months(text, columns.per_year)
    if months is None and text.startswith('='):
        advice = 'a formula without its value; open the table in a spreadsheet and save it'
        return None, ('age that is no number', f'{text!r}, {advice}')
    if months is None:
        return None, ('age that is no number', f'{text!r}')
    if not MONTHS[0] <= months <= MONTHS[1]:
        reason = f'{months:g} months'
        if columns.per_year != 1:
            reason += f' ({text} years; if these are months: data.image_folder.age_unit=months)'
        return None, (f'age outside {MONTHS[0]:g} to {MONTHS[1]:g} months', reason)
    return months, None


def _sex(
    row: dict[str, str],
    columns: Columns,
    told: dict[str, bool],
    given: bool | None,
    partial: bool,
) -> tuple[bool | None, tuple[str, str] | None]:
    """The sex and None, or None and (kind, reason) of what is wrong with it."""
    text = row[columns.male] if columns.male else ''
    if not text and (partial or given is not None):
        return given, None
    value = sexes.normal(text)
    if value in told:
        return told[value], None
    advice = 'say M or F, male or female, True (male) or False'
    return None, ('sex that cannot be told', f'{text!r}; {advice}')


def _months(text: str, per_year: int) -> float | None:
    try:
        value = float(text) * per_year
    except ValueError:
        return None
    if '_' in text:  # Python's own way to group digits, and nobody else's
        return None
    return value if math.isfinite(value) else None


def _label(
    row: dict[str, str], image: str, columns: Columns, months: float | None, male: bool | None
) -> Label:
    return Label(
        id=image,
        months=months,
        male=male,
        image=row[columns.image] if columns.image else None,
        group=row[columns.group] if columns.group else '',
        source=row[columns.source] if columns.source else None,
    )


def _refuse_wrong_labels(labels: list[Label], name: str) -> None:
    aged = [label for label in labels if label.months is not None]
    whole_month_labels.refuse({label.id: label.months for label in aged}, name)
    by_image = {label.image: label.months for label in aged if label.image}
    if by_image:
        whole_month_labels.refuse(by_image, name)


def doubtful_groups(labels: Sequence[Label]) -> list[str]:
    """A line on the patients that have images of both sexes, if any do."""
    found: dict[str, set[bool | None]] = {}
    for label in labels:
        found.setdefault(label.group, set()).add(label.male)
    odd = [group for group, male in found.items() if group and len(male - {None}) > 1]
    if not odd:
        return []
    more = ', ...' if len(odd) > _SOME else ''
    return [
        f'{len(odd):,} patients have images of boys and of girls: {", ".join(odd[:_SOME])}{more}'
    ]


def check_unit(
    labels: list[Label], columns: Columns, name: str, rows: Sequence[Mapping[str, str]] = ()
) -> list[str]:
    """Refuses ages in another unit than they are read in, as far as that can be seen.

    A header that says its unit is believed; so are, in `rows`, a row of units below the header and
    a column of units.

    Returns:
        A line where ages look like years and are read as months all the same: few of them, or
        among others that do not.

    Raises:
        DataError: the table says another unit, or several; or the ages are called months and look
            like years:
            no age reaches 25 and some have fractions, or of five and more nine in ten are 20 or
            below.
    """
    if not columns.months:
        return []
    read_as = 'months' if columns.per_year == 1 else 'years'
    _refuse_two_columns(columns, name, rows)
    _refuse_unnamed(columns, name, rows)
    stated = ''
    for where, unit in _stated_units(columns, name, rows):
        if unit != read_as:
            raise DataError(
                f'{name}: {where} says that its ages are in {unit}, and they would be read as '
                f'{read_as}. {_unit_advice(unit)}'
            )
        stated = unit
    ages = [label.months for label in labels if label.months is not None]
    if stated or read_as == 'years' or not ages:
        return []

    young = sum(age <= _YEARS for age in ages)
    fractions = any(not age.is_integer() for age in ages)
    seen = f'{young} of {len(ages)} ages in column {columns.months!r} are {_YEARS:g} or below'
    advice = (
        'If they are years: data.image_folder.age_unit=years. If they are months: say so in the '
        'header (age_months, and data.image_folder.months_column=age_months)'
    )
    nearly_all = len(ages) >= _SOME and young >= _NEARLY_ALL * len(ages)
    if nearly_all or (fractions and max(ages) < _YEARS_BELOW):
        raise DataError(
            f'{name}: {seen}, so these look like years, and they would be read as months. {advice}'
        )
    if young >= _MANY * len(ages):
        return [f'{seen} and look like years; they are read as months. {advice}']
    return []


def _refuse_two_columns(columns: Columns, name: str, rows: Sequence[Mapping[str, str]]) -> None:
    """DataError where the age is years and months together, in one column or in two."""
    advice = 'Give it in one column, in months or in years'
    if has_two_units(columns.months):
        raise DataError(
            f'{name}: column {columns.months!r} says that an age is years and months together, '
            f'which no number tells. {advice}'
        )
    pair = other_unit(rows[0], columns.months) if rows else None
    if pair is None:
        return
    ages = [[_months(row[column], 1) for column in pair] for row in rows]
    known = [(years, months) for years, months in ages if None not in (years, months)]
    differ = any(years >= 1 and abs(12 * years - months) > 1 for years, months in known)
    if differ and all(months < 12 for _, months in known):
        raise DataError(
            f'{name}: an age is in two columns together, {pair[0]!r} and {pair[1]!r} (of which all '
            f'are below 12). {advice}'
        )


def _refuse_unnamed(columns: Columns, name: str, rows: Sequence[Mapping[str, str]]) -> None:
    """DataError where a column without a name holds ages too, right behind that of the ages."""
    header = list(rows[0]) if rows else []
    if '' not in header or header.index('') != header.index(columns.months) + 1:
        return
    numbers = [_months(row[''], columns.per_year) for row in rows]
    ages = [number for number in numbers if number is not None and 0 < number <= MONTHS[1]]
    if 2 * len(ages) > len(rows):
        raise DataError(
            f'{name}: behind column {columns.months!r} is one without a name that holds ages too '
            f'({ages[0]:g}, ...): is the name that of both? Give each column its own'
        )


def _stated_units(
    columns: Columns, name: str, rows: Sequence[Mapping[str, str]]
) -> Iterator[tuple[str, str]]:
    """(where, unit) of each place that says in which unit ages are."""
    unit = unit_of(columns.months)
    if unit:
        yield f'column {columns.months!r}', unit
    if rows and (unit := unit_in(rows[0][columns.months])):
        yield f'column {columns.months!r}, in the row below the header,', unit
    column = unit_column(rows[0]) if rows else None
    if column is None or column in columns.named.values():
        return
    cells = {row[column] for row in rows if row[column] and row[columns.months]}
    found = {cell: unit_in(cell) for cell in cells}
    known = set(filter(None, found.values()))
    unknown = sorted(cell for cell, unit in found.items() if not unit)
    if not known or (unknown and all(len(cell) == 1 for cell in cells)):
        return  # the wards of a hospital are units too
    if len(known) > 1 or unknown:
        raise DataError(
            f'{name}: column {column!r} has {", ".join(sorted(cells))}: ages of several units '
            'cannot be read. Give them all in months, or all in years'
        )
    yield f'column {column!r}', known.pop()


def _unit_advice(unit: str) -> str:
    if unit in ('months', 'years'):
        return f'Say so: data.image_folder.age_unit={unit}'
    return 'Give them in months or years'
