"""The state of a run and its two steps: pure functions of (state, batch, key).

`train_step` does everything that touches the batch inside one jit: gather it (device placement),
augment it, run the model, differentiate, update. NNX modules are split once into a graph definition
and plain dicts of arrays; inside the step they are merged (`copy=True`: batch normalisation writes
into the copy), so that plain `jax.jit` and `jax.value_and_grad` do the rest.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from boneage_jax.data import augment, pipeline
from boneage_jax.runs.state import State


def predict(model, batch, **options):
    """The model on a batch of images, or on what its frozen backbone made of them
    (boneage_jax/training/feature_cache.py).
    """
    if 'features' in batch:
        return model.from_features(batch['features'], batch['male'], **options)
    return model(batch['image'], batch['male'], **options)


def _unaugmented(batch):
    return batch if 'features' in batch else augment.to_float(batch)


def make_train_step(
    graphdefs,
    task,
    optimizer,
    augmentation,
    *,
    grad_accum_steps=1,
    whole=lambda parameters: parameters,
):
    """`train_step(state, batch, resident, key) -> (state, {name: (sum, count)})`, to be jitted with
    `state` donated.

    `resident` is the split's arrays where they live on the device, else an empty dict. `key` is the
    run's key: the step's own randomness is `fold_in(key, step)`, which is why no random state is
    saved. `accumulate`: the parts that the batch goes through the network in (`in_parts`). `whole`:
    brings parameters of which each device holds a share together.
    """

    def loss_of(params, frozen_params, batch_stats, batch, key):
        model = nnx.merge(graphdefs.train, whole(params), frozen_params, batch_stats, copy=True)
        prediction, aux = predict(model, batch, rngs=nnx.Rngs(key))
        loss, metrics = task.loss(prediction, aux, batch)
        return loss, (metrics, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

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
        updates, optimizer_state = optimizer.update(gradients, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: u * state.loop_state['lr_scale'], updates)
        norm = optax.tree.norm(gradients)
        healthy = jnp.isfinite(loss) & jnp.isfinite(norm)
        first_bad = (state.loop_state['first_nonfinite_step'] < 0) & ~healthy
        loop_state = state.loop_state | {
            'first_nonfinite_step': jnp.where(
                first_bad, state.step, state.loop_state['first_nonfinite_step']
            )
        }
        metrics = metrics | {'gradient_norm': (norm, jnp.float32(1))}
        state = State(
            state.step + 1,
            optax.apply_updates(state.params, updates),
            state.frozen_params,
            batch_stats,
            optimizer_state,
            loop_state,
        )
        return state, metrics

    return train_step


def accumulate_gradients(gradient_of, parts):
    """`gradient_of` (see `make_train_step`) over `parts` parts of the batch, one after the other in
    a `lax.scan`.

    Loss and gradients are means over the parts, metrics their sums: those of the batch at once,
    since all of a training batch's images are valid and the loss is a mean over images. Batch
    normalisation normalises by the statistics of each part, and the running ones move once a part.
    Images i, i + parts, ... make a part, so that each device keeps its own images.
    """

    def accumulated(params, frozen_params, batch_stats, batch, key):
        batch = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), batch
        )

        def add(carry, part):
            batch_stats, sums = carry
            (loss, (metrics, batch_stats)), gradients = gradient_of(
                params, frozen_params, batch_stats, *part
            )
            return (batch_stats, jax.tree.map(jnp.add, sums, (loss, metrics, gradients))), None

        first = jax.tree.map(lambda x: x[0], (batch, jax.random.split(key, parts)))
        (loss, (metrics, _)), gradients = jax.eval_shape(
            gradient_of, params, frozen_params, batch_stats, *first
        )
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, metrics, gradients))
        (batch_stats, (loss, metrics, gradients)), _ = jax.lax.scan(
            add, (batch_stats, zeros), (batch, jax.random.split(key, parts))
        )
        return (loss / parts, (metrics, batch_stats)), jax.tree.map(lambda x: x / parts, gradients)

    return accumulated


def make_batch_stats_step(graphdefs):
    """`batch_stats_step(state, batch, resident) -> batch_stats` of batch normalisation over this
    batch alone, as it is.

    Averaged over some batches they replace the running ones before an evaluation ("precise" batch
    normalisation, Wu and Johnson 2021, section 3). The running ones are of augmented images, and
    evaluation sees none: on `rsna100` that shifts every age by some months. What lies below a
    frozen prefix keeps its statistics.
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


def make_eval_step(graphdefs, task, *, flip_tta):
    """`eval_step(state, batch, resident) -> {'columns': {name: [B]}, 'metrics': {name: (sum,
    count)}}`, deterministic.

    `flip_tta` averages the prediction over the image and its mirror image.
    """

    def eval_step(state, batch, resident):
        batch = _unaugmented(pipeline.gather(batch, resident))
        model = nnx.merge(graphdefs.evaluate, state.params, state.frozen_params, state.batch_stats)
        prediction, aux = predict(model, batch)
        if flip_tta:
            mirrored, _ = model(augment.flip(batch)['image'], batch['male'])
            prediction = (prediction + task.unflip(mirrored)) / 2
        _, metrics = task.loss(prediction, aux, batch)
        return {'columns': task.per_example(prediction, aux, batch), 'metrics': metrics}

    return eval_step


def update_loop_state(loop_state, value, step, options):
    """The loop state after an evaluation that gave `value` (smaller is better) at `step`, as host
    scalars.

    A plateau schedule multiplies its rate by `step_factor` after every `plateau_patience`
    evaluations without improvement.
    """
    loop_state = {name: np.asarray(x) for name, x in loop_state.items()}
    if np.float32(value) < loop_state['best']:
        return loop_state | {
            'best': np.float32(value),
            'best_step': np.int32(step),
            'evals_since_best': np.int32(0),
        }
    loop_state['evals_since_best'] = np.int32(loop_state['evals_since_best'] + 1)
    if (
        options.schedule == 'plateau'
        and loop_state['evals_since_best'] % options.plateau_patience == 0
    ):
        loop_state['lr_scale'] = np.float32(loop_state['lr_scale'] * options.step_factor)
    return loop_state
