"""One training step: golden values, what moves and what must not, NaN, the loop's state."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from boneage_jax import config as c
from boneage_jax import models, tasks
from boneage_jax.data import views
from boneage_jax.runs import state as state_lib
from boneage_jax.training import loop, optimizer
from boneage_jax.training import step as step_lib

KEY = jax.random.key(3)


def batch(size=4, side=48, seed=0):
    rng = np.random.default_rng(seed)
    return {
        'image': rng.integers(0, 256, (size, side, side, 1), np.uint8),
        'index': np.arange(size, dtype=np.int32),
        'months': rng.uniform(20, 220, size).astype(np.float32),
        'male': rng.random(size) < 0.5,
        'valid': np.ones(size, bool),
    }


def create(frozen=()):
    net = models.build('prsnet', backbone='resnet18', width=8, depth=1)
    return state_lib.create_state(
        net, optimizer.build(c.build(c.base(), None, {}).optimizer, 0.01), frozen
    )


@functools.cache  # tests share compiled steps
def make(frozen=(), augment=(), flip_tta=False, turn_tta=0.0, model=(), name='adamw'):
    config = c.build(c.base(), f'optimizer.name={name},learning_rate=0.01', {})
    task = tasks.build(config.task, {'centre': 120.0, 'scale': 40.0})
    transform = optimizer.build(config.optimizer, config.optimizer.learning_rate)
    net = models.build('prsnet', backbone='resnet18', width=8, depth=1, **dict(model))
    state, graphdefs = state_lib.create_state(net, transform, frozen)
    options = config.augment.to_dict() | dict(augment)
    return (
        state,
        jax.jit(step_lib.make_train_step(graphdefs, task, transform, options)),
        jax.jit(step_lib.make_eval_step(graphdefs, task, views.Views(flip_tta, turn_tta))),
    )


ROTATING = (('flip', 0.5), ('rotation', 10.0))
DROPOUT = (('dropout', 0.5),)


def differ(a, b):
    return not jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def test_golden_step():
    """A change that moves these numbers without meaning to is a bug.

    They may change when the network, its initial values, the augmentation or JAX's random bits
    change on purpose.
    """
    state, train_step, _ = make(augment=ROTATING)
    losses = []
    for seed in range(3):
        state, metrics = train_step(state, batch(seed=seed), {}, KEY)
        losses.append(float(metrics['loss'][0] / metrics['loss'][1]))
    np.testing.assert_allclose(losses, GOLDEN_LOSSES, rtol=2e-3)


GOLDEN_LOSSES = [0.748667, 0.514102, 0.904858]


def test_learns_a_batch_by_heart():
    state, train_step, _ = make()
    for _ in range(40):
        state, metrics = train_step(state, batch(), {}, KEY)
    assert float(metrics['mae'][0]) / 4 < 12  # months; the ages spread over 200
    assert int(state.step) == 40 and int(state.loop_state['first_nonfinite_step']) == -1


def test_evaluation_is_deterministic_and_flip_tta_makes_it_symmetric():
    state, _, eval_step = make(flip_tta=True, model=DROPOUT)
    given = batch()
    mirrored = given | {'image': given['image'][:, :, ::-1]}
    one, two = eval_step(state, given, {}), eval_step(state, mirrored, {})
    np.testing.assert_allclose(
        one['columns']['prediction'], two['columns']['prediction'], rtol=1e-5
    )
    plain = make(model=DROPOUT)[2]
    assert differ(plain(state, given, {})['columns'], plain(state, mirrored, {})['columns'])


def test_statistics_of_a_batch_are_its_own_and_spare_frozen_parts():
    """With the batch's own statistics, evaluation computes what training computed on that batch."""
    tree = jax.tree_util
    for frozen in ((), ('backbone/stem_norm',)):
        state, graphdefs = create(frozen)
        statistics = jax.jit(step_lib.make_batch_stats_step(graphdefs))(state, batch(), {})
        moved = {
            tree.keystr(p, simple=True, separator='.')
            for (p, a), b in zip(
                tree.tree_flatten_with_path(statistics)[0], jax.tree.leaves(state.batch_stats)
            )
            if (a != b).any()
        }
        assert ('backbone.stem_norm.mean' in moved) == (not frozen)
        assert 'backbone.res.0.0.norm1.mean' in moved
        model = nnx.merge(
            graphdefs.train, state.params, state.frozen_params, state.batch_stats, copy=True
        )
        image, male = batch()['image'] * np.float32(1 / 255), batch()['male']
        trained, _ = model(image, male, rngs=nnx.Rngs(0))
        model = nnx.merge(graphdefs.evaluate, state.params, state.frozen_params, statistics)
        np.testing.assert_allclose(model(image, male)[0], trained, atol=1e-4)


def test_padding_does_not_count():
    state, _, eval_step = make()
    full = eval_step(state, batch(), {})['metrics']['mae']
    padded = jax.tree.map(lambda x: np.concatenate([x, x[:2]]), batch())
    padded['valid'][4:] = False
    total, count = eval_step(state, padded, {})['metrics']['mae']
    assert count == 4 and full[1] == 4
    np.testing.assert_allclose(total, full[0], rtol=1e-5)


@pytest.mark.parametrize('name', ['adamw', 'sgd'])
def test_frozen_parameters_stay_and_cost_no_optimizer_memory(name):
    state, train_step, _ = make(frozen=('backbone',), name=name)
    assert set(state.frozen_params) == {'backbone'} and set(state.params) == {'head'}
    assert not [
        p
        for p, _ in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]
        if 'backbone' in str(p)
    ]
    after, _ = train_step(state, batch(), {}, KEY)
    assert not differ(state.frozen_params, after.frozen_params)
    assert differ(state.params, after.params)
    # Frozen batch normalisation learns no statistics either.
    assert not differ(state.batch_stats, after.batch_stats)


def test_frozen_prefix_that_matches_nothing():
    with pytest.raises(
        ValueError, match='no parameter below trnk; the top-level parts are backbone, head'
    ):
        make(frozen=('trnk',))


def test_first_step_that_is_not_finite_is_remembered():
    state, train_step, _ = make()
    bad = batch() | {'months': np.array([10, np.nan, 30, 40], np.float32)}
    for given in (batch(), bad, bad):
        state, _ = train_step(state, given, {}, KEY)
    assert int(state.loop_state['first_nonfinite_step']) == 1


def test_randomness_comes_from_key_and_step_alone():
    state, train_step, _ = make(augment=ROTATING)
    same = [train_step(state, batch(), {}, KEY)[0] for _ in range(2)]
    assert not differ(*same)
    later = dataclasses.replace(state, step=jnp.int32(5))
    assert differ(same[0].params, train_step(later, batch(), {}, KEY)[0].params)


def test_lr_scale_scales_the_update():
    state, train_step, _ = make(name='sgd')
    halved = dataclasses.replace(
        state, loop_state=state.loop_state | {'lr_scale': jnp.float32(0.5)}
    )

    def update(state):
        after, _ = train_step(state, batch(), {}, KEY)
        return jax.tree.map(jnp.subtract, after.params, state.params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 2 * b, rtol=1e-2, atol=1e-6),
        update(state),
        update(halved),
    )


def test_loop_state_keeps_the_best_and_drops_the_rate_on_a_plateau():
    state, *_ = make()
    options = c.build(c.base(), 'schedule=plateau,plateau_patience=2', {}).optimizer
    loop_state = state.loop_state
    history = []
    for step, value in enumerate([20.0, 15.0, 15.0, 16.0, 14.0, 15.0], 1):
        loop_state = step_lib.update_loop_state(loop_state, value, step, options)
        names = ('best', 'best_step', 'evals_since_best')
        history.append(tuple(float(loop_state[name]) for name in names))
    assert history == [(20, 1, 0), (15, 2, 0), (15, 2, 1), (15, 2, 2), (14, 5, 0), (14, 5, 1)]
    assert float(loop_state['lr_scale']) == pytest.approx(0.1)


@pytest.mark.parametrize(
    'arg, rates',
    [
        ('schedule=constant', {0: 1e-3, 90: 1e-3}),
        ('schedule=step,step_epochs=3', {0: 1e-3, 29: 1e-3, 30: 1e-4, 60: 1e-5}),
        ('schedule=cosine', {0: 1e-3, 50: 5e-4, 100: 0.0}),
        (
            'schedule=step,step_epochs=3,warmup_epochs=1.0',
            {0: 1e-4, 4: 5e-4, 10: 1e-3, 29: 1e-3, 30: 1e-4},
        ),
        ('schedule=one_cycle', {0: 4e-5, 30: 1e-3, 100: 4e-9}),
    ],
)
def test_schedules(arg, rates):
    options = c.build(c.base(), arg, {}).optimizer
    schedule = optimizer.schedule(options, steps_per_epoch=10, total_steps=100)
    for step, rate in rates.items():
        np.testing.assert_allclose(schedule(step), rate, rtol=1e-3, atol=1e-8)


def test_weight_decay_spares_biases_and_norms():
    options = c.build(c.base(), 'optimizer.name=sgd,weight_decay=0.5,momentum=0.0', {}).optimizer
    transform = optimizer.build(options, 1.0)
    tree = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
    updates, _ = transform.update(jax.tree.map(jnp.zeros_like, tree), transform.init(tree), tree)
    assert float(updates['kernel'][0, 0]) == -0.5 and float(updates['bias'][0]) == 0.0


def test_task_numbers_come_from_the_training_ages():
    months = np.array([60, 120, 180], np.float32)
    options = c.build(c.base(), None, {}).task
    fitted = tasks.fit(options, months)
    assert fitted['centre'] == 120 and fitted['scale'] == pytest.approx(np.std(months))
    task = tasks.build(options, fitted)
    np.testing.assert_allclose(task.months(jnp.array([0.0, 1.0])), [120, 120 + np.std(months)])
    with pytest.raises(ValueError, match='all 2 training images have the same age'):
        tasks.fit(options, np.array([9, 9], np.float32))
    with pytest.raises(ValueError, match="task.name='ages': expected one of age"):
        tasks.fit(c.build(c.base(), 'task.name=ages', {}).task, months)


class Plain(nnx.Module):
    """Without `norm` what an image gives depends on that image alone."""

    def __init__(self, norm=False):
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=nnx.Rngs(2)) if norm else None
        self.conv = nnx.Conv(1, 4, (8, 8), 8, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(144, 1, rngs=nnx.Rngs(1))

    def __call__(self, image, male, *, rngs=None):
        maps = self.conv(image) if self.norm is None else self.norm(self.conv(image))
        return self.head(nnx.relu(maps).reshape(len(image), -1))[:, 0], {}


def test_a_batch_in_parts_gives_the_gradient_of_the_whole():
    config = c.build(c.base(), 'optimizer.name=sgd', {})
    task = tasks.build(config.task, {'centre': 120.0, 'scale': 40.0})
    transform = optimizer.build(config.optimizer, 0.1)
    after = {}
    metrics = {}
    for parts in (1, 4):
        state, graphdefs = state_lib.create_state(Plain(), transform)
        step = jax.jit(
            step_lib.make_train_step(
                graphdefs,
                task,
                transform,
                config.augment.to_dict() | dict(ROTATING),
                grad_accum_steps=parts,
            )
        )
        for seed in range(2):
            state, metrics[parts] = step(state, batch(size=8, seed=seed), {}, KEY)
        after[parts] = state
    assert differ(after[1].params, state_lib.create_state(Plain(), transform)[0].params)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        after[1].params,
        after[4].params,
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), metrics[1], metrics[4])
    assert metrics[4]['mae'][1] == 8


def test_batch_normalisation_sees_each_part():
    """In parts of the same two images its statistics are those of the two images at once.

    Its running ones move twice.
    """
    config = c.build(c.base(), None, {})
    task = tasks.build(config.task, {'centre': 120.0, 'scale': 40.0})
    transform = optimizer.build(config.optimizer, 0.0)
    two = batch(size=2)
    moved = {}
    for parts, given in {1: two, 2: jax.tree.map(lambda x: np.repeat(x, 2, axis=0), two)}.items():
        state, graphdefs = state_lib.create_state(Plain(norm=True), transform)
        before = state.batch_stats['norm']['mean']
        step = step_lib.make_train_step(
            graphdefs, task, transform, config.augment.to_dict(), grad_accum_steps=parts
        )
        state, metrics = jax.jit(step)(state, given, {}, KEY)
        moved[parts] = (
            state.batch_stats['norm']['mean'] - before,
            metrics['loss'][0] / metrics['loss'][1],
        )
    np.testing.assert_allclose(moved[2][0], 1.9 * moved[1][0], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(moved[2][1], moved[1][1], rtol=1e-4)


def test_parts_are_refused_where_images_are_compared():
    with pytest.raises(
        ValueError,
        match="grad_accum_steps=2: the loss of task.name='age_triplet' compares all images",
    ):
        loop.GradientTrainer.check(
            c.load('configs/triplet.py:tiny,row=both triplet,batch_size=8,grad_accum_steps=2')[1],
            fresh=True,
        )
    with pytest.raises(
        ValueError, match='does not divide over 4 devices in 2 parts; take a multiple of 8'
    ):
        loop.GradientTrainer.check(
            c.load('configs/triplet.py:tiny,row=both plain,batch_size=4,grad_accum_steps=2')[1],
            fresh=True,
        )
