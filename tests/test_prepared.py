"""Prepared records: what goes in comes out, in order, from many threads, all of it or nothing."""

import concurrent.futures
import csv
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import tfds_rsna
from tfds_rsna import prepared, streamed_builder
from tfds_rsna.errors import UserError


def examples(count, seed=0, shape=(12, 8, 1)):
    """Examples with everything an example can have."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        yield {
            'image': rng.integers(0, 256, shape, np.uint8),
            'id': f'image {index}, "ä"',
            'months': np.float32(index / 3),
            'male': bool(index % 2),
            'width': 100 + index,
            'height': 200 + index,
            'hand_mask': rng.integers(0, 2, shape, np.uint8),
            'keypoints': rng.normal(size=(3, 2)).astype(np.float32),
            'bone_boxes': rng.normal(size=(5, 4)).astype(np.float32),
            'flags': 'inverted;right' if index == 1 else '',
        }


def plain(count):
    for example in examples(count):
        yield {key: example[key] for key in ('image', 'id', 'months', 'male', 'width', 'height')}


def same(found, expected):
    assert set(found) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)
        if isinstance(value, np.ndarray):
            assert found[key].dtype == value.dtype and found[key].shape == value.shape


@pytest.fixture
def folder(tmp_path):
    return prepared.write(
        tmp_path / 'records',
        {'train': examples(7), 'test': examples(2, seed=1)},
        description='seven and two',
        metadata={'size': [12, 8], 'stages': ['mask']},
    )


def test_what_goes_in_comes_out(folder):
    opened = prepared.open(folder)
    assert (
        opened.metadata == prepared.read_metadata(folder) == {'size': [12, 8], 'stages': ['mask']}
    )
    for split, seed, count in (('train', 0, 7), ('test', 1, 2)):
        records, labels = opened.splits[split], opened.labels[split]
        assert len(records) == count
        for index, example in enumerate(examples(count, seed)):
            same(records[index], example)
            for key, column in (
                ('id', 'ids'),
                ('months', 'months'),
                ('male', 'male'),
                ('width', 'width'),
                ('height', 'height'),
                ('flags', 'flags'),
            ):
                assert labels[column][index] == example[key]
        assert (labels['months'].dtype, labels['male'].dtype) == (np.float32, np.bool_)
    assert list(opened.splits) == ['train', 'test']


def test_records_are_the_same_bytes_in_every_process(folder):
    """Features in order of their names: protobuf's own order is another one in each process."""
    shard = next(folder.rglob('*train.array_record*'))
    record = streamed_builder.array_record_module.ArrayRecordReader(str(shard)).read([0])[0]
    places = [
        record.index(b'\n%c%s\x12' % (len(name), name.encode()))
        for name in sorted(next(examples(1)))
    ]
    assert places == sorted(places)


def test_random_access(folder):
    records = prepared.open(folder).splits['train']
    wanted = [5, 0, 5, 3]
    for found, index in zip(records.__getitems__(wanted), wanted):
        same(found, records[index])
    same(records[-1], records[6])
    same(records[np.int64(2)], list(examples(7))[2])
    for index in (7, -8):
        with pytest.raises(IndexError):
            records[index]


def test_many_threads_read_the_same(folder):
    records = prepared.open(folder).splits['train']
    order = np.random.default_rng(0).integers(0, 7, 400)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: records[index]['image'], order))
    for image, index in zip(found, order):
        np.testing.assert_array_equal(image, records[index]['image'])


def test_tfds_reads_them_too(folder):
    """The folder is a TFDS dataset: its own decoder agrees with ours."""
    found = tfds_rsna.Prepared(data_dir=folder).as_data_source('train')[3]
    same(found, list(examples(7))[3])


def test_a_moved_folder_opens(folder, tmp_path):
    folder.rename(tmp_path / 'elsewhere')
    same(prepared.open(tmp_path / 'elsewhere').splits['test'][1], list(examples(2, 1))[1])


def test_several_shards_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed_builder, 'SHARD_BYTES', 1000)
    opened = prepared.open(
        prepared.write(tmp_path / 'records', {'train': examples(20)}, metadata={})
    )
    assert len(list((tmp_path / 'records').rglob('*array_record*'))) > 5
    for index, example in enumerate(examples(20)):
        same(opened.splits['train'][index], example)


def test_streams(tmp_path):
    """64 MB pass through a few MB of memory."""

    def large():
        for index, example in enumerate(plain(64)):
            yield example | {'image': np.full((1024, 1024, 1), index, np.uint8)}

    tracemalloc.start()
    prepared.write(tmp_path / 'records', {'train': large()}, metadata={})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    assert prepared.open(tmp_path / 'records').splits['train'][63]['image'][0, 0, 0] == 63


def test_a_failure_leaves_nothing(tmp_path):
    def broken():
        yield from plain(3)
        raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        prepared.write(tmp_path / 'records', {'train': broken()}, metadata={})
    assert list(tmp_path.iterdir()) == []


def broken(**changes):
    yield from plain(2)
    example = next(plain(1))
    yield {key: value for key, value in (example | changes).items() if value is not None}


@pytest.mark.parametrize(
    'splits, found',
    [
        ({}, 'no splits'),
        ({'train': []}, "'train' has no examples"),
        ({'train': plain(1), 'test': []}, "'test' has no"),
        ({'train': [{'image': np.zeros((2, 2, 1), np.uint8)}]}, 'lacks id, months'),
        ({'train': [next(plain(1)) | {'image': np.zeros((2, 2), np.uint8)}]}, r'\(2, 2\)'),
        ({'train': [next(plain(1)) | {'image': np.zeros((2, 2, 1))}]}, 'float64'),
        ({'train': [next(plain(1)) | {'score': 0.5}]}, 'score: a float'),
        ({'train': broken(image=np.zeros((3, 3, 1), np.uint8))}, r'\(3, 3, 1\)'),
        ({'train': broken(width=None)}, "example 'image 0.* has"),
        ({'train': broken(extra=np.zeros(2))}, 'extra'),
    ],
)
def test_wrong_examples_are_named(splits, found, tmp_path):
    with pytest.raises(ValueError, match=found):
        prepared.write(tmp_path / 'records', splits, metadata={})
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_json_cannot_hold_fails_first(tmp_path):
    with pytest.raises(TypeError):
        prepared.write(tmp_path / 'records', {'train': plain(1)}, metadata={'array': np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


def test_finished_records_are_not_overwritten(folder):
    with pytest.raises(prepared.PreparedError, match='finished records'):
        prepared.write(folder, {'train': plain(1)}, metadata={})
    assert len(prepared.open(folder).splits['train']) == 7


def test_unfinished_folders_are_refused(folder, tmp_path):
    with pytest.raises(prepared.PreparedError, match='no prepared.json'):
        prepared.open(tmp_path / 'nothing')
    document = json.loads((folder / prepared.MARKER).read_text())
    document['counts']['train'] = 8
    (folder / prepared.MARKER).write_text(json.dumps(document))
    with pytest.raises(prepared.PreparedError, match="'train' should hold 8"):
        prepared.open(folder)
    (folder / prepared.MARKER).unlink()
    with pytest.raises(prepared.PreparedError, match='no prepared.json'):
        prepared.open(folder)


KILLED = """
import os, signal, sys
import numpy as np
from tfds_rsna import prepared
def images():
    for index in range(5):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield {'image': np.zeros((4, 4, 1), np.uint8), 'id': str(index), 'months': 1., 'male': True,
               'width': 4, 'height': 4}
prepared.write(sys.argv[1], {'train': images()}, metadata={})
"""


def test_a_killed_write_is_no_records_and_starts_again(tmp_path):
    root = pathlib.Path(tfds_rsna.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, '-c', KILLED, str(tmp_path / 'records')],
        timeout=100,
        capture_output=True,
        env={**os.environ, 'PYTHONPATH': str(root)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert list(tmp_path.iterdir()), 'the kill came too late to prove anything'
    with pytest.raises(prepared.PreparedError):
        prepared.open(tmp_path / 'records')
    prepared.write(tmp_path / 'records', {'train': plain(4)}, metadata={})
    assert len(prepared.open(tmp_path / 'records').splits['train']) == 4
    assert [path.name for path in tmp_path.iterdir()] == ['records']


def test_groups_are_kept_and_older_folders_open_without(tmp_path):
    rows = [{**example, 'group': group} for example, group in zip(plain(3), ('ann', '', 'ann'))]
    opened = prepared.open(prepared.write(tmp_path / 'new', {'train': rows}, metadata={}))
    assert opened.labels['train']['groups'] == ['ann', '', 'ann']
    assert [record['group'] for record in opened.splits['train']] == ['ann', '', 'ann']
    old = prepared.write(tmp_path / 'old', {'train': plain(3)}, metadata={})
    with open(old / 'records.csv', newline='') as file:
        table = [row[:-1] for row in csv.reader(file)]
    with open(old / 'records.csv', 'w', newline='') as file:
        csv.writer(file).writerows(table)
    assert prepared.open(old).labels['train']['groups'] == ['', '', '']


def test_full_disk(tmp_path, monkeypatch):
    writer = streamed_builder.array_record_module.ArrayRecordWriter
    monkeypatch.setattr(
        streamed_builder.array_record_module,
        'ArrayRecordWriter',
        lambda _, how: writer('/dev/full', how),
    )
    with pytest.raises(UserError, match='disk became full'):
        prepared.write(tmp_path / 'records', {'train': plain(3)}, metadata={})
    monkeypatch.undo()

    def fail(path, text):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(pathlib.Path, 'write_text', fail)  # the small files at the end
    with pytest.raises(UserError, match='disk became full'):
        prepared.write(tmp_path / 'records', {'train': plain(3)}, metadata={})
    assert list(tmp_path.iterdir()) == []
