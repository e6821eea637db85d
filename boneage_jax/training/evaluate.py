"""Score each example of a split exactly once; write predictions.csv and metrics.json."""

import jax
import numpy as np

from boneage_jax.data import pipeline, splits
from boneage_jax.runtime import files, sharding


def predict(eval_step, state, split, *, batch_size, mesh):
    """({column: array `[N]` in the split's order}, {metric: mean}) over every example once.

    `eval_step` is jitted with replicated outputs, so that every host has every prediction.
    """
    parts, totals = [], {}
    batches = pipeline.eval_batches(split, batch_size=batch_size)
    for start, batch in zip(range(0, len(split), batch_size), batches, strict=True):
        out = jax.device_get(eval_step(state, sharding.shard_batch(batch, mesh), {}))
        parts.append(jax.tree.map(lambda x: x[: len(split) - start], out['columns']))
        for name, pair in out['metrics'].items():
            totals[name] = np.asarray(pair, np.float64) + totals.get(name, 0.0)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return columns, {
        name: float(total / max(count, 1.0)) for name, (total, count) in totals.items()
    }


def write_predictions(workdir, predictions):
    """predictions.csv (`id,split,male,age` and the task's columns) from `{split: (Split, {column:
    array [N]})}`.
    """
    names = list(next(iter(predictions.values()))[1])
    rows = []
    for name, (split, columns) in predictions.items():
        values = zip(*(columns[column] for column in names), strict=True)
        rows += [
            (i, name, bool(male), float(age), *map(show, value))
            for i, male, age, value in zip(split.ids, split.male, split.months, values, strict=True)
        ]
    files.write_table(workdir / 'predictions.csv', ('id', 'split', 'male', 'age', *names), rows)


def show(value):
    """Months and errors to 3 digits after the point, small shares to 3 of their own; classes as
    they are.
    """
    if isinstance(value, (int, np.integer, np.bool_, str)):
        return str(value)
    return f'{value:.3f}' if abs(value) >= 1 or value == 0 else f'{value:.5f}'


def write_metrics(workdir, predictions, task, train_months, about):
    """metrics.json: per split its role (selects or reported), its number of images and the task's
    report; `about` says with what they were made. Its presence says that the run is finished:
    predictions.csv comes before it. Returns its content.
    """
    report = {**about, 'splits': {}}
    for name, (split, columns) in predictions.items():
        report['splits'][name] = {
            'role': 'selects' if name == splits.SELECTING else 'reported',
            'images': len(split),
            **task.report(columns, split, train_months),
        }
    files.write_json(workdir / 'metrics.json', report)
    return report
