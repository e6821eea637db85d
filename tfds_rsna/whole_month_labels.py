"""The wrong labels of RSNA's test images that circulate: whole months, not the raters' means."""

import re
from collections.abc import Mapping

from tfds_rsna.problems import DataError

_TEST_IDS = range(4360, 4560)
_IDS = range(1377, 15_613)  # of all images of the challenge
_TELLING = ('4360', 164.0)  # the official file has 168.93
_MANY = 20  # so many test images never have whole months by chance


def has_wrong_labels(months: Mapping[str, float]) -> bool:
    """Whether `{id: age in months}` are the whole months that circulate as RSNA's test labels.

    Only tables of RSNA's ids are judged.
    """
    numbers = {_number(name): age for name, age in months.items()}
    if None in numbers or not all(number in _IDS for number in numbers):
        return False
    test = {number: age for number, age in numbers.items() if number in _TEST_IDS}
    if abs(test.get(int(_TELLING[0]), 0.0) - _TELLING[1]) < 0.05:
        return True
    return len(test) >= _MANY and all(float(age).is_integer() for age in test.values())


def refuse(months: Mapping[str, float], table: str) -> None:
    """DataError where `{id: age in months}` of a table are these labels."""
    if has_wrong_labels(months):
        raise wrong(table)


def wrong(table: str) -> DataError:
    """What to say of a table with these labels."""
    return DataError(
        f'{table}: these are not the official test labels. This file holds whole months (4360 -> '
        '164) and differs from the official ground truth by 2.78 months on average, so every score '
        "on it would be wrong. Take 'Bone age ground truth.xlsx' (4360 -> 168.93) from the "
        'official Bone+Age+Test+Set.zip'
    )


def _number(name: str) -> int | None:
    """The number that an id is: '4360', '4360.0', '4360.png', 'test/4360.png'."""
    found = re.fullmatch(r'(?:.*[/\\])?0*(\d{1,9})(?:\.\w+)?', name)
    return int(found[1]) if found else None
