"""The state of a run (the arrays that a checkpoint holds), and the model's structure without it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tfds_rsna.errors import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    """All that a checkpoint holds, as plain pytrees of arrays.

    Attributes:
        step: how many training steps were done, int32.
        params: the parameters that are trained.
        frozen_params: the parameters that stay as they are.
        batch_stats: the running statistics of batch normalisation.
        opt_state: the optimiser's memory of `params`.
        loop_state: what the loop remembers: `best` (the smallest validation value so far),
            `best_step`, `evals_since_best`, `lr_scale` (the plateau schedule's factor),
            `first_nonfinite_step` (the first step whose loss was not finite, or -1).
        averages: the moving average of `params`, which is evaluated and exported in their place;
            {} where none is kept (`config.ema`).
    """

    step: Any
    params: Any
    frozen_params: Any
    batch_stats: Any
    opt_state: Any
    loop_state: Any
    averages: Any = dataclasses.field(default_factory=dict)

    def evaluated(self) -> 'State':
        """This state with the parameters that count: the averages where they are kept."""
        return dataclasses.replace(self, params=self.averages or self.params)


@dataclasses.dataclass(frozen=True)
class GraphDefs:
    """The model's structure without its arrays.

    `train` and `evaluate` differ in batch normalisation and dropout.
    """

    train: Any
    evaluate: Any


def partition(model: nnx.Module, frozen: Sequence[str] = ()) -> tuple[GraphDefs, dict, dict, dict]:
    """(GraphDefs, params, frozen_params, batch_stats) of a model, the last three as plain dicts.

    What is below a path prefix of `frozen`, such as 'backbone/stem', gets no gradient and no
    optimiser memory, and runs as in evaluation: its batch normalisation keeps its running
    statistics, its dropout is off. Raises UserError for a prefix that matches nothing.
    """
    matched = set()

    def prefixes_of(path):
        name = '/'.join(map(str, path))
        return [prefix for prefix in frozen if name == prefix or name.startswith(prefix + '/')]

    def is_frozen(path, value):
        if not isinstance(value, nnx.Param):
            return False
        prefixes = prefixes_of(path)
        matched.update(prefixes)
        return bool(prefixes)

    model.eval()
    evaluate = nnx.graphdef(model)
    model.train()
    for path, module in nnx.iter_modules(model):
        if prefixes_of(path):
            module.eval()
    train, frozen_params, params, batch_stats = nnx.split(
        model, is_frozen, nnx.Param, nnx.BatchStat
    )
    if len(matched) < len(frozen):
        parts = sorted(nnx.to_pure_dict(nnx.state(model)))
        raise UserError(
            f'frozen={tuple(frozen)}: no parameter below '
            f'{", ".join(sorted(set(frozen) - matched))}; the top-level parts are '
            f'{", ".join(parts)}'
        )
    return (
        GraphDefs(train, evaluate),
        nnx.to_pure_dict(params),
        nnx.to_pure_dict(frozen_params),
        nnx.to_pure_dict(batch_stats),
    )


def create_state(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    frozen: Sequence[str] = (),
    *,
    averaged: bool = False,
) -> tuple[State, GraphDefs]:
    """(State at step 0, GraphDefs) of a fresh model, divided as `partition` says.

    `averaged`: a moving average of the parameters is kept.
    """
    graphdefs, params, frozen_params, batch_stats = partition(model, frozen)
    loop_state = {
        'best': jnp.float32(jnp.inf),
        'best_step': jnp.int32(-1),
        'evals_since_best': jnp.int32(0),
        'lr_scale': jnp.float32(1.0),
        'first_nonfinite_step': jnp.int32(-1),
    }
    state = State(
        step=jnp.int32(0),
        params=params,
        frozen_params=frozen_params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        loop_state=loop_state,
        averages=jax.tree.map(jnp.copy, params) if averaged else {},
    )
    return state, graphdefs
