"""The contract between the loop and what is learned."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from boneage_jax.tasks import losses
from tfds_rsna.errors import UserError

_BY_VALUE = {'l1': losses.l1, 'l2': losses.l2}


def _same(value):
    return value


def by_value(options):
    """The function of `losses` that `task.loss` names, for losses of single numbers."""
    if options.loss not in _BY_VALUE:
        raise UserError(f'task.loss={options.loss!r}: expected one of {", ".join(_BY_VALUE)}')
    return _BY_VALUE[options.loss]


def mean_of_examples(batch, selects, value, selected):
    """What `Task.loss` returns from per-image values `[B]`: of the loss, and of the selecting
    metric called `selects`.
    """
    valid = batch['valid'].astype(jnp.float32)
    count, total = jnp.maximum(valid.sum(), 1.0), (value * valid).sum()
    return total / count, {'loss': (total, count), selects: ((selected * valid).sum(), count)}


@dataclasses.dataclass(frozen=True)
class Task:
    """What the loop, the evaluator and the report know of a run's purpose.

    `loss(prediction, aux, batch) -> (scalar, {name: (sum, count)})`: the scalar is the mean over
    the valid examples; the (sum, count) pairs add up over batches.
    `per_example(prediction, aux, batch) -> {name: [B]}`: what predictions.csv holds of an image,
    computed inside the step.
    `report(columns, split, train_months) -> dict`: one split's entry in metrics.json, from the
    columns as numpy arrays `[N]`, its labels (`split.months`, `.male`, `.ids`) and the training
    ages; `summary_line(report) -> str` says it in a line.
    `months(prediction) -> [B]`: predicted ages; None for a task that predicts none.
    `classes(prediction) -> {name: [B]}`: what `predict` writes of an image besides its age; None
    where there is nothing.
    `selection_metric`: the metric of `loss` whose smallest value on the validation split picks the
    checkpoint; `metric_format` says it.
    `unflip(prediction)`: the prediction for an image, from that for its mirror image (for
    `flip_tta`).
    `validate_labels(split)`: raises UserError where an image's label is one that this task cannot
    hold.
    `batch_dependent_loss`: the loss compares images of a batch with one another, so its parts'
    losses are not the batch's (`accumulate`).
    `inputs`: what a batch must carry besides labels, of `image`, `hand_mask`, `keypoints`.
    """

    loss: Callable
    per_example: Callable
    report: Callable
    summary_line: Callable
    months: Callable | None = None
    classes: Callable | None = None
    selection_metric: str = 'mae'
    metric_format: str = 'MAE {:.2f} months'
    unflip: Callable = _same
    validate_labels: Callable = _same
    batch_dependent_loss: bool = False
    inputs: tuple = ('image',)
