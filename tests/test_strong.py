"""The strong recipe: a distribution over months, averaged parameters, a rate of the backbone."""

import json
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from scipy import special, stats

from boneage_jax import config as c
from boneage_jax import models, tasks
from boneage_jax.errors import ConfigError
from boneage_jax.runs import predictions
from boneage_jax.runs.predictor import Predictor
from boneage_jax.runtime import checkpoint
from boneage_jax.stages import records
from boneage_jax.tasks import losses
from boneage_jax.training import loop, optimizer, step
from tfds_rsna.errors import UserError

STRONG = str(pathlib.Path(__file__).parents[1] / 'configs' / 'strong.py')
AGES = np.arange(240)


def configured(arg):
    _, config = c.load(f'{STRONG}:{arg}')
    return config


def options(**changes):
    values = dict(name='age_distribution', loss='l1', normalisation='unit', sigma=5.0, age_weight=2)
    return ml_collections.ConfigDict(values | changes)


def test_the_divergence_is_that_of_scipy():
    logits = np.random.default_rng(0).normal(size=(4, 240)).astype(np.float32)
    months = np.float32([0, 60.5, 120, 239])
    expected = []
    for row, age in zip(logits, months):
        target = stats.norm.pdf(AGES, age, 5.0)
        expected.append(stats.entropy(target, special.softmax(row)))
    found = losses.age_distribution(jnp.asarray(logits), jnp.asarray(months), 5.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_distribution_that_is_right_costs_nothing():
    months = jnp.float32([100.0])
    logits = jnp.asarray(stats.norm.logpdf(AGES, 100.0, 5.0)[None], jnp.float32)
    assert abs(float(losses.age_distribution(logits, months, 5.0)[0])) < 1e-5
    assert float(losses.expected_age(logits)[0]) == pytest.approx(100.0, abs=1e-3)
    assert float(losses.age_spread(logits)[0]) == pytest.approx(5.0, abs=1e-3)


def test_the_loss_adds_the_age_and_padding_counts_nowhere():
    task = tasks.build(options(), {'centre': 120.0, 'scale': 120.0})
    logits = jax.random.normal(jax.random.key(0), (3, 240))
    batch = {'months': jnp.float32([30, 90, 7]), 'valid': jnp.array([True, True, False])}
    value, sums = task.loss(logits, {}, batch)
    divergence = losses.age_distribution(logits, batch['months'], 5.0)[:2].mean()
    ages = losses.expected_age(logits)
    error = jnp.abs(ages - batch['months'])[:2].mean()
    assert float(value) == pytest.approx(float(divergence + 2 * error / 120), rel=1e-5)
    assert float(sums['mae'][0] / sums['mae'][1]) == pytest.approx(float(error), rel=1e-5)
    columns = task.per_example(logits, {}, batch)
    np.testing.assert_allclose(columns['prediction'], ages)
    np.testing.assert_allclose(columns['spread'], losses.age_spread(logits))


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(sigma=0.0), 'task.sigma=0.0: expected a deviation above 0'),
        (dict(age_weight=-1), 'task.age_weight=-1: expected zero or more'),
    ],
)
def test_refused_options(changes, message):
    with pytest.raises(UserError, match=message):
        tasks.build(options(**changes), {'centre': 120.0, 'scale': 120.0})


SMALL = dict(backbone='resnet18', width_factor=0.125, depth=1, hidden_units=8)


def test_the_sex_can_move_an_age_by_what_the_image_shows():
    net = models.build('age_net', **SMALL, outputs=1)
    net.eval()
    images = jax.random.uniform(jax.random.key(1), (2, 40, 32, 1))
    boys, aux = net(images, jnp.array([True, True]))
    girls, _ = net(images, jnp.array([False, False]))
    assert boys.shape == (2,) and aux['embeddings'].shape == (2, net.backbone.features)
    difference = boys - girls
    assert (
        abs(float(difference[0] - difference[1])) > 1e-6
    )  # no constant: the dense layer sees both
    blind = models.build('age_net', **SMALL, outputs=1, sex_units=0)
    blind.eval()
    np.testing.assert_array_equal(
        blind(images, jnp.array([True, True]))[0], blind(images, jnp.array([False, False]))[0]
    )


def test_convnext_has_its_own_width():
    net = models.build('age_net', backbone='convnext_tiny', width_factor=0.25, depth=1)
    assert net.backbone.widths[0] == 24
    with pytest.raises(UserError, match="model.backbone='none': expected one of resnet18"):
        models.build('age_net', backbone='none')


def test_the_backbone_has_a_rate_of_its_own():
    params = {name: {'w': jnp.ones(2)} for name in ('backbone', 'part_backbone', 'head')}
    made = c.build(c.base(), 'optimizer.name=sgd,momentum=0,backbone_rate=0.25', {}).optimizer
    transform = optimizer.build(made, 0.1)
    updates, _ = transform.update(params, transform.init(params), params)
    np.testing.assert_allclose(updates['backbone']['w'], -0.025)
    np.testing.assert_allclose(updates['part_backbone']['w'], -0.025)
    np.testing.assert_allclose(updates['head']['w'], -0.1)
    with pytest.raises(UserError, match='backbone_rate=0.25: this network has no part named back'):
        head = {'head': params['head']}
        transform.update(head, transform.init(head), head)


def test_averages_follow_the_parameters():
    """After n steps the average's memory is (1 + n) / (10 + n), and at most `decay`."""
    moved = jax.jit(step._move_averages)
    assert float(moved({'w': 0.0}, {'w': 1.0}, 0, 0.999)['w']) == pytest.approx(0.9)
    assert float(moved({'w': 0.0}, {'w': 1.0}, 8, 0.999)['w']) == pytest.approx(0.5)
    assert float(moved({'w': 0.0}, {'w': 1.0}, 10**6, 0.9)['w']) == pytest.approx(0.1)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('strong') / 'run'
    loop.train(configured('tiny'), workdir)
    return workdir


def test_what_is_reported_and_read_is_the_average(run):
    """predictions.csv comes from the averaged parameters, and so does a network read back."""
    with checkpoint.Checkpoints(run) as checkpoints:
        best = checkpoints.best
        saved = checkpoints.read(best)
        _, read = checkpoints.read_parameters()
    name = 'head.kernel'
    assert np.abs(saved[f'averages.{name}'] - saved[f'params.{name}']).max() > 1e-6
    np.testing.assert_array_equal(read[name], saved[f'averages.{name}'])
    table = predictions.of_split(predictions.read(run / 'predictions.csv'), 'holdout')
    predictor = Predictor(run)
    split = records.open_splits(predictor.config, None)['holdout']
    found = []
    for _, _, prediction, _ in predictor.over(split, tta=True):
        found.extend(np.asarray(predictor.task.months(prediction)))
    np.testing.assert_allclose(table['prediction'], found, atol=2e-3)
    assert json.loads((run / 'metrics.json').read_text())['kind'] == 'age'


def test_averages_need_statistics_of_their_own():
    config = configured('tiny,precise_bn_batches=0')
    with pytest.raises(ConfigError, match='ema=0.999: batch statistics of the averaged parameters'):
        loop.GradientTrainer.check(config, fresh=True)


def test_the_average_starts_at_what_the_run_starts_from(run, tmp_path):
    """With a rate of nothing the averages stay where another run's parameters were."""
    arg = f'tiny,epochs=1,learning_rate=1e-12,weight_decay=0,init_from={run}'
    loop.train(configured(arg), tmp_path / 'next')
    with checkpoint.Checkpoints(run) as before, checkpoint.Checkpoints(tmp_path / 'next') as after:
        _, first = before.read_parameters()
        _, second = after.read_parameters()
    np.testing.assert_allclose(second['head.kernel'], first['head.kernel'], atol=1e-6)
    assert optax.tree.norm(first['head.kernel']) > 0
