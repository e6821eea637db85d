"""The backbones' common interface: maps, strides, refusals, stems, precision, randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from boneage_jax import models
from boneage_jax.models import efficientnet, layers

NAMES = list(models.BACKBONES)


def abstract(name, **options):
    """The network narrow and shallow, without its arrays."""
    options = {'width': 8, 'depth': 1, 'num_outputs': 5, **options}
    return nnx.eval_shape(lambda: models.build(name, **options))


def shapes(call, model, *shape):
    return jax.eval_shape(call, model, jax.ShapeDtypeStruct(shape, jnp.float32))


def stages(model, *shape):
    return shapes(lambda m, x: m.stages(x, rngs=nnx.Rngs(0)), model, *shape)


def outputs(model, *shape):
    return shapes(lambda m, x: m(x, rngs=nnx.Rngs(0)), model, *shape)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('stem', ['imagenet', 'small'])
def test_interface(name, stem):
    model = abstract(name, stem=stem, channels=1)
    maps = stages(model, 2, 192, 256, 1)
    assert [x.shape[3] for x in maps] == list(model.widths) and model.features == model.widths[-1]
    for x, stride in zip(maps, model.strides, strict=True):
        if name == 'inception_v3':  # its stem does not pad
            assert 0.6 * 192 / stride < x.shape[1] <= 192 / stride
        else:
            assert x.shape[:3] == (2, 192 // stride, 256 // stride)
    model.eval()
    assert outputs(model, 2, 192, 256, 1).shape == (2, 5)
    backbone = abstract(name, stem=stem, num_outputs=0, channels=1)
    pooled = outputs(backbone, 2, 192, 256, 1)
    assert pooled.shape == (2, backbone.features) and pooled.dtype == jnp.float32


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('stem', ['imagenet', 'small'])
def test_smallest_side(name, stem):
    model = abstract(name, stem=stem)
    model.eval()
    side = model.smallest_side
    assert stages(model, 1, side, side + 9, 3)[-1].shape[1] == (
        1 if name == 'inception_v3' else side // model.strides[-1]
    )
    assert outputs(model, 1, side, side + 9, 3).shape == (1, 5)
    with pytest.raises(
        ValueError,
        match=rf'at least {side} pixels a side, found {side + 9}x{side - 1}; set data\.size',
    ):
        stages(model, 1, side + 9, side - 1, 3)
    with pytest.raises(ValueError, match=r'takes images \[B, H, W, 3\], found \[1, 96, 96, 1\]'):
        stages(model, 1, 96, 96, 1)


@pytest.mark.parametrize('stem, side', [('imagenet', 299), ('small', 77)])
def test_auxiliary_head_trains_where_it_is_switched_on(stem, side):
    model = abstract('inception_v3', stem=stem)
    assert [x.shape for x in outputs(model, 2, side, side, 3)] == [(2, 5), (2, 5)]
    with pytest.raises(ValueError, match=f'auxiliary head .* at least {side} pixels'):
        outputs(model, 2, side, side - 1, 3)
    assert outputs(
        abstract('inception_v3', stem=stem, aux_logits=False), 2, side - 1, side, 3
    ).shape == (2, 5)
    model.eval()
    assert outputs(model, 2, side, side - 1, 3).shape == (2, 5)


@pytest.mark.parametrize('name', NAMES)
def test_bfloat16_computes_low_and_keeps_parameters_high(name):
    model = abstract(name, dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(nnx.state(model, (nnx.Param, nnx.BatchStat)))} == {
        jnp.dtype('float32')
    }
    assert {x.dtype for x in stages(model, 1, 96, 96, 3)} == {jnp.dtype('bfloat16')}


@pytest.mark.parametrize(
    'name, rates',
    [
        ('vgg16', {'dropout': 0.5}),
        ('inception_v3', {'dropout': 0.5, 'aux_logits': False}),
        ('efficientnet_b0', {'dropout': 0.5, 'stochastic_depth': 0.0}),
        ('efficientnet_b0', {'dropout': 0.0, 'stochastic_depth': 0.2}),
        ('convnext_tiny', {'stochastic_depth': 0.1}),
    ],
)
def test_only_training_at_a_rate_above_zero_draws_at_random(name, rates):
    def without_keys(model):
        return shapes(lambda m, x: m(x), model, 2, 96, 96, 3)

    depth = 2 if name == 'efficientnet_b0' else 1  # its first block is never left out
    model = abstract(name, depth=depth, **rates)
    with pytest.raises(ValueError, match='no `rngs` argument'):
        without_keys(model)
    assert outputs(model, 2, 96, 96, 3).shape == (2, 5)
    model.eval()
    assert without_keys(model).shape == (2, 5)
    assert without_keys(
        abstract(name, depth=depth, **{key: value and 0.0 for key, value in rates.items()})
    ).shape == (2, 5)


def test_stochastic_depth_leaves_a_block_out_for_whole_images():
    block = efficientnet.MBConv(
        8, 8, expansion=1, size=3, stride=1, drop=0.25, dtype=None, rngs=nnx.Rngs(0)
    )
    block.eval()
    x = np.random.default_rng(0).normal(size=(32, 5, 5, 8)).astype(np.float32)
    kept = nnx.jit(lambda block, x: block(x) - x)(block, x)
    block.drop.deterministic = False
    found = nnx.jit(lambda block, x: block(x, rngs=nnx.Rngs(1)) - x)(block, x)
    left_out = np.abs(found).max(axis=(1, 2, 3)) == 0
    assert 0 < left_out.sum() < 16
    np.testing.assert_allclose(found[~left_out], kept[~left_out] / 0.75, rtol=1e-4, atol=1e-5)


def test_average_pool_to_any_side():
    """Rows floor(i n / side) to ceil((i + 1) n / side), as PyTorch has them; parity is in
    test_parity_backbones.
    """
    x = jnp.arange(3.0).reshape(1, 3, 1, 1)
    pooled = layers.average_pool_to(x, 2)
    assert pooled.shape == (1, 2, 2, 1)
    np.testing.assert_allclose(pooled[0, :, :, 0], [[0.5, 0.5], [1.5, 1.5]])


@pytest.mark.parametrize('name', NAMES)
def test_refusals(name):
    with pytest.raises(ValueError, match="stem='big': expected 'imagenet' or 'small'"):
        abstract(name, stem='big')
    with pytest.raises(ValueError, match=f"model '{name}': .*widht"):
        abstract(name, widht=8)


def test_inception_takes_even_widths():
    with pytest.raises(ValueError, match='width=7: expected an even number'):
        abstract('inception_v3', width=7)
