"""Images to be predicted: found in files, folders and zips, with what labels a table gives."""

import gzip
import io
import os
import shutil

import dicom_writer
import numpy as np
import pytest
from PIL import Image
from pydicom.uid import (
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MediaStorageDirectoryStorage,
)

from tfds_rsna.image_folder.listing import listing
from tfds_rsna.io.archive import Archive
from tfds_rsna.problems import DataError


@pytest.fixture
def place(tmp_path):
    """Images a, b, c in a folder, and other files as folders have them."""
    for name in ('a.png', 'deep/b.jpg', 'c.TIF'):
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((9, 7), np.uint8)).save(path)
    (tmp_path / 'images' / 'README').write_text('no image')
    (tmp_path / 'images' / 'notes.txt').write_text('no image')
    (tmp_path / 'images' / 'IM0001').write_bytes(b'\0' * 128 + b'DICM')
    return tmp_path / 'images'


OTHERS = '2 files left out: README (no image); notes.txt (no image)'


def found(place, text=None, **options):
    table = place.parent / 'labels.csv'
    if text is not None:
        table.write_text(text)
    with Archive() as archive:
        examples, lines = listing(archive, place, None if text is None else table, **options)
        return {example.id: (example.male, example.months) for example in examples}, lines


def test_a_folder_a_zip_and_a_file(place, tmp_path):
    everything = dict.fromkeys(['IM0001', 'a', 'c', 'b'], (None, None))
    assert found(place) == (everything, [OTHERS])
    assert list(found(place)[0]) == list(everything)  # by path: the order is that of the folder
    shutil.make_archive(tmp_path / 'packed', 'zip', place)
    assert found(tmp_path / 'packed.zip')[0].keys() == everything.keys()
    assert found(place / 'deep' / 'b.jpg') == ({'b': (None, None)}, [])


def test_names_that_occur_twice_are_told_apart(place):
    shutil.copy(place / 'a.png', place / 'deep' / 'a.png')
    shutil.copy(place / 'c.TIF', place / 'c.tiff')
    assert found(place)[0].keys() == {'IM0001', 'a.png', 'deep/a.png', 'c.TIF', 'c.tiff', 'b'}


@pytest.mark.parametrize(
    'text, options',
    [
        ('id,boneage,male\na,120,True\nb,,False\nnobody,30,False\n', {}),
        ('Case ID;Sex;Bone age\na.png;M;120\ndeep/b;f;\n', {}),
        ('file,gender,age\na,boy,10\nb,girl,\n', {'age_unit': 'years'}),
        (
            'who,kind,picture,old\n7,male,a.png,120\n8,female,b,\n',
            {'columns': {'id': 'who', 'male': 'kind', 'image': 'picture', 'months': 'old'}},
        ),
    ],
)
def test_sexes_and_known_ages(place, text, options):
    examples, lines = found(place, text, **options)
    assert list(examples.values()).count((None, None)) == 2 and lines.pop() == OTHERS
    (line,) = lines
    assert 'rows name one of 4 images' in line and 'for the sex' in line
    assert (True, 120.0) in examples.values() and (False, None) in examples.values()
    assert ('7' in examples) == ('who' in text)  # an image goes by the table's id


def test_a_table_without_ages(place):
    assert found(place, 'id,sex\na,F\n')[0]['a'] == (False, None)


def test_cells_that_cannot_be_read_are_named_and_the_others_of_their_rows_count(place):
    examples, lines = found(place, 'id,boneage,male\na,120,perhaps\nb,ten,True\nc,30,True\n')
    assert examples['a'] == (None, 120.0) and examples['b'] == (True, None)
    assert examples['c'] == (True, 30.0)
    assert lines.pop() == OTHERS
    _, *lines = lines
    assert len(lines) == 2 and "'perhaps'" in lines[1] + lines[0] and "'ten'" in lines[0] + lines[1]


@pytest.mark.parametrize(
    'text, words',
    [
        (
            'picture no,boneage\na,3\n',
            "no column for the id among 'picture no'",
        ),
        ('id,cm\na,3\n', 'no column for the sex or the age'),
        ('id,sex,boneage\na,1,30\n', 'does not say who is male'),
        ('id,male,age\na,1,3.5\nb,0,4.5\n', 'look like years'),
        ('id,male\n', 'no rows below the header'),
    ],
)
def test_tables_that_are_refused(place, text, words):
    with pytest.raises(DataError, match=words):
        found(place, text)


def test_places_that_are_refused(place, tmp_path):
    with pytest.raises(DataError, match='nowhere: no such file or folder'):
        found(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'LICENSE').write_text('x')
    with pytest.raises(DataError, match='no image there .* among 1 files'):
        found(tmp_path / 'empty')
    with Archive() as archive, pytest.raises(DataError, match='none.csv: no such file'):
        listing(archive, place, tmp_path / 'none.csv')


def encoded(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(63, dtype=np.uint8).reshape(9, 7) * 4).save(buffer, kind)
    return buffer.getvalue()


def dicom(uid, **elements):
    """A DICOM file without pixels."""
    return dicom_writer.written(dicom_writer.started(uid), SOPClassUID=uid, **elements)


def test_images_by_name_or_content_and_the_rest_is_said(tmp_path):
    folder = tmp_path / 'films'
    folder.mkdir()
    film = dicom(ComputedRadiographyImageStorage, Rows=4, Columns=4, PatientSex='F')
    for name, data in {
        'a.jfif': encoded('JPEG'),
        'b.JPE': encoded('JPEG'),
        'c.bmp': encoded('BMP'),
        'd.dcm.gz': gzip.compress(film),
        'e': encoded('PNG'),
        'f.unknown': encoded('TIFF'),
        'IM000001': film,
        'IM000002': film[144:],  # without preamble
        'cut.png': b'',
        'DICOMDIR': dicom(MediaStorageDirectoryStorage),
        'report.dcm': dicom(BasicTextSRStorage),
        'key': dicom(KeyObjectSelectionDocumentStorage),
        'state': dicom(GrayscaleSoftcopyPresentationStateStorage),
        'RUN.EXE': b'MZ',
        'letter.pdf': b'%PDF-1.7',
        'g.gif': encoded('GIF'),
    }.items():
        (folder / name).write_bytes(data)
    with Archive() as archive:
        images, lines = listing(archive, folder)
    male = {image.id: image.header_male for image in images}
    assert male == dict.fromkeys(['a', 'b', 'c', 'e', 'f.unknown', 'cut']) | dict.fromkeys(
        ['d', 'IM000001', 'IM000002'], False
    )
    (line,) = lines
    assert line.startswith('7 files left out: DICOMDIR (DICOM, Media Storage Directory Storage); ')
    assert 'and 2 more' in line and 'g.gif (a GIF)' in line and 'RUN.EXE (no image)' in line


def test_what_cannot_be_opened_is_no_end_where_that_is_wished(place):
    (place / 'bad.zip').write_bytes(b'PK')
    with Archive(tolerant=True) as archive:
        images, _ = listing(archive, place)
        assert len(images) == 4 and list(archive.failures) == ['bad.zip']


def test_the_table_itself_is_not_called_left_out(place):
    table = place / 'ages.csv'
    table.write_text('id,sex\na,F\n')
    with Archive() as archive:
        assert listing(archive, place, table)[1][1:] == [OTHERS]


def test_a_table_of_one_sex_and_ages_alone(place):
    examples, lines = found(place, 'id,boneage\na,120\nb,30\n')
    assert examples['a'] == (None, 120.0) and 'no column for the sex' in lines[0]


def test_the_bone_age_is_the_label(place):
    examples, lines = found(place, 'id,sex,age,bone_age\na,M,150,96\nb,F,160,120\n')
    assert examples['a'] == (True, 96.0) and "'bone_age' for the age in months" in lines[0]
    named = {'columns': {'months': 'age'}}
    assert found(place, 'id,sex,age,bone_age\na,M,150,96\n', **named)[0]['a'] == (True, 150.0)


def test_ids_as_a_program_of_numbers_writes_them(place):
    for name in ('101.png', '102.png'):
        shutil.copy(place / 'a.png', place / name)
    examples, lines = found(place, 'id,male\n101.0,True\n102.0,False\n')
    assert examples['101'] == (True, None) and examples['102'] == (False, None)
    assert len(lines) == 2 and '2 of 2 rows name one of 6 images' in lines[0]


def test_a_table_that_names_no_image_ends_it(place):
    with pytest.raises(DataError, match='rows name x1, x2, the images are a.png, c.TIF') as error:
        found(place, 'id,male\nx1,True\nx2,False\n')
    assert 'labels.csv: no row names an image' in str(error.value)


def test_few_whole_ages_that_look_like_years_are_spoken_of(place):
    _, lines = found(place, 'id,sex,boneage\na,M,9\nb,F,12\n')
    assert "2 of 2 ages in column 'boneage' are 20 or below and look like years" in lines[1]
    with pytest.raises(DataError, match="column 'age_years' says that its ages are in years"):
        found(place, 'id,sex,age_years\na,M,9\n')


def test_a_name_that_is_no_text_is_written_so(place):
    with open(os.path.join(os.fsencode(place), b'h\xe4nd.png'), 'wb') as file:
        file.write((place / 'a.png').read_bytes())
    assert 'h\u00e4nd' in found(place)[0]
    assert found(place, 'id,male\nh\u00e4nd,True\n')[0]['h\u00e4nd'] == (True, None)


def test_the_sheet_and_the_column_of_files_are_said(place, tmp_path):
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(['written by', 'me'])
    book.active.append(['for', 'all'])
    sheet = book.create_sheet('Ages')
    for row in (['id', 'filename', 'sex'], ['a', 'b.jpg', 'F'], ['b', 'a.png', 'M']):
        sheet.append(row)
    book.save(tmp_path / 'labels.xlsx')
    with Archive() as archive:
        examples, lines = listing(archive, place, tmp_path / 'labels.xlsx')
    told = {example.id: (example.entry.name, example.male) for example in examples}
    # The file is what the table says it is, whatever another file is called.
    assert told['a'] == ('b.jpg', False) and told['b'] == ('a.png', True)
    assert "sheet 'Ages' of 'Sheet', 'Ages' is read" in lines[0]
    assert "'id' for the id, 'sex' for the sex, 'filename' for the file" in lines[1]


def test_a_row_names_an_image_that_only_its_content_tells(place, tmp_path):
    (place / 'a.png').rename(place / 'a.scan')
    (place / 'b.scan').write_text('no image')
    examples, _ = found(place, 'id,male\na,True\nb,False\n')
    assert examples['a'] == (True, None) and examples['b'] == (False, None)
    assert len(examples) == 4
