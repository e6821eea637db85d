"""models/cpu.py: what a CPU computes otherwise has XLA's own values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from boneage_jax.models import cpu
from boneage_jax.training import flops

NUMBERS = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
DRAW = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(DRAW.normal(size=shape), jnp.float32)


def same(ours, theirs, **tolerance):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


@pytest.mark.parametrize(
    'x, kernel, stride, padding, groups',
    [
        ((2, 9, 6, 4), (3, 3, 1, 4), 1, (1, 1), 4),
        ((2, 9, 6, 4), (5, 5, 1, 4), 2, (2, 2), 4),
        ((2, 9, 6, 4), (1, 1, 4, 7), 1, (0, 0), 1),
        ((2, 9, 6, 4), (1, 1, 4, 7), 2, (0, 0), 1),
        ((2, 9, 6, 4), (1, 1, 4, 7), 1, (1, 1), 1),
        ((3, 31, 24, 8), (3, 3, 8, 5), 1, (1, 1), 1),
        ((3, 31, 24, 8), (3, 3, 8, 5), 1, (0, 0), 1),
        ((3, 31, 24, 8), (1, 7, 8, 5), 1, (0, 3), 1),
        ((3, 31, 24, 8), (3, 3, 8, 5), 2, (1, 1), 1),
        ((3, 31, 24, 3), (7, 7, 3, 5), 2, (3, 3), 1),
        ((3, 31, 24, 1), (3, 3, 1, 5), 1, (1, 0), 1),
    ],
)
def test_convolutions(x, kernel, stride, padding, groups, monkeypatch):
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    x, kernel = normal(*x), normal(*kernel)
    ours = cpu.convolution if groups == 1 else cpu.depthwise

    def both(convolve):
        def of(x, kernel):
            y = convolve(
                x,
                kernel,
                (stride, stride),
                [(pad, pad) for pad in padding],
                feature_group_count=groups,
                dimension_numbers=NUMBERS,
            )
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(of, (0, 1), has_aux=True))(x, kernel)

    same(both(ours), both(jax.lax.conv_general_dilated), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('channels, stride', [(8, 1), (1, 2)])
def test_kernel_gradients_of_large_maps_are_taken_image_by_image(channels, stride, monkeypatch):
    """One device: a loop. Several: none, since it would gather the images that they share."""

    def program(devices):
        monkeypatch.setattr(jax, 'device_count', lambda: devices)
        return (
            jax.jit(
                jax.grad(
                    lambda kernel, x: jnp.sum(
                        cpu.convolution(
                            x, kernel, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=NUMBERS
                        )
                        ** 2
                    )
                )
            )
            .lower(normal(3, 3, channels, 8), normal(2, 25, 24, channels))
            .as_text()
        )

    assert 'while' in program(1)
    assert 'while' not in program(2)


def test_operations_are_counted_as_if_there_were_no_loop(monkeypatch):
    def count(devices):
        monkeypatch.setattr(jax, 'device_count', lambda: devices)
        return flops.flops(
            jax.jit(
                jax.grad(
                    lambda kernel, x: jnp.sum(
                        cpu.convolution(
                            x, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=NUMBERS
                        )
                        ** 2
                    )
                )
            ),
            normal(3, 3, 8, 8),
            normal(4, 26, 25, 8),
        )

    assert count(1) == count(2) > 2 * 4 * 26 * 25 * 9 * 8 * 8


@pytest.mark.parametrize('size, stride, padding', [(3, 2, 0), (3, 2, 1), (2, 2, 0), (3, 1, 1)])
def test_max_pool(size, stride, padding):
    """Among equal pixels the first one has the gradient, as in XLA. A NaN stays one."""
    x = jnp.round(normal(2, 9, 6, 4))

    def both(pool):
        return jax.jit(jax.value_and_grad(lambda x: (jnp.sum(jnp.sin(pool(x))), pool(x))[0]))(
            x
        ), jax.jit(pool)(x)

    window = dict(
        window_shape=(size, size), strides=(stride, stride), padding=((padding, padding),) * 2
    )
    same(
        both(lambda x: cpu.max_pool(x, size, stride, padding)),
        both(lambda x: nnx.max_pool(x, **window)),
        rtol=1e-5,
        atol=1e-6,
    )
    found = cpu.max_pool(x.at[0, 4, 3, 1].set(jnp.nan), size, stride, padding)
    assert (
        jnp.isnan(found).any()
        and not jnp.isnan(found[1]).any()
        and not jnp.isnan(found[..., 0]).any()
    )
