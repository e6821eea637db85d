"""The one table that joins a model, its loss and its metrics.

A task is fitted once on the training labels (`fit` -> plain numbers, written to `task.json` in the workdir), so that
prediction in a year uses the same normalisation as training did.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from boneage_jax import losses
from tfds_rsna.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """`loss(prediction, aux, batch) -> (scalar, {name: (sum, count)})`; `months(prediction) -> [B]`.

    The scalar is the mean over the valid examples; the (sum, count) pairs add up over batches.
    """

    loss: Callable
    months: Callable


def fit(options, months):
    """The numbers that the task takes from the training ages (float32 months `[N]`): its `centre` and `scale`."""
    if options.name not in TASKS:
        raise UserError(f'task.name={options.name!r}: expected one of {", ".join(TASKS)}')
    if options.normalisation == 'zscore':
        spread = float(np.std(months, dtype=np.float64))
        if spread == 0:
            raise UserError(f"task.normalisation='zscore': all {len(months)} training films have the same age "
                             f"({months[0]} months); give films of several ages or take 'unit'")
        return {'centre': float(np.mean(months, dtype=np.float64)), 'scale': spread}
    if options.normalisation == 'unit':
        return {'centre': 120.0, 'scale': 120.0}
    if options.normalisation == 'months':
        return {'centre': 0.0, 'scale': 1.0}
    raise UserError(f"task.normalisation={options.normalisation!r}: expected 'zscore', 'unit' or 'months'")


def build(options, fitted):
    """The task named by `config.task`, with the numbers that `fit` gave."""
    return TASKS[options.name](options, **fitted)


def _age(options, *, centre, scale):
    per_example = {'l1': losses.l1, 'l2': losses.l2}
    if options.loss not in per_example:
        raise UserError(f'task.loss={options.loss!r}: expected one of {", ".join(per_example)}')

    def months(prediction):
        return prediction * scale + centre

    def loss(prediction, aux, batch):
        del aux
        valid = batch['valid'].astype(jnp.float32)
        count = jnp.maximum(valid.sum(), 1.0)
        value = (per_example[options.loss](prediction, (batch['months'] - centre) / scale) * valid).sum()
        error = (jnp.abs(months(prediction) - batch['months']) * valid).sum()
        return value / count, {'loss': (value, count), 'mae': (error, count)}

    return Task(loss, months)


def _age_parts(options, *, centre, scale):
    """Equation 4 of Ji 2019: the age's loss, the ranking loss (weight `rank_weight`) and, ours, the mean
    squared error of the selected parts' own ages (weight `part_weight`), without which nothing would train
    them. Reports each term, and how many parts a film had. For a model that selects no parts it is the
    task 'age'.
    """
    age = _age(options, centre=centre, scale=scale)
    if options.form not in losses.RANKING_FORMS:
        raise UserError(f'task.form={options.form!r}: expected one of {", ".join(losses.RANKING_FORMS)}')

    def loss(prediction, aux, batch):
        total, metrics = age.loss(prediction, aux, batch)
        if 'part_ages' not in aux:
            return total, metrics
        films, parts = batch['valid'].astype(jnp.float32), aux['part_valid']
        count, number = jnp.maximum(films.sum(), 1.0), jnp.maximum(parts.sum(axis=1), 1)
        errors = aux['part_ages'] - ((batch['months'] - centre) / scale)[:, None]
        terms = {
            'rank_loss': losses.part_ranking(aux['part_scores'], errors * scale, form=options.form, valid=parts),
            'part_loss': jnp.sum(jnp.where(parts, losses.l2(errors, 0.0), 0.0), axis=1) / number,
            'parts': parts.sum(axis=1).astype(jnp.float32),
        }
        sums = {name: (value * films).sum() for name, value in terms.items()}
        total += (options.rank_weight * sums['rank_loss'] + options.part_weight * sums['part_loss']) / count
        metrics |= {'age_loss': metrics['loss'], 'loss': (total * count, count)}
        return total, metrics | {name: (value, count) for name, value in sums.items()}

    return Task(loss, age.months)


TASKS = {'age': _age, 'age_parts': _age_parts}
