"""The programs of a run, jitted as the loop runs them: train, evaluate, take batch statistics.

One place says how a state is divided over the devices, what is donated and what comes back whole,
so that what `boneage fits` compiles for another device is what a run there executes.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax

from boneage_jax import tasks
from boneage_jax.data import views
from boneage_jax.runs.state import GraphDefs, State
from boneage_jax.runtime import sharding
from boneage_jax.training import step as step_lib

KEYPOINTS = 3  # of an image, where a source has them


@dataclasses.dataclass(frozen=True)
class Programs:
    """The jitted steps of `step.py`, and where their state is.

    Attributes:
        train_step: `(state, batch, resident, key) -> (state, metrics)`; the state is donated.
        eval_step: `(state, batch, resident) -> {'columns', 'metrics'}`.
        batch_stats_step: `(state, batch, resident) -> batch_stats`.
        places: a State of shardings.
    """

    train_step: Callable
    eval_step: Callable
    batch_stats_step: Callable
    places: State


def build(
    config: ml_collections.ConfigDict,
    state: State,
    graphdefs: GraphDefs,
    task: tasks.Task,
    transform: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> Programs:
    """The programs of a run of `config` on `mesh`.

    Args:
        config: of the run.
        state: arrays or their shapes.
        graphdefs: the model's structure.
        task: gives loss and columns.
        transform: the optimiser.
        mesh: over the devices.
    """
    places, gather_params = sharding.state_sharding(state, mesh, config.sharding)
    replicated = sharding.replicated_sharding(mesh)
    train_step = step_lib.make_train_step(
        graphdefs,
        task,
        transform,
        config.augment.to_dict(),
        grad_accum_steps=config.grad_accum_steps,
        gather_params=gather_params,
        ema=config.ema,
    )
    eval_step = step_lib.make_eval_step(graphdefs, task, views.Views.of_config(config))
    return Programs(
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=(places, replicated)),
        eval_step=jax.jit(eval_step, out_shardings=replicated),
        batch_stats_step=jax.jit(
            step_lib.make_batch_stats_step(graphdefs), out_shardings=replicated
        ),
        places=places,
    )


def batch_shapes(config: ml_collections.ConfigDict, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of `size` images with their labels, as `pipeline.take` gives it.

    Of mask and key points it has those that the task reads.
    """
    height, width = config.data.size
    known = {
        'image': ((height, width, 1), jnp.uint8),
        'hand_mask': ((height, width, 1), jnp.uint8),
        'keypoints': ((KEYPOINTS, 2), jnp.float32),
        'months': ((), jnp.float32),
        'male': ((), jnp.bool),
        'index': ((), jnp.int32),
        'valid': ((), jnp.bool),
    }
    needed = {'image', *tasks.inputs(config.task)}
    shapes = {}
    for name, (shape, dtype) in known.items():
        if name not in ('image', 'hand_mask', 'keypoints') or name in needed:
            shapes[name] = jax.ShapeDtypeStruct((size, *shape), dtype)
    return shapes
