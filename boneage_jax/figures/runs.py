"""The figures of one run, from its predictions.csv and metrics.jsonl."""

from pathlib import Path

from boneage_jax import predictions
from boneage_jax.figures import ages, style, training


def from_run(workdir):
    """Draws the figures of the run in `workdir` into `workdir/figures/`; returns their paths.

    From `predictions.csv` (`id,split,male,age,prediction[,lower,upper]`, months), for each split in it:
    `predictions_SPLIT.png` and `error_by_age_SPLIT.png`; none where the run predicts no ages. From `metrics.jsonl`, which
    a classical run does not have: `training.png`.

    Raises:
        FileNotFoundError: there is no predictions.csv.
        UserError: it is empty, lacks columns or holds something unreadable; the message names file and line.
    """
    workdir = Path(workdir)
    history, folder, paths = workdir / 'metrics.jsonl', workdir / 'figures', []
    path = workdir / 'predictions.csv'
    of_points_or_masks = any(name in path.read_text().partition('\n')[0].split(',') for name in ('iou', 'error_percent'))
    films = {'split': []} if of_points_or_masks else predictions.read(path)
    for split in dict.fromkeys(films['split']):
        chosen = predictions.of_split(films, split)
        paths.append(style.save(ages.predicted_against_true, folder / f'predictions_{split}.png', split, chosen))
        paths.append(style.save(ages.error_by_age, folder / f'error_by_age_{split}.png', split, chosen))
    if history.exists():
        paths.append(style.save(training.draw, folder / 'training.png', training.read(history)))
    return paths
