"""RSNA's test labels in whole months are known for what they are, in every table."""

import pytest

from tfds_rsna import labels
from tfds_rsna.problems import DataError, Problems
from tfds_rsna.whole_month_labels import has_wrong_labels


@pytest.mark.parametrize(
    'months, wrong',
    [
        ({'4360': 164.0, '4361': 25.0}, True),
        ({'4360.png': 164.0}, True),
        ({'test/4360.png': 164.0, '1377': 180.0}, True),
        ({str(i): float(i % 200) for i in range(4361, 4400)}, True),
        ({'4360': 168.93, '4361': 24.5}, False),
        ({str(i): i % 200 + 0.5 for i in range(4361, 4400)}, False),
        ({'4361': 25.0, '4362': 30.0}, False),
        ({'4360': 164.0, '1': 30.0}, False),  # no table of RSNA's: it has other ids
        ({'4360': 164.0, 'a': 30.0}, False),
        ({}, False),
    ],
)
def test_what_they_are_known_by(months, wrong):
    assert has_wrong_labels(months) is wrong


@pytest.mark.parametrize('header', ['id,boneage,male', 'name,boneage,male,id'])
@pytest.mark.parametrize('per_year, age', [(1, '164'), (12, '13.667')])
def test_every_table_is_asked(header, per_year, age):
    image = 'id' if header.startswith('name') else None
    cells = {'id': '4360', 'name': 'a', 'boneage': age, 'male': 'M'}
    rows = [{column: cells[column] for column in header.split(',')}]
    columns = labels.Columns(
        header.split(',')[0], 'boneage', 'male', image=image, per_year=per_year
    )
    with pytest.raises(DataError, match='t.csv: these are not the official test labels'):
        labels.parse(rows, columns, 't.csv', Problems('skip'))
