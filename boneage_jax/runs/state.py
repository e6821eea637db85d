"""The state of a run: all arrays that a checkpoint holds, and the model's structure without them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tfds_rsna.errors import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    """All that a checkpoint holds, as plain pytrees of arrays.

    `loop_state` is what the loop must remember: `best` (validation value so far), `best_step`,
    `evals_since_best` (evaluations since), `lr_scale` (the plateau schedule's factor),
    `first_nonfinite_step` (the first step whose loss was not finite, or -1).
    """

    step: Any
    params: Any
    frozen_params: Any
    batch_stats: Any
    opt_state: Any
    loop_state: Any


@dataclasses.dataclass(frozen=True)
class GraphDefs:
    """The model's structure without its arrays; train and eval differ in batch normalisation and
    dropout.
    """

    train: Any
    evaluate: Any


def partition(model, frozen=()):
    """(GraphDefs, params, frozen_params, batch_stats) of a model, the last three as plain dicts of
    arrays.

    `frozen`: path prefixes such as 'backbone/stem'. What lies below gets no gradient and no
    optimiser memory, and runs as in evaluation: its batch normalisation keeps its running
    statistics, its dropout is off. Raises UserError for a prefix that matches nothing.
    """
    matched = set()

    def hits(path):
        name = '/'.join(map(str, path))
        return [prefix for prefix in frozen if name == prefix or name.startswith(prefix + '/')]

    def is_frozen(path, value):
        matched.update(hits(path) if isinstance(value, nnx.Param) else ())
        return isinstance(value, nnx.Param) and bool(hits(path))

    model.eval()
    evaluate = nnx.graphdef(model)
    model.train()
    for path, module in nnx.iter_modules(model):
        if hits(path):
            module.eval()
    train, fixed, params, batch_stats = nnx.split(model, is_frozen, nnx.Param, nnx.BatchStat)
    if len(matched) < len(frozen):
        raise UserError(
            f'frozen={tuple(frozen)}: no parameter below {", ".join(sorted(set(frozen) - matched))}; the '
            f'top-level parts are {", ".join(sorted(nnx.to_pure_dict(nnx.state(model))))}'
        )
    return GraphDefs(train, evaluate), *map(nnx.to_pure_dict, (params, fixed, batch_stats))


def create_state(model, optimizer, frozen=()):
    """(State at step 0, GraphDefs) of a fresh model, divided as `partition` says."""
    graphdefs, params, fixed, batch_stats = partition(model, frozen)
    loop_state = {
        'best': jnp.float32(jnp.inf),
        'best_step': jnp.int32(-1),
        'evals_since_best': jnp.int32(0),
        'lr_scale': jnp.float32(1.0),
        'first_nonfinite_step': jnp.int32(-1),
    }
    return State(
        jnp.int32(0), params, fixed, batch_stats, optimizer.init(params), loop_state
    ), graphdefs
