"""The figures of one run from its files, and those that a trainer draws of what it holds."""

from __future__ import annotations

import pathlib

import numpy as np

from boneage_jax.figures import ages, agreement, classes, style, training
from boneage_jax.figures import components as components_lib
from boneage_jax.runs import predictions
from boneage_jax.runs import workdir as workdir_lib


def from_run(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Draws the figures of the run in `workdir` into `workdir/figures/`; returns their paths.

    From predictions.csv, for each split in it: `predictions_SPLIT.png`, `error_by_age_SPLIT.png`
    and `bland_altman_SPLIT.png` where the run predicts ages, for classes also
    `confusion_SPLIT.png`. From metrics.jsonl, which a classical run does not have: `training.png`.

    Raises:
        FileNotFoundError: there is no predictions.csv.
        UserError: it is empty, lacks columns or holds something unreadable; the message names file
            and line.
    """
    workdir = pathlib.Path(workdir)
    folder = workdir / 'figures'
    paths = []
    if predictions.kind_of(workdir) in ('age', 'age_classes'):
        table = predictions.read(workdir / 'predictions.csv')
        for split in predictions.splits(table):
            paths += _of_split(workdir, split, predictions.of_split(table, split))
    history = workdir / 'metrics.jsonl'
    if history.exists():
        paths.append(style.save(training.draw, folder / 'training.png', training.read(history)))
    return paths


def _of_split(workdir, split, images):
    folder = workdir / 'figures'
    paths = []
    for name, draw in (
        ('predictions', ages.predicted_against_true),
        ('error_by_age', ages.error_by_age),
        ('bland_altman', agreement.bland_altman),
    ):
        paths.append(style.save(draw, folder / f'{name}_{split}.png', split, images))
    if 'class' in images:
        report = workdir_lib.read_metrics(workdir)
        shown = classes.confusion_of(split, images, report['splits'][split]['by_class'])
        paths.append(style.save(classes.confusion, folder / f'confusion_{split}.png', *shown))
    return paths


def counts(
    months: np.ndarray,
    male: np.ndarray,
    edges,
    path: pathlib.Path,
    title: str = 'Training images',
) -> pathlib.Path:
    """Draws the number of images per year of age and sex.

    Args:
        months: [N].
        male: [N] bool.
        edges: class edges in months, drawn as lines; () without classes.
        path: the PNG to write.
        title: what the images are.

    Returns:
        `path`.
    """
    return style.save(classes.counts, pathlib.Path(path), months, male, edges, title)


def components(model, size: tuple[int, int], path: pathlib.Path) -> pathlib.Path:
    """Draws principal components, weights and errors of a `training.classical.PCARegression`.

    Args:
        model: the fitted regression.
        size: (rows, columns) of its images.
        path: the PNG to write.

    Returns:
        `path`.
    """
    return style.save(components_lib.draw, pathlib.Path(path), model, size)


def near_edges(
    split: str, lines: list[dict], names: tuple[str, str], path: pathlib.Path
) -> pathlib.Path:
    """Draws the accuracy of two runs by distance to the nearest class edge.

    Args:
        split: the split that the images are of.
        lines: those of `analysis.class_edges`.
        names: those of the two runs.
        path: the PNG to write.

    Returns:
        `path`.
    """
    return style.save(classes.near_edges, pathlib.Path(path), split, lines, names)
