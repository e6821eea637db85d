"""Score each example of a split exactly once; write predictions.csv and metrics.json."""

import csv
import io

import jax
import numpy as np

from boneage_jax import log, metrics, sharding
from boneage_jax.data import pipeline, splits


def predict(eval_step, state, split, *, batch_size, mesh):
    """(predictions in months, float32 `[N]` in the split's order; {name: mean}) over every example once.

    `eval_step` is jitted with replicated outputs, so that every host has every prediction.
    """
    months = np.empty(len(split), np.float32)
    totals = {}
    batches = pipeline.eval_batches(split, batch_size=batch_size)
    for start, batch in zip(range(0, len(split), batch_size), batches, strict=True):
        out = jax.device_get(eval_step(state, sharding.put_batch(batch, mesh), {}))
        stop = min(start + batch_size, len(split))
        months[start:stop] = out['months'][:stop - start]
        for name, pair in out['metrics'].items():
            totals[name] = np.asarray(pair, np.float64) + totals.get(name, 0.0)
    return months, {name: float(total / max(count, 1.0)) for name, (total, count) in totals.items()}


def write_predictions(workdir, predictions):
    """predictions.csv (`id,split,male,age,prediction`, months) from `{split: (Split, months [N])}`."""
    rows = [(i, name, bool(male), float(age), f'{value:.3f}')
            for name, (split, predicted) in predictions.items()
            for i, male, age, value in zip(split.ids, split.male, split.months, predicted, strict=True)]
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([('id', 'split', 'male', 'age', 'prediction'), *rows])
    log.write_whole(workdir / 'predictions.csv', text.getvalue())


def write_metrics(workdir, predictions, train_months, about):
    """metrics.json: per split the figures of `metrics.age_metrics` with bootstrap intervals, its role (selects or
    reported) and the error of predicting the training median; `about` says with what they were made. Its presence says
    that the run is finished: predictions.csv comes before it. Returns its content.
    """
    report = {**about, 'splits': {}}
    for name, (split, predicted) in predictions.items():
        report['splits'][name] = {
            'role': 'selects' if name == splits.SELECTING else 'reported',
            'films': len(split),
            'median_mae': metrics.median_baseline(train_months, split.months),
            **metrics.age_metrics(predicted, split.months, split.male, ids=split.ids),
        }
    log.write_json(workdir / 'metrics.json', report)
    return report
