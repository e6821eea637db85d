"""Which column is the label: the bone age before any other age, and nothing guessed."""

import pytest

from tfds_rsna import columns as columns_lib
from tfds_rsna.columns import Columns, find_columns
from tfds_rsna.problems import DataError


@pytest.mark.parametrize(
    'header, months',
    [
        ('id,sex,age,bone_age', 'bone_age'),
        ('image_ID,dir,patient_ID,sex,bone_age', 'bone_age'),
        ('id,BoneAge,male', 'BoneAge'),
        ('id,chronological_age,Bone Age (months)', 'Bone Age (months)'),
        ('id,boneage,boneage_predicted', 'boneage'),
        ('id,boneage,bone age (months)', 'bone age (months)'),
        ('id,age', 'age'),
        ('id,age_months,sex', 'age_months'),
        ('id,Knochenalter (Monate)', 'Knochenalter (Monate)'),
        ('id,chronological_age', None),
        ('id,patient age', None),
        ('id,sex', None),
        ('id,bone_age_sd', None),
        ('id,BA SDS', None),
        ('id,bone age advance (months)', None),
        ('id,bone age difference,age', 'age'),
        ('id,BoneAge_predicted', None),
        ('id,BA', 'BA'),
        ('id,骨龄（月）', '骨龄（月）'),
        ('id,Костный возраст', 'Костный возраст'),
        ('id,idade óssea em meses', 'idade óssea em meses'),
        ('id,age,age_unit', 'age'),
        ('id,age,reader,read_date', 'age'),
    ],
)
def test_the_age_is_the_bone_age(header, months):
    assert find_columns(header.split(','))['months'] == months


@pytest.mark.parametrize(
    'header, key, words',
    [
        ('id,bone_age,boneage', 'months', "'bone_age' and 'boneage' could each be the bone age"),
        ('id,bone_age_reader1,bone_age_reader2', 'months', 'could each be the bone age'),
        ('id,age,chronological_age', 'months', "'age' and 'chronological_age'"),
        ('id,age,BA', 'months', "'age' and 'BA'"),
        ('id,age,reader1', 'months', "'age' and 'reader1'"),
        ('id,age,consensus', 'months', "'age' and 'consensus'"),
        ('id,age,luustoikä', 'months', "'age' and 'luustoikä'"),
        ('id,age,골연령', 'months', "'age' and '골연령'"),
        ('id,sex,male', 'male', "'sex' and 'male' could each be the sex"),
    ],
)
def test_two_that_could_be_it_are_refused_unless_one_is_named(header, key, words):
    header = header.split(',')
    with pytest.raises(DataError, match=f't.csv: .*{words}.*{key}_column'):
        find_columns(header, 't.csv')
    assert find_columns(header, 't.csv', {key: header[1]})[key] == header[1]


def test_the_sex_may_have_a_note_and_other_names():
    assert find_columns(['Study ID', 'sex (0=male, 1=female)'])['male'] == 'sex (0=male, 1=female)'
    assert find_columns(['Image ID', 'Geschlecht']) == {
        'id': 'Image ID',
        'months': None,
        'male': 'Geschlecht',
    }


@pytest.mark.parametrize(
    'header, unit',
    [
        ('age_years', 'years'),
        ('ageYears', 'years'),
        ('edad (años)', 'years'),
        ('boneage (months)', 'months'),
        ('Alter in Monaten', 'months'),
        ('age_days', 'days'),
        ('bone age wks', 'days'),
        ('bone age (d)', 'days'),
        ('Knochenalter (Wochen)', 'days'),
        ('Knochenalter (J)', 'years'),
        ('wiek kostny [rok]', 'years'),
        ('골연령(개월)', 'months'),
        ('骨年齢(年)', 'years'),
        ('骨年齢', None),
        ('bone age (L)', None),
        ('boneage', None),
        ('mayor', None),
    ],
)
def test_a_header_may_say_its_unit(header, unit):
    assert columns_lib.unit_of(header) == unit


def test_what_was_taken_is_said():
    text = columns_lib.describe(Columns('study', None, 'sex', image='file'))
    assert text == (
        "'study' for the id, 'sex' for the sex, 'file' for the file; no column for the age in "
        'months'
    )


def test_the_unit_stands_in_the_header():
    assert (
        columns_lib.unit_of('骨龄（岁）') == 'years' and columns_lib.unit_of('骨龄(月)') == 'months'
    )


@pytest.mark.parametrize(
    'cell, unit',
    [('months', 'months'), ('(Jahre)', 'years'), ('y', 'years'), ('in months', 'months')],
)
def test_a_cell_may_be_a_unit(cell, unit):
    assert columns_lib.unit_in(cell) == unit
    assert columns_lib.unit_in('M/F') is columns_lib.unit_in('12 months') is None
