"""A user's own images: found by their ids, whatever the files' names, every problem named."""

import csv
import io
import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

import tfds_rsna
from boneage_jax import config as c
from boneage_jax.data import source, splits
from boneage_jax.stages import records as records_lib
from tfds_rsna import streamed_builder
from tfds_rsna.errors import UserError
from tfds_rsna.image_folder import source as source_lib
from tfds_rsna.io import archive as archive_lib
from tfds_rsna.io import decoding
from tfds_rsna.problems import DataError, Problems

GREY = np.arange(60, dtype=np.uint8).reshape(6, 10)


def encoded(file_format='PNG', array=GREY):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, file_format)
    return buffer.getvalue()


NOISE = encoded(array=np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8))


@pytest.fixture
def build(tmp_path):
    """build({file: bytes}, csv text, **options) -> builder, built."""

    def build(files, table, **options):
        (tmp_path / 'images').mkdir(exist_ok=True)
        for name, data in files.items():
            path = tmp_path / 'images' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (tmp_path / 'ages.csv').write_text(table)
        places = {
            'data_dir': tmp_path / 'built',
            'images': tmp_path / 'images',
            'labels': tmp_path / 'ages.csv',
        }
        builder = tfds_rsna.ImageFolder(**places | options)
        builder.download_and_prepare()
        return builder

    return build


def test_records(build):
    files = {
        'b.png': encoded(),
        'a.jpg': encoded('JPEG'),
        'more/c.TIF': encoded('TIFF'),
        'Thumbs.db': b'\0',
    }
    records = build(files, 'id,boneage,male\nb,10,M\na,20.5,F\nc,30,1\n').as_data_source('train')
    assert [(record['id'], record['months'], record['male']) for record in records] == [
        ('b', 10, True),
        ('a', 20.5, False),
        ('c', 30, True),
    ]
    for record, name in zip(records, ('b.png', 'a.jpg', 'more/c.TIF')):
        assert record['image'] == files[name] and (record['width'], record['height']) == (10, 6)
        assert decoding.decode(record['image'], name).shape == (6, 10)


def test_columns_units_and_image_column(build):
    table = 'patient;years;sex;file\nDoe, J;10,5;female;2019/IM001.png\nRoe;3;male;2020/IM001\n'
    records = build(
        {'2019/IM001.png': encoded(), '2020/IM001.png': encoded(array=GREY.T)},
        table,
        id_column='patient',
        months_column='years',
        male_column='sex',
        image_column='file',
        age_unit='years',
    ).as_data_source('train')
    assert [(r['id'], r['months'], r['male'], r['width']) for r in records] == [
        ('Doe, J', 126, False, 10),
        ('Roe', 36, True, 6),
    ]


@pytest.mark.parametrize('name', ['IM7.png', 'IM7', 'sub/IM7.png', 'sub/IM7'])
def test_ids_may_be_names_or_paths_with_or_without_extension(name, build):
    record = build({'sub/IM7.png': encoded()}, f'id,boneage,male\n{name},10,M\n').as_data_source(
        'train'
    )[0]
    assert record['image'] == encoded() and record['id'] == name


def test_images_without_extension(build):
    """As DICOM exports call them; README is not taken for one."""
    assert (
        len(
            build(
                {'IM000001': encoded(), 'README': b'hello'}, 'id,boneage,male\nIM000001,10,M\n'
            ).as_data_source('train')
        )
        == 1
    )


def test_zips(build, tmp_path):
    with zipfile.ZipFile(tmp_path / 'all.zip', 'w') as archive:
        archive.writestr('hands/1.png', encoded())
        archive.writestr('hands/2.png', encoded())
    table = 'id,boneage,male\n1,10,M\nhands/2.png,20,F\n'
    assert len(build({}, table, images=tmp_path / 'all.zip').as_data_source('train')) == 2
    inside = build(
        {'batch.zip': (tmp_path / 'all.zip').read_bytes()},
        table.replace('hands/2.png', '2'),
        data_dir=tmp_path / 'other',
    )
    assert len(inside.as_data_source('train')) == 2
    with zipfile.ZipFile(tmp_path / 'evil.zip', 'w') as archive:
        archive.writestr('../1.png', encoded())
    with pytest.raises(DataError, match='climbs out'):
        build({}, table, images=tmp_path / 'evil.zip', data_dir=tmp_path / 'third')


BAD = {
    'good.png': encoded(),
    'cut.png': NOISE[:900],
    'empty.png': b'',
    'page.png': b'<html>',
    'extra.png': encoded(),
    'x/twice.png': encoded(),
    'y/twice.png': encoded(),
    'old.png': encoded(),
    'double.png': encoded(),
    'sexless.png': encoded(),
    'ageless.png': encoded(),
}
BAD_TABLE = """id,boneage,male
good,100,M
cut,100,M
empty,100,M
page,100,M
twice,100,M
old,999,M
double,100,M
double,120,M
sexless,100,?
ageless,ten,M
absent,100,M
good.png,100,M
"""


def test_stop_names_every_kind_and_builds_nothing(build, tmp_path):
    with pytest.raises(DataError) as error:
        build(BAD, BAD_TABLE)
    kinds = {line.split(':')[0]: line for line in str(error.value).splitlines()[:-1]}
    assert sorted(kinds) == [
        'age outside 0 to 240 months',
        'age that is no number',
        'id that occurs more than once',
        'image that several rows name',
        'image without a label',
        'label that fits several images',
        'label without an image',
        'sex that cannot be told',
    ]
    for kind, image in (
        ('age outside 0 to 240 months', 'old'),
        ('image without a label', 'extra'),
        ('label without an image', 'absent'),
        ('label that fits several images', 'x/twice.png'),
    ):
        assert f'{kind}: 1 (' in kinds[kind] or kind == 'image without a label'
        assert image in kinds[kind]
    assert not list((tmp_path / 'built').rglob('*.json'))


def test_skip_keeps_the_good_and_lists_the_rest(build):
    builder = build(BAD, BAD_TABLE, on_error='skip')
    assert [record['id'] for record in builder.as_data_source('train')] == ['good']
    with open(builder.data_path / 'rejected.csv', newline='') as file:
        rejected = [row['id'] for row in csv.DictReader(file)]
    assert set(rejected) == {
        'cut',
        'empty',
        'page',
        'twice',
        'old',
        'double',
        'sexless',
        'ageless',
        'absent',
        'extra',
        'good.png',
    }
    assert rejected.count('double') == 2


def test_bad_zips_blank_images_and_left_out_files_are_named(build, capsys):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name in ('1.png', '2.png'):
            archive.writestr(name, NOISE)
    spoiled = inner.getvalue()
    at = spoiled.index(b'1.png') + 5
    files = {
        'a.zip': spoiled[:at] + b'\xff' * 8 + spoiled[at + 8 :],
        'bad.zip': b'PK',
        '3.png': encoded(array=GREY * 0),
        '4.jfif': encoded('JPEG'),
        'notes.txt': b'',
    }
    table = 'id,boneage,male\n1,10,M\n2,20,F\n3,30,M\n4,40,F\n'
    builder = build(files, table, on_error='skip')
    assert [record['id'] for record in builder.as_data_source('train')] == ['2', '4']
    with open(builder.data_path / 'rejected.csv', newline='') as file:
        rejected = {row['file']: row['reason'] for row in csv.DictReader(file)}
    assert 'damaged in the zip' in rejected['a.zip/1.png']
    assert 'not a whole zip' in rejected['bad.zip'] and 'blank' in rejected['3.png']
    assert '1 file left out: notes.txt' in capsys.readouterr().err


def test_flags_and_contradicted_sexes_are_said(build, capsys):
    wide = GREY.astype(np.uint16) * 4 + 40_000  # in a sliver of 16 bits
    builder = build(
        {'1.png': encoded(array=wide), '2.png': encoded()}, 'id,boneage,male\n1,1,M\n2,2,F\n'
    )
    assert 'flag stretched: 1 images (1)' in capsys.readouterr().err
    first, second = builder.as_data_source('train')
    assert records_lib.decode_record(first)['flags'] == 'stretched'
    assert records_lib.decode_record(second)['flags'] == ''


def test_a_build_lists_its_folder_once_and_decodes_each_image_once(build, described, monkeypatch):
    """The check of an image and its record (width, height) share one decoding."""
    decoded = []
    listed = []
    read, all_entries = decoding.read, source_lib.all_entries

    def count_decoding(data, name='image', **options):
        decoded.append(name)
        return read(data, name, **options)

    def count_listing(archive, place):
        listed.append(place.name)
        return all_entries(archive, place)

    monkeypatch.setattr(decoding, 'read', count_decoding)
    monkeypatch.setattr(source_lib, 'all_entries', count_listing)
    files = {'a.png': encoded(), 'b.png': NOISE[:900], 'c.png': encoded()}
    build(files, 'id,boneage,male\na,10,M\nb,20,F\nc,30,M\n', on_error='skip')
    assert sorted(decoded) == ['a.png', 'b.png', 'c.png'] and listed == ['images']
    described()
    assert len(decoded) == 3 and listed == ['images'] * 2


def test_nothing_usable_is_an_error_in_either_mode(build):
    for mode in ('stop', 'skip'):
        with pytest.raises(DataError, match='not one image'):
            build({'1.png': encoded()}, 'id,boneage,male\n2,10,M\n', on_error=mode)
        with pytest.raises(DataError, match='no image can be read'):
            build({'1.png': NOISE[:900]}, 'id,boneage,male\n1,10,M\n', on_error=mode)


def test_missing_places_and_wrong_options(build, tmp_path):
    table = 'id,boneage,male\n1,10,M\n'
    for options, found in (
        ({'images': tmp_path / 'nowhere'}, 'nowhere: no such folder'),
        ({'labels': tmp_path / 'no.csv'}, 'no.csv: no such file'),
        ({'months_column': 'age'}, "no column 'age'"),
        ({'images': None}, 'needs images='),
        ({'age_unit': 'days'}, 'days'),
        ({'on_error': 'hope'}, 'hope'),
    ):
        with pytest.raises(UserError, match=found):
            build({'1.png': encoded()}, table, **options)


def test_changed_labels_are_not_taken_for_the_old_ones(build):
    build({'1.png': encoded()}, 'id,boneage,male\n1,10,M\n')
    assert len(build({}, 'id,boneage,male\n1,10,M\n').as_data_source('train')) == 1
    with pytest.raises(DataError, match='built from something else.*labels_sha256'):
        build({}, 'id,boneage,male\n1,11,M\n')


def test_groups(build, tmp_path):
    table = 'id,boneage,male,child\n1,10,M,ann\n2,20,F,\n3,30,M,ann\n'
    files = {f'{name}.png': encoded() for name in '123'}
    assert [
        record['group']
        for record in build(files, table, group_column='child').as_data_source('train')
    ] == ['ann', '', 'ann']
    with pytest.raises(DataError, match="no column 'patient'.*group_column"):
        build(files, table, group_column='patient', data_dir=tmp_path / 'other')


def test_years_are_not_read_as_months(build, tmp_path):
    files, table = {'1.png': encoded(), '2.png': encoded()}, 'id,boneage,male\n1,10.5,M\n2,17,F\n'
    with pytest.raises(DataError, match='data.image_folder.age_unit=years'):
        build(files, table)
    records = build(files, table, age_unit='years', data_dir=tmp_path / 'years').as_data_source(
        'train'
    )
    assert [record['months'] for record in records] == [126, 204]
    header = table.replace('boneage', 'age_months')  # toddlers
    assert len(build(files, header, months_column='age_months').as_data_source('train')) == 2


def test_one_line_says_what_was_built(build, capsys):
    table = 'id,boneage,male\n1,10.5,M\n2,20,F\n3,150,F\n'
    build({f'{name}.png': encoded() for name in '123'}, table)
    assert (
        'image_folder: 3 images, ages 10.5 to 150 months (median 20), 33% male\n'
        in capsys.readouterr().err
    )


def test_bad_zips_are_named_in_full(build, tmp_path):
    with pytest.raises(DataError) as error:
        build({'more/bad.zip': b'PK'}, 'id,boneage,male\n1,10,M\n')
    assert str(error.value).startswith(f'{tmp_path}/images/more/bad.zip: not a whole zip')
    (tmp_path / 'images/more/bad.zip').unlink()
    (tmp_path / 'images/gone.zip').symlink_to(tmp_path / 'nothing')
    with pytest.raises(DataError, match=f'{tmp_path}/images/gone.zip: cannot be opened'):
        build({}, 'id,boneage,male\n1,10,M\n')


def test_full_disk(build, monkeypatch, tmp_path):
    """/dev/full fails as a full disk does, and array_record only tells when it is closed."""
    writer = streamed_builder.array_record_module.ArrayRecordWriter
    monkeypatch.setattr(
        streamed_builder.array_record_module,
        'ArrayRecordWriter',
        lambda _, how: writer('/dev/full', how),
    )
    with pytest.raises(
        UserError, match='disk became full after .* of about .* GB are free now'
    ) as error:
        build({'1.png': encoded()}, 'id,boneage,male\n1,10,M\n')
    assert str(error.value).startswith(str(tmp_path / 'built'))
    assert [path.name for path in (tmp_path / 'built').rglob('*') if path.is_file()] == ['.lock']


@pytest.fixture
def described(tmp_path):
    """described(**options) -> the description, as JSON, of what is in tmp_path/'images'."""

    def described(**options):
        places = {'images': tmp_path / 'images', 'labels': tmp_path / 'ages.csv'}
        return json.dumps(tfds_rsna.ImageFolder.describe(**places | options))

    return described


def test_descriptions_change_with_what_is_used(build, described, tmp_path):
    table = 'id,boneage,male,child\nIM1,10,M,a\nlinked,20,M,b\nzipped,30,M,c\n'
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere/linked.png').write_bytes(encoded())
    with zipfile.ZipFile(tmp_path / 'one.zip', 'w') as archive:
        archive.writestr('zipped.png', encoded())
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/link').symlink_to(tmp_path / 'elsewhere')
    build({'IM1': encoded(), 'a.zip': (tmp_path / 'one.zip').read_bytes()}, table)
    seen = {described()}

    def changes(**options):
        """Whether the description is one not seen before."""
        before = len(seen)
        seen.add(described(**options))
        return len(seen) > before

    assert not changes()
    for name in (
        'runs/figure.png',
        'cache/x.array_record',
        'notes.txt',
        'IM2',
    ):  # none of them is in the table
        (tmp_path / 'images' / name).parent.mkdir(exist_ok=True)
        (tmp_path / 'images' / name).write_bytes(b'x')
    os.utime(tmp_path / 'ages.csv')
    assert not changes()
    for name in ('images/IM1', 'elsewhere/linked.png', 'images/a.zip'):
        os.utime(tmp_path / name, (1, 1))
        assert changes(), name
    (tmp_path / 'images/IM1').write_bytes(encoded(array=GREY.T[:3]))
    assert changes()
    assert changes(group_column='child') and changes(on_error='skip') and changes(age_unit='years')
    (tmp_path / 'ages.csv').write_text(table.replace('30', '31'))
    assert changes()


def test_descriptions_know_packed_inner_zips_by_their_outer_one(described, tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, 'w') as archive:
        archive.writestr('1.png', encoded())
    (tmp_path / 'ages.csv').write_text('id,boneage,male\n1,10,M\n')
    with zipfile.ZipFile(tmp_path / 'images.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('inner.zip', inner.getvalue())
    before = described(images=tmp_path / 'images.zip')
    os.utime(tmp_path / 'images.zip', (1, 1))
    assert (
        json.loads(before)['images']['files'] == 1
        and described(images=tmp_path / 'images.zip') != before
    )


def test_descriptions_refuse_as_the_build_does(described, tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'ages.csv').write_text('id,boneage,male\n1,10,M\n')
    for options, found in (
        ({'images': tmp_path / 'nowhere'}, 'nowhere: no such folder'),
        ({'images': ''}, 'images='),
        ({'labels': tmp_path / 'no.csv'}, 'no.csv: no such file'),
        ({'labels': ''}, 'labels='),
        ({'months_column': 'age'}, "no column 'age'"),
        ({'on_error': 'hope'}, 'hope'),
        ({'age_unit': 'days'}, 'days'),
    ):
        with pytest.raises(UserError, match=found):
            described(**options)


def test_where_images_come_from_reaches_the_split(build, tmp_path, monkeypatch):
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'cache'))
    table = 'id,boneage,male,site\n' + ''.join(
        f'{name},{i}0,M,{"Bonn" if i > 2 else ""}\n' for i, name in enumerate('abcd', 1)
    )
    built = build(
        {f'{name}.png': encoded(array=GREY + i) for i, name in enumerate('abcd')},
        table,
        source_column='site',
    )
    assert [record['source'] for record in built.as_data_source('train')] == [
        '',
        '',
        'Bonn',
        'Bonn',
    ]
    config = c.load(
        'configs/prsnet.py:size=(16,16),source=image_folder,source_column=site,'
        f'images={tmp_path / "images"},labels={tmp_path / "ages.csv"}'
    )[1]
    split = source.open_splits(records_lib.get_records(config.data), splits.whole)['train']
    assert (
        source.of_sex(source.join(split, [split]), 'male').sources == ['', '', 'Bonn', 'Bonn'] * 2
    )


def test_a_table_of_one_sex_needs_no_column_of_it(build, described, tmp_path):
    files = {f'{name}.png': encoded() for name in '123'}
    table = 'id,boneage\n1,100\n2,110\n3,120\n'
    with pytest.raises(DataError, match="no column 'male'.*data.image_folder.sex=male or female"):
        build(files, table)
    built = build(files, table, sex='female').as_data_source('train')
    assert [record['male'] for record in built] == [False] * 3
    assert described(sex='female') != described(sex='male')
    with pytest.raises(UserError, match="'male' or 'female', not 'girl'"):
        described(sex='girl')
    with pytest.raises(DataError, match="no column 'male', and 'Sex' looks like the sex"):
        build(files, 'id,boneage,Sex\n1,100,M\n', sex='female', data_dir=tmp_path / 'other')
    table = 'id,boneage,male\n1,100,M\n2,110,\n3,120,F\n'
    mixed = build(files, table, sex='female', data_dir=tmp_path / 'third').as_data_source('train')
    assert [record['male'] for record in mixed] == [True, False, False]


def test_it_is_said_what_was_read(build, capsys):
    build({'1.png': encoded(), '02.png': encoded()}, 'id,boneage,male\n1,100,M\n2.dcm,90,F\n')
    said = capsys.readouterr().err
    assert (
        "ages.csv: 'id' for the id, 'boneage' for the age in months, 'male' for the sex; 2 of 2 "
        'rows name an image\n'
    ) in said
    assert 'ages.csv: 1 rows name an image by another spelling: 2.dcm -> 02.png\n' in said


def test_a_table_of_other_images_shows_both_sides(build, described):
    with pytest.raises(DataError, match='not one image.*rows name 7, 8, the images are 1.png'):
        build({'1.png': encoded()}, 'id,boneage,male\n7,100,M\n8,90,F\n', on_error='skip')
    with pytest.raises(DataError, match='rows name 7, 8, the images are 1.png'):
        described()


def test_rsnas_wrong_test_labels_are_refused(build):
    with pytest.raises(DataError, match='not the official test labels'):
        build({'4360.png': encoded()}, 'id,boneage,male\n4360,164,M\n')


def test_the_other_way_round_is_read_so_or_refused(build, tmp_path):
    files = {'1.png': encoded(), '2.png': encoded()}
    header = 'sex (0=male, 1=female)'
    table = f'id,boneage,"{header}"\n1,100,0\n2,110,1\n'
    built = build(files, table, male_column=header).as_data_source('train')
    assert [record['male'] for record in built] == [True, False]
    with pytest.raises(DataError, match='does not say who is male'):
        build(
            files,
            table.replace(header, 'Male/Female'),
            male_column='Male/Female',
            data_dir=tmp_path / 'other',
        )


def test_links_to_themselves_end_as_images_without_a_row(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'a.png').write_bytes(NOISE)
    (tmp_path / 'images' / 'loop').symlink_to('loop')
    (tmp_path / 'ages.csv').write_text('id,boneage,male\na,120,M\n')
    source = source_lib.FolderSource(images=tmp_path / 'images', labels=tmp_path / 'ages.csv')
    with archive_lib.Archive() as archive:
        [(label, entry)] = source.pairs(archive, Problems('stop'))
    assert (label.id, entry.path) == ('a', 'a.png')
