"""The images of a config before any training: ages, sexes, and how hands are cut out.

The figures are Castillo 2018's 2 and 3.
"""

import pathlib
import re

import ml_collections
import numpy as np

from boneage_jax import cli, figures
from boneage_jax.runtime import log
from boneage_jax.stages import records


def survey(
    config: ml_collections.ConfigDict,
    output: pathlib.Path,
    *,
    count: int = 4,
    data_dir: str | None = None,
) -> list[pathlib.Path]:
    """Draws counts.png of all images, and the extraction of `count` of them; returns the paths.

    Args:
        config: whose images.
        output: folder for the figures.
        count: how many images to cut out.
        data_dir: folder of the raw data.
    """
    output = pathlib.Path(output)
    cli.refuse_results(output, 'counts.png')
    splits = records.open_splits(config, data_dir).values()
    months = np.concatenate([split.months for split in splits])
    male = np.concatenate([split.male for split in splits])
    paths = [figures.counts(months, male, (), output / 'counts.png', title='All images')]
    for example in records.native_images(config.data, count, data_dir):
        name = re.sub('[^-._A-Za-z0-9]', '_', str(example['id']))
        paths.append(figures.extraction(example['image'], output / f'extraction_{name}.png'))
    log.info(
        f'{len(months):,} images, {int(male.sum()):,} boys and {int((~male).sum()):,} girls, '
        f'{months.min():g} to {months.max():g} months: {output}'
    )
    return paths
