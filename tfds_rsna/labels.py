"""Label tables: rows of text -> checked (id, months, male)."""

import dataclasses
import math
import re

from tfds_rsna import sexes, whole_month_labels
from tfds_rsna.columns import Columns, find_columns, unit_of
from tfds_rsna.problems import DataError, Problems, duplicates
from tfds_rsna.table_files import read_table

__all__ = ['MONTHS', 'Columns', 'Label', 'check_unit', 'find_columns', 'parse', 'read_table']

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
            that cannot be told.
        partial: a row may lack its age or its sex, which is None then. One that cannot be read is
            a problem and None, too; otherwise such a row is dropped.
        male: the sex of the rows whose sex is empty, and of all where there is no such column.

    Returns:
        The good rows in the table's order. Ids that are numbers as 101.0 come as 101.

    Raises:
        DataError: a column is missing (the message lists those that are there), the sexes cannot
            be told (`sexes.meanings`), or the ages are the wrong labels of RSNA's test images.
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
    told = {}
    if columns.male:
        told = sexes.meanings(columns.male, (row[columns.male] for row in rows), name)
    ids = _ids([row[columns.id] for row in rows])
    twice = duplicates(filter(None, ids))
    labels = []
    for line, (row, image) in enumerate(zip(rows, ids), start=2):
        if not image:
            problems.add('row without an id', '', name, f'row {line}')
            continue
        if image in twice:
            problems.add('id that occurs more than once', image, name, f'row {line}')
            continue
        months, bad_age = _age(row, columns, partial)
        sex, bad_sex = _sex(row, columns, told, male, partial)
        bad = [found for found in (bad_age, bad_sex) if found]
        for kind, reason in bad if partial else bad[:1]:
            problems.add(kind, image, name, reason)
        if partial or not bad:
            labels.append(_label(row, image, columns, months, sex))
    _refuse_wrong_labels(labels, name)
    return labels


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


def check_unit(labels: list[Label], columns: Columns, name: str) -> list[str]:
    """Refuses ages in another unit than they are read in, as far as that can be seen.

    A header that says its unit is believed.

    Returns:
        A line where ages look like years and are read as months all the same: few of them, or
        among others that do not.

    Raises:
        DataError: the header says another unit; or the ages are called months and look like years:
            no age reaches 25 and some have fractions, or of five and more nine in ten are 20 or
            below.
    """
    if not columns.months:
        return []
    read_as = 'months' if columns.per_year == 1 else 'years'
    stated = unit_of(columns.months)
    if stated and stated != read_as:
        raise DataError(
            f'{name}: column {columns.months!r} says that its ages are in {stated}, and they would '
            f'be read as {read_as}. {_unit_advice(stated)}'
        )
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


def _unit_advice(unit: str) -> str:
    if unit in ('months', 'years'):
        return f'Say so: data.image_folder.age_unit={unit}'
    return 'Give them in months or years'
