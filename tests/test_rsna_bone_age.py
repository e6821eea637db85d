"""The RSNA set: found in every layout, stored byte for byte, refused where it is wrong."""

import csv
import fcntl
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import zipfile

import numpy as np
import openpyxl
import pytest
from PIL import Image

import tfds_rsna
from tfds_rsna.errors import UserError
from tfds_rsna.io import decoding
from tfds_rsna.problems import DataError
from tfds_rsna.rsna_bone_age import official


def png(seed, shape=(9, 7)):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(
        buffer, 'PNG'
    )
    return buffer.getvalue()


def zipped(files, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def xlsx(header, *rows):
    book = openpyxl.Workbook()
    for row in (header, *rows):
        book.active.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def unpack(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


TRAIN = {name: png(int(name)) for name in ('1377', '999', '12004')}
TRAIN_CSV = 'id,boneage,male\n1377,180,False\n12004,12,True\n999,94,True\n'
TRAIN_SET = {f'boneage-training-dataset/{name}.png': data for name, data in TRAIN.items()}
VALIDATION = {name: png(int(name)) for name in ('1386', '1392', '2001')}
VALIDATION_CSV = 'Image ID,male,Bone Age (months)\n1386,TRUE,168\n1392,FALSE,24.9\n2001,TRUE,3\n'
TEST = {name: png(int(name)) for name in ('4360', '4361')}
TRUTH = xlsx(
    ['Case ID', 'Sex', 'Ground truth bone age (months)'], [4360, 'M', 168.93], [4361, 'F', 24.5]
)
TEST_SET = {f'Bone Age Test Set/Test Set Images/{name}.png': data for name, data in TEST.items()}


def inner(names, number, compression=zipfile.ZIP_STORED):
    folder = f'boneage-validation-dataset-{number}'
    return zipped(
        {f'{folder}/{name}.png': VALIDATION[name] for name in names}
        | {f'__MACOSX/{folder}/._{name}.png': b'Mac' for name in names},
        compression,
    )


def validation_files(compression=zipfile.ZIP_STORED):
    top = 'Bone Age Validation Set'
    return {
        f'{top}/Validation Dataset.csv': VALIDATION_CSV,
        f'{top}/boneage-validation-dataset-1.zip': inner(['1386', '2001'], 1, compression),
        f'{top}/boneage-validation-dataset-2.zip': inner(['1392'], 2),
    }


OFFICIAL = {
    'Bone+Age+Training+Set.zip': zipped(TRAIN_SET),
    'Bone+Age+Training+Set+Annotations.zip': zipped({'train.csv': TRAIN_CSV}),
    'Bone+Age+Validation+Set.zip': zipped(validation_files()),
    'Bone+Age+Test+Set.zip': zipped(
        {**TEST_SET, 'Bone Age Test Set/Bone age ground truth.xlsx': TRUTH}
    ),
}
DOUBLED = {f'boneage-training-dataset/{name}': data for name, data in TRAIN_SET.items()}
KAGGLE = {
    **DOUBLED,
    'boneage-training-dataset.csv': TRAIN_CSV,
    **{
        f'boneage-test-dataset/boneage-test-dataset/{name}.png': data for name, data in TEST.items()
    },
    'boneage-test-dataset.csv': 'Case ID,Sex\n4360,M\n4361,F\n',
}
LAYOUTS = {
    'official': (OFFICIAL, 'train validation test'),
    'official, spaces, no annotations zip': (
        {
            'Bone Age Training Set.zip': OFFICIAL['Bone+Age+Training+Set.zip'],
            'train.csv': TRAIN_CSV,
        },
        'train',
    ),
    'kaggle zip': ({'archive.zip': zipped(KAGGLE, zipfile.ZIP_DEFLATED)}, 'train'),
    'kaggle folders': (KAGGLE, 'train'),
    'single folder below others': (
        {
            f'data/kaggle/{name}': data
            for name, data in {**TRAIN_SET, 'boneage-training-dataset.csv': TRAIN_CSV}.items()
        },
        'train',
    ),
    'kaggle zip of the images and csv': (
        {
            'boneage-training-dataset.zip': zipped(DOUBLED),
            'boneage-training-dataset.csv': TRAIN_CSV,
        },
        'train',
    ),
    'validation, packed inner zip': (
        {
            'Bone+Age+Validation+Set.zip': zipped(
                validation_files(zipfile.ZIP_DEFLATED), zipfile.ZIP_DEFLATED
            )
        },
        'validation',
    ),
    'validation, outer unpacked': (validation_files(), 'validation'),
    'validation, all unpacked': (
        {
            'Bone Age Validation Set/Validation Dataset.csv': VALIDATION_CSV,
            'Bone Age Validation Set/boneage-validation-dataset-1/1386.png': VALIDATION['1386'],
            'Bone Age Validation Set/boneage-validation-dataset-1/2001.png': VALIDATION['2001'],
            'Bone Age Validation Set/boneage-validation-dataset-2/1392.png': VALIDATION['1392'],
        },
        'validation',
    ),
    'test, unpacked': ({**TEST_SET, 'Bone Age Test Set/Bone age ground truth.xlsx': TRUTH}, 'test'),
    'kaggle test images with the official truth': (
        {**KAGGLE, 'Bone age ground truth.xlsx': TRUTH},
        'train test',
    ),
}
RECORDS = {
    'train': [('999', 94, True, TRAIN), ('1377', 180, False, TRAIN), ('12004', 12, True, TRAIN)],
    'validation': [
        ('1386', 168, True, VALIDATION),
        ('1392', 24.9, False, VALIDATION),
        ('2001', 3, True, VALIDATION),
    ],
    'test': [('4360', 168.93, True, TEST), ('4361', 24.5, False, TEST)],
}


def build(source, data_dir, **options):
    builder = tfds_rsna.RsnaBoneAge(data_dir=data_dir, source=source, **options)
    builder.download_and_prepare()
    return builder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'raw'


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_gives_the_same_records(layout, folder, tmp_path):
    files, splits = LAYOUTS[layout]
    builder = build(unpack(folder, files), tmp_path / 'built')
    sources = builder.as_data_source()
    assert list(sources) == splits.split()
    for split, records in sources.items():
        assert [record['id'] for record in records] == [row[0] for row in RECORDS[split]]
        for record, (example, months, male, images) in zip(records, RECORDS[split]):
            assert record['image'] == images[example]
            assert (record['months'], record['male']) == (np.float32(months), male)
            assert (record['width'], record['height']) == (7, 9)


def test_a_finished_dataset_opens_again_without_its_source(folder, tmp_path):
    built = build(unpack(folder, OFFICIAL), tmp_path / 'built')
    for path in folder.iterdir():
        path.unlink()
    again = tfds_rsna.RsnaBoneAge(data_dir=tmp_path / 'built')
    again.download_and_prepare()
    assert again.as_data_source('test')[1] == built.as_data_source('test')[1]


def test_another_source_is_not_taken_for_this_one(folder, tmp_path):
    build(unpack(folder, OFFICIAL), tmp_path / 'built')
    with pytest.raises(DataError, match='built from something else'):
        build(unpack(tmp_path / 'other', KAGGLE), tmp_path / 'built')


@pytest.mark.parametrize(
    'name, table',
    [
        (
            'Bone age ground truth.xlsx',
            xlsx(['Case ID', 'Sex', 'boneage'], [4360, 'M', 164], [4361, 'F', 25]),
        ),
        ('boneage-test-dataset.csv', 'Case ID,Sex,boneage\n4360,M,164\n4361,F,25\n'),
        ('test.csv', 'id,male,boneage\n4360,True,164.0\n4361,False,25.0\n'),
    ],
)
def test_the_other_test_labels_are_refused_with_the_reason(name, table, folder, tmp_path):
    unpack(folder, {**TEST_SET, name: table})
    with pytest.raises(DataError, match='not the official test labels.*2.78.*168.93') as error:
        build(folder, tmp_path / 'built')
    assert name in str(error.value)
    unpack(folder, {'official/Bone age ground truth.xlsx': TRUTH})
    record = build(folder, tmp_path / 'built').as_data_source('test')[0]
    assert record['months'] == np.float32(168.93)


def test_nothing_found_says_what_was_looked_for(folder, tmp_path):
    unpack(folder, {'holiday.zip': zipped({'beach.png': png(1)}), 'hands/7.png': png(7)})
    with pytest.raises(DataError, match='Training.Set.zip(.|\n)*Found: hands, holiday.zip'):
        build(folder, tmp_path / 'built')
    with pytest.raises(DataError, match='no such folder'):
        build(folder / 'absent', tmp_path / 'built')
    with pytest.raises(DataError, match='no label table'):
        build(unpack(tmp_path / 'half', DOUBLED), tmp_path / 'built')


def test_source_comes_from_the_environment(folder, tmp_path, monkeypatch):
    monkeypatch.setenv('BONEAGE_DATA', str(unpack(folder, KAGGLE)))
    assert len(build(None, tmp_path / 'built').as_data_source('train')) == 3
    monkeypatch.delenv('BONEAGE_DATA')
    with pytest.raises(DataError, match='BONEAGE_DATA'):
        build(None, tmp_path / 'other')


@pytest.mark.parametrize(
    'member', ['../../evil.png', '/etc/evil.png', 'a\\..\\evil.png', 'C:/evil.png']
)
def test_members_that_climb_out_are_refused(member, folder, tmp_path):
    files = {**TRAIN_SET, member: png(1)}
    unpack(folder, {'boneage-training-dataset.zip': zipped(files), 'train.csv': TRAIN_CSV})
    with pytest.raises(DataError, match=r'boneage-training-dataset.zip: member .* climbs out'):
        build(folder, tmp_path / 'built', on_error='skip')


def test_a_zip_cut_short_is_named(folder, tmp_path):
    unpack(
        folder, {'boneage-training-dataset.zip': zipped(TRAIN_SET)[:-40], 'train.csv': TRAIN_CSV}
    )
    with pytest.raises(DataError, match='boneage-training-dataset.zip: not a whole zip'):
        build(folder, tmp_path / 'built')


def damaged():
    """A set with one of each kind of damage; only 999 is good."""
    packed = bytearray(
        zipped(
            {
                **TRAIN_SET,
                'boneage-training-dataset/20.png': png(20)[:-40],
                'boneage-training-dataset/21.png': b'',
                'boneage-training-dataset/22.png': b'GIF89a...',
                'boneage-training-dataset/77.png': png(77),
            }
        )
    )
    at = packed.index(TRAIN['1377'])
    packed[at + 40] ^= 255  # the zip's own checksum no longer fits
    table = TRAIN_CSV + '20,10,True\n21,10,True\n22,10,True\n31,10,True\n'
    return {
        'boneage-training-dataset.zip': bytes(packed),
        'boneage-training-dataset.csv': table.replace('12004,12,True', '12004,412,True'),
    }


def test_stop_names_every_label_problem_and_leaves_nothing(folder, tmp_path):
    with pytest.raises(DataError) as error:
        build(unpack(folder, damaged()), tmp_path / 'built')
    lines = str(error.value).splitlines()
    assert [line.split(' (')[0] for line in lines[:3]] == [
        'age outside 0 to 240 months: 1',
        'label without an image: 1',
        'image without a label: 1',
    ]
    assert '12004' in lines[0] and '31' in lines[1] and '77' in lines[2]
    left = [path.name for path in (tmp_path / 'built').rglob('*') if path.is_file()]
    assert left == ['.lock']


def test_stop_names_all_unreadable_images_at_once(folder, tmp_path):
    files = {
        **TRAIN_SET,
        'boneage-training-dataset/20.png': png(20)[:-40],
        'boneage-training-dataset/21.png': b'',
    }
    unpack(folder, {**files, 'train.csv': TRAIN_CSV + '20,10,True\n21,10,True\n'})
    with pytest.raises(DataError, match='image that cannot be read: 2 ') as error:
        build(folder, tmp_path / 'built')
    assert '20.png: a PNG of' in str(error.value) and '21.png: zero bytes' in str(error.value)
    assert not list((tmp_path / 'built/rsna_bone_age').glob('*[0-9]*'))


def test_skip_drops_and_lists(folder, tmp_path, capsys):
    builder = build(unpack(folder, damaged()), tmp_path / 'built', on_error='skip')
    assert [record['id'] for record in builder.as_data_source('train')] == ['999']
    with open(builder.data_path / 'rejected.csv', newline='') as file:
        rejected = {row['id']: row for row in csv.DictReader(file)}
    assert sorted(rejected) == ['12004', '1377', '20', '21', '22', '31', '77']
    assert (
        '412' in rejected['12004']['reason'] and 'damaged in the zip' in rejected['1377']['reason']
    )
    assert 'zero bytes' in rejected['21']['reason'] and '21.png' in rejected['21']['file']
    assert 'a GIF' in rejected['22']['reason']
    assert 'image that cannot be read: 4' in capsys.readouterr().out


KILLED = """
import os, signal, sys
from tfds_rsna import RsnaBoneAge
from tfds_rsna.io import decoding
decode, seen = decoding.read, []
def die_at_third(data, name):
    seen.append(name)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(data, name)
decoding.read = die_at_third
RsnaBoneAge(data_dir=sys.argv[1], source=sys.argv[2]).download_and_prepare()
"""


def test_a_killed_build_is_no_dataset_and_starts_again(folder, tmp_path):
    unpack(folder, KAGGLE)
    root = pathlib.Path(tfds_rsna.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, '-c', KILLED, str(tmp_path / 'built'), str(folder)],
        timeout=100,
        env={**os.environ, 'PYTHONPATH': str(root)},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    home = tmp_path / 'built/rsna_bone_age'
    assert list(home.glob('incomplete.*')), 'the kill came too late to prove anything'
    builder = tfds_rsna.RsnaBoneAge(data_dir=tmp_path / 'built', source=folder)
    assert not builder.data_path.exists()
    builder.download_and_prepare()
    assert len(builder.as_data_source('train')) == 3
    assert sorted(path.name for path in home.iterdir()) == ['.lock', '1.1.0']


def test_a_second_build_waits_for_the_first(folder, tmp_path, capsys):
    home = tmp_path / 'built/rsna_bone_age'
    home.mkdir(parents=True)
    with open(home / '.lock', 'w') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        builder = tfds_rsna.RsnaBoneAge(data_dir=tmp_path / 'built', source=unpack(folder, KAGGLE))
        waiting = threading.Thread(target=builder.download_and_prepare)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and not builder.data_path.exists()
    waiting.join(20)
    assert len(builder.as_data_source('train')) == 3
    assert 'another process is building' in capsys.readouterr().out


def test_images_of_one_place_only(folder, tmp_path, capsys):
    """A half-unpacked copy of other images beside the whole zip is not mixed in."""
    unpack(
        folder,
        {
            'boneage-training-dataset/1377.png': png(5, (3, 3)),
            'Bone+Age+Training+Set.zip': OFFICIAL['Bone+Age+Training+Set.zip'],
            'train.csv': TRAIN_CSV,
        },
    )
    records = build(folder, tmp_path / 'built').as_data_source('train')
    assert [record['image'] for record in records] == [TRAIN[record['id']] for record in records]
    assert 'taking Bone+Age+Training+Set.zip' in capsys.readouterr().out


def test_download_fetches_the_missing_splits_only(folder, tmp_path, monkeypatch):
    asked = []

    def fetch(url, target, *, sha256=None):
        asked.append(url.rpartition('/')[2])
        pathlib.Path(target).write_bytes(OFFICIAL[asked[-1]])
        return pathlib.Path(target)

    monkeypatch.setattr(official.downloads, 'fetch', fetch)
    unpack(folder, {'Bone+Age+Validation+Set.zip': OFFICIAL['Bone+Age+Validation+Set.zip']})
    builder = build(folder, tmp_path / 'built', download=True)
    assert list(builder.as_data_source()) == ['train', 'validation', 'test']
    assert sorted(asked) == [
        'Bone+Age+Test+Set.zip',
        'Bone+Age+Training+Set+Annotations.zip',
        'Bone+Age+Training+Set.zip',
    ]
    tfds_rsna.RsnaBoneAge.fetch(folder)
    assert len(asked) == 3
    tfds_rsna.RsnaBoneAge.fetch(tmp_path / 'new')
    assert list(tfds_rsna.RsnaBoneAge.describe(source=tmp_path / 'new')['splits']) == [
        'train',
        'validation',
        'test',
    ]


@pytest.mark.parametrize('layout', LAYOUTS)
def test_descriptions_see_every_layout(layout, folder, capsys):
    files, splits = LAYOUTS[layout]
    unpack(folder, files)
    before = tfds_rsna.RsnaBoneAge.describe(source=folder)
    assert list(before['splits']) == splits.split() and json.loads(json.dumps(before)) == before
    (folder / 'boneage_cache/runs').mkdir(parents=True)
    (folder / 'boneage_cache/runs/figure.png').write_bytes(png(1))
    (folder / 'holiday.zip').write_bytes(b'PK')
    assert tfds_rsna.RsnaBoneAge.describe(source=folder) == before
    table = next(
        name
        for name in files
        if name.endswith(('.zip', 'dataset.csv', 'Dataset.csv', 'truth.xlsx'))
    )
    image = next(
        name
        for name in files
        if name.endswith(('.png', 'Set.zip', 'dataset.zip', 'dataset-1.zip', 'archive.zip'))
    )
    os.utime(folder / image, (1, 1))
    after = tfds_rsna.RsnaBoneAge.describe(source=folder)
    assert after != before
    if not table.endswith('.zip'):
        os.utime(folder / table, (1, 1))
        assert tfds_rsna.RsnaBoneAge.describe(source=folder) == after
    assert tfds_rsna.RsnaBoneAge.describe(source=folder, on_error='skip') != after
    assert capsys.readouterr().out == ''


def test_descriptions_follow_labels(folder):
    unpack(folder, KAGGLE)
    before = tfds_rsna.RsnaBoneAge.describe(source=folder)
    unpack(folder, {'boneage-training-dataset.csv': TRAIN_CSV.replace('180', '181')})
    after = tfds_rsna.RsnaBoneAge.describe(source=folder)
    assert after['splits']['train']['labels'] != before['splits']['train']['labels']
    assert after['splits']['train']['images'] == before['splits']['train']['images']
    with pytest.raises(UserError, match='no such folder'):
        tfds_rsna.RsnaBoneAge.describe(source=folder / 'absent')


def test_builders_table():
    assert tfds_rsna.builder_class('rsna_bone_age') is tfds_rsna.RsnaBoneAge
    for name in tfds_rsna.SOURCES:
        assert tfds_rsna.builder_class(name).name == name
    with pytest.raises(KeyError, match='image_folder'):
        tfds_rsna.builder_class('nothing')
    with pytest.raises(AttributeError):
        tfds_rsna.Nothing  # noqa: B018, asking for it is the test


@pytest.mark.skipif('BONEAGE_DATA' not in os.environ, reason='needs BONEAGE_DATA')
def test_real_images(folder, tmp_path):
    """Twenty images of rsna100, zipped as they come."""
    real = pathlib.Path(os.environ['BONEAGE_DATA']) / 'rsna100'
    with open(real / 'boneage-training-dataset.csv', newline='') as file:
        table = list(csv.DictReader(file))[::600]
    with zipfile.ZipFile(real / 'boneage-training-dataset.zip') as archive:
        examples = {
            f'boneage-training-dataset/{row["id"]}.png': archive.read(
                f'boneage-training-dataset/{row["id"]}.png'
            )
            for row in table
        }
    text = 'id,boneage,male\n' + ''.join(
        f'{row["id"]},{row["boneage"]},{row["male"]}\n' for row in table
    )
    records = build(
        unpack(folder, {'boneage-training-dataset.zip': zipped(examples), 'train.csv': text}),
        tmp_path / 'built',
    ).as_data_source('train')
    assert len(records) == 20
    by_id = {row['id']: row for row in table}
    for record in records:
        row = by_id[record['id']]
        assert (record['months'], record['male']) == (float(row['boneage']), row['male'] == 'True')
        assert record['image'] == examples[f'boneage-training-dataset/{row["id"]}.png']
        assert (
            decoding.decode(record['image']).shape
            == (100, 100)
            == (record['height'], record['width'])
        )
