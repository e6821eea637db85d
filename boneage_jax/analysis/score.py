"""Score a finished run on other images: those of another config's validation, holdout and test
splits.

    python -m boneage_jax.score --workdir=runs/points --config=configs/keypoints.py:annotated --output=scores/points

The images are prepared as CONFIG says, at the size that the run was trained at; the network, its
task and the numbers fitted on its training images are the run's. OUTPUT gets predictions.csv,
metrics.json and figures, like a run's own. Nothing is selected here. Images that the run trained on
are refused.
"""

import pathlib

import numpy as np

from boneage_jax import figures
from boneage_jax.data import duplicates, pipeline, splits
from boneage_jax.errors import ConfigError
from boneage_jax.runs import workdir
from boneage_jax.runs.predictor import Predictor
from boneage_jax.runtime import log, setup
from boneage_jax.stages import records
from boneage_jax.training import evaluate


def score(run, config, output, data_dir=None):
    """Writes the run's predictions and metrics on the splits of `config`; returns the content of
    metrics.json.

    Raises ConfigError where the images have another size than the run's, are of a sex that it never
    saw, or were trained on.
    """
    output, predictor = pathlib.Path(output), Predictor(run)
    if tuple(config.data.size) != tuple(predictor.config.data.size):
        raise ConfigError(
            f'data.size={tuple(config.data.size)}: {run} was trained on images of '
            f'{tuple(predictor.config.data.size)}; give that size'
        )
    seen = predictor.config.data.sex
    if seen not in ('both', config.data.sex):
        raise ConfigError(
            f'data.sex={config.data.sex}: {run} was trained on {seen} images alone; give data.sex={seen}'
        )
    if (output / 'metrics.json').exists():
        raise ConfigError(f'{output} holds results already; delete it or choose another --output')
    setup.set_up_jax(config)
    if config.task.name != predictor.config.task.name:
        raise ConfigError(
            f'{run} was trained for the task {predictor.config.task.name!r}, the config is for '
            f'{config.task.name!r}'
        )
    opened = records.open_splits(config, data_dir)
    workdir.check_no_leakage(run, config, opened)
    chosen = {
        name: split
        for name, split in opened.items()
        if name == splits.SELECTING or name in splits.REPORTED
    }
    output.mkdir(parents=True, exist_ok=True)
    scored = {name: (split, _columns(predictor, split)) for name, split in chosen.items()}
    evaluate.write_predictions(output, scored)
    about = {
        'run': str(run),
        'step': predictor.step,
        'selected_by': 'nothing: a finished run',
        'labels': workdir.label_digests(chosen),
        'records': next(iter(chosen.values())).folder,
        'leaks': duplicates.check(chosen, output),
        **workdir.provenance(),
    }
    report = evaluate.write_metrics(output, scored, predictor.task, opened['train'].months, about)
    figures.from_run(output)
    for name, split in report['splits'].items():
        log.info(f'{name} ({split["images"]} images): {predictor.task.summary_line(split)}')
    return report


def _columns(predictor, split):
    """The task's columns `[N]` of every image of a split."""
    parts, size = [], predictor.batch_size
    for batch in pipeline.eval_batches(split, batch_size=size):
        count = int(batch['valid'].sum())
        batch = {name: array[:count] for name, array in batch.items()}
        prediction, aux = predictor.predict_tta(batch['image'], batch['male'])
        columns = predictor.task.per_example(prediction, aux, batch)
        parts.append({name: np.asarray(values) for name, values in columns.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
