"""What a run learns: one table joins a prediction, its loss, its columns and its report.

A task is fitted once on the training labels (`fit` -> plain numbers, written to `task.json` in the
workdir), so that a prediction in a year uses the same normalisation as training did.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_collections
import numpy as np

from boneage_jax.tasks import ages, classes, hands, similarity
from boneage_jax.tasks.task import KINDS, Task
from tfds_rsna.errors import UserError

__all__ = ['KINDS', 'TASKS', 'Task', 'build', 'fit', 'for_checks', 'inputs', 'validate_labels']

_ANY_AGES = np.array([0.0, 240.0])  # months: enough to build a task whose ages do not matter


class _Entry(NamedTuple):
    fit: Callable[[ml_collections.ConfigDict, np.ndarray], dict]
    build: Callable[..., Task]


TASKS = {
    'age': _Entry(ages.fit, ages.age),
    'age_expectation': _Entry(ages.fit, ages.age_expectation),
    'age_distribution': _Entry(ages.fit, ages.age_distribution),
    'age_parts': _Entry(ages.fit, ages.age_parts),
    'age_triplet': _Entry(ages.fit, ages.age_triplet),
    'age_classes': _Entry(classes.fit, classes.age_classes),
    'segmentation': _Entry(hands.fit, hands.segmentation),
    'keypoints': _Entry(hands.fit, hands.keypoints),
    'similarity': _Entry(hands.fit, similarity.similarity),
}


def fit(options: ml_collections.ConfigDict, months: np.ndarray) -> dict:
    """The numbers that a task takes from the training ages (float32 months `[N]`)."""
    if options.name not in TASKS:
        raise UserError(f'task.name={options.name!r}: expected one of {", ".join(TASKS)}')
    return TASKS[options.name].fit(options, months)


def build(options: ml_collections.ConfigDict, fitted: dict) -> Task:
    """The task named by `config.task`, with the numbers that `fit` gave."""
    return TASKS[options.name].build(options, **fitted)


def for_checks(options: ml_collections.ConfigDict) -> Task:
    """The task `config.task` before any data is read.

    It stands on invented ages: use what does not depend on them (`inputs`, `validate_labels`,
    `batch_dependent_loss`, the shapes of `loss`), never a figure.
    """
    return build(options, fit(options, _ANY_AGES))


def inputs(options: ml_collections.ConfigDict) -> tuple[str, ...]:
    """What a batch must carry for the task `config.task` besides labels: `Task.inputs`."""
    return for_checks(options).inputs


def validate_labels(options: ml_collections.ConfigDict, splits: Mapping) -> None:
    """Checks the labels of `splits` (`{name: Split}`) against the task `config.task`.

    Raises UserError where an image has a label that the task cannot hold.
    """
    task = for_checks(options)
    for split in splits.values():
        task.validate_labels(split)
