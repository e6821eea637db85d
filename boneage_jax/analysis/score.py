"""A finished run on the images of another config: its validation, holdout and test splits.

Nothing is selected here. The network, its task and the numbers fitted on its training images are
the run's.
"""

import pathlib

import ml_collections
import numpy as np

from boneage_jax import cli, figures
from boneage_jax.data import duplicates, splits
from boneage_jax.data.source import Split
from boneage_jax.errors import ConfigError
from boneage_jax.inference import intervals
from boneage_jax.runs import predictions, workdir
from boneage_jax.runs.predictor import Predictor, read_task
from boneage_jax.runtime import log, setup
from boneage_jax.stages import records
from boneage_jax.training import evaluate


def score(
    run: pathlib.Path,
    config: ml_collections.ConfigDict,
    output: pathlib.Path,
    data_dir: str | None = None,
) -> dict:
    """Writes a run's predictions and metrics on the splits of `config`; returns its metrics.json.

    Args:
        run: the workdir of the finished run, an exported file, or the name of a shipped network.
        config: whose images; of the size that the run was trained at.
        output: folder for the results.
        data_dir: folder of the raw data.

    Raises:
        ConfigError: the images have another size than the run's, are of a sex that it never saw,
            or were trained on; the config is for another task; `output` holds results.
    """
    output = pathlib.Path(output)
    predictor = Predictor(run)
    _require_fitting(run, predictor.config, config)
    cli.refuse_results(output, 'metrics.json')
    setup.set_up_jax(config)

    opened = records.open_splits(config, data_dir)
    workdir.check_no_leakage(run, opened)
    chosen = {}
    for name, split in opened.items():
        if name == splits.SELECTING or name in splits.REPORTED:
            chosen[name] = split
    output.mkdir(parents=True, exist_ok=True)
    scored = {name: (split, _columns(predictor, split)) for name, split in chosen.items()}
    evaluate.write_predictions(output, scored)

    first = next(iter(chosen.values()))
    about = {
        'run': str(run),
        'step': predictor.step,
        'selected_by': 'nothing: a finished run',
        'labels': workdir.label_digests(chosen),
        'records': first.folder,
        'leaks': duplicates.check(chosen, output),
        **workdir.provenance(),
    }
    report = evaluate.write_metrics(
        output, scored, predictor.task, opened['train'].months, about, _coverage(run, output)
    )
    figures.from_run(output)
    for name, found in report['splits'].items():
        log.info(f'{name} ({found["images"]} images): {predictor.task.summary_line(found)}')
    return report


def _coverage(run, output):
    """`{split: {'intervals': figures}}`: what the network's own intervals hold of the images."""
    if read_task(run).months is None:
        return {}
    try:
        fitted, _ = intervals.of_network(run)
    except intervals.MissingIntervalsError as error:
        log.info(f'No intervals: {error}.')
        return {}
    for line in fitted.lines():
        log.info(line)
    table = predictions.read(output / 'predictions.csv')
    found = {}
    for split in predictions.splits(table):
        overall = intervals.coverage(fitted, table, split)['overall']
        groups = intervals.conditional_coverage(fitted, table, split)
        found[split] = {'intervals': {'overall': overall, **groups}}
        log.info(
            f'{split}: {100 * overall["value"]:.1f}% of {overall["count"]:,} images are in their '
            f'interval, of {overall["width"]:.1f} months from end to end on average.'
        )
    return found


def _require_fitting(run, trained, config):
    """Refuses a config whose images or task are not those that the run was trained for."""
    size = tuple(trained.data.size)
    if tuple(config.data.size) != size:
        raise ConfigError(
            f'data.size={tuple(config.data.size)}: {run} was trained on images of {size}; give '
            'that size'
        )
    sex = trained.data.sex
    if sex not in ('both', config.data.sex):
        raise ConfigError(
            f'data.sex={config.data.sex}: {run} was trained on {sex} images alone; give '
            f'data.sex={sex}'
        )
    if config.task.name != trained.task.name:
        raise ConfigError(
            f'{run} was trained for the task {trained.task.name!r}, the config is for '
            f'{config.task.name!r}'
        )


def _columns(predictor: Predictor, split: Split) -> dict[str, np.ndarray]:
    """The task's columns `[N]` of every image of a split, as the run's evaluation has them."""
    parts = []
    for _, batch, prediction, aux in predictor.over(split, tta=True):
        columns = predictor.task.per_example(prediction, aux, batch)
        parts.append({name: np.asarray(values) for name, values in columns.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
