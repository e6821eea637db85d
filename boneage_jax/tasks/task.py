"""The contract between the training loop and what a run learns."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from boneage_jax.tasks import losses
from tfds_rsna.errors import UserError

_BY_VALUE = {'l1': losses.l1, 'l2': losses.l2}
KINDS = ('age', 'age_classes', 'segmentation', 'keypoints', 'similarity')

Arrays = Mapping[str, jax.Array]
Sums = dict[str, tuple[jax.Array, jax.Array]]  # {name: (sum, count)}


def _same(prediction: jax.Array) -> jax.Array:
    return prediction


def _accept(split) -> None:
    del split


def by_value(options: ml_collections.ConfigDict) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function of `losses` that `task.loss` names, for losses of single numbers."""
    if options.loss not in _BY_VALUE:
        raise UserError(f'task.loss={options.loss!r}: expected one of {", ".join(_BY_VALUE)}')
    return _BY_VALUE[options.loss]


def mean_of_examples(
    batch: Arrays, metric: str, value: jax.Array, selected: jax.Array
) -> tuple[jax.Array, Sums]:
    """What `Task.loss` returns where each image has a loss of its own.

    Args:
        batch: holds `valid` `[B]`.
        metric: name of the metric that selects the checkpoint.
        value: loss of each image `[B]`.
        selected: that metric of each image `[B]`.
    """
    valid = batch['valid'].astype(jnp.float32)
    count = jnp.maximum(valid.sum(), 1.0)
    total = (value * valid).sum()
    return total / count, {'loss': (total, count), metric: ((selected * valid).sum(), count)}


@dataclasses.dataclass(frozen=True)
class Task:
    """What the loop, the evaluator and the report need to know of a run's purpose.

    Attributes:
        loss: `(prediction, aux, batch) -> (scalar, {name: (sum, count)})`. The scalar is the mean
            over the valid examples; the (sum, count) pairs add up over batches.
        per_example: `(prediction, aux, batch) -> {name: [B]}`: what predictions.csv holds of an
            image, computed inside the step.
        report: `(columns, split, train_months) -> dict`: one split's entry in metrics.json, from
            the columns as numpy arrays `[N]`, its labels (`split.months`, `.male`, `.ids`) and the
            training ages.
        summary_line: `(report) -> str`: the report in one line.
        kind: one of `KINDS`, which metrics.json records; it says what predictions.csv holds.
        months: `(prediction) -> [B]`: predicted ages; None for a task that predicts none.
        classes: `(prediction) -> {name: [B]}`: what `predict` writes of an image besides its age;
            None where there is nothing.
        signals: `(prediction) -> {name: [B]}`: how sure the network is of each image, positive
            numbers under the names of columns of predictions.csv; None where it does not tell.
        selection_metric: the metric of `loss` whose smallest value on the validation split picks
            the checkpoint.
        metric_format: formats that metric.
        unflip: the prediction for an image, from that for its mirror image.
        validate_labels: `(split)`: raises UserError where an image has a label that this task
            cannot hold.
        batch_dependent_loss: the loss compares images of a batch with one another, so the losses
            of its parts are not the batch's (`grad_accum_steps`).
        inputs: what a batch must carry besides labels, of `image`, `hand_mask`, `keypoints`.
    """

    loss: Callable[[jax.Array, Arrays, Arrays], tuple[jax.Array, Sums]] | None
    per_example: Callable[[jax.Array, Arrays, Arrays], dict[str, jax.Array]] | None
    report: Callable[..., dict]
    summary_line: Callable[[dict], str]
    kind: str = 'age'
    months: Callable[[jax.Array], jax.Array] | None = None
    classes: Callable[[jax.Array], dict[str, np.ndarray]] | None = None
    signals: Callable[[jax.Array], dict[str, jax.Array]] | None = None
    selection_metric: str = 'mae'
    metric_format: str = 'MAE {:.2f} months'
    unflip: Callable[[jax.Array], jax.Array] = _same
    validate_labels: Callable[..., None] = _accept
    batch_dependent_loss: bool = False
    inputs: tuple[str, ...] = ('image',)

    def mean_of_views(
        self, prediction: jax.Array, of_views: Sequence[jax.Array], *, mirrored: bool
    ) -> jax.Array:
        """The mean of an image's prediction and of those for its views (`boneage_jax.data.views`).

        Args:
            prediction: of the image itself.
            of_views: of each view; all have its shape.
            mirrored: the first of them is of the mirror image.
        """
        total = prediction
        for place, view in enumerate(of_views):
            total = total + (self.unflip(view) if mirrored and place == 0 else view)
        return total / (1 + len(of_views))
