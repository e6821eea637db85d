"""The contract between the loop and what is learned."""

import dataclasses
from collections.abc import Callable


def _same(prediction):
    return prediction


@dataclasses.dataclass(frozen=True)
class Task:
    """What the loop, the evaluator and the report know of a run's purpose.

    `loss(prediction, aux, batch) -> (scalar, {name: (sum, count)})`: the scalar is the mean over the valid examples;
    the (sum, count) pairs add up over batches.
    `columns(prediction, aux, batch) -> {name: [B]}`: what predictions.csv holds of a film, computed inside the step.
    `report(columns, split, train_months) -> dict`: one split's entry in metrics.json, from the columns as numpy arrays
    `[N]`, its labels (`split.months`, `.male`, `.ids`) and the training ages; `headline(report) -> str` says it in a line.
    `months(prediction) -> [B]`: predicted ages; None for a task that predicts none.
    `classes(prediction) -> {name: [B]}`: what `predict` writes of a film besides its age; None where there is nothing.
    `selects`: the metric of `loss` whose smallest value on the validation split picks the checkpoint; `shows` says it.
    `unflip(prediction)`: the prediction for a film, from that for its mirror image (for `flip_tta`).
    `inputs`: what a batch must carry besides labels, of `image`, `hand_mask`, `keypoints`.
    """

    loss: Callable
    columns: Callable
    report: Callable
    headline: Callable
    months: Callable | None = None
    classes: Callable | None = None
    selects: str = 'mae'
    shows: str = 'MAE {:.2f} months'
    unflip: Callable = _same
    inputs: tuple = ('image',)
