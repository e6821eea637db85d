"""The end of every run: each split predicted once, its files, its figures, and the words at the
terminal.
"""

import jax

from boneage_jax import figures
from boneage_jax.data import splits as splits_lib
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import log, sharding
from boneage_jax.training import evaluate


def finalize(workdir, task, splits, predict, **about):
    """Predicts the selecting split and each reported split once; writes predictions.csv,
    metrics.json, the figures.

    `predict(split) -> {column: [N]}` is called on every host; the main one writes. metrics.json
    says that the run is finished: a figure that cannot be drawn takes nothing back.
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
        log.info(f'{name} ({split["role"]}, {split["images"]} images): {task.summary_line(split)}')
    log.info(
        f'All figures: {workdir / "metrics.json"}\nEvery prediction: {workdir / "predictions.csv"}\n'
        f'Pictures: {workdir / "figures"}'
    )
    return written
