"""What a column of sexes means: as its header and its other values say, or refused."""

import pytest

from tfds_rsna import sexes
from tfds_rsna.problems import DataError


@pytest.mark.parametrize(
    'header, boy, girl',
    [
        ('sex (0=male, 1=female)', '0', '1'),
        ('sex (1=male, 0=female)', '1', '0'),
        ('sex_m0_f1', '0', '1'),
        ('male0_female1', '0', '1'),
        ('Gender: 1 boy, 2 girl', '1', '2'),
        ('Geschlecht (1=weiblich, 2=männlich)', '2', '1'),
        ('sexo (H=1, M=2)', '1', '2'),
        ('sex (1=F 0=M)', '0', '1'),
        ('male=0', '0', '1'),
        ('male', '1', '0'),
        ('isMale', 'TRUE', 'FALSE'),
        ('is_male_1', '1', '0'),
        ('male (1=yes, 0=no)', '1', '0'),
        ('Male?', 'ja', 'nein'),
        ('male', 'WAHR', 'FALSCH'),
        ('m', 't', 'f'),
        ('male', '1.0', '0.0'),
        ('sex', 'M', 'F'),
        ('sex', 'm', 'w'),
        ('sex', 'H', 'M'),
        ('Geschlecht', 'J', 'M'),
        ('sex (K=Knabe, M=Mädchen)', 'K', 'M'),
        ('sex', 'B', 'G'),
        ('sex', 'hombre', 'M'),
        ('sexe', 'garçon', 'fille'),
        ('sexe', 'garc\u0327on', 'fille'),
        ('sex', '男', '女'),
        ('sex', 'М', 'Ж'),
        ('пол (1=м, 2=ж)', '1', '2'),
        ('性别 1男2女', '1', '2'),
        ('性别', '男生', '女生'),
        ('sex', '1 - male', '2 - female'),
        ('sex', 'Male (M)', 'FEMALE (F)'),
        ('sex', '♂', '♀'),
        ('sex', 'Ｍ', 'Ｆ'),
        ('male', '１', '０'),
        ('male', '01', '+0'),
        ('male', "'1", "'0"),
        ('male', 'sim', 'não'),
        ('sexo', 'varon', 'MUJER'),
        ('płeć', 'mezczyzna', 'kobieta'),
        ('nem', 'férfi', 'nő'),
        ('cinsiyet', 'ERKEK', 'KADIN'),
        ('sex', 'XY', 'XX'),
    ],
)
def test_boys_and_girls_are_told_apart(header, boy, girl):
    told = sexes.meanings(header, [boy, girl, '', boy], 'ages.csv')
    assert told[sexes.normal(boy)] is True and told[sexes.normal(girl)] is False


@pytest.mark.parametrize(
    'header, values',
    [
        ('Male/Female', '01'),
        ('M_F', '01'),
        ('is_not_male', '01'),
        ('nonmale', '01'),
        ('male (0=yes, 1=no)', '01'),
        ('sex (0=male, 0=female)', '01'),
        ('sex', '12'),
        ('female', '01'),
        ('male_guardian', '01'),
        ('sexo', 'M'),
        ('sex', 'KM'),  # Knabe and Mädchen, or kvinna and man
        ('sex', 'VM'),  # varón and mujer, or vrouw and man
        ('sex', 'MFH'),
        ('sex', 'G'),
        ('sex', 'H'),  # hombre or hembra
        ('sex', ['mujer', 'M']),
        ('!male', '10'),
        ('~male', '10'),
        ('sex (0=male, 1=male)', '01'),
        ('sex', 'BM'),
    ],
)
def test_what_could_mean_either_is_refused(header, values):
    with pytest.raises(DataError, match='ages.csv: column .*(who is male|contradict)'):
        sexes.meanings(header, values, 'ages.csv')


def test_values_that_say_nothing_are_left_out():
    told = sexes.meanings('sex', ['M', 'F', '?', 'X', 'unknown', ''], 'ages.csv')
    assert told == {'m': True, 'f': False}
    assert sexes.meanings('sex', ['F', 'N'], 'ages.csv') == {'f': False}
    assert sexes.meanings('Geschlecht', ['M', 'W', 'D'], 'ages.csv') == {'m': True, 'w': False}


def test_a_legend_says_what_codes_mean():
    told = sexes.meanings('sex', ['1', '2'], 'ages.csv', ['1 = male, 2 = female', 'note: none'])
    assert told == {'1': True, '2': False}
    told = sexes.meanings('sex', ['M', 'F', ''], 'ages.csv', ['F = male; M = female (Mujer)'])
    assert told == {'m': False, 'f': True}
    told = sexes.meanings('sex', ['1', '2', '1=female', '2=male'], 'ages.csv')
    assert told['1'] is told['1=female'] is False and told['2'] is True
    with pytest.raises(DataError, match="'0: girl' contradicts what else the table says of 0"):
        sexes.meanings('sex (0=male, 1=female)', ['0', '1'], 'ages.csv', ['0: girl'])


def test_words_decide_what_letters_beside_them_mean():
    values = ['M', 'F', 'boy', 'girl', '\N{MALE SIGN}\ufe0f']
    told = sexes.meanings('sex', values, 'ages.csv')
    assert {value for value, male in told.items() if male} == {'m', 'boy', '\N{MALE SIGN}'}
