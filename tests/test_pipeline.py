"""Batches: reproducible, every image once an epoch, alike in both placements, evaluated once."""

import jax
import numpy as np
import pytest

from boneage_jax.data import pipeline, source
from boneage_jax.runtime import sharding


class Records(list):
    def __getitems__(self, rows):
        return [self[i] for i in rows]


@pytest.fixture(scope='module')
def split():
    rng = np.random.default_rng(0)
    records = Records(
        {
            'image': rng.integers(0, 256, (8, 8, 1), np.uint8),
            'keypoints': rng.random((3, 2), np.float32),
        }
        for _ in range(30)
    )
    positions = rng.permutation(30)[:23]
    return source.Split(
        'train',
        records,
        positions,
        [f'image{i}' for i in positions],
        np.arange(23, dtype=np.float32),
        np.arange(23) % 2 == 0,
        ('image', 'keypoints'),
    )


def make(split, **changes):
    options = dict(batch_size=4, seed=7, placement='host', mesh=sharding.make_mesh()) | changes
    return pipeline.TrainBatches(split, **options)


def test_every_epoch_is_another_permutation(split):
    batches = make(split)
    assert batches.steps_per_epoch == 5
    epochs = [
        np.concatenate([batches.indices(s) for s in range(e * 5, e * 5 + 5)]) for e in range(2)
    ]
    for epoch in epochs:
        assert len(set(epoch)) == 20 and set(epoch) <= set(range(23))
    assert list(epochs[0]) != list(epochs[1])
    assert list(make(split, seed=8).indices(0)) != list(batches.indices(0))


def test_a_batch_holds_its_own_images(split):
    batch = make(split)(3)
    assert batch['image'].dtype == np.uint8 and batch['image'].shape == (4, 8, 8, 1)
    assert (
        batch['months'].dtype == np.float32
        and batch['male'].dtype == bool
        and batch['index'].dtype == np.int32
    )
    for row, i in enumerate(batch['index']):
        record = split.records[split.positions[i]]
        np.testing.assert_array_equal(batch['image'][row], record['image'])
        np.testing.assert_array_equal(batch['keypoints'][row], record['keypoints'])
        assert batch['months'][row] == split.months[i]
    assert make(split).ids(3) == [split.ids[i] for i in batch['index']]


def test_iterating_from_the_middle_gives_the_same_batches(split):
    whole = list(make(split).iterate(0, 9))
    tail = list(make(split).iterate(6, 9))
    assert len(whole) == 9 and len(tail) == 3
    for a, b in zip(whole[6:], tail, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_host_and_device_placement_give_the_same_batch(split):
    host, device = make(split), make(split, placement='device')
    put = lambda b: sharding.shard_batch(b, sharding.make_mesh())  # noqa: E731
    gather = jax.jit(pipeline.gather)
    for step in (0, 4, 11):
        a, b = gather(put(host(step)), {}), gather(put(device(step)), device.resident)
        assert set(a) == set(b) and 'image' not in device(step)
        jax.tree.map(np.testing.assert_array_equal, a, {name: b[name] for name in a})


def test_evaluation_covers_every_example_once(split):
    seen = [batch['index'][batch['valid']] for batch in pipeline.eval_batches(split, batch_size=4)]
    assert list(np.concatenate(seen)) == list(range(23)) and len(seen) == 6
    last = list(pipeline.eval_batches(split, batch_size=4))[-1]
    assert list(last['valid']) == [True, True, True, False] and last['image'].shape == (4, 8, 8, 1)


def test_batch_larger_than_the_split(split):
    with pytest.raises(ValueError, match='23 training images do not fill one batch of 24'):
        make(split, batch_size=24)


def test_batch_that_does_not_divide_over_devices():
    with pytest.raises(ValueError, match='batch_size=6 does not divide over 4 devices'):
        sharding.check_batch_size(6, sharding.make_mesh())
