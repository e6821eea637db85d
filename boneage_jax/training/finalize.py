"""The end of every run: each split predicted once, its files, its figures, a summary."""

import pathlib
from collections.abc import Callable

import jax
import numpy as np

from boneage_jax import figures, tasks
from boneage_jax.data import splits as splits_lib
from boneage_jax.data.source import Split
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import log, sharding
from boneage_jax.training import evaluate


def finalize(
    workdir: pathlib.Path,
    task: tasks.Task,
    splits: dict[str, Split],
    predict: Callable[[Split], dict[str, np.ndarray]],
    **about,
) -> dict | None:
    """Predicts the selecting and the reported splits, once; writes results and figures.

    metrics.json says that the run is finished: a figure that cannot be drawn takes nothing back.

    Args:
        workdir: the folder of the run; gets predictions.csv, metrics.json and figures/.
        task: gives the report.
        splits: the run's splits; that of training gives its ages.
        predict: gives the columns `[N]` of a split. It is called on every host.
        about: what metrics.json shall say besides.

    Returns:
        The content of metrics.json; None on all hosts but the main one, which writes.
    """
    names = [name for name in (splits_lib.SELECTING, *splits_lib.REPORTED) if name in splits]
    predictions = {name: (splits[name], predict(splits[name])) for name in names}
    if not sharding.is_main():
        return None
    evaluate.write_predictions(workdir, predictions)
    about |= {
        'selected_by': f'{splits_lib.SELECTING} {task.selection_metric}',
        **workdir_lib.provenance(),
        'device': f'{jax.device_count()} {jax.devices()[0].device_kind}',
    }
    written = evaluate.write_metrics(workdir, predictions, task, splits['train'].months, about)
    figures.from_run(workdir)
    for name, split in written['splits'].items():
        summary = task.summary_line(split)
        log.info(f'{name} ({split["role"]}, {split["images"]} images): {summary}')
    log.info(f'All figures: {workdir / "metrics.json"}')
    log.info(f'Every prediction: {workdir / "predictions.csv"}')
    log.info(f'Pictures: {workdir / "figures"}')
    return written
