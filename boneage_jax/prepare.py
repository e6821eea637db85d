"""Ensure the records: source -> named stages -> fixed-size records, each step built once and cached.

    python -m boneage_jax.prepare --config=configs/prsnet.py:rsna100

A step's folder name ends in a fingerprint of what went into it (source files, options, stages, size, versions), so a
changed option builds anew beside the old one and nothing stale is ever read. The cache is $BONEAGE_CACHE, by default
~/.cache/boneage_jax. `main` calls `ensure` before it trains; this command does the same and prints where they lie.
"""

import collections
import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import pathlib
import time

import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags
from PIL import Image

import tfds_rsna
from boneage_jax import config as config_lib
from boneage_jax import lock, log
from tfds_rsna import films, prepared
from tfds_rsna.prepared import writer

VERSION = 1  # raise it when a change here alters the records
POOL_SECONDS = 20  # below that a pool of processes costs more than it saves
STAGES = {}  # name -> function(film dict) -> film dict; preprocess/ fills it with the papers' stages
SOURCE_FILES = ('.zip', '.csv', '.xlsx', '.png', '.jpg', '.jpeg', '.tif', '.tiff', '.dcm')


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
    source, options, described = _source(data, data_dir)
    source_folder = cache_folder() / 'sources' / f'{source}-{_fingerprint(described)}'
    recipe = {'source': described, 'stages': list(data.stages), 'size': list(data.size), 'fit': data.fit,
              'version': VERSION}
    rows, columns = data.size
    folder = cache_folder() / 'records' / f'{source}-{rows}x{columns}-{_fingerprint(recipe)}'
    with lock.exclusive(folder.with_name(f'.{folder.name}.lock'), wait=True,
                        on_wait=lambda: log.say(f'Waiting for another process that prepares {folder}.')):
        if not (folder / writer.MARKER).exists():
            builder = tfds_rsna.builder_class(source)(data_dir=str(source_folder), **options)
            if not builder.data_path.exists():
                log.say(f'Building {source} into {source_folder} (once).')
                begin = time.monotonic()
                builder.download_and_prepare()
                log.say(f'Built in {log.duration(time.monotonic() - begin)}.')
            _write_records(builder, folder, data, recipe)
    return folder


def _source(data, data_dir):
    """(builder name, its options, a JSON-ready description that changes whenever the films or labels do)."""
    if data.source == 'hand_phantom':
        options = {**data.phantom, 'size': tuple(data.phantom['size'])}
        return data.source, options, ['hand_phantom', sorted(options.items())]
    if data.source == 'image_folder':
        options = {key: value for key, value in data.image_folder.items() if value}
        for key in ('images', 'labels'):
            if key not in options:
                raise config_lib.ConfigError(f'data.image_folder.{key} is empty: give the path of your '
                                             + ('folder of films' if key == 'images' else 'CSV of labels'))
        files = _describe(options['images']) + _describe(options['labels'])
        options['on_error'] = data.on_error
        return data.source, options, ['image_folder', sorted(options.items()), files]
    root = data_dir or os.environ.get('BONEAGE_DATA')
    if not root:
        raise config_lib.ConfigError(
            "data.source='rsna_bone_age' needs the folder of the RSNA files: set BONEAGE_DATA or pass --data_dir; "
            'without data, try the preset phantom: --config=configs/prsnet.py:phantom')
    source = pathlib.Path(root).expanduser() / data.folder
    if data.download:
        source.mkdir(parents=True, exist_ok=True)
    if not source.is_dir():
        raise config_lib.ConfigError(f'{source}: no such folder; set BONEAGE_DATA (or --data_dir) and data.folder, '
                                     'or data.download=true to fetch the official files into it')
    options = {'source': str(source), 'on_error': data.on_error} | ({'download': True} if data.download else {})
    return data.source, options, ['rsna_bone_age', data.on_error, data.download, _describe(source)]


def _describe(path):
    """Name and size of every data file below `path`, and the content of small ones (labels), in a fixed order."""
    path = pathlib.Path(path).expanduser()
    if not path.exists():
        raise config_lib.ConfigError(f'{path}: no such file or folder')
    files = [path] if path.is_file() else sorted(p for p in path.rglob('*') if p.suffix.lower() in SOURCE_FILES)
    return [[str(p.relative_to(path)), p.stat().st_size,
             hashlib.sha256(p.read_bytes()).hexdigest() if p.suffix.lower() in ('.csv', '.xlsx') else '']
            for p in files if p.is_file()]


def _fingerprint(description):
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]


def _write_records(builder, folder, data, recipe):
    """Runs every film of every split through the stages and the resize; as many processes as it is worth."""
    built = str(builder.data_path)
    recipe_args = (built, tuple(data.stages), tuple(data.size), data.fit)
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    total = sum(counts.values())
    _start_worker(*recipe_args)
    first = next(iter(counts))
    begin = time.monotonic()
    sample = range(min(16, counts[first]))
    _work(first, sample)
    seconds = (time.monotonic() - begin) / len(sample) * total
    workers = os.cpu_count() if seconds > POOL_SECONDS else 1
    log.say(f'Preparing {total} films at {data.size[0]}x{data.size[1]} into {folder}: '
            f'about {log.duration(seconds / workers)} on {workers} core{"s" if workers > 1 else ""} (once).')
    progress = log.Progress(total, 0)

    def examples(split):
        chunks = [range(i, min(i + 16, counts[split])) for i in range(0, counts[split], 16)]
        done = sum(counts[name] for name in list(counts)[:list(counts).index(split)])
        for chunk in _mapped(chunks, split, workers, recipe_args):
            yield from chunk
            done += len(chunk)
            progress.update(done)

    prepared.write(folder, {split: examples(split) for split in counts}, metadata=recipe)
    progress.close()


def _mapped(chunks, split, workers, recipe_args):
    """`_work` over the chunks in order, a bounded number ahead, so that memory stays flat."""
    if workers == 1:
        yield from (_work(split, chunk) for chunk in chunks)
        return
    # spawn, not fork: a fork of a process with JAX's threads can hang.
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, recipe_args) as pool:
        waiting = collections.deque()
        for chunk in chunks:
            waiting.append(pool.submit(_work, split, chunk))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_worker = {}


def _start_worker(source_folder, stages, size, fit):
    _worker.update(folder=source_folder, stages=stages, size=size, fit=fit, sources={})


def _work(split, positions):
    if split not in _worker['sources']:
        _worker['sources'][split] = tfds.builder_from_directory(_worker['folder']).as_data_source(split)
    source = _worker['sources'][split]
    films_in = [read_film(source[i]) for i in positions]
    for stage in _worker['stages']:
        films_in = [STAGES[stage](film) for film in films_in]
    return [resize(film, _worker['size'], _worker['fit']) for film in films_in]


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
    del argv
    _, config = config_lib.load(_CONFIG.value)
    print(ensure(config.data, _DATA_DIR.value))


if __name__ == '__main__':
    _CONFIG = flags.DEFINE_string('config', None, 'path[:arg] of the config whose records to prepare', required=True)
    _DATA_DIR = flags.DEFINE_string('data_dir', None, 'folder of the raw data; default: $BONEAGE_DATA')
    app.run(log.explained(main))
