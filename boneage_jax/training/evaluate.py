"""Scores each example of a split exactly once; writes predictions.csv and metrics.json."""

import pathlib
from collections.abc import Callable

import jax
import numpy as np

from boneage_jax import tasks
from boneage_jax.data import pipeline, splits
from boneage_jax.data.source import Split
from boneage_jax.runs.predictions import COLUMNS
from boneage_jax.runs.state import State
from boneage_jax.runtime import files, sharding

Predictions = dict[str, tuple[Split, dict[str, np.ndarray]]]  # {split: (its images, {column: [N]})}


def predict(
    eval_step: Callable, state: State, split: Split, *, batch_size: int, mesh: jax.sharding.Mesh
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """({column: `[N]` in the split's order}, {metric: mean}) over every example once.

    `eval_step` is jitted with replicated outputs, so that every host has every prediction.
    """
    parts = []
    totals = {}
    batches = pipeline.eval_batches(split, batch_size=batch_size)
    for number, batch in enumerate(batches):
        out = jax.device_get(eval_step(state, sharding.shard_batch(batch, mesh), {}))
        count = len(split) - number * batch_size  # the last batch is padded
        parts.append({name: column[:count] for name, column in out['columns'].items()})
        for name, pair in out['metrics'].items():
            totals[name] = np.asarray(pair, np.float64) + totals.get(name, 0.0)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    means = {name: float(total / max(count, 1.0)) for name, (total, count) in totals.items()}
    return columns, means


def write_predictions(workdir: pathlib.Path, predictions: Predictions):
    """Writes predictions.csv: `id,split,male,age` and the task's columns."""
    _, first = next(iter(predictions.values()))
    names = list(first)
    rows = []
    for name, (split, columns) in predictions.items():
        values = zip(*(columns[column] for column in names), strict=True)
        labels = zip(split.ids, split.male, split.months, strict=True)
        for (image, male, age), row in zip(labels, values, strict=True):
            rows.append((image, name, bool(male), float(age), *map(show, row)))
    files.write_table(workdir / 'predictions.csv', (*COLUMNS[:4], *names), rows)


def show(value):
    """Months and errors with 3 decimals, small shares with 5; classes and words as they are."""
    if isinstance(value, (int, np.integer, np.bool_, str)):
        return str(value)
    return f'{value:.3f}' if abs(value) >= 1 or value == 0 else f'{value:.5f}'


def write_metrics(
    workdir: pathlib.Path,
    predictions: Predictions,
    task: tasks.Task,
    train_months: np.ndarray,
    about: dict,
    more: dict[str, dict] | None = None,
) -> dict:
    """Writes metrics.json and returns its content.

    Its presence says that the run is finished: predictions.csv comes before it.

    Args:
        workdir: the folder of the run.
        predictions: of each split.
        task: its kind is written, and its report on each split, beside the split's role (selects
            or reported) and its number of images.
        train_months: the training ages, months `[N]`.
        about: what else to write: with what the figures were made.
        more: what else to write of each split, `{split: {name: figures}}`.
    """
    report = {'kind': task.kind, **about, 'splits': {}}
    for name, (split, columns) in predictions.items():
        report['splits'][name] = {
            'role': 'selects' if name == splits.SELECTING else 'reported',
            'images': len(split),
            **task.report(columns, split, train_months),
            **(more or {}).get(name, {}),
        }
    files.write_json(workdir / 'metrics.json', report)
    return report
