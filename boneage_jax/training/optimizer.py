"""Configuration -> an optax chain, and the learning rate as a function of the step."""

import jax
import jax.numpy as jnp
import optax


def schedule(options, *, steps_per_epoch, total_steps):
    """`step -> learning rate`, steps counted from 0. Warm-up multiplies the schedule, it does not
    shift it.

    `plateau` is constant here: its factor lives in the run's memory (`step.remember`).
    """
    peak = options.learning_rate
    if (
        options.schedule == 'one_cycle'
    ):  # has its own warm-up: 30% of the steps, then cosine to nearly zero
        return optax.cosine_onecycle_schedule(
            max(total_steps, 4), peak
        )  # shorter cycles divide by zero in optax
    if options.schedule == 'cosine':
        main = optax.cosine_decay_schedule(peak, total_steps)
    elif options.schedule == 'step':
        main = optax.exponential_decay(
            peak,
            transition_steps=options.step_epochs * steps_per_epoch,
            decay_rate=options.step_factor,
            staircase=True,
        )
    else:
        main = optax.constant_schedule(peak)
    warmup = round(options.warmup_epochs * steps_per_epoch)
    if not warmup:
        return main
    return lambda step: main(step) * jnp.minimum((step + 1) / warmup, 1.0)


def build(options, learning_rate):
    """The optax transformation for `config.optimizer`; `learning_rate` as `schedule` gives it.

    Weight decay spares biases and norms (every parameter of rank below 2), the field's habit.
    """
    decay = optax.add_decayed_weights(
        options.weight_decay, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    )
    rate = optax.scale_by_learning_rate(learning_rate)
    adam = optax.scale_by_adam(b1=options.momentum, b2=options.b2)
    parts = {
        'sgd': [decay, optax.trace(decay=options.momentum), rate],
        'adam': [decay, adam, rate],
        'adamw': [adam, decay, rate],
    }[options.name]
    if options.grad_clip_norm:
        parts = [optax.clip_by_global_norm(options.grad_clip_norm), *parts]
    return optax.chain(*parts)
