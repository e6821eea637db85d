"""The steps of a run: pure functions of (state, batch, key), to be jitted.

`train_step` does everything that touches the batch inside one jit: gather it (device placement),
augment it, run the model, differentiate, update. NNX modules are split once into a graph definition
and plain dicts of arrays; inside the step they are merged (`copy=True`: batch normalisation writes
into the copy), so that plain `jax.jit` and `jax.value_and_grad` do the rest.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import nnx

from boneage_jax import tasks
from boneage_jax.data import augment, pipeline
from boneage_jax.data import views as views_lib
from boneage_jax.runs.state import GraphDefs, State


def predict(model, batch, **options):
    """The model on a batch of images, or on what its frozen backbone made of them.

    The latter come from boneage_jax/training/feature_cache.py.
    """
    if 'features' in batch:
        return model.from_features(batch['features'], batch['male'], **options)
    return model(batch['image'], batch['male'], **options)


def _unaugmented(batch):
    return batch if 'features' in batch else augment.to_float(batch)


def _identity(params):
    return params


def make_train_step(
    graphdefs: GraphDefs,
    task: tasks.Task,
    optimizer: optax.GradientTransformation,
    augmentation: dict,
    *,
    grad_accum_steps: int = 1,
    gather_params: Callable = _identity,
    ema: float = 0.0,
) -> Callable:
    """`train_step(state, batch, resident, key) -> (state, {name: (sum, count)})`.

    It is to be jitted with `state` donated. `resident` is the split's arrays where they are on the
    device, else an empty dict. `key` is the run's key: the step's own randomness is
    `fold_in(key, step)`, which is why no random state is saved.

    Args:
        graphdefs: the model's structure.
        task: gives the loss.
        optimizer: the optax transformation.
        augmentation: `config.augment` as a dict.
        grad_accum_steps: how many parts of the batch go through the network one after the other;
            see `accumulate_gradients`.
        gather_params: brings parameters together of which each device holds a share
            (`sharding.state_sharding`).
        ema: decay of the parameters' moving average, where the state keeps one.
    """

    def loss_of(params, frozen_params, batch_stats, batch, key):
        params = gather_params(params)
        model = nnx.merge(graphdefs.train, params, frozen_params, batch_stats, copy=True)
        prediction, aux = predict(model, batch, rngs=nnx.Rngs(key))
        loss, metrics = task.loss(prediction, aux, batch)
        batch_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return loss, (metrics, batch_stats)

    gradient_of = jax.value_and_grad(loss_of, has_aux=True)
    if grad_accum_steps > 1:
        gradient_of = accumulate_gradients(gradient_of, grad_accum_steps)

    def train_step(state, batch, resident, key):
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = pipeline.gather(batch, resident)
        if 'features' not in batch:
            batch = augment.augment(augment_key, batch, augmentation)

        (loss, (metrics, batch_stats)), gradients = gradient_of(
            state.params, state.frozen_params, state.batch_stats, batch, dropout_key
        )
        norm = optax.tree.norm(gradients)
        metrics = metrics | {'gradient_norm': (norm, jnp.float32(1))}

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: u * state.loop_state['lr_scale'], updates)
        params = optax.apply_updates(state.params, updates)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        state = State(
            step=state.step + 1,
            params=params,
            frozen_params=state.frozen_params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            loop_state=_remember_nonfinite(state.loop_state, state.step, finite),
            averages=_move_averages(state.averages, params, state.step, ema) if ema else {},
        )
        return state, metrics

    return train_step


def _move_averages(averages, params, step, decay):
    """The moving average of the parameters after `step` + 1 steps.

    Its memory grows with the steps up to `decay`, so that it soon forgets where it started.
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda kept, new: decay * kept + (1 - decay) * new, averages, params)


def _remember_nonfinite(loop_state, step, finite):
    """`loop_state` with `step` as the first step that was not finite, if it is."""
    before = loop_state['first_nonfinite_step']
    is_first = (before < 0) & ~finite
    return loop_state | {'first_nonfinite_step': jnp.where(is_first, step, before)}


def accumulate_gradients(gradient_of: Callable, parts: int) -> Callable:
    """`gradient_of` (see `make_train_step`) over `parts` parts of the batch, one after the other.

    Loss and gradients are means over the parts, metrics their sums: those of the batch at once,
    since all of a training batch's images are valid and the loss is a mean over images. Batch
    normalisation normalises by the statistics of each part, and the running ones move once a part.
    Images i, i + parts, ... make a part, so that each device keeps its own images.
    """

    def split(x):
        return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

    def accumulated(params, frozen_params, batch_stats, batch, key):
        batches = jax.tree.map(split, batch)
        keys = jax.random.split(key, parts)

        def gradient_of_part(batch_stats, part):
            batch, key = part
            (loss, (metrics, batch_stats)), gradients = gradient_of(
                params, frozen_params, batch_stats, batch, key
            )
            return batch_stats, (loss, metrics, gradients)

        def add(carry, part):
            batch_stats, sums = carry
            batch_stats, found = gradient_of_part(batch_stats, part)
            return (batch_stats, jax.tree.map(jnp.add, sums, found)), None

        # The sums start at zeros of the shapes that one part gives; nothing is computed for that.
        first_part = jax.tree.map(lambda x: x[0], (batches, keys))
        _, shapes = jax.eval_shape(gradient_of_part, batch_stats, first_part)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        (batch_stats, sums), _ = jax.lax.scan(add, (batch_stats, zeros), (batches, keys))
        loss, metrics, gradients = sums
        gradients = jax.tree.map(lambda x: x / parts, gradients)
        return (loss / parts, (metrics, batch_stats)), gradients

    return accumulated


def make_batch_stats_step(graphdefs: GraphDefs) -> Callable:
    """`batch_stats_step(state, batch, resident) -> batch_stats`: those of this batch alone.

    Averaged over some batches they replace the running ones before an evaluation ("precise" batch
    normalisation, Wu and Johnson 2021, section 3). The running ones are of augmented images, and
    evaluation sees none: on `rsna100` that shifts every age by some months. What is below a frozen
    prefix keeps its statistics.
    """

    def batch_stats_step(state, batch, resident):
        batch = _unaugmented(pipeline.gather(batch, resident))
        model = nnx.merge(
            graphdefs.train, state.params, state.frozen_params, state.batch_stats, copy=True
        )
        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.BatchNorm):
                module.momentum = 0.0  # nothing of the past
        predict(model, batch, rngs=nnx.Rngs(0))
        return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return batch_stats_step


def make_eval_step(
    graphdefs: GraphDefs, task: tasks.Task, views: views_lib.Views | None = None
) -> Callable:
    """`eval_step(state, batch, resident)`, deterministic.

    It gives `{'columns': {name: [B]}, 'metrics': {name: (sum, count)}}`. The
    prediction is averaged over the image and its `views`, where there are some.
    """
    views = views or views_lib.Views()

    def eval_step(state, batch, resident):
        given = pipeline.gather(batch, resident)
        batch = _unaugmented(given)
        model = nnx.merge(graphdefs.evaluate, state.params, state.frozen_params, state.batch_stats)
        prediction, aux = predict(model, batch)
        if views.count > 1:
            of_views = []
            for view in views.of(given['image']):
                seen = augment.to_float({'image': view})['image']
                of_views.append(model(seen, batch['male'])[0])
            prediction = task.mean_of_views(prediction, of_views, mirrored=views.flip)
        _, metrics = task.loss(prediction, aux, batch)
        return {'columns': task.per_example(prediction, aux, batch), 'metrics': metrics}

    return eval_step


def update_loop_state(
    loop_state: dict, value: float, step: int, options: ml_collections.ConfigDict
) -> dict:
    """The loop state after an evaluation, as host scalars.

    A plateau schedule multiplies its rate by `step_factor` after every `plateau_patience`
    evaluations without improvement.

    Args:
        loop_state: that before, see `State`.
        value: what the evaluation gave; smaller is better.
        step: the step that was evaluated.
        options: `config.optimizer`.
    """
    loop_state = {name: np.asarray(x) for name, x in loop_state.items()}
    if np.float32(value) < loop_state['best']:
        return loop_state | {
            'best': np.float32(value),
            'best_step': np.int32(step),
            'evals_since_best': np.int32(0),
        }
    evals = np.int32(loop_state['evals_since_best'] + 1)
    loop_state['evals_since_best'] = evals
    if options.schedule == 'plateau' and evals % options.plateau_patience == 0:
        loop_state['lr_scale'] = np.float32(loop_state['lr_scale'] * options.step_factor)
    return loop_state
