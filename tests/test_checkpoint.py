"""Checkpoints: what is kept, what is refused, and that nothing but arrays is needed to read one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boneage_jax.errors import CheckpointError
from boneage_jax.runs import initialize
from boneage_jax.runs import state as state_lib
from boneage_jax.runtime import checkpoint, sharding


def state(features=3, seed=0):
    arrays = {
        'head': {
            'kernel': jax.random.normal(jax.random.key(seed), (features, 1)),
            'bias': jnp.zeros(1),
        }
    }
    made = state_lib.State(
        jnp.int32(seed),
        arrays,
        {},
        {'mean': jnp.ones(features)},
        (jnp.zeros(features),),
        {'best': jnp.float32(jnp.inf)},
    )
    return sharding.place_replicated(jax.tree.map(np.asarray, made), sharding.make_mesh())


def same(a, b):
    return jax.tree.all(
        jax.tree.map(lambda x, y: bool((x == y).all()) and x.sharding == y.sharding, a, b)
    )


def test_latest_and_best_are_kept(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest is None and checkpoints.best is None
        for step, value in [(1, 9.0), (2, None), (3, 7.0), (4, None), (5, None)]:
            checkpoints.save(step, state(seed=step), value)
        assert (checkpoints.latest, checkpoints.best) == (5, 3)
    kept = {p.name for p in (tmp_path / 'checkpoints').iterdir()}
    assert kept == {'3', '5'}
    with checkpoint.Checkpoints(tmp_path) as checkpoints:  # another process
        assert (checkpoints.latest, checkpoints.best) == (5, 3)
        assert same(checkpoints.load(state()), state(seed=5)) and same(
            checkpoints.load(state(), 3), state(seed=3)
        )


def test_half_written_checkpoints_are_not_seen(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(seed=1))
    (tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp').mkdir()
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 1
    assert (
        tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp'
    ).exists()  # it may be another process's, at work
    with checkpoint.Checkpoints(tmp_path, clean=True) as checkpoints:
        assert checkpoints.latest == 1
    assert not (tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp').exists()


def test_another_model_is_refused_by_name_and_shape(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(3))
        with pytest.raises(
            CheckpointError, match=r'head.kernel: \(3, 1\) saved, \(4, 1\) expected'
        ):
            checkpoints.load(state(4))
        extra = dataclasses.replace(state(3), frozen_params={'stem': jnp.zeros(2)})
        with pytest.raises(
            CheckpointError, match=r'frozen_params.stem: absent saved, \(2,\) expected'
        ):
            checkpoints.load(extra)


def test_parameters_load_across_the_frozen_border(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(seed=1), 5.0)
        checkpoints.save(2, state(seed=2))
        fresh = state(seed=7)
        frozen = dataclasses.replace(fresh, params={}, frozen_params=fresh.params)
        loaded = checkpoints.load_parameters(frozen)
    assert same(loaded.frozen_params, state(seed=1).params)  # the best one, not the latest
    assert int(loaded.step) == 7  # parameters only
    with (
        checkpoint.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match='head.kernel'),
    ):
        checkpoints.load_parameters(state(5))


def test_parts_load_from_other_places(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(seed=1), 5.0)
    fresh = state(seed=7)
    wider = dataclasses.replace(
        fresh, params={'first': fresh.params['head'], 'second': fresh.params['head']}
    )
    loaded = initialize.load_run(
        wider, tmp_path, {'second': 'head', 'third': 'head'}, optional=('third',)
    )
    expected = {'first': fresh.params['head'], 'second': state(seed=1).params['head']}
    assert same(loaded.params, expected)
    assert same(loaded.batch_stats, fresh.batch_stats)
    small = dataclasses.replace(wider, params={'first': state(5).params['head']})
    for like, init_map, message in (
        (wider, {'third': 'head'}, "this model has no parameters below 'third'; it has first"),
        (wider, {'first': 'backbone'}, "1 has no parameters below 'backbone'; it has head"),
        (small, {'first': 'head'}, r'first.kernel: \(3, 1\) saved, \(5, 1\) expected'),
    ):
        with pytest.raises(CheckpointError, match=message):
            initialize.load_run(like, tmp_path, init_map)


def test_read_needs_no_model(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(seed=1))
        arrays = checkpoints.read(1)
    np.testing.assert_array_equal(
        arrays['params.head.kernel'], state(seed=1).params['head']['kernel']
    )
    assert set(arrays) == {
        'step',
        'params.head.kernel',
        'params.head.bias',
        'batch_stats.mean',
        'opt_state.0',
        'loop_state.best',
    }
