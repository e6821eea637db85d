"""Tables are read as they are written: any coding, any delimiter, any program's xlsx."""

import gzip
import io
import re
import zipfile

import openpyxl
import pytest

from tfds_rsna.problems import DataError
from tfds_rsna.table_files import read_table

ROWS = [{'id': '101', 'boneage': '120.5', 'male': 'True'}]


@pytest.mark.parametrize('coding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32'])
@pytest.mark.parametrize(
    'text',
    [
        'id,boneage,male\n101,120.5,True\n',
        'sep=;\r\nid;boneage;male\r\n101;120,5;True\r\n',
        'id\tboneage\tmale\r\n101\t120,5\tTrue\r\n',
        'id|boneage|male\r101|120.5|True\r',
    ],
    ids=['comma', 'stated', 'tab', 'bar'],
)
def test_codings_and_delimiters(text, coding):
    assert read_table(text.encode(coding), 'ages.csv') == ROWS


def test_the_delimiter_is_that_of_the_rows():
    text = 'id;sex (0=male, 1=female)\n101;0\n102;1\n'
    assert read_table(text.encode(), 'a.csv')[1] == {'id': '102', 'sex (0=male, 1=female)': '1'}
    quoted = 'id,"sex (0=male, 1=female)"\n101,0\n'
    assert list(read_table(quoted.encode(), 'a.csv')[0]) == ['id', 'sex (0=male, 1=female)']


def test_a_decimal_comma_between_commas_is_refused():
    with pytest.raises(DataError, match="ages.csv, row 3: 4 cells under a header of 3: '2', 'F'"):
        read_table(b'id,male,boneage\n1,M,12\n2,F,120,5\n', 'ages.csv')
    assert len(read_table(b'id,male\n1,M,,\n', 'ages.csv')) == 1


def sheets(**rows):
    """A workbook of {title: rows}."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, lines in rows.items():
        sheet = book.create_sheet(title)
        for line in lines:
            sheet.append(line)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


AGES = [['id', 'boneage'], [101, 96]]
NOTES = [['who', 'when'], ['me', 'today']]


def test_the_sheet_that_has_the_columns_is_read_and_named():
    fits = {'id', 'boneage'}.issubset
    rows = read_table(sheets(Sheet1=AGES), 'a.xlsx', fits)
    assert rows == [{'id': '101', 'boneage': '96'}] and rows.note == ''
    for data in (sheets(Notes=NOTES, Ages=AGES), sheets(Notes=[['only a title']], Ages=AGES)):
        rows = read_table(data, 'a.xlsx', fits)
        assert rows == [{'id': '101', 'boneage': '96'}]
        assert rows.note == "sheet 'Ages' of 'Notes', 'Ages' is read"
    assert read_table(sheets(Ages=AGES, Empty=[]), 'a.xlsx').note.startswith("sheet 'Ages' of")


def test_two_sheets_that_could_be_meant_are_refused():
    fits = {'id', 'boneage'}.issubset
    later = [['id', 'boneage'], [101, 108]]
    for data in (sheets(First=AGES, Second=later), sheets(First=NOTES, Second=NOTES)):
        with pytest.raises(DataError, match="a.xlsx: 2 of its 2 sheets .*'First' has .*'Second'"):
            read_table(data, 'a.xlsx', fits)
    with pytest.raises(DataError, match='2 of its 2 sheets'):
        read_table(sheets(Ages=AGES, Notes=NOTES), 'a.xlsx')


def test_what_nobody_sees_and_what_keeps_excel_from_a_number_is_no_part_of_a_cell():
    text = '\ufeff\ufeffid\u200b,male\n\u200e"=""007""",True\u2060\n'
    assert read_table(text.encode(), 'a.csv') == [{'id': '007', 'male': 'True'}]


def test_a_table_that_is_no_utf8_is_read_as_windows_writes_it_and_it_is_said():
    rows = read_table('id,name\n101,“Müller” 5 €\n'.encode('cp1252'), 'a.csv')
    assert rows[0]['name'] == '“Müller” 5 €' and rows.note.startswith('no UTF-8, read in Windows')
    assert read_table('id,name\n101,“Müller”\n'.encode(), 'a.csv').note == ''


def workbook(stated=None, damage=False):
    book = openpyxl.Workbook()
    for row in (['id', 'male', ''], [101, True, 'a note'], [102, False], [103, True]):
        book.active.append(row)
    first, out = io.BytesIO(), io.BytesIO()
    book.save(first)
    with zipfile.ZipFile(first) as old, zipfile.ZipFile(out, 'w') as new:
        for name in old.namelist():
            data = old.read(name)
            if 'sheet1' in name and stated:
                data = re.sub(rb'ref="[^"]*"', f'ref="{stated}"'.encode(), data, count=1)
            if 'sheet1' in name and damage:
                data = data[:300]
            new.writestr(name, data)
    return out.getvalue()


def packed(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize('stated', [None, 'A1', 'A1:B3', 'A1:A2'])
def test_all_rows_of_a_sheet_whatever_range_it_states(stated):
    rows = read_table(workbook(stated), 'ages.xlsx')
    assert [(row['id'], row['male']) for row in rows] == [
        ('101', 'True'),
        ('102', 'False'),
        ('103', 'True'),
    ]


@pytest.mark.parametrize(
    'data, found',
    [
        (workbook(damage=True), 'not a readable xlsx'),
        (b'\xd0\xcf\x11\xe0' + bytes(99), r"Excel's old format \(.xls\)"),
        (bytes(200), 'not a text file'),
        (b'\xff\xfea', 'not whole UTF-16'),
        (
            b'\xd0\xcf\x11\xe0' + 'EncryptedPackage'.encode('utf-16-le'),
            'locked with a password',
        ),
        (gzip.compress(b'id,male\n1,M\n', mtime=0), 'packed by gzip; unpack it'),
        (b'PAR1' + bytes(20), 'a Parquet file'),
        (b'<html><table><tr><td>id</td></tr></table>', 'a web page or XML, whatever its name'),
        (b'[{"id": 1}]', 'JSON; save it as CSV'),
        (packed(mimetype=b'application/vnd.oasis.opendocument.spreadsheet'), 'an OpenDocument'),
        (packed(labels=b'id,male'), r'a zip and no xlsx \(it holds labels\)'),
    ],
)
def test_what_is_no_table_is_named(data, found):
    with pytest.raises(DataError, match=f'ages: {found}'):
        read_table(data, 'ages')


def test_a_deflate_stream_that_is_none_is_named():
    data = bytearray(workbook())
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w', 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    spoiled = bytearray(out.getvalue())
    name = b'xl/worksheets/sheet1.xml'
    start = spoiled.index(name) + len(name)
    spoiled[start : start + 8] = b'\xff' * 8
    with pytest.raises(DataError, match='not a readable xlsx'):
        read_table(bytes(spoiled), 'ages.xlsx')


def test_a_quotation_mark_hides_no_rows():
    head = 'id,male,note\n101,M,'
    for text in ('"left\n102,F,\n103,M,\n', '"left\n102,F,\n103,M,"right"\n104,F,\n'):
        with pytest.raises(DataError, match=r'a.csv: not a readable CSV: .* \(row 2, up to line 4'):
            read_table((head + text).encode(), 'a.csv')
    with pytest.raises(DataError, match='a.csv, row 2: one cell holds 2 lines that look like rows'):
        read_table((head + '"left\n102,F,5"\n103,M,\n').encode(), 'a.csv')
    rows = read_table((head + '"left,\nthen, right"\n').encode(), 'a.csv')
    assert rows[0]['note'] == 'left,\nthen, right'
    assert read_table(b'id, "male"\n"101", "M"\n', 'a.csv') == [{'id': '101', 'male': 'M'}]


def test_what_stands_above_the_header_is_no_header():
    text = '# export of May\nid,male\n101,M\n'
    for data in (text.encode(), text.replace('May', 'May,').encode()):
        with pytest.raises(DataError, match="the first row is '# export of May' alone, and row 2"):
            read_table(data, 'a.csv')


def test_a_second_header_is_refused():
    rows = [['id', 'male', 'age'], [101, 'M', 96], ['id', 'age', 'chronological'], [102, 90, 80]]
    with pytest.raises(DataError, match=r'a.xlsx, row 3: another header \(id, age, chron'):
        read_table(sheets(Ages=rows), 'a.xlsx')
    again = read_table(b'id,male\n101,M\nid,male\n102,F\n', 'a.csv')
    assert len(again) == 3  # the header once more is a row that no reader can mistake


def test_merged_cells_all_have_their_text_and_hidden_rows_are_counted():
    book = openpyxl.Workbook()
    for row in (['file', 'sex'], ['1.png', 'M'], ['2.png', None], ['3.png', 'F'], ['4.png', None]):
        book.active.append(row)
    book.active.merge_cells('B2:B3')
    book.active.merge_cells('B4:B5')
    book.active.row_dimensions[5].hidden = True
    file = io.BytesIO()
    book.save(file)
    rows = read_table(file.getvalue(), 'a.xlsx')
    assert [row['sex'] for row in rows] == ['M', 'M', 'F', 'F']
    assert rows.note == '1 hidden rows are read too'


def test_a_name_over_several_columns_is_that_of_all_that_hold_anything():
    book = openpyxl.Workbook()
    for row in (['id', 'age', None, 'note', None], [101, 90, 92, 'seen', None]):
        book.active.append(row)
    book.active.merge_cells('D1:E1')
    file = io.BytesIO()
    book.save(file)
    assert read_table(file.getvalue(), 'a.xlsx')[0]['note'] == 'seen'
    book.active.merge_cells('B1:C1')
    file = io.BytesIO()
    book.save(file)
    with pytest.raises(DataError, match='column age occurs twice'):
        read_table(file.getvalue(), 'a.xlsx')
