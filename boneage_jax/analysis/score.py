"""Score a finished run on other films: those of another config's validation, holdout and test splits.

    python -m boneage_jax.score --workdir=runs/points --config=configs/keypoints.py:annotated --output=scores/points

The films are prepared as CONFIG says, at the size that the run was trained at; the network, its task and the numbers fitted
on its training films are the run's. OUTPUT gets predictions.csv, metrics.json and figures, like a run's own. Nothing is
selected here. Films that the run trained on are refused.
"""

import pathlib

import numpy as np
from absl import app, flags, logging

from boneage_jax import config as config_lib
from boneage_jax import figures
from boneage_jax.data import duplicates
from boneage_jax.runs import workdir
from boneage_jax.runtime import log
from boneage_jax.training import evaluate, loop
from boneage_jax.data import pipeline, splits
from boneage_jax.runs.predictor import Predictor


def score(run, config, output, data_dir=None):
    """Writes the run's predictions and metrics on the splits of `config`; returns the content of metrics.json.

    Raises ConfigError where the films have another size than the run's, are of a sex that it never saw, or were trained on.
    """
    output, predictor = pathlib.Path(output), Predictor(run)
    if tuple(config.data.size) != tuple(predictor.config.data.size):
        raise config_lib.ConfigError(f'data.size={tuple(config.data.size)}: {run} was trained on films of '
                                     f'{tuple(predictor.config.data.size)}; give that size')
    seen = predictor.config.data.sex
    if seen not in ('both', config.data.sex):
        raise config_lib.ConfigError(f'data.sex={config.data.sex}: {run} was trained on {seen} films alone; give data.sex={seen}')
    if (output / 'metrics.json').exists():
        raise config_lib.ConfigError(f'{output} holds results already; delete it or choose another --output')
    loop.set_up_jax(config)
    if config.task.name != predictor.config.task.name:
        raise config_lib.ConfigError(f'{run} was trained for the task {predictor.config.task.name!r}, the config is for '
                                     f'{config.task.name!r}')
    opened = loop.open_splits(config, data_dir)
    workdir.check_no_leakage(run, config, opened)
    chosen = {name: split for name, split in opened.items() if name == splits.SELECTING or name in splits.REPORTED}
    output.mkdir(parents=True, exist_ok=True)
    scored = {name: (split, _columns(predictor, split)) for name, split in chosen.items()}
    evaluate.write_predictions(output, scored)
    about = {'run': str(run), 'step': predictor.step, 'selected_by': 'nothing: a finished run',
             'labels': workdir.label_digests(chosen), 'records': next(iter(chosen.values())).folder,
             'leaks': duplicates.check(chosen, output), **workdir.provenance()}
    report = evaluate.write_metrics(output, scored, predictor.task, opened['train'].months, about)
    figures.from_run(output)
    for name, split in report['splits'].items():
        log.info(f'{name} ({split["films"]} films): {predictor.task.headline(split)}')
    return report


def _columns(predictor, split):
    """The task's columns `[N]` of every film of a split."""
    parts, size = [], predictor.batch_size
    for batch in pipeline.eval_batches(split, batch_size=size):
        count = int(batch['valid'].sum())
        batch = {name: array[:count] for name, array in batch.items()}
        prediction, aux = predictor.evaluated(batch['image'], batch['male'])
        columns = predictor.task.columns(prediction, aux, batch)
        parts.append({name: np.asarray(values) for name, values in columns.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def main(argv):
    logging.set_verbosity(logging.WARNING)
    score(_WORKDIR.value, config_lib.from_command_line(_CONFIG.value, argv), _OUTPUT.value, _DATA_DIR.value)


if __name__ == '__main__':
    _CONFIG = flags.DEFINE_string('config', None, 'path[:arg] of the config whose films to score', required=True)
    _WORKDIR = flags.DEFINE_string('workdir', None, 'folder of the finished run', required=True)
    _OUTPUT = flags.DEFINE_string('output', None, 'folder for the results', required=True)
    _DATA_DIR = flags.DEFINE_string('data_dir', None, 'folder of the raw data; default: $BONEAGE_DATA')
    app.run(log.exit_on_user_error(main), flags_parser=config_lib.parse_flags)
