"""Pictures as data URIs: charts as SVG, what runs left as WebP, images as thumbnails."""

from __future__ import annotations

import base64
import functools
import io
import pathlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from boneage_jax import config as config_lib
from boneage_jax.figures import style
from boneage_jax.stages import records
from tfds_rsna import prepared
from tfds_rsna.errors import UserError

WIDTH = 1400  # pixels of a picture that a run left
THUMBNAIL = 160  # pixels of an image's longer side


def chart(draw, *arguments) -> str:
    """A figure of `figures` as a data URI."""
    return _uri('svg+xml', style.svg(draw, *arguments).encode())


def of_file(path: pathlib.Path) -> str | None:
    """A picture file as a data URI, at most WIDTH wide; None where it is no picture."""
    try:
        with Image.open(path) as image:
            return _webp(image.convert('RGB'), (WIDTH, 4 * WIDTH), quality=82)
    except (OSError, UnidentifiedImageError):
        return None


def of_image(image: np.ndarray) -> str:
    """An image `[H, W, 1]` uint8 as a small data URI."""
    return _webp(Image.fromarray(np.asarray(image)[..., 0]), (THUMBNAIL, THUMBNAIL), quality=75)


def images(run, ids: list[str], data_dir=None) -> tuple[dict[str, np.ndarray], str]:
    """Images of a run from its records, or from those of its kin.

    Args:
        run: a `collect.Run`.
        ids: those of the images.
        data_dir: as of the commands.

    Returns:
        {id: image `[H, W, 1]` uint8} as far as they are there, and a note that says why some or
        all are not.
    """
    try:
        folder = _folder([run, *run.kin], data_dir)
        if folder is None:
            return {}, 'No pictures: the records of these images are not on this machine.'
        opened = _open(folder)
    except (UserError, OSError, KeyError) as error:
        return {}, f'No pictures: {error}'
    found = {}
    for split, labels in opened.labels.items():
        place = {name: i for i, name in enumerate(labels['ids'])}
        for name in ids:
            if name in place:
                found[name] = opened.splits[split][place[name]]['image']
    missing = len(ids) - len(found)
    return found, f'{missing} images are not in {folder}.' if missing else ''


@functools.lru_cache(maxsize=8)
def _open(folder):
    return prepared.open(folder)


def _folder(runs, data_dir):
    """The first folder of records that one of the runs has on this machine, or None."""
    for run in runs:
        folder = _records(run, data_dir)
        if folder:
            return folder
    return None


def _records(run, data_dir):
    """The folder of a run's records: as metrics.json says, else as its config does; or None."""
    recorded = (run.report or {}).get('records')
    if recorded and (pathlib.Path(recorded) / prepared.MARKER).exists():
        return pathlib.Path(recorded)
    workdir = run.place if run.config is not None else _member(run)
    if workdir is None:
        return None
    return records.existing_records(config_lib.from_json(workdir / 'config.json').data, data_dir)


def _member(run):
    """A member of an ensemble that has a config, or None."""
    for member in (run.report or {}).get('members', []):
        if (pathlib.Path(member) / 'config.json').exists():
            return pathlib.Path(member)
    return None


def _webp(image, size, quality):
    image.thumbnail(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, 'WEBP', quality=quality, method=4)
    return _uri('webp', file.getvalue())


def _uri(kind, data):
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
