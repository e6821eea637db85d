"""The images of a config before any training: how ages and sexes are spread, and how hands are cut
out.

    python -m boneage_jax.survey --config=configs/attention.py:rsna100 --output=survey

Castillo 2018's figures 2 (`counts.png`: images per year of age and sex, of all splits together) and
3 (`extraction_ID.png`: gradient, markers, watershed, largest component and hand of some images, as
they came and whatever the config's stages are).
"""

import pathlib
import re

import numpy as np

from boneage_jax import figures
from boneage_jax.runtime import log
from boneage_jax.stages import records


def survey(config, output, *, count=4, data_dir=None):
    """Writes the figures into the folder `output`; returns their paths. Raises what the data
    raises.
    """
    output = pathlib.Path(output)
    splits = records.open_splits(config, data_dir).values()
    months, male = (
        np.concatenate([getattr(split, name) for split in splits]) for name in ('months', 'male')
    )
    paths = [figures.counts(months, male, (), output / 'counts.png', title='All images')]
    for example in records.native_images(config.data, count, data_dir):
        name = re.sub('[^-._A-Za-z0-9]', '_', str(example['id']))
        paths.append(figures.extraction(example['image'], output / f'extraction_{name}.png'))
    log.info(
        f'{len(months):,} images, {int(male.sum()):,} boys and {int((~male).sum()):,} girls, {months.min():g} to '
        f'{months.max():g} months: {output}'
    )
    return paths
