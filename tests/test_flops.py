"""What XLA counts, and that a frozen backbone costs neither a gradient nor optimiser memory."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from boneage_jax import config as c
from boneage_jax import models, tasks
from boneage_jax.runs import state as state_lib
from boneage_jax.training import flops as flops_lib
from boneage_jax.training import optimizer
from boneage_jax.training import step as step_lib


def build():
    return models.build('prsnet', backbone='resnet18', width=8, depth=1)


def shapes_of_state(transform, frozen):
    return jax.eval_shape(lambda: state_lib.create_state(build(), transform, frozen)[0])


def test_flops_of_a_matrix_product():
    product = jax.jit(lambda a, b: a @ b)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 32), (32, 16))]
    assert flops_lib.flops(product, *shapes) == 2 * 8 * 32 * 16
    assert [flops_lib.format_flops(n) for n in (12.0, 2.42e6, 3.66e9, 4e15)] == [
        '12 FLOP',
        '2.42 MFLOP',
        '3.66 GFLOP',
        '4e+03 TFLOP',
    ]


def test_a_frozen_backbone_costs_no_gradient_and_no_optimiser_memory():
    """Backward is twice the forward pass: a frozen backbone leaves about a third of a full step.

    The step is compiled, so what is computed and never used does not count.
    """
    config = c.build(c.base(), 'optimizer.name=adamw', {})
    transform = optimizer.build(config.optimizer, 0.01)
    task = tasks.build(config.task, {'centre': 120.0, 'scale': 40.0})
    size = 4
    batch = {
        'image': jax.ShapeDtypeStruct((size, 80, 80, 1), jnp.uint8),
        'index': jax.ShapeDtypeStruct((size,), jnp.int32),
        'months': jax.ShapeDtypeStruct((size,), jnp.float32),
        'male': jax.ShapeDtypeStruct((size,), bool),
        'valid': jax.ShapeDtypeStruct((size,), bool),
    }
    flops = {}
    moments = {}
    temporary = {}
    for frozen in ((), ('backbone',)):
        model = nnx.eval_shape(build)
        graphdefs, *_ = state_lib.partition(model, frozen)
        state = shapes_of_state(transform, frozen)
        step = jax.jit(
            step_lib.make_train_step(graphdefs, task, transform, config.augment.to_dict())
        )
        compiled = step.lower(state, batch, {}, jax.eval_shape(lambda: jax.random.key(0))).compile()
        flops[frozen] = compiled.cost_analysis()['flops']
        temporary[frozen] = compiled.memory_analysis().temp_size_in_bytes
        moments[frozen] = sum(
            np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state.opt_state)
        )
        head = sum(np.prod(x.shape) * 4 for x in jax.tree.leaves(state.params['head']))
    assert moments[()] > 100 * moments['backbone',]
    assert moments['backbone',] <= 2 * head + 16  # two moments, some counters
    assert flops['backbone',] < 0.42 * flops[()]
    assert temporary['backbone',] < temporary[()]  # no activations are kept for a backward pass
