"""Pictures as data URIs: charts as SVG, what runs left as WebP of a bearable size, images as
thumbnails.
"""

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


def chart(draw, *arguments):
    """A figure of `figures` as a data URI."""
    return _uri('svg+xml', style.svg(draw, *arguments).encode())


def of_file(path):
    """A picture file as a data URI, at most WIDTH wide; None where it is no picture."""
    try:
        with Image.open(path) as image:
            return _webp(image.convert('RGB'), (WIDTH, 4 * WIDTH), quality=82)
    except (OSError, UnidentifiedImageError):
        return None


def of_image(image):
    """An image `[H, W, 1]` uint8 as a small data URI."""
    return _webp(Image.fromarray(np.asarray(image)[..., 0]), (THUMBNAIL, THUMBNAIL), quality=75)


def images(run, ids, data_dir=None):
    """({id: image `[H, W, 1]` uint8}, note): the images `ids` of a run from its records, or why
    there are none.
    """
    try:
        folder = next(filter(None, (_records(one, data_dir) for one in (run, *run.kin))), None)
        if folder is None:
            return {}, 'No pictures: the records of these images are not on this machine.'
        opened = _open(folder)
    except (UserError, OSError, KeyError) as error:
        return {}, f'No pictures: {error}'
    where = {
        name: (split, i)
        for split, labels in opened.labels.items()
        for i, name in enumerate(labels['ids'])
    }
    found = {
        name: opened.splits[where[name][0]][where[name][1]]['image']
        for name in ids
        if name in where
    }
    return found, '' if len(found) == len(
        ids
    ) else f'{len(ids) - len(found)} images are not in {folder}.'


@functools.lru_cache(maxsize=8)
def _open(folder):
    return prepared.open(folder)


def _records(run, data_dir):
    """The folder of a run's records: as metrics.json says, else as its config does; None where it
    is not there.
    """
    said = (run.report or {}).get('records')
    if said and (pathlib.Path(said) / prepared.MARKER).exists():
        return pathlib.Path(said)
    if run.config is None:
        members = (run.report or {}).get('members', [])
        workdir = next(
            (
                pathlib.Path(member)
                for member in members
                if (pathlib.Path(member) / 'config.json').exists()
            ),
            None,
        )
        if workdir is None:
            return None
    else:
        workdir = run.place
    return records.existing_records(config_lib.from_json(workdir / 'config.json').data, data_dir)


def _webp(image, size, quality):
    image.thumbnail(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, 'WEBP', quality=quality, method=4)
    return _uri('webp', file.getvalue())


def _uri(kind, data):
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
