"""What a run learns: the one table that joins a prediction, its loss, its columns in
predictions.csv and its report.

A task is fitted once on the training labels (`fit` -> plain numbers, written to `task.json` in the
workdir), so that prediction in a year uses the same normalisation as training did.
"""

import numpy as np

from boneage_jax.tasks import ages, classes, hands, similarity
from boneage_jax.tasks.task import Task
from tfds_rsna.errors import UserError

__all__ = ['TASKS', 'Task', 'build', 'fit', 'inputs', 'refuse']

# name -> (fit(options, months) -> dict of plain numbers, build(options, **fitted) -> Task)
TASKS = {
    'age': (ages.fit, ages.age),
    'age_expectation': (ages.fit, ages.age_expectation),
    'age_parts': (ages.fit, ages.age_parts),
    'age_triplet': (ages.fit, ages.age_triplet),
    'age_classes': (classes.fit, classes.age_classes),
    'segmentation': (hands.fit, hands.segmentation),
    'keypoints': (hands.fit, hands.keypoints),
    'similarity': (hands.fit, similarity.similarity),
}


def fit(options, months):
    """The numbers that the task `config.task` takes from the training ages (float32 months `[N]`)."""
    if options.name not in TASKS:
        raise UserError(f'task.name={options.name!r}: expected one of {", ".join(TASKS)}')
    return TASKS[options.name][0](options, months)


def inputs(options):
    """What a batch must carry for the task `config.task` besides labels: `Task.inputs`."""
    return build(options, fit(options, np.array([0.0, 240.0]))).inputs


def validate_labels(options, splits):
    """Raises UserError where an image of `splits` (`{name: Split}`) has a label that the task
    `config.task` cannot hold.
    """
    task = build(options, fit(options, np.array([0.0, 240.0])))
    for split in splits.values():
        task.validate_labels(split)


def build(options, fitted):
    """The task named by `config.task`, with the numbers that `fit` gave."""
    return TASKS[options.name][1](options, **fitted)
