"""The state of a run and its two steps: pure functions of (state, batch, key).

`train_step` does everything that touches the batch inside one jit: gather it (device placement), augment it, run the
model, differentiate, update. NNX modules are split once into a graph definition and plain dicts of arrays; inside the
step they are merged (`copy=True`: batch normalisation writes into the copy), so that plain `jax.jit` and
`jax.value_and_grad` do the rest.
"""


import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from boneage_jax.data import augment, pipeline
from boneage_jax.runs.state import State


def predict(model, batch, **options):
    """The model on a batch of films, or on what its frozen trunk made of them (boneage_jax/training/feature_cache.py)."""
    if 'features' in batch:
        return model.from_features(batch['features'], batch['male'], **options)
    return model(batch['image'], batch['male'], **options)


def _unaugmented(batch):
    return batch if 'features' in batch else augment.to_float(batch)


def make_train_step(graphs, task, optimizer, augmentation, *, accumulate=1, whole=lambda parameters: parameters):
    """`train_step(state, batch, resident, key) -> (state, {name: (sum, count)})`, to be jitted with `state` donated.

    `resident` is the split's arrays where they live on the device, else an empty dict. `key` is the run's key: the
    step's own randomness is `fold_in(key, step)`, which is why no random state is saved. `accumulate`: the parts that the
    batch goes through the network in (`in_parts`). `whole`: brings parameters of which each device holds a share together.
    """

    def loss_of(trainable, frozen, statistics, batch, key):
        model = nnx.merge(graphs.train, whole(trainable), frozen, statistics, copy=True)
        prediction, aux = predict(model, batch, rngs=nnx.Rngs(key))
        loss, metrics = task.loss(prediction, aux, batch)
        return loss, (metrics, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    gradient_of = jax.value_and_grad(loss_of, has_aux=True)
    if accumulate > 1:
        gradient_of = accumulate_gradients(gradient_of, accumulate)

    def train_step(state, batch, resident, key):
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = pipeline.gather(batch, resident)
        if 'features' not in batch:
            batch = augment.augment(augment_key, batch, augmentation)

        (loss, (metrics, statistics)), gradients = gradient_of(
            state.trainable, state.frozen, state.statistics, batch, dropout_key)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.trainable)
        updates = jax.tree.map(lambda u: u * state.memory['rate_scale'], updates)
        norm = optax.tree.norm(gradients)
        healthy = jnp.isfinite(loss) & jnp.isfinite(norm)
        first_bad = (state.memory['bad_step'] < 0) & ~healthy
        memory = state.memory | {'bad_step': jnp.where(first_bad, state.step, state.memory['bad_step'])}
        metrics = metrics | {'gradient_norm': (norm, jnp.float32(1))}
        state = State(state.step + 1, optax.apply_updates(state.trainable, updates), state.frozen, statistics,
                      optimizer_state, memory)
        return state, metrics

    return train_step


def accumulate_gradients(gradient_of, parts):
    """`gradient_of` (see `make_train_step`) over `parts` parts of the batch, one after the other in a `lax.scan`.

    Loss and gradients are means over the parts, metrics their sums: those of the batch at once, since all of a training
    batch's films are valid and the loss is a mean over films. Batch normalisation normalises by the statistics of each part,
    and the running ones move once a part. Films i, i + parts, ... make a part, so that each device keeps its own films.
    """

    def accumulated(trainable, frozen, statistics, batch, key):
        batch = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), batch)

        def add(carry, part):
            statistics, sums = carry
            (loss, (metrics, statistics)), gradients = gradient_of(trainable, frozen, statistics, *part)
            return (statistics, jax.tree.map(jnp.add, sums, (loss, metrics, gradients))), None

        first = jax.tree.map(lambda x: x[0], (batch, jax.random.split(key, parts)))
        (loss, (metrics, _)), gradients = jax.eval_shape(gradient_of, trainable, frozen, statistics, *first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, metrics, gradients))
        (statistics, (loss, metrics, gradients)), _ = jax.lax.scan(
            add, (statistics, zeros), (batch, jax.random.split(key, parts)))
        return (loss / parts, (metrics, statistics)), jax.tree.map(lambda x: x / parts, gradients)

    return accumulated


def make_batch_stats_step(graphs):
    """`statistics_step(state, batch, resident) -> statistics` of batch normalisation over this batch alone, as it is.

    Averaged over some batches they replace the running ones before an evaluation ("precise" batch normalisation, Wu and
    Johnson 2021, section 3). The running ones are of augmented films, and evaluation sees none: on `rsna100` that shifts
    every age by some months. What lies below a frozen prefix keeps its statistics.
    """

    def statistics_step(state, batch, resident):
        batch = _unaugmented(pipeline.gather(batch, resident))
        model = nnx.merge(graphs.train, state.trainable, state.frozen, state.statistics, copy=True)
        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.BatchNorm):
                module.momentum = 0.0  # nothing of the past
        predict(model, batch, rngs=nnx.Rngs(0))
        return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return statistics_step


def make_eval_step(graphs, task, *, flip_tta):
    """`eval_step(state, batch, resident) -> {'columns': {name: [B]}, 'metrics': {name: (sum, count)}}`, deterministic.

    `flip_tta` averages the prediction over the film and its mirror image.
    """

    def eval_step(state, batch, resident):
        batch = _unaugmented(pipeline.gather(batch, resident))
        model = nnx.merge(graphs.evaluate, state.trainable, state.frozen, state.statistics)
        prediction, aux = predict(model, batch)
        if flip_tta:
            mirrored, _ = model(augment.flip(batch)['image'], batch['male'])
            prediction = (prediction + task.unflip(mirrored)) / 2
        _, metrics = task.loss(prediction, aux, batch)
        return {'columns': task.columns(prediction, aux, batch), 'metrics': metrics}

    return eval_step


def update_loop_state(memory, value, step, options):
    """The memory after an evaluation that gave `value` (smaller is better) at `step`, as host scalars.

    A plateau schedule multiplies its rate by `step_factor` after every `plateau_patience` evaluations without
    improvement.
    """
    memory = {name: np.asarray(x) for name, x in memory.items()}
    if np.float32(value) < memory['best']:
        return memory | {'best': np.float32(value), 'best_step': np.int32(step), 'stale': np.int32(0)}
    memory['stale'] = np.int32(memory['stale'] + 1)
    if options.schedule == 'plateau' and memory['stale'] % options.plateau_patience == 0:
        memory['rate_scale'] = np.float32(memory['rate_scale'] * options.step_factor)
    return memory
