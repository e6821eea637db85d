"""What must not happen: selection by reported images, images in two splits, rows that cannot be run
again.
"""

import json
import pathlib

import jax
import numpy as np
import pytest

from boneage_jax import config as c
from boneage_jax.analysis import ensemble, table
from boneage_jax.data import duplicates, source, splits
from boneage_jax.errors import LeakageError, SplitError
from boneage_jax.inference import intervals
from boneage_jax.runs import workdir
from boneage_jax.runtime import checkpoint
from boneage_jax.training import loop
from tfds_rsna.errors import UserError

SPEC = 'configs/prsnet.py:tiny,row=baseline,epochs=1,precise_bn_batches=0'


class Images(list):
    def __getitems__(self, index):
        return [self[i] for i in index]


def split(name, images, ids=None):
    ids = ids or [f'{name}{i}' for i in range(len(images))]
    return source.Split(
        name,
        Images({'image': image[..., None]} for image in images),
        np.arange(len(images)),
        ids,
        np.arange(len(images), dtype=np.float32),
        np.zeros(len(images), bool),
    )


def blurred(count, seed):
    """Images `[N, 40, 30]` of a few large blots, no two alike."""
    coarse = np.random.default_rng(seed).random((count, 5, 4, 1), np.float32)
    return np.asarray(
        255 * jax.image.resize(coarse, (count, 40, 30, 1), 'cubic').clip(0, 1)
    ).astype(np.uint8)[..., 0]


@pytest.mark.parametrize('name', splits.REPORTED)
def test_no_reported_split_selects(name):
    with pytest.raises(
        SplitError, match=f'the checkpoint would be chosen by the {name} split, which is reported'
    ):
        splits.selecting(name, 'the checkpoint')
    assert splits.selecting('validation', 'the checkpoint') == 'validation'
    count = 20
    images = {
        'split': np.array([name] * count),
        'prediction': np.arange(count),
        'age': np.arange(count),
        'male': np.zeros(count, bool),
    }
    with pytest.raises(SplitError, match='the intervals would be chosen'):
        intervals.fit(images, split=name)


def test_the_loop_takes_no_checkpoint_by_a_reported_split(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, 'SELECTING', 'holdout')
    with pytest.raises(SplitError, match='the checkpoint would be chosen by the holdout split'):
        loop.train(c.load(SPEC)[1], tmp_path)
    assert not (tmp_path / 'metrics.json').exists() and not list(
        (tmp_path / 'checkpoints').glob('[0-9]*')
    )


@pytest.mark.parametrize(
    'report',
    [
        {'selected_by': 'test mae', 'splits': {}},
        {'selected_by': 'validation mae', 'splits': {'test': {'role': 'selects'}}},
    ],
)
def test_members_and_rows_chosen_by_a_reported_split_are_refused(report, tmp_path):
    for name in 'ab':
        (tmp_path / name).mkdir()
        for file, content in {'metrics': report, 'splits': {'train': []}, 'config': {}}.items():
            (tmp_path / name / f'{file}.json').write_text(json.dumps(content))
        (tmp_path / name / 'predictions.csv').write_text(
            'id,split,male,age,prediction\n1,test,True,10,11\n'
        )
    for use in (
        lambda: ensemble.load([tmp_path / 'a', tmp_path / 'b']),
        lambda: table.results(c.Row('row', {}), 'row', [tmp_path / 'a'], 'mae'),
    ):
        with pytest.raises(SplitError, match='a: its checkpoint would be chosen by the test split'):
            use()


def test_one_picture_in_two_splits_is_found(tmp_path, capsys):
    images, held = blurred(30, 0), blurred(12, 1)
    held[3] = images[7]
    held[5] = np.clip(
        images[9].astype(float) * 0.8 + 12 + np.random.default_rng(2).normal(0, 2, images[9].shape),
        0,
        255,
    )
    found = duplicates.check(
        {'train': split('train', images), 'holdout': split('holdout', held)}, tmp_path
    )
    assert found == {'same_id': 0, 'same_picture': 1, 'near_picture': 1}
    lines = (tmp_path / 'leaks.csv').read_text().splitlines()
    assert lines[0].startswith('split,id,other_split,other_id,kind')
    assert [line.split(',')[:5] for line in lines[1:]] == [
        ['train', 'train7', 'holdout', 'holdout3', 'same_picture'],
        ['train', 'train9', 'holdout', 'holdout5', 'near_picture'],
    ]
    assert '(2 concern a reported split)' in capsys.readouterr().err
    clean = {'train': split('train', images), 'holdout': split('holdout', blurred(12, 1))}
    assert duplicates.check(clean, tmp_path) == {'same_id': 0, 'same_picture': 0, 'near_picture': 0}
    assert not (tmp_path / 'leaks.csv').exists()


def test_one_id_in_two_splits_is_an_error():
    images = blurred(4, 0)
    two = {'train': split('train', images), 'test': split('test', images[:2], ['new', 'train2'])}
    with pytest.raises(
        LeakageError, match='1 images stand in train and in test, the first: train2'
    ):
        duplicates.check(two)


def test_a_image_of_any_size_is_hashed():
    small = blurred(3, 0)
    large = small.repeat(9, 1).repeat(9, 2)
    assert (np.bitwise_count(duplicates.hashes(small) ^ duplicates.hashes(large)) <= 4).all()
    assert duplicates.hashes(small[:, :8, :9]).shape == (3,)


def test_labels_are_known_again_whatever_their_order():
    images = blurred(4, 0)
    one, other = (
        split('train', images),
        split('train', images[::-1], ['train3', 'train2', 'train1', 'train0']),
    )
    object.__setattr__(other, 'months', other.months[::-1])
    assert workdir.label_digests({'train': one}) == workdir.label_digests({'train': other})
    object.__setattr__(other, 'months', other.months + 1)
    assert workdir.label_digests({'train': one}) != workdir.label_digests({'train': other})


def test_a_run_is_made_again_from_its_config_json_alone(tmp_path):
    first = loop.train(c.load(SPEC)[1], tmp_path / 'first')
    assert first['leaks']['same_id'] == 0 and set(first['labels']) == {
        'train',
        'validation',
        'holdout',
    }
    assert pathlib.Path(first['records']).is_dir() and len(first['labels']['train']['sha256']) == 64
    module, again = c.load(str(tmp_path / 'first' / 'config.json'))
    assert module is None and json.loads(again.to_json()) == json.loads(c.load(SPEC)[1].to_json())
    second = loop.train(again, tmp_path / 'second')
    arrays = []
    for name in ('first', 'second'):
        with checkpoint.Checkpoints(tmp_path / name) as checkpoints:
            arrays.append(checkpoints.read(first['step']))
    assert arrays[0].keys() == arrays[1].keys() and len(arrays[0]) > 50
    for name in arrays[0]:
        np.testing.assert_array_equal(arrays[0][name], arrays[1][name], err_msg=name)
    assert second['splits'] == first['splits'] and second['labels'] == first['labels']
    assert c.load(str(tmp_path / 'first' / 'config.json') + ':seed=4')[1].seed == 4
    (tmp_path / 'bad.json').write_text('{"seed": 1')
    with pytest.raises(UserError, match='bad.json: not the configuration of a run'):
        c.load(str(tmp_path / 'bad.json'))
