"""The networks: sizes of the originals (abstractly), what goes in and out, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from boneage_jax import models

IMAGE = jax.random.uniform(jax.random.key(0), (3, 64, 64, 1))
MALE = jnp.array([True, False, True])


def parameters(name, **options):
    model = nnx.eval_shape(lambda: models.build(name, **options))
    return sum(np.prod(x.shape) for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


def tiny(**options):
    model = models.build('prsnet', backbone='resnet18', width=8, depth=1, **options)
    model.eval()
    return model


@pytest.mark.parametrize(
    'name, count',
    [
        ('resnet18', 11_689_512),
        ('resnet34', 21_797_672),
        ('resnet50', 25_557_032),
        ('vgg16', 138_357_544),
        ('vgg16_bn', 138_365_992),
        ('inception_v3', 27_161_264),
        ('efficientnet_b0', 5_288_548),
    ],
)
def test_imagenet_networks_have_the_published_size(name, count):
    assert parameters(name) == count


def test_stages_have_the_published_strides():
    model = nnx.eval_shape(lambda: models.build('resnet34'))
    stages = jax.eval_shape(
        lambda m, x: m.stages(x), model, jax.ShapeDtypeStruct((2, 512, 512, 3), jnp.float32)
    )
    assert [s.shape for s in stages] == [
        (2, 128, 128, 64),
        (2, 64, 64, 128),
        (2, 32, 32, 256),
        (2, 16, 16, 512),
    ]


def test_small_stem_keeps_the_resolution():
    model = nnx.eval_shape(
        lambda: models.build('resnet18', width=8, depth=1, channels=1, num_outputs=5, stem='small')
    )
    maps, logits = jax.eval_shape(lambda m, x: (m.stages(x), m(x)), model, IMAGE)
    assert [s.shape[1] for s in maps] == [64, 32, 16, 8]
    assert logits.shape == (3, 5)


def test_prsnet_baseline_predicts_one_age_a_image():
    prediction, aux = tiny()(IMAGE, MALE)
    assert prediction.shape == (3,) and prediction.dtype == jnp.float32
    assert aux['embeddings'].shape == (3, 64)


def test_sex_moves_the_prediction_and_not_the_embedding():
    model = tiny()
    a, aux_a = model(IMAGE, MALE)
    b, aux_b = model(IMAGE, ~MALE)
    assert (jnp.abs(a - b) > 1e-3).all()
    np.testing.assert_array_equal(aux_a['embeddings'], aux_b['embeddings'])


def test_image_standardisation_takes_exposure_out():
    model = tiny(standardise='image')
    dark, _ = model(0.1 * IMAGE + 0.05, MALE)
    np.testing.assert_allclose(dark, model(IMAGE, MALE)[0], rtol=1e-4, atol=1e-5)
    fixed = tiny(standardise='fixed')
    assert (jnp.abs(fixed(0.1 * IMAGE + 0.05, MALE)[0] - fixed(IMAGE, MALE)[0]) > 1e-3).any()


def test_black_image_gives_a_finite_age():
    assert jnp.isfinite(tiny()(jnp.zeros((1, 64, 64, 1)), MALE[:1])[0]).all()


def test_bfloat16_computes_low_and_keeps_parameters_high():
    model = tiny(dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(nnx.state(model, nnx.Param))} == {jnp.dtype('float32')}
    prediction, _ = model(IMAGE, MALE)
    assert prediction.dtype == jnp.float32
    np.testing.assert_allclose(prediction, tiny()(IMAGE, MALE)[0], atol=0.1)


def test_dropout_needs_the_key_only_in_training():
    model = tiny(dropout=0.5)
    np.testing.assert_array_equal(model(IMAGE, MALE)[0], model(IMAGE, MALE)[0])
    model.train()
    one, two = (model(IMAGE, MALE, rngs=nnx.Rngs(i))[0] for i in (1, 2))
    assert (one != two).any()


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: models.build('resnet35'), "unknown model 'resnet35'; known: resnet18"),
        (lambda: models.build('prsnet', widht=8), 'widht'),
        (
            lambda: models.build('prsnet', backbone='vgg'),
            "backbone='vgg': expected one of resnet18, resnet34",
        ),
        (lambda: models.build('resnet18', stem='big'), "stem='big'"),
        (
            lambda: tiny()(jnp.zeros((1, 16, 64, 1)), MALE[:1]),
            'at least 32 pixels a side, found 16x64',
        ),
        (lambda: tiny(standardise='no')(IMAGE, MALE), "standardise='no'"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
