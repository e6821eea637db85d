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

    `memory` is what the loop must remember: `best` (validation value so far), `best_step`, `stale` (evaluations since),
    `rate_scale` (the plateau schedule's factor), `bad_step` (the first step whose loss was not finite, or -1).
    """

    step: Any
    trainable: Any
    frozen: Any
    statistics: Any
    optimizer: Any
    memory: Any


@dataclasses.dataclass(frozen=True)
class Graphs:
    """The model's structure without its arrays; train and eval differ in batch normalisation and dropout."""

    train: Any
    evaluate: Any


def partition(model, frozen=()):
    """(Graphs, trainable, frozen, statistics) of a model, the last three as plain dicts of arrays.

    `frozen`: path prefixes such as 'trunk/stem'. What lies below gets no gradient and no optimiser memory, and runs as
    in evaluation: its batch normalisation keeps its running statistics, its dropout is off. Raises UserError for a
    prefix that matches nothing.
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
    train, fixed, trainable, statistics = nnx.split(model, is_frozen, nnx.Param, nnx.BatchStat)
    if len(matched) < len(frozen):
        raise UserError(f'frozen={tuple(frozen)}: no parameter below {", ".join(sorted(set(frozen) - matched))}; the '
                        f'top-level parts are {", ".join(sorted(nnx.to_pure_dict(nnx.state(model))))}')
    return Graphs(train, evaluate), *map(nnx.to_pure_dict, (trainable, fixed, statistics))


def create_state(model, optimizer, frozen=()):
    """(State at step 0, Graphs) of a fresh model, divided as `partition` says."""
    graphs, trainable, fixed, statistics = partition(model, frozen)
    memory = {'best': jnp.float32(jnp.inf), 'best_step': jnp.int32(-1), 'stale': jnp.int32(0),
              'rate_scale': jnp.float32(1.0), 'bad_step': jnp.int32(-1)}
    return State(jnp.int32(0), trainable, fixed, statistics, optimizer.init(trainable), memory), graphs
