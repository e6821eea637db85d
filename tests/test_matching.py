"""Rows name images as people write names: by other spellings too, never by half of a path."""

import pathlib
import unicodedata

import pytest

from tfds_rsna.image_folder import matching
from tfds_rsna.io.archive import Entry
from tfds_rsna.labels import Label
from tfds_rsna.problems import DataError, Problems


def paired(rows, files):
    """{row: file} of rows (ids) and files (paths), and what was noted."""
    entries = [Entry(path, bytes, pathlib.Path(path)) for path in files]
    labels = [Label(row, 1.0, True) for row in rows]
    problems = Problems('skip')
    pairs = matching.pair(labels, entries, 't.csv', 'images', problems)
    return {label.id: entry.path for label, entry in pairs}, problems.lines(), pairs


@pytest.mark.parametrize(
    'row, file',
    [
        ('101.dcm', '101.png'),
        ('101.PNG', '101.png'),
        ('Hand_A', 'hand_a.JPG'),
        ('00101', '101.png'),
        ('101', '00101.png'),
        ('101.0', '101.png'),
        ('C:\\data\\films\\101.png', '101.png'),
        ('left\\7.png', 'left/7.png'),
        ('/data/films/left/7.png', 'left/7.png'),
        ('/data/films/7.png', 'batch.zip/7.png'),
        ('./7.png', '7.png'),
        ('hand 1', 'hand  1 .png'),
        ('hand\xa01', 'hand 1.png'),
        ('hand1', 'hand\u200b1.png'),
        ('https://pacs/x/left/7%20a.png?download=1', 'left/7 a.png'),
        ('file:///C:/x/7.png', '7.png'),
        ('7', 'left/7.img'),
        ('007', '7.v2'),
        ('Pr\u00fcf', unicodedata.normalize('NFD', 'Pr\u00fcf.png')),
        (unicodedata.normalize('NFD', 'Pr\u00fcf'), 'Pr\u00fcf.png'),
    ],
)
def test_other_spellings_of_a_name(row, file):
    pairs, notes, matched = paired([row, 'b'], [file, 'b.png'])
    assert pairs == {row: file, 'b': 'b.png'} and not notes
    [line] = matching.renamed(matched)
    assert line.startswith(f'1 rows name an image by another spelling: {row} -> {file}')


def test_what_fits_as_it_is_comes_first_and_takes_its_image():
    pairs, notes, matched = paired(['007', '7'], ['7.png'])
    assert pairs == {'7': '7.png'} and not matching.renamed(matched)
    assert notes == ["label without an image: 1 (007 in t.csv: no image '007' in images)"]
    pairs, _, _ = paired(['A', 'a'], ['a.png', 'A.png'])
    assert pairs == {'A': 'A.png', 'a': 'a.png'}


def test_a_file_of_another_extension_counts_where_a_row_names_it_and_it_is_an_image():
    pairs, _, _ = paired(['7.raw', '8'], ['7.raw', '8.raw', '8.txt.raw'])
    assert pairs == {'7.raw': '7.raw', '8': '8.raw'}
    pairs, _, _ = paired(['7', '8'], ['7.png', '7.raw', '8.2.1'])
    assert pairs == {'7': '7.png'}  # digits behind a full stop are part of a name

    entries = [Entry(name, bytes, pathlib.Path(name)) for name in ('7.txt', '7.raw', 'a.txt')]
    asked = []

    def is_image(entry):
        asked.append(entry.path)
        return entry.path.endswith('raw')

    label = Label('7', 1.0, True)
    found = matching.pair([label], entries, 't.csv', 'images', Problems('skip'), is_image)
    assert found == [(label, entries[1])] and asked == ['7.txt', '7.raw']


@pytest.mark.parametrize('row', ['right/7.png', 'x\\right\\7.png', '77', '7a', '07_1'])
def test_half_a_path_is_no_name(row):
    pairs, notes, _ = paired([row], ['left/7.png'])
    assert not pairs and any(row in note for note in notes)


def test_a_spelling_that_fits_two_fits_none():
    pairs, notes, _ = paired(['07'], ['7.png', '007.png'])
    assert not pairs and notes[0].startswith('label that fits several images: 1 (07')


def test_where_none_fits_both_sides_are_shown():
    entries = [Entry(f'{i}.png', bytes, pathlib.Path(f'{i}.png')) for i in range(5)]
    text = matching.examples([Label('x1', 1.0, True)], entries)
    assert 'the rows name x1, the images are 0.png, 1.png, 2.png, ...' in text


def test_the_column_of_files_says_which_image_is_meant():
    entries = [Entry(name, bytes, pathlib.Path(name)) for name in ('1.png', '2.png')]

    def column(*cells, header='filename', id_column='id'):
        rows = [{'id': str(i), header: cell} for i, cell in enumerate(cells, 1)]
        return matching.file_column(rows, id_column, entries)

    assert column('2.png', '1.png') == 'filename'
    assert column('a/2.dcm', '', '9.png', header='Image path') == 'Image path'
    assert column('2', '1') == 'filename'
    assert column('2', '1', header='image') is None  # a number, and no name of a file
    assert column('8.png', '9.png') is None  # they are called otherwise here
    assert column('2.png', '1.png', header='note') is None
    assert column('2.png', '1.png', id_column='filename') is None


def contradicting(*rows, files=('a101.png', 'b.png')):
    entries = [Entry(path, bytes, pathlib.Path(path)) for path in files]
    labels = [Label(name, months, male) for name, months, male in rows]
    problems = Problems('skip')
    pairs = matching.pair(labels, entries, 't.csv', 'images', problems)
    return {label.id for label, _ in pairs}, ' '.join(problems.lines())


def test_of_rows_that_contradict_each_other_none_is_taken():
    both = [('a101', 120.0, True), ('a101.png', 120.0, False), ('b', 9.0, True)]
    ids, notes = contradicting(*both)
    assert ids == {'b'} and "2 (a101 in a101.png: 'a101', 'a101.png' say different things" in notes
    ids, notes = contradicting(('a101', 120.0, True), ('a101.png', 120.0, None), ('b', 9.0, True))
    assert ids == {'a101', 'b'} and "1 (a101.png in a101.png: is the image of 'a101' alr" in notes
    ids, notes = contradicting(('a101', 120.0, True), ('A101.PNG', 60.0, True), ('b', 9.0, True))
    assert ids == {'a101', 'b'}
    assert "1 (A101.PNG in a101.png: is the image of 'a101', of which that row says som" in notes


@pytest.mark.parametrize(
    'table, column',
    [
        ({'id': '1', 'file': '101'}, 'file'),  # 1 is a number of the row, whatever 1.png is
        ({'id': '1', 'name': '101.PNG'}, 'name'),
        ({'id': '1', 'Dateiname': 'x\\101.png'}, 'Dateiname'),
        ({'id': '1', 'name': '101'}, None),
        ({'id': '1', 'file': '7'}, None),
        ({'id': '1', 'other hand': '101.png'}, None),
    ],
)
def test_a_column_of_files_counts_with_and_without_endings(table, column):
    entries = [Entry(path, bytes, pathlib.Path(path)) for path in ('1.png', '101.png')]
    assert matching.file_column([table], 'id', entries) == column


def test_of_two_columns_of_ids_none_is_guessed():
    entries = [Entry(path, bytes, pathlib.Path(path)) for path in ('1.png', '2.png', '101.png')]

    def refuse(*cells, header='image id'):
        rows = [{'id': str(i), header: cell} for i, cell in enumerate(cells, 1)]
        matching.refuse_other_ids(rows, 'id', entries, 't.csv')

    with pytest.raises(DataError, match="'id' names 2 of 3 images and 'image id' 2; name the col"):
        refuse('2', '101')
    refuse('1', '2.png')
    refuse('9', '101')
    refuse('101', '2', header='patient')
