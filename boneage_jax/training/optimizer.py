"""Configuration -> an optax chain, and the learning rate as a function of the step."""

import jax
import jax.numpy as jnp
import ml_collections
import optax

from tfds_rsna.errors import UserError


def schedule(
    options: ml_collections.ConfigDict, *, steps_per_epoch: int, total_steps: int
) -> optax.Schedule:
    """`step -> learning rate`, steps counted from 0.

    Warm-up multiplies the schedule, it does not shift it. `plateau` is constant here: its factor is
    `lr_scale` of the loop's state (`step.update_loop_state`).

    Args:
        options: `config.optimizer`.
        steps_per_epoch: steps of an epoch.
        total_steps: steps of the whole run.
    """
    peak = options.learning_rate
    if options.schedule == 'one_cycle':
        # It has its own warm-up: 30% of the steps, then cosine to nearly zero. Shorter cycles than
        # 4 steps divide by zero in optax.
        return optax.cosine_onecycle_schedule(max(total_steps, 4), peak)
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


def build(
    options: ml_collections.ConfigDict, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """The optax transformation for `config.optimizer`; `learning_rate` as `schedule` gives it.

    Weight decay spares biases and norms (every parameter of rank below 2), the field's habit.
    """

    def is_decayed(params):
        return jax.tree.map(lambda x: x.ndim > 1, params)

    decay = optax.add_decayed_weights(options.weight_decay, mask=is_decayed)
    adam = optax.scale_by_adam(b1=options.momentum, b2=options.b2)
    rate = optax.scale_by_learning_rate(learning_rate)
    if options.backbone_rate != 1:
        rate = optax.chain(rate, _scale_backbone(options.backbone_rate))
    if options.name == 'sgd':
        parts = [decay, optax.trace(decay=options.momentum), rate]
    elif options.name == 'adam':
        parts = [decay, adam, rate]
    else:
        parts = [adam, decay, rate]  # adamw
    if options.grad_clip_norm:
        parts = [optax.clip_by_global_norm(options.grad_clip_norm), *parts]
    return optax.chain(*parts)


def _scale_backbone(factor):
    """Multiplies the updates of what is below `backbone` and `part_backbone` of the network."""

    def scale(updates, params=None):
        del params
        found = [name for name in ('backbone', 'part_backbone') if name in updates]
        if not found:
            raise UserError(
                f'optimizer.backbone_rate={factor:g}: this network has no part named backbone, or '
                'it is frozen; leave it at 1'
            )
        backbones = {name: updates[name] for name in found}
        return updates | jax.tree.map(lambda update: factor * update, backbones)

    return optax.stateless(scale)
