"""Ensure the records: source -> named stages -> fixed-size records, each step built once and cached.

    python -m boneage_jax.prepare --config=configs/prsnet.py:rsna100

A step's folder name ends in a fingerprint of what went into it (the source's files and options, stages, size, versions),
so a changed option or file builds anew beside the old one. The cache is $BONEAGE_CACHE, by default
~/.cache/boneage_jax. `main` calls `ensure` before it trains; this command does the same and prints where they lie.
"""

import functools
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import time

import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags, logging
from PIL import Image

import tfds_rsna
from boneage_jax import config as config_lib
from boneage_jax import log
from tfds_rsna import films, lock, pools, prepared

VERSION = 1  # raise it when a change here alters the records
POOL_SECONDS = 20  # below that a pool of processes costs more than it saves
CHUNK = 16  # films that a worker takes at once
STAGES = {}  # name -> function(film dict) -> film dict; preprocess/ fills it with the papers' stages


def cache_folder():
    return pathlib.Path(os.environ.get('BONEAGE_CACHE') or pathlib.Path.home() / '.cache' / 'boneage_jax')


def ensure(data, data_dir=None):
    """The folder of prepared records for `config.data`; builds what is missing and says so.

    `data_dir` (default: $BONEAGE_DATA) is where raw data lies. Raises ConfigError where the source needs it and has none,
    and the builders' own errors, which name the file.
    """
    unknown = [stage for stage in data.stages if stage not in STAGES]
    if unknown:
        raise config_lib.ConfigError(f'data.stages: unknown {", ".join(unknown)}; known: {", ".join(STAGES) or "none"}')
    source, options = data.source, _options(data, data_dir)
    described = tfds_rsna.builder_class(source).describe(**options)
    source_folder = cache_folder() / 'sources' / f'{source}-{_fingerprint(described)}'
    recipe = {'source': described, 'stages': list(data.stages), 'size': list(data.size), 'fit': data.fit,
              'version': VERSION}
    rows, columns = data.size
    folder = cache_folder() / 'records' / f'{source}-{rows}x{columns}-{_fingerprint(recipe)}'
    if (folder / prepared.MARKER).exists():
        return folder
    with lock.exclusive(folder.with_name(f'.{folder.name}.lock'), wait=True,
                        on_wait=lambda: log.say(f'Waiting for another process that prepares {folder}.')):
        if not (folder / prepared.MARKER).exists():
            builder = tfds_rsna.builder_class(source)(data_dir=str(source_folder), **options)
            if not builder.data_path.exists():
                log.say(f'Building {source} into {source_folder} (once).')
                begin = time.monotonic()
                builder.download_and_prepare()
                log.say(f'Built in {log.duration(time.monotonic() - begin)}.')
            _write_records(builder, folder, data, recipe)
    return folder


def _options(data, data_dir):
    """The builder's options for `config.data`."""
    if data.source == 'hand_phantom':
        return {**data.phantom, 'size': tuple(data.phantom['size'])}
    if data.source == 'image_folder':
        options = {key: value for key, value in data.image_folder.items() if value}
        for key, what in {'images': 'folder of films', 'labels': 'CSV of labels'}.items():
            if key not in options:
                raise config_lib.ConfigError(f'data.image_folder.{key} is empty: give the path of your {what}')
            if not pathlib.Path(options[key]).expanduser().exists():
                raise config_lib.ConfigError(f'data.image_folder.{key}={options[key]!r}: no such file or folder')
        return options | {'on_error': data.on_error}
    root = data_dir or os.environ.get('BONEAGE_DATA')
    if not root:
        raise config_lib.ConfigError(
            "data.source='rsna_bone_age' needs the folder of the RSNA files: set BONEAGE_DATA or pass --data_dir; "
            'without data, try the preset phantom: --config=configs/prsnet.py:phantom')
    source = pathlib.Path(root).expanduser() / data.folder
    if data.download:
        source.mkdir(parents=True, exist_ok=True)
        tfds_rsna.RsnaBoneAge.fetch(source)
    if not source.is_dir():
        raise config_lib.ConfigError(f'{source}: no such folder; set BONEAGE_DATA (or --data_dir) and data.folder, '
                                     'or data.download=true to fetch the official files into it')
    return {'source': str(source), 'on_error': data.on_error}


def _fingerprint(description):
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]


def _write_records(builder, folder, data, recipe):
    """Runs every film of every split through the stages and the resize, on as many cores as it is worth."""
    do = functools.partial(work, str(builder.data_path), tuple(data.stages), tuple(data.size), data.fit)
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    total, pixels = sum(counts.values()), data.size[0] * data.size[1]
    _check_space(folder, 2 * total * pixels)  # image and, where there is one, mask
    first = next(iter(counts))
    sample, begin = range(min(CHUNK, counts[first])), time.monotonic()
    do((first, sample))
    seconds = (time.monotonic() - begin) / len(sample) * total
    workers = pools.cores() if seconds > POOL_SECONDS else 1
    log.say(f'Preparing {total} films at {data.size[0]}x{data.size[1]} into {folder}: '
            f'about {log.duration(seconds / workers)} on {workers} core{"s" if workers > 1 else ""} (once).')

    def examples(split):
        jobs = [(split, range(i, min(i + CHUNK, counts[split]))) for i in range(0, counts[split], CHUNK)]
        return itertools.chain.from_iterable(pools.ordered(do, jobs, workers=workers))

    prepared.write(folder, {split: examples(split) for split in counts}, metadata=recipe)


def _check_space(folder, needed):
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise config_lib.ConfigError(f'{folder.parent}: the records may need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB '
                                     'are free; free some space or set BONEAGE_CACHE to another disk')


@functools.cache
def _open_split(folder, split):
    return tfds.builder_from_directory(folder).as_data_source(split)


def work(folder, stages, size, fit, job):
    """The prepared films of one chunk, `job` = (split, positions); runs in a worker, which keeps its sources open."""
    split, positions = job
    source = _open_split(folder, split)
    chunk = [read_film(source[i]) for i in positions]
    for stage in stages:
        chunk = [STAGES[stage](film) for film in chunk]
    return [resize(film, size, fit) for film in chunk]


def read_film(record):
    """A source record with its encoded images decoded: `image` (and `hand_mask`) uint8 `[H, W]`."""
    film = dict(record)
    for name in ('image', 'hand_mask'):
        if name in film:
            film[name] = films.decode(film[name], name=f'{name} of {film["id"]}')
    return film


def resize(film, size, fit):
    """The film at `size` (rows, columns): images `[rows, columns, 1]`, points and boxes carried along.

    `pad` keeps the aspect ratio, centres the film and fills with zeros; `squash` stretches it. Images are averaged
    down (antialiased bilinear), masks take the nearest pixel; a film that has the size already is left untouched.
    Pixel (r, c) has its centre at (r, c), so a point moves as (p + 1/2) scale - 1/2 + offset.
    """
    rows, columns = size
    height, width = film['image'].shape[:2]
    if fit == 'pad':
        factor = min(rows / height, columns / width)
        inner = (min(rows, max(1, round(height * factor))), min(columns, max(1, round(width * factor))))
    else:
        inner = (rows, columns)
    offset = ((rows - inner[0]) // 2, (columns - inner[1]) // 2)
    scale = np.array([inner[0] / height, inner[1] / width], np.float32)
    film = dict(film)
    for name, method in (('image', Image.Resampling.BILINEAR), ('hand_mask', Image.Resampling.NEAREST)):
        if name in film:
            pixels = film[name]
            if pixels.shape[:2] != inner:
                gap = 3.0 if name == 'image' else None
                pixels = np.asarray(Image.fromarray(pixels).resize(inner[::-1], method, reducing_gap=gap))
            canvas = np.zeros((rows, columns, 1), np.uint8)
            canvas[offset[0]:offset[0] + inner[0], offset[1]:offset[1] + inner[1], 0] = pixels
            film[name] = canvas
    for name in ('keypoints', 'coco_keypoints', 'bone_boxes'):
        if name in film:
            points = np.asarray(film[name], np.float32)
            moved = (points.reshape(-1, 2) + 0.5) * scale - 0.5 + np.array(offset, np.float32)
            film[name] = moved.reshape(points.shape).astype(np.float32)
    return film


def main(argv):
    logging.set_verbosity(logging.WARNING)
    config = config_lib.from_command_line(_CONFIG.value, argv)
    print(ensure(config.data, _DATA_DIR.value))


if __name__ == '__main__':
    _CONFIG = flags.DEFINE_string('config', None, 'path[:arg] of the config whose records to prepare', required=True)
    _DATA_DIR = flags.DEFINE_string('data_dir', None, 'folder of the raw data; default: $BONEAGE_DATA')
    app.run(log.explained(main), flags_parser=config_lib.parse_flags)
