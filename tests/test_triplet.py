"""Triplet ranking: exact against a loop, ties out, finite, the same over devices; what it trains,
what not.
"""

import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from boneage_jax import config as c
from boneage_jax import models, tasks
from boneage_jax.analysis import embeddings as embeddings_lib
from boneage_jax.data import source
from boneage_jax.errors import ConfigError
from boneage_jax.models import embedding, layers
from boneage_jax.runtime import sharding
from boneage_jax.tasks import losses
from tfds_rsna.errors import UserError

ranking = jax.jit(losses.triplet_ranking, static_argnames=('distance', 'reduction', 'form'))
correlation = jax.jit(losses.rank_correlation)


def images(count=7, features=3, seed=0):
    """Embeddings and ages with ties: whole months of a narrow range, some images of equal age."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, features)).astype(np.float32), rng.integers(
        10, 16, count
    ).astype(np.float32)


def by_hand(x, ages, valid, distance='l2', form='softmax', margin=1.0):
    """Every term of every relative triplet, in a loop."""
    terms = []
    for a in range(len(ages)):
        for p in range(len(ages)):
            for n in range(len(ages)):
                if len({a, p, n}) < 3 or not (valid[a] and valid[p] and valid[n]):
                    continue
                if not abs(ages[a] - ages[p]) < abs(ages[a] - ages[n]):
                    continue
                near, far = (np.square(x[a].astype(np.float64) - x[i]).sum() for i in (p, n))
                if distance == 'l2':
                    near, far = math.sqrt(near), math.sqrt(far)
                if form == 'softmax':
                    terms.append(-math.log(math.exp(far) / (math.exp(far) + math.exp(near))))
                elif form == 'margin' or near < far < near + margin:
                    terms.append(max(0.0, near - far + margin))
    return terms


@pytest.mark.parametrize(
    'distance, form',
    [('l2', 'softmax'), ('squared_l2', 'softmax'), ('l2', 'margin'), ('l2', 'semi_hard')],
)
def test_every_relative_triplet_and_no_other(distance, form):
    for seed in range(3):
        x, ages = images(seed=seed)
        valid = np.arange(7) != seed
        terms = by_hand(x, ages, valid, distance, form)
        assert terms
        for reduction, expected in (('sum', np.sum(terms)), ('mean', np.mean(terms))):
            found = ranking(x, ages, distance=distance, form=form, reduction=reduction, valid=valid)
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_ties_are_out():
    assert not losses.relative_triplets(jnp.array([12.0, 12, 12, 12])).any()
    triplets = np.argwhere(losses.relative_triplets(jnp.array([10.0, 12, 14, 14])))
    assert not [
        t for t in triplets.tolist() if t[0] == 1
    ]  # everybody is two months from the second image
    assert {tuple(t) for t in triplets.tolist() if t[0] == 2} == {
        (2, 3, 0),
        (2, 3, 1),
        (2, 1, 0),
    }  # its twin is nearest
    assert losses.relative_triplets(np.random.default_rng(0).random(32)).sum() == 32 * 31 * 30 / 2
    assert ranking(images()[0], np.full(7, 9.0, np.float32), valid=np.ones(7, bool)) == 0.0


HARD = {
    'all embeddings equal': (np.zeros((5, 3)), np.arange(5)),
    'all ages equal': (images(5)[0], np.full(5, 9)),
    'both': (np.zeros((5, 3)), np.full(5, 9)),
    'twins': (images(5)[0][[0, 0, 1, 2, 2]], np.arange(5)),
    'far apart': (1e6 * images(5)[0], np.arange(5)),
}


@pytest.mark.parametrize(
    'distance, form',
    [('l2', 'softmax'), ('squared_l2', 'margin'), ('l2', 'semi_hard'), ('l2', 'correlation')],
)
def test_gradients_are_finite(distance, form):
    def loss(x, ages):
        if form == 'correlation':
            return losses.rank_correlation(x, ages)
        return losses.triplet_ranking(x, ages, distance=distance, reduction='sum', form=form)

    step = jax.jit(jax.value_and_grad(loss))
    for name, given in HARD.items():
        value, gradient = step(*(np.asarray(array, np.float32) for array in given))
        assert np.isfinite(value) and np.isfinite(gradient).all(), name
        if 'equal' in name or name == 'both':
            assert (gradient == 0).all() or (name, form) == (
                'all embeddings equal',
                'correlation',
            ), name


def test_gradient_agrees_with_differences():
    x, ages = images()
    valid, step = np.ones(7, bool), 1e-2
    for loss in (ranking, correlation):
        gradient = jax.grad(lambda x, loss=loss: loss(x, ages, valid=valid))(x)
        for place in ((0, 0), (3, 2)):
            move = np.zeros_like(x)
            move[place] = step
            change = (loss(x + move, ages, valid=valid) - loss(x - move, ages, valid=valid)) / (
                2 * step
            )
            np.testing.assert_allclose(gradient[place], change, rtol=2e-2, atol=2e-3)


def test_128_images_of_inception_fit_in_memory():
    """One array of differences `[B, B, F]` takes 134 MB, one `[B, B, B]` 8: gradient included no
    second of the first.
    """
    shapes = (
        jax.ShapeDtypeStruct((128, 2048), jnp.float32),
        jax.ShapeDtypeStruct((128,), jnp.float32),
    )
    step = jax.jit(
        jax.value_and_grad(lambda x, ages: losses.triplet_ranking(x, ages, reduction='sum'))
    )
    assert step.lower(*shapes).compile().memory_analysis().temp_size_in_bytes < 200e6


def test_a_batch_over_four_devices_is_one_batch():
    mesh = sharding.make_mesh()
    assert mesh.size == 4
    x, ages = images(16, 5)
    batch = {'x': x, 'ages': ages, 'valid': np.arange(16) < 14}

    def loss(x, batch):
        given = {'valid': batch['valid']}
        return losses.triplet_ranking(
            x, batch['ages'], reduction='sum', **given
        ) + losses.rank_correlation(x, batch['ages'], **given)

    step = jax.jit(jax.value_and_grad(loss))
    alone = step(x, batch)
    spread = sharding.shard_batch(batch, mesh)
    assert len(spread['x'].sharding.device_set) == 4
    for one, other in zip(alone, step(spread['x'], spread), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_smooth_rank_correlation_is_spearman_at_small_temperature():
    x, ages = images()
    valid, expected = np.arange(7) != 4, []
    for a in np.flatnonzero(valid):
        others = valid & (np.arange(7) != a)
        gaps = np.abs(ages - ages[a])[others]
        if np.ptp(gaps):
            expected.append(
                stats.spearmanr(np.linalg.norm(x - x[a], axis=1)[others], gaps).statistic
            )
    np.testing.assert_allclose(
        correlation(x, ages, temperature=1e-5, valid=valid), 1 - np.mean(expected), atol=1e-4
    )
    line = np.arange(7, dtype=np.float32) * 3
    along = np.stack([line, 0 * line, 0 * line], axis=1)
    np.testing.assert_allclose(
        correlation(along, line, temperature=1e-4, valid=valid), 0, atol=1e-4
    )
    smooth = [correlation(factor * x, ages, temperature=0.1, valid=valid) for factor in (1, 100)]
    np.testing.assert_allclose(*smooth, rtol=1e-4)


@pytest.mark.parametrize(
    'switch, option, value',
    [
        ('distance', 'distance', 'l1'),
        ('reduction', 'reduction', 'none'),
        ('form', 'triplet_form', 'hard'),
    ],
)
def test_unknown_switches_are_refused(switch, option, value):
    with pytest.raises(ValueError, match='expected'):
        losses.triplet_ranking(*images(), **{switch: value})
    options = triplet_task(**{option: value})
    with pytest.raises(UserError, match=rf'task\.{option}=.*expected one of'):
        tasks.build(options, {'centre': 0.0, 'scale': 1.0})


# The network and the task


class OneConvolution(nnx.Module):
    """Stands in for a backbone: compiled in a moment."""

    features, smallest_side = 4, 3

    def __init__(self, *, num_outputs, channels, depth, stem, dtype, rngs):
        assert not num_outputs
        self.conv = layers.conv(channels, self.features, 3, dtype=dtype, rngs=rngs)

    def stages(self, x, *, rngs=None):
        return [jax.nn.relu(self.conv(x))]


def net(**options):
    return embedding.EmbeddingNet(
        {'one': OneConvolution}, backbone='one', hidden_units=(6,), rngs=nnx.Rngs(0), **options
    )


def triplet_task(**changed):
    return ml_collections.ConfigDict(
        {
            'name': 'age_triplet',
            'loss': 'l1',
            'normalisation': 'zscore',
            'triplet_weight': 0.01,
            'reduction': 'sum',
            'distance': 'l2',
            'triplet_form': 'softmax',
            'margin': 1.0,
            'correlation_weight': 0.0,
            'temperature': 0.1,
        }
        | changed
    )


@pytest.mark.parametrize(
    'backbone', ['inception_v3', 'vgg16']
)  # the backbones have tests of their own
def test_any_backbone_carries_an_embedding(backbone):
    model = nnx.eval_shape(lambda: models.build('embedding', backbone=backbone, use_sex=True))
    model.eval()
    image = jax.ShapeDtypeStruct((2, 96, 96, 1), jnp.float32)
    prediction, aux = jax.eval_shape(
        lambda m, x, male: m(x, male), model, image, jax.ShapeDtypeStruct((2,), bool)
    )
    assert prediction.shape == (2,) and aux['embeddings'].shape == (2, model.backbone.features)
    assert model.dense[0].kernel.shape == (model.backbone.features + 2, 1024)
    if backbone == 'inception_v3':
        assert model.backbone.features == 2048


def test_the_triplet_term_does_not_reach_the_dense_layers():
    """Embeddings come before the dense layers, so that their gradient is exactly zero; the
    backbone's is not.
    """
    graph, parameters = nnx.split(net())
    image, ages = (
        np.random.default_rng(0).random((4, 8, 8, 1), np.float32),
        np.array([3.0, 9, 20, 50]),
    )

    def triplets(parameters):
        _, aux = nnx.merge(graph, parameters)(image, np.zeros(4, bool))
        return losses.triplet_ranking(aux['embeddings'], ages) + losses.rank_correlation(
            aux['embeddings'], ages
        )

    gradient = nnx.to_pure_dict(jax.jit(jax.grad(triplets))(parameters))
    largest = {
        part: max(float(np.abs(x).max()) for x in jax.tree.leaves(of))
        for part, of in gradient.items()
    }
    assert largest['dense'] == largest['head'] == 0.0 < largest['backbone']


def test_sex_is_read_where_asked_for():
    image, male = np.random.default_rng(0).random((2, 8, 8, 1), np.float32), np.array([True, False])
    model = net(use_sex=True)
    model.eval()
    apply = nnx.jit(lambda model, image, male: model(image, male))
    one, two = apply(model, image, male), apply(model, image, ~male)
    assert (one[0] != two[0]).all()
    np.testing.assert_array_equal(one[1]['embeddings'], two[1]['embeddings'])
    with pytest.raises(UserError, match="backbone='resnet': expected one of resnet18"):
        models.build('embedding', backbone='resnet')


def test_the_loss_is_in_months_beside_the_weighted_sum():
    x, ages = images()
    valid = np.arange(7) != 2
    batch = {'months': ages, 'valid': valid}
    prediction, error = np.zeros(7, np.float32), np.abs(12.0 - ages)[valid].mean()
    for weights, expected in (
        ((0.0, 0.0), error),
        ((0.01, 0.0), error + 0.01 * np.sum(by_hand(x, ages, valid))),
        ((0.0, 5.0), error + 5 * losses.rank_correlation(x, ages, valid=valid)),
    ):
        options = triplet_task(triplet_weight=weights[0], correlation_weight=weights[1])
        task = tasks.build(options, {'centre': 12.0, 'scale': 40.0})
        loss, sums = task.loss(prediction, {'embeddings': x}, batch)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        np.testing.assert_allclose(sums['loss'][0] / sums['loss'][1], expected, rtol=1e-5)
        np.testing.assert_allclose(sums['age_loss'][0] / 6, error, rtol=1e-5)
        terms = np.array(by_hand(x, ages, valid))  # of every run, trained or not
        np.testing.assert_allclose(
            sums['triplet_loss'][0] / sums['triplet_loss'][1], terms.mean(), rtol=1e-5
        )
        np.testing.assert_allclose(
            sums['ordered'][0] / sums['ordered'][1], (terms < math.log(2)).mean(), rtol=1e-6
        )
    squared = tasks.build(
        triplet_task(loss='l2', triplet_weight=0.0), {'centre': 12.0, 'scale': 40.0}
    )
    found = squared.loss(prediction, {'embeddings': x}, batch)[0]
    np.testing.assert_allclose(found, np.square(12.0 - ages)[valid].mean(), rtol=1e-4)


# One sex


def split(male):
    male = np.asarray(male)
    count = len(male)
    return source.Split(
        'holdout',
        None,
        10 * np.arange(count),
        list('abcdef'[:count]),
        np.arange(count, dtype=np.float32),
        male,
    )


def test_images_of_one_sex():
    whole = split([True, False, True])
    boys = source.of_sex(whole, 'male')
    assert (boys.ids, boys.positions.tolist(), boys.months.tolist()) == (
        ['a', 'c'],
        [0, 20],
        [0, 2],
    )
    assert boys.male.all()
    assert source.of_sex(whole, 'both') is whole and source.of_sex(whole, 'female').ids == ['b']
    with pytest.raises(UserError, match="data.sex='female': none of the 2 holdout images"):
        source.of_sex(boys, 'female')
    with pytest.raises(ConfigError, match="data.sex='boys': expected one of both, male, female"):
        c.build(c.base(), 'sex=boys', {})


# The picture and the number


def test_distance_age_correlation_of_known_embeddings():
    rng = np.random.default_rng(0)
    months = rng.uniform(0, 200, 80)
    line = np.stack([months, 2 * months], axis=1)
    assert embeddings_lib.distance_age_correlation(line, months)['value'] == pytest.approx(1)
    noise = embeddings_lib.distance_age_correlation(rng.normal(size=(80, 5)), months)
    assert abs(noise['value']) < 0.1 and noise['lower'] < 0 < noise['upper']
    mixed = line + rng.normal(scale=100, size=line.shape)
    found = embeddings_lib.distance_age_correlation(mixed, months)
    pairs = np.triu_indices(80, 1)
    gaps, distances = (
        np.linalg.norm(x[:, None] - x[None], axis=-1)[pairs] for x in (months[:, None], mixed)
    )
    assert found['value'] == pytest.approx(stats.spearmanr(distances, gaps).statistic)
    assert 0 < found['lower'] < found['value'] < found['upper'] < 1 and found['count'] == 80
    with pytest.raises(UserError, match='all the same age'):
        embeddings_lib.distance_age_correlation(line, np.ones(80))


def test_a_picture_of_every_run_and_sex(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    months = rng.uniform(0, 200, 40).astype(np.float32)
    monkeypatch.setattr(
        embeddings_lib, 'tsne', lambda vectors, seed: vectors[:, :2]
    )  # half a second a panel
    whole = source.Split(
        'holdout', None, np.arange(40), [str(i) for i in range(40)], months, np.arange(40) % 2 == 0
    )
    vectors = {'plain': rng.normal(size=(40, 4)), 'triplet': np.stack([months, months], axis=1)}
    monkeypatch.setattr(
        embeddings_lib, 'of_run', lambda run, split, data_dir: (vectors[run.parent.name], whole)
    )
    report = embeddings_lib.embeddings(
        [tmp_path / name / 'seed0' for name in vectors], tmp_path / 'out'
    )
    assert list(report) == ['plain/seed0', 'triplet/seed0']
    ordered = {name: report[f'{name}/seed0']['distance_age_correlation'] for name in vectors}
    assert set(ordered['plain']) == {'all', 'female', 'male'} and ordered['triplet']['male'][
        'value'
    ] == pytest.approx(1)
    assert ordered['plain']['all']['upper'] < 0.5 and ordered['plain']['male']['count'] == 20
    lines = (tmp_path / 'out' / 'tsne.csv').read_text().splitlines()
    assert lines[0] == 'run,split,id,sex,age,x,y' and len(lines) == 81
    assert (tmp_path / 'out' / 'tsne.png').stat().st_size > 20_000
    with pytest.raises(UserError, match='the same run twice'):
        embeddings_lib.embeddings([tmp_path / 'a', tmp_path / 'a'], tmp_path / 'again')
