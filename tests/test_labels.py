"""Label tables are read whatever spreadsheet wrote them, and every kind of bad row is named."""

import io

import openpyxl
import pytest

from tfds_rsna import labels
from tfds_rsna.problems import DataError, Problems

COLUMNS = labels.Columns('id', 'boneage', 'male')


def parse(text, on_error='skip', columns=COLUMNS):
    problems = Problems(on_error)
    return labels.parse(
        labels.read_table(text.encode(), 'ages.csv'), columns, 'ages.csv', problems
    ), problems


@pytest.mark.parametrize(
    'text',
    [
        'id,boneage,male\n7,120.5,True\n',
        '\ufeffid;boneage;male\r\n7;120,5;True\r\n',
        'id\tboneage\tmale\n7\t120.5\tTrue',
        'male,id,extra,boneage\nTrue,7,"a, b",120.5\n\n',
        'id , boneage,male\n 7 , 120.5 ,True\n',
    ],
    ids=['plain', 'european-excel', 'tab', 'order-and-quotes', 'spaces'],
)
def test_any_spreadsheets_csv(text):
    rows, problems = parse(text)
    assert rows == [labels.Label('7', 120.5, True)] and not len(problems)


def test_columns_are_found_by_their_headers():
    found = labels.find_columns(['Name', 'Case ID', 'GENDER', 'Bone age'])
    assert found == {'id': 'Case ID', 'months': 'Bone age', 'male': 'GENDER'}
    assert labels.find_columns(['id', 'sex']) == {'id': 'id', 'months': None, 'male': 'sex'}


def test_latin1():
    data = 'id,boneage,male,name\n7,12,True,Müller\n'.encode('latin-1')
    assert labels.read_table(data, 'ages.csv')[0]['name'] == 'Müller'


def test_xlsx():
    book = openpyxl.Workbook()
    for row in (
        ['Case ID', 'Sex', 'Ground truth bone age (months)'],
        [4360, 'M', 168.9318],
        [4361.0, 'F', 12],
    ):
        book.active.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    rows = labels.read_table(buffer.getvalue(), 'truth.xlsx')
    columns = labels.Columns('Case ID', 'Ground truth bone age (months)', 'Sex')
    assert labels.parse(rows, columns, 'truth.xlsx', Problems('stop')) == [
        labels.Label('4360', 168.9318, True),
        labels.Label('4361', 12.0, False),
    ]


@pytest.mark.parametrize(
    'text, male',
    [
        ('True', True),
        ('true', True),
        ('1', True),
        ('M', True),
        ('m', True),
        ('Male', True),
        ('boy', True),
        ('False', False),
        ('0', False),
        ('F', False),
        ('female', False),
        ('GIRL', False),
    ],
)
def test_sexes(text, male):
    rows, _ = parse(f'id,boneage,male\n7,12,{text}\n')
    assert rows[0].male is male


def test_years():
    rows, _ = parse(
        'id,boneage,male\n7,10.5,M\n', columns=labels.Columns('id', 'boneage', 'male', per_year=12)
    )
    assert rows[0].months == 126.0


@pytest.mark.parametrize(
    'row, kind',
    [
        ('2,241,M', 'age outside 0 to 240 months'),
        ('2,-1,M', 'age outside'),
        ('2,ten,M', 'age that is no number'),
        ('2,,M', 'age that is no number'),
        ('2,nan,M', 'age that is no number'),
        ('2,inf,M', 'age that is no number'),
        ('2,1_0,M', 'age that is no number'),
        ('2,12,x', 'sex that cannot be told'),
        ('2,12', 'sex that cannot be told'),
        (',12,M', 'row without an id'),
        ('1,12,M', 'id that occurs more than once'),
    ],
)
def test_bad_rows_stop_or_are_skipped(row, kind):
    text = f'id,boneage,male\n1,10,M\n{row}\n3,30,F\n'
    rows, problems = parse(text)
    assert rows[-1] == labels.Label('3', 30.0, False)
    assert '2' not in [row.id for row in rows]
    assert kind in problems.lines()[0] and 'ages.csv' in problems.lines()[0]
    _, problems = parse(text, 'stop')
    with pytest.raises(DataError, match=kind):
        problems.raise_if_any()


def test_both_rows_of_a_double_id_are_dropped_and_counted():
    rows, problems = parse('id,boneage,male\n1,10,M\n1,90,M\n3,30,F\n')
    assert [row.id for row in rows] == ['3']
    assert problems.lines()[0].startswith(
        'id that occurs more than once: 2 (1 in ages.csv: row 2; 1 in ages.csv: row 3'
    )


def test_one_line_a_kind_with_the_first_few():
    text = 'id,boneage,male\n' + ''.join(f'{i},999,M\n' for i in range(40)) + 'a,1,?\n'
    _, problems = parse(text, 'stop')
    first, second = problems.lines()
    assert ': 40 (0 in ages.csv: 999 months; 1 in' in first and 'and 35 more' in first
    assert ': 1 (a in ages.csv' in second
    with pytest.raises(DataError, match='on_error=skip'):
        problems.raise_if_any()


def test_rejected_csv(tmp_path):
    _, problems = parse('id,boneage,male\n1,"99,9",M\n2,3,M\n')
    problems.write(tmp_path / 'rejected.csv')
    assert (tmp_path / 'rejected.csv').read_text().splitlines() == [
        'id,file,reason',
        '1,ages.csv,"age that is no number: \'99,9\'"',
    ]


@pytest.mark.parametrize(
    'data, found',
    [
        (b'', 'zero bytes'),
        (b'id,boneage,male\n', 'no rows'),
        (b'\x89PNG\0\0\n', 'not a text file'),
        (b'PK\x03\x04 cut', 'not a readable xlsx'),
        (b'id,male,id\n1,2,3\n', 'column id occurs twice'),
    ],
)
def test_bad_tables_are_named(data, found):
    with pytest.raises(DataError, match=found) as error:
        labels.read_table(data, 'ages.csv')
    assert str(error.value).startswith('ages.csv: ')


def test_missing_columns_list_those_there():
    with pytest.raises(DataError, match="no column 'boneage'; it has 'id', 'age', 'male'"):
        parse('id,age,male\n1,2,M\n')


def test_on_error_is_checked():
    with pytest.raises(ValueError, match='ignore'):
        Problems('ignore')


@pytest.mark.parametrize(
    'header, values, fine',
    [
        ('sex', '01', False),
        ('gender', ['True', 'False'], False),
        ('female', '01', False),
        ('woman', '1', False),
        ('sex', 'MF', True),
        ('gender', ['boy', 'girl'], True),
        ('female', 'MF', True),
        ('Male?', '01', True),
        ('is_male', ['yes', 'no'], True),
        ('boy', '10', True),
        ('human', '01', False),
        ('m', '01', True),
    ],
)
def test_answers_need_a_header_that_asks_for_boys(header, values, fine):
    text = f'id,boneage,{header}\n' + ''.join(
        f'{i},{i + 30},{value}\n' for i, value in enumerate(values)
    )
    columns = labels.Columns('id', 'boneage', header)
    if fine:
        assert len(parse(text, columns=columns)[0]) == len(values)
    else:
        with pytest.raises(DataError, match=f"column '{header}' holds .* does not say who is male"):
            parse(text, columns=columns)


@pytest.mark.parametrize(
    'months, per_year, header, fine',
    [
        ([3.5, 17], 1, 'boneage', False),
        ([3, 17], 1, 'boneage', True),
        ([*range(1, 21)], 1, 'boneage', False),
        ([*range(2, 42)], 1, 'boneage', True),
        ([*range(3, 10)], 1, 'boneage', False),
        ([*range(3, 18)] * 3 + [135], 1, 'age', False),
        ([36, 200], 12, 'boneage (months)', False),
        ([36, 200], 1, 'age_years', False),
        ([3650, 200], 1, 'age (days)', False),
        ([3.5, 26], 1, 'boneage', True),
        ([36.5, 200], 12, 'age', True),
        ([3.5, 17], 1, 'Age (Months)', True),
        ([], 1, 'boneage', True),
    ],
)
def test_years_called_months(months, per_year, header, fine):
    rows = [labels.Label(str(index), float(value), True) for index, value in enumerate(months)]
    columns = labels.Columns('id', header, 'male', per_year=per_year)
    if fine:
        labels.check_unit(rows, columns, 'ages.csv')
    else:
        with pytest.raises(DataError, match='age_unit=(years|months)|in days'):
            labels.check_unit(rows, columns, 'ages.csv')


YEARS = 'says that its ages are in years, and they would be read as months. .*age_unit=years'


@pytest.mark.parametrize(
    'text, found',
    [
        ('id,boneage,male\n,years,\n1,10,M\n', "'boneage', in the row below the header, " + YEARS),
        ('id,boneage,male\n-,(Jahre),-\n1,10,M\n', 'the row below the header, ' + YEARS),
        ('id,boneage,male,unit\n1,10,M,years\n2,9,F,y\n', "column 'unit' " + YEARS),
        ('id,boneage,male,Unit\n1,10,M,years\n2,90,F,months\n', 'ages of several units'),
        ('id,boneage,male,age_unit\n1,10,M,months\n2,90,F,moons\n', 'ages of several units'),
    ],
)
def test_a_unit_beside_the_ages_is_read(text, found):
    with pytest.raises(DataError, match=found):
        check(text)


def check(text):
    rows = labels.read_table(text.encode(), 'ages.csv')
    parsed = labels.parse(rows, COLUMNS, 'ages.csv', Problems('stop'))
    assert labels.check_unit(parsed, COLUMNS, 'ages.csv', rows) == []
    return [(label.id, label.months, label.male) for label in parsed]


def test_a_row_or_column_of_months_is_no_problem():
    rows = [('1', 90.0, True), ('2', 10.0, False)]
    assert check('id,boneage,male\n,months,\n1,90,M\n2,10,F\n') == rows
    assert check('id,boneage,male,unit\n1,90,M,mo\n2,10,F,months\n') == rows
    wards = check('id,boneage,male,unit\n1,90,M,A\n2,90,F,Y\n')
    assert wards == [('1', 90.0, True), ('2', 90.0, False)]


def test_a_second_row_of_the_header_is_refused():
    with pytest.raises(DataError, match="no row but 'Reader 1', 'Mean': a second row of the head"):
        parse('id,male,boneage,,\n,,Reader 1,,Mean\n1,M,90,92,91\n')


def test_a_boy_who_is_a_girl_or_neither_too_is_no_girl():
    columns = labels.Columns('id', None, 'male')
    problems = Problems('skip')
    rows = labels.read_table(b'id,male,female\n1,1,0\n2,0,1\n3,0,0\n4,1,1\n5,0,\n', 'ages.csv')
    found = labels.parse(rows, columns, 'ages.csv', problems, partial=True)
    assert [label.male for label in found] == [True, False, None, None, None]
    assert "3 (3 in ages.csv: '0' in 'male' and '0' in 'female'" in problems.lines()[0]


def test_a_legend_below_the_rows_says_who_is_male():
    rows, _ = parse('id,boneage,male\n1,90,M\n2,10,F\n,,F = male\n,,M = female\n')
    assert [(row.id, row.male) for row in rows] == [('1', False), ('2', True)]
    rows, _ = parse('id,boneage,male\n1,90,1\n2,10,2\n1 = female; 2 = male\n')
    assert [(row.id, row.male) for row in rows] == [('1', False), ('2', True)]


def test_a_formula_without_its_value_is_no_empty_cell():
    book = openpyxl.Workbook()
    for row in (['id', 'boneage', 'male'], ['7', '=2*12', '=IF(1=1,"M","F")'], ['8', 12, 'F']):
        book.active.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    problems = Problems('skip')
    rows = labels.read_table(buffer.getvalue(), 'ages.xlsx')
    labels.parse(rows, COLUMNS, 'ages.xlsx', problems, partial=True)
    first, second = problems.lines()
    assert "'=2*12', a formula without its value; open the table in" in first
    assert 'sex that cannot be told: 1' in second


@pytest.mark.parametrize(
    'header, rows, found',
    [
        ('years,months', [(10, 6), (8, 0)], "in two columns together, 'years' and 'months'"),
        ('bone age (y),bone age (m)', [(10, 6)], 'in two columns together'),
        ('x,bone age (years.months)', [(0, 10.6)], 'years and months together, which no number'),
        ('x,bone age (y;m)', [(0, 10)], 'years and months together'),
    ],
)
def test_an_age_of_two_numbers_is_refused(header, rows, found):
    with pytest.raises(DataError, match=found):
        two_columns(header, rows)


def test_months_beside_years_that_say_the_same_are_read():
    assert two_columns('years,months', [(10.5, 126), (0.5, 6)]) == [126.0, 6.0]
    assert two_columns('years,months', [(0, 6), (0, 11)]) == [6.0, 11.0]


def two_columns(header, rows):
    """The months of a table with these two columns of ages, of which the second is named."""
    columns = labels.Columns('id', header.split(',')[1], None)
    lines = [f'{number},{one},{two}' for number, (one, two) in enumerate(rows)]
    table = labels.read_table('\n'.join([f'id,{header}', *lines]).encode(), 'ages.csv')
    parsed = labels.parse(table, columns, 'ages.csv', Problems('stop'), partial=True)
    labels.check_unit(parsed, columns, 'ages.csv', table)
    return [label.months for label in parsed]


def test_rows_are_no_titles_of_others_and_columns_of_ages_have_names():
    with pytest.raises(DataError, match=r"ages.csv: a row holds 'Boys \(n=1\)' alone, as a title"):
        parse('id,boneage,male\nBoys (n=1),,\n1,90,\n')
    assert check('id,boneage,male,\n1,90,M,seen\n2,90,F,\n') == [
        ('1', 90.0, True),
        ('2', 90.0, False),
    ]
    with pytest.raises(DataError, match="behind column 'boneage' is one without a name that"):
        check('id,male,boneage,,\n1,M,90,92,91\n2,F,60,61,62\n')


def test_a_column_is_one_thing_and_a_patient_of_one_sex():
    with pytest.raises(DataError, match="'id' is named for two of id, age and sex"):
        parse('id,male\n101,M\n', columns=labels.Columns('id', 'id', 'male'))
    columns = labels.Columns('id', 'boneage', 'male', group='who')
    rows, _ = parse('id,boneage,male,who\n1,9,M,A\n2,9,F,A\n3,9,F,\n4,9,M,\n', columns=columns)
    assert labels.doubtful_groups(rows) == ['1 patients have images of boys and of girls: A']
    assert labels.doubtful_groups(rows[1:]) == []
