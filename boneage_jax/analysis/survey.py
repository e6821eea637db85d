"""The images of a config before any training: ages, sexes, and what its stages make of hands.

`survey` draws Castillo 2018's figures 2 and 3, `contact_sheets` many images before and after.
"""

import pathlib
import re

import ml_collections
import numpy as np

from boneage_jax import cli, figures
from boneage_jax.errors import ConfigError
from boneage_jax.preprocess import transform
from boneage_jax.runtime import log
from boneage_jax.stages import plan, records

_SIDE = 150  # pixels of an image on a sheet
_COLUMNS = 10


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


def contact_sheets(
    config: ml_collections.ConfigDict,
    output: pathlib.Path,
    *,
    count: int = 200,
    data_dir: str | None = None,
) -> list[pathlib.Path]:
    """Draws `found.png` and `prepared.png`: many images before and after the config's stages.

    On the first are the masks and key points that the stages found on the images as they came; on
    the second the images as the stages leave them, or nothing of one that was left out.

    Args:
        config: whose images and stages.
        output: folder for the sheets.
        count: how many training images, evenly spaced.
        data_dir: folder of the raw data.

    Raises:
        ConfigError: the config has no stages, or `output` holds such sheets.
    """
    output = pathlib.Path(output)
    for result in ('found.png', 'prepared.png'):
        cli.refuse_results(output, result)
    if not config.data.stages:
        raise ConfigError(
            'data.stages is empty: there is nothing to show; take --config=...:stages=(mask,region)'
        )
    before, after = plan.in_place(plan.make_plan(config.data, data_dir))
    captions = []
    pictures = {'found': [], 'prepared': []}
    for example in records.native_images(config.data, count, data_dir):
        (found,) = records.apply_stages([example], before)
        prepared = None
        if found is not None:
            (prepared,) = records.apply_stages([found], after)
        captions.append([str(example['id']), _caption(found, prepared)])
        for name, image in (('found', found), ('prepared', prepared)):
            pictures[name].append(_picture(image))
    output.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, drawn in pictures.items():
        path = output / f'{name}.png'
        figures.contact_sheet(drawn, captions, path, side=_SIDE, columns=_COLUMNS)
        paths.append(path)
    log.info(f'{len(captions):,} images: {paths[0]}, {paths[1]}')
    return paths


def _picture(example):
    """What a sheet shows of an image dict; a small black picture where there is none."""
    if example is None:
        return figures.hand(np.zeros((8, 8), np.uint8), side=_SIDE - 2)
    # Drawing on a registered image of 2080 rows takes a second; on a sheet it has 148.
    shape = example['image'].shape[:2]
    side = 2 * _SIDE
    if max(shape) > side:
        size = tuple(max(1, round(length * side / max(shape))) for length in shape)
        example = transform.transform_example(example, transform.fit(shape, size), size)
    mask = example.get('hand_mask')
    return figures.hand(example['image'], mask, example.get('keypoints'), side=_SIDE - 2)


def _caption(found, prepared):
    """The image's flags, or that a stage left it out."""
    if prepared is None:
        return 'left out'
    return str(prepared.get('flags', found.get('flags', '')))[:24]
