"""The figures of one run, from its predictions.csv and metrics.jsonl, and those that need its
images' ages.
"""

import json
from pathlib import Path

import numpy as np

from boneage_jax.figures import ages, agreement, classes, style, training
from boneage_jax.figures import components as components_lib
from boneage_jax.runs import predictions


def from_run(workdir):
    """Draws the figures of the run in `workdir` into `workdir/figures/`; returns their paths.

    From `predictions.csv` (`id,split,male,age,prediction[,lower,upper]`, months), for each split in
    it: `predictions_SPLIT.png`, `error_by_age_SPLIT.png` and `bland_altman_SPLIT.png`; none where
    the run predicts no ages; of classes also `confusion_SPLIT.png`. From `metrics.jsonl`, which a
    classical run does not have: `training.png`.

    Raises:
        FileNotFoundError: there is no predictions.csv.
        UserError: it is empty, lacks columns or holds something unreadable; the message names file
        and line.
    """
    workdir = Path(workdir)
    history, folder, paths = workdir / 'metrics.jsonl', workdir / 'figures', []
    path = workdir / 'predictions.csv'
    of_points_or_masks = any(
        name in path.read_text().partition('\n')[0].split(',') for name in ('iou', 'error_percent')
    )
    images = {'split': []} if of_points_or_masks else predictions.read(path)
    for split in dict.fromkeys(images['split']):
        chosen = predictions.of_split(images, split)
        paths.append(
            style.save(
                ages.predicted_against_true, folder / f'predictions_{split}.png', split, chosen
            )
        )
        paths.append(
            style.save(ages.error_by_age, folder / f'error_by_age_{split}.png', split, chosen)
        )
        paths.append(
            style.save(agreement.bland_altman, folder / f'bland_altman_{split}.png', split, chosen)
        )
        if 'class' in chosen:
            names = json.loads((workdir / 'metrics.json').read_text())['splits'][split]['by_class']
            names = [row['months'] for row in names]
            table = np.zeros((len(names), len(names)), int)
            np.add.at(table, (chosen['true_class'], chosen['class']), 1)
            paths.append(
                style.save(
                    classes.confusion, folder / f'confusion_{split}.png', split, table, names
                )
            )
    if history.exists():
        paths.append(style.save(training.draw, folder / 'training.png', training.read(history)))
    return paths


def counts(months, male, edges, path, title='Training images'):
    """Images `[N]` (months, bool) per year of age and sex, class `edges` (months) as lines, drawn
    to `path`.
    """
    return style.save(classes.counts, Path(path), months, male, edges, title)


def components(model, size, path):
    """Principal components, weights and errors of a `classical.PCARegression` on images of `size`
    (rows, columns).
    """
    return style.save(components_lib.draw, Path(path), model, size)


def near_edges(split, lines, names, path):
    """Accuracy of two runs by distance to the nearest class edge; `lines` as near_edges.by_distance
    gives them.
    """
    return style.save(classes.near_edges, Path(path), split, lines, names)
