"""Max-pools for accelerators: the values and gradients of XLA's own, without its scatter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from boneage_jax.models import cpu, pooling
from boneage_jax.runtime import target

WAYS = {'axes': pooling.by_axes, 'winners': pooling.by_winners}
GEOMETRY = [(3, 2, 0), (3, 2, 1), (2, 2, 0), (3, 1, 1), (2, 3, 0), (5, 2, 2)]


def _both(pool, x, gradient):
    """The pool of `x`, and what comes back to `x` of a gradient of it."""

    @jax.jit
    def both(x, gradient):
        value, vjp = jax.vjp(pool, x)
        return value, vjp(gradient)[0]

    return both(x, gradient)


@pytest.mark.parametrize('size, stride, padding', GEOMETRY)
@pytest.mark.parametrize('way', WAYS)
def test_values_and_gradients_are_those_of_xla(way, size, stride, padding):
    """Small whole numbers: most windows have their largest value several times."""
    random = np.random.default_rng(size + 10 * stride)
    x = jnp.asarray(random.integers(-2, 3, (2, 11, 8, 3)), jnp.float32)
    window = {
        'window_shape': (size, size),
        'strides': (stride, stride),
        'padding': ((padding, padding),) * 2,
    }
    shape = jax.eval_shape(lambda x: nnx.max_pool(x, **window), x).shape
    gradient = jnp.asarray(random.standard_normal(shape), jnp.float32)
    expected = _both(lambda x: nnx.max_pool(x, **window), x, gradient)
    found = _both(lambda x: WAYS[way](x, size, stride, padding), x, gradient)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('way', WAYS)
def test_a_nan_stays_one_and_types_stay(way):
    x = jnp.zeros((2, 9, 9, 2), jnp.bfloat16).at[0, 4, 4, 1].set(jnp.nan)
    gradient = jnp.ones((2, 5, 5, 2), jnp.bfloat16)
    found, to_input = _both(lambda x: WAYS[way](x, 3, 2, 1), x, gradient)
    assert found.dtype == to_input.dtype == jnp.bfloat16
    assert jnp.isnan(found[0, ..., 1]).any()
    assert not jnp.isnan(found[1]).any() and not jnp.isnan(found[..., 0]).any()


@pytest.mark.parametrize('platform', ['tpu', 'cuda', 'gpu'])
def test_no_program_for_an_accelerator_has_a_scatter(platform):
    x = jnp.ones((1, 8, 8, 4))
    with target.compiling_for(platform):
        gradient = jax.make_jaxpr(jax.grad(lambda x: cpu.max_pool(x, 3, 2, 1).sum()))(x)
    assert 'scatter' not in str(gradient) and 'reduce_window' not in str(gradient)
