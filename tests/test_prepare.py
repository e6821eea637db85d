"""From a source to fixed-size records: resizing, points, the cache, and refusals."""

import shutil

import numpy as np
import pytest
from PIL import Image

import tfds_rsna
from boneage_jax import config as c
from boneage_jax.errors import ConfigError
from boneage_jax.preprocess import resize
from boneage_jax.stages import records as records_lib
from tfds_rsna import prepared
from tfds_rsna.errors import UserError


def example(height=40, width=20, **more):
    image = np.zeros((height, width), np.uint8)
    image[10:14, 4:8] = 200  # a bright square with its centre at (11.5, 5.5)
    return {'image': image, 'id': '1', **more}


def centre(image):
    rows, columns = np.indices(image.shape[:2])
    weight = image[..., 0].astype(float)
    return np.array([(rows * weight).sum(), (columns * weight).sum()]) / weight.sum()


@pytest.mark.parametrize(
    'fit, size',
    [('pad', (64, 64)), ('pad', (20, 30)), ('stretch', (64, 64)), ('stretch', (20, 50))],
)
def test_resize_moves_points_with_the_image(fit, size):
    points = np.array([[11.5, 5.5]], np.float32)
    out = resize.resize(
        example(keypoints=points, hand_mask=(example()['image'] > 0).astype(np.uint8)), size, fit
    )
    assert out['image'].shape == (*size, 1) and out['image'].dtype == np.uint8
    np.testing.assert_allclose(centre(out['image']), out['keypoints'][0], atol=0.3)
    assert set(np.unique(out['hand_mask'])) == {0, 1}
    np.testing.assert_allclose(centre(out['hand_mask']), out['keypoints'][0], atol=0.6)


def test_pad_keeps_the_aspect_and_fills_with_zeros():
    white = {'image': np.full((40, 20), 255, np.uint8), 'id': '1'}
    out = resize.resize(white, (30, 30), 'pad')['image'][..., 0]
    assert (out[:, 7:22] == 255).all() and (out[:, :7] == 0).all() and (out[:, 22:] == 0).all()


def test_an_image_of_the_right_size_is_left_untouched():
    image = np.random.default_rng(0).integers(0, 256, (100, 100), np.uint8)
    for fit in ('pad', 'stretch'):
        np.testing.assert_array_equal(
            resize.resize({'image': image, 'id': '1'}, (100, 100), fit)['image'][..., 0], image
        )


def test_shrinking_averages():
    checker = (np.indices((200, 200)).sum(0) % 2 * 255).astype(np.uint8)
    out = resize.resize({'image': checker, 'id': '1'}, (50, 50), 'pad')['image']
    assert (
        abs(out.astype(float) - 127.5).max() < 3
    )  # nearest neighbour would give all black or stripes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'cache'))
    rng = np.random.default_rng(0)
    (tmp_path / 'images').mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (30 + i, 25), np.uint8)).save(
            tmp_path / 'images' / f'{i}.png'
        )
    rows = ''.join(f'{i},{10 * i + 5},{i % 2 == 0}\n' for i in range(20))
    (tmp_path / 'labels.csv').write_text('id,boneage,male\n' + rows)
    return tmp_path


def data(folder, arg=''):
    return c.build(
        c.base(),
        f'source=image_folder,images={folder}/images,labels={folder}/labels.csv,size=(32,32)'
        + (',' + arg if arg else ''),
        {},
    ).data


def test_records_of_a_users_own_folder(folder):
    records = prepared.open(records_lib.get_records(data(folder)))
    labels = records.labels['train']
    assert sorted(labels['ids'], key=int) == [str(i) for i in range(20)]
    for i, (name, months, male) in enumerate(
        zip(labels['ids'], labels['months'], labels['male'], strict=True)
    ):
        assert months == 10 * int(name) + 5 and male == (int(name) % 2 == 0)
        expected = resize.resize(
            {'image': np.asarray(Image.open(folder / 'images' / f'{name}.png')), 'id': name},
            (32, 32),
            'pad',
        )
        np.testing.assert_array_equal(records.splits['train'][i]['image'], expected['image'])


def test_records_are_cached_and_every_change_builds_anew(folder, capsys):
    first = records_lib.get_records(data(folder))
    stamp = (first / 'prepared.json').stat().st_mtime_ns
    capsys.readouterr()
    assert (
        records_lib.get_records(data(folder)) == first
        and (first / 'prepared.json').stat().st_mtime_ns == stamp
    )
    assert capsys.readouterr().err == ''
    others = {
        records_lib.get_records(data(folder, arg))
        for arg in ('data.resize=stretch', 'size=(40,32)')
    }
    (folder / 'labels.csv').write_text(
        (folder / 'labels.csv').read_text().replace('\n0,5,', '\n0,6,')
    )
    others.add(records_lib.get_records(data(folder)))
    assert len(others) == 3 and first not in others


def test_half_written_records_are_not_taken(folder, monkeypatch):
    work = records_lib.prepare_chunk
    monkeypatch.setattr(
        records_lib, 'prepare_chunk', lambda *args: 1 / 0 if 16 in args[-1][1] else work(*args)
    )
    with pytest.raises(ZeroDivisionError):
        records_lib.get_records(data(folder))
    assert not list((folder / 'cache' / 'records').glob('[!.]*'))
    monkeypatch.setattr(records_lib, 'prepare_chunk', work)
    assert len(prepared.open(records_lib.get_records(data(folder))).splits['train']) == 20


def test_a_finished_cache_needs_no_writing(folder):
    records = records_lib.get_records(data(folder))
    for path in records.parent.glob('.*.lock'):
        path.unlink()
    records_lib.get_records(data(folder))
    assert not list(
        records.parent.glob('.*.lock')
    )  # so a shared cache may lie on a read-only file system


def test_a_disk_too_small_is_said_before_the_work(folder, monkeypatch):
    usage = shutil._ntuple_diskusage(10, 9, 1)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(UserError, match='GB are free; .*BONEAGE_CACHE'):
        records_lib.get_records(data(folder))


def test_many_processes_write_the_same_records(folder, monkeypatch):
    one = prepared.open(records_lib.get_records(data(folder)))
    monkeypatch.setenv('BONEAGE_CACHE', str(folder / 'cache2'))
    monkeypatch.setattr(records_lib, 'POOL_SECONDS', 0.0)
    two = prepared.open(records_lib.get_records(data(folder)))
    assert one.labels['train']['ids'] == two.labels['train']['ids']
    for a, b in zip(one.splits['train'], two.splits['train'], strict=True):
        np.testing.assert_array_equal(a['image'], b['image'])


@pytest.mark.parametrize(
    'arg, message',
    [
        ('stages=(mask,contrst)', 'data.stages: unknown contrst; known: .*mask'),
        ('images=/nowhere/images', 'images: /nowhere/images: no such file or folder$'),
        ('data.image_folder.images=', 'data.image_folder.images is empty'),
        (
            'source=rsna_bone_age,data.folder=nothing-here',
            'nothing-here: no such folder; set BONEAGE_DATA',
        ),
    ],
)
def test_refusals(folder, arg, message, monkeypatch):
    monkeypatch.setenv('BONEAGE_DATA', str(folder))
    with pytest.raises(ConfigError, match=message):
        records_lib.get_records(data(folder, arg))


def test_files_are_downloaded_by_a_build_alone(monkeypatch, tmp_path):
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'cache'))
    fetched = []
    monkeypatch.setattr(tfds_rsna.RsnaBoneAge, 'fetch', fetched.append)
    config = c.build(c.base(), 'data.folder=rsna,download=true,size=(32,32)', {}).data
    with pytest.raises(ConfigError, match='rsna: no such folder'):
        records_lib.existing_records(config, tmp_path)
    assert not fetched
    with pytest.raises(UserError):  # the folder is made, and has nothing in it
        records_lib.get_records(config, tmp_path)
    assert fetched == [tmp_path / 'rsna']


def test_bad_image_stops_the_build_by_name_or_is_skipped(folder):
    (folder / 'images' / '3.png').write_bytes((folder / 'images' / '3.png').read_bytes()[:200])
    with pytest.raises(ValueError, match='3.png'):
        records_lib.get_records(data(folder))
    assert (
        '3'
        not in prepared.open(records_lib.get_records(data(folder, 'on_error=skip'))).labels[
            'train'
        ]['ids']
    )
