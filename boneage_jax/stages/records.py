"""Ensure the records: source -> named stages -> fixed-size records, each step built once and
cached.

    python -m boneage_jax.prepare --config=configs/prsnet.py:rsna100
    python -m boneage_jax.prepare --config=configs/prsnet.py --runner=beam --beam_options='--runner=FlinkRunner ...'

A step's folder name ends in a fingerprint of what went into it (the source's files and options,
stages, size, versions), so a changed option or file builds anew beside the old one. The cache is
$BONEAGE_CACHE, by default ~/.cache/boneage_jax. `main` calls `ensure` before it trains; this
command does the same and prints where they lie.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import time

import tensorflow_datasets as tfds

import tfds_rsna
from boneage_jax import tasks
from boneage_jax.data import source
from boneage_jax.data import splits as splits_lib
from boneage_jax.errors import ConfigError
from boneage_jax.preprocess import resize
from boneage_jax.runtime import files, log
from boneage_jax.stages import cache, plan
from tfds_rsna import prepared
from tfds_rsna.io import decoding
from tfds_rsna.parallel import lock, pools

VERSION = 1  # raise it when a change here alters the records
POOL_SECONDS = 20  # below that a pool of processes costs more than it saves
CHUNK = 16  # images that a worker takes at once


def get_records(data, data_dir=None):
    """The folder of prepared records for `config.data`; builds what is missing and says so.

    `data_dir` (default: $BONEAGE_DATA) is where raw data lies. Raises ConfigError where the source
    needs it and has none, and the builders' own errors, which name the file.
    """
    if data.source == 'prepared':
        return _given(data)
    folder, steps, recipe = _places(data, _options(data, data_dir), data_dir)
    if (folder / prepared.MARKER).exists():
        return folder
    with lock.exclusive(
        folder.with_name(f'.{folder.name}.lock'),
        wait=True,
        on_wait=lambda: log.info(f'Waiting for another process that prepares {folder}.'),
    ):
        if not (folder / prepared.MARKER).exists():
            builder = build_source(data, data_dir)
            for i, step in enumerate(steps):
                if not plan.STAGES[step.name].transform:
                    _find(builder, steps[:i], step)
            _write_records(builder, folder, data, steps, recipe)
    return folder


def open_splits(config, data_dir=None):
    """Ensures the records and cuts them into splits of `data.sex`; the images of
    `data.extra_train_folders` join the training split.
    """
    data, inputs = config.data, tasks.inputs(config.task)
    derive = functools.partial(
        splits_lib.derive,
        validation=data.validation,
        holdout=data.holdout,
        seed=data.split_seed,
        official=data.official_splits,
    )
    splits = source.open_splits(get_records(data, data_dir), derive, inputs)
    splits['train'] = source.join(
        splits['train'],
        [
            split
            for folder in data.extra_train_folders
            for split in source.open_splits(folder, splits_lib.whole, inputs).values()
        ],
    )
    splits = {name: source.of_sex(split, data.sex) for name, split in splits.items()}
    tasks.validate_labels(config.task, splits)
    return splits


def build_source(data, data_dir=None):
    """The TFDS builder of the source of `config.data`, its files written where they are not yet."""
    options = _options(data, data_dir)
    described = tfds_rsna.builder_class(data.source).describe(**options)
    folder = files.cache_folder() / 'sources' / f'{data.source}-{_fingerprint(described)}'
    builder = tfds_rsna.builder_class(data.source)(data_dir=str(folder), **options)
    if not builder.data_path.exists():
        log.info(f'Building {data.source} into {folder} (once).')
        begin = time.monotonic()
        builder.download_and_prepare()
        log.info(f'Built in {log.duration(time.monotonic() - begin)}.')
    return builder


def native_images(data, count, data_dir=None):
    """At most `count` training images of the source, evenly spaced, as they came: dicts with
    `image` uint8 `[H, W]`, `id`.
    """
    if data.source == 'prepared':
        raise ConfigError(
            "data.source='prepared' holds no images as they came; name their own source"
        )
    records = _open_split(str(build_source(data, data_dir).data_path), 'train')
    chosen = sorted(
        {round(i * (len(records) - 1) / max(count - 1, 1)) for i in range(min(count, len(records)))}
    )
    return [decode_record(records[i]) for i in chosen]


def existing_records(data, data_dir=None):
    """The folder that `ensure` would give where its records are there already, else None; builds
    and fetches nothing.
    """
    if data.source == 'prepared':
        return _given(data)
    if data.download:
        data = data.copy_and_resolve_references()
        with data.unlocked():
            data.download = False
    folder = _places(data, _options(data, data_dir), data_dir)[0]
    return folder if (folder / prepared.MARKER).exists() else None


def _places(data, options, data_dir):
    """(folder of the records, the stages' steps with their folders, recipe of the records)."""
    source, steps = data.source, plan.make_plan(data, data_dir)
    described = tfds_rsna.builder_class(source).describe(**options)
    steps = [
        dataclasses.replace(
            step,
            folder=str(
                files.cache_folder()
                / 'findings'
                / f'{step.name}-{source}-{_fingerprint([described, *(s.described for s in steps[: i + 1])])}'
            ),
        )
        for i, step in enumerate(steps)
    ]
    recipe = {
        'source': described,
        'stages': [step.described for step in steps],
        'size': list(data.size),
        'fit': data.resize,
        'version': VERSION,
    }
    rows, columns = data.size
    folder = files.cache_folder() / 'records' / f'{source}-{rows}x{columns}-{_fingerprint(recipe)}'
    return folder, steps, recipe


def process(examples, data):
    """Images (dicts with `image` uint8 `[H, W]`, `id` and so on, any sizes) prepared as
    `config.data` says, here and now.

    An image that a stage leaves out comes back as None. For a few images: nothing is stored.
    """
    examples = apply_stages(examples, plan.make_plan(data))
    return [
        None if example is None else resize.resize(example, tuple(data.size), data.resize)
        for example in examples
    ]


def apply_stages(examples, steps):
    """Images after `steps` at their own size, networks included; None for one that a stage left
    out.
    """
    for step in steps:
        answer = plan.make_annotator(step)
        here = [example for example in examples if example is not None]
        if answer is None:
            changed = iter([plan.apply_steps(example, [step]) for example in here])
        else:
            found = answer([plan.look(example, step) for example in here]) if here else []
            changed = map(plan.merge_annotations, here, found)
        examples = [None if example is None else next(changed) for example in examples]
    return examples


def _given(data):
    """The folder of `source='prepared'`, its images as they are: refused where stages or another
    size are asked for.
    """
    folder = pathlib.Path(data.folder).expanduser()
    opened = prepared.open(folder)
    shape = next(iter(opened.splits.values()))[0]['image'].shape[:2]
    if data.stages or tuple(data.size) != shape:
        raise ConfigError(
            f'{folder}: prepared images of {shape[0]}x{shape[1]} are taken as they are; set '
            f'data.size={shape} (found {tuple(data.size)}) and data.stages=() (found '
            f'{tuple(data.stages)})'
        )
    return folder


def _options(data, data_dir):
    """The builder's options for `config.data`."""
    if data.source == 'hand_phantom':
        return {**data.phantom, 'size': tuple(data.phantom['size'])}
    if data.source == 'image_folder':
        options = {key: value for key, value in data.image_folder.items() if value}
        for key, what in {'images': 'folder of images', 'labels': 'CSV of labels'}.items():
            if key not in options:
                raise ConfigError(f'data.image_folder.{key} is empty: give the path of your {what}')
            if not pathlib.Path(options[key]).expanduser().exists():
                raise ConfigError(
                    f'data.image_folder.{key}={options[key]!r}: no such file or folder'
                )
        return options | {'on_error': data.on_error}
    root = data_dir or os.environ.get('BONEAGE_DATA')
    if not root:
        raise ConfigError(
            "data.source='rsna_bone_age' needs the folder of the RSNA files: set BONEAGE_DATA or pass --data_dir; "
            'without data, try the preset phantom: --config=configs/prsnet.py:phantom'
        )
    source = pathlib.Path(root).expanduser() / data.folder
    if data.download:
        source.mkdir(parents=True, exist_ok=True)
        tfds_rsna.RsnaBoneAge.fetch(source)
    if not source.is_dir():
        raise ConfigError(
            f'{source}: no such folder; set BONEAGE_DATA (or --data_dir) and data.folder, '
            'or data.download=true to fetch the official files into it'
        )
    return {'source': str(source), 'on_error': data.on_error}


def _fingerprint(description):
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]


def _find(builder, before, step):
    """Fills the folder of a finding step: chunks of images on as many cores as it is worth, its
    network in this process.
    """
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    if cache.is_complete(step.folder, counts):
        return
    look = functools.partial(annotate_chunk, str(builder.data_path), before, step)
    seconds, total = _time(look, counts), sum(counts.values())
    workers = pools.cores() if seconds > POOL_SECONDS else 1
    log.info(
        f'Stage {step.name}: {total} images into {step.folder}: about {log.duration(seconds / workers)} on {workers} '
        f'core{"s" if workers > 1 else ""} (once; it goes on where it was stopped).'
    )
    cache.fill(step.folder, counts, look, answer=plan.make_annotator(step), workers=workers)


def _time(do, counts):
    """Seconds that `do` would take for all images on one core, from a first chunk."""
    first = next(iter(counts))
    sample, begin = range(min(CHUNK, counts[first])), time.monotonic()
    do((first, sample))
    return (time.monotonic() - begin) / len(sample) * sum(counts.values())


def _write_records(builder, folder, data, steps, recipe):
    """Runs every image of every split through the stages and the resize, on as many cores as it is
    worth.
    """
    do = functools.partial(
        prepare_chunk, str(builder.data_path), steps, tuple(data.size), data.resize
    )
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    total, pixels = sum(counts.values()), data.size[0] * data.size[1]
    _check_space(folder, 2 * total * pixels)  # image and, where there is one, mask
    seconds, dropped = _time(do, counts), []
    workers = pools.cores() if seconds > POOL_SECONDS else 1
    log.info(
        f'Preparing {total} images at {data.size[0]}x{data.size[1]} into {folder}: '
        f'about {log.duration(seconds / workers)} on {workers} core{"s" if workers > 1 else ""} (once).'
    )

    def examples(split):
        jobs = [
            (split, range(i, min(i + CHUNK, counts[split]))) for i in range(0, counts[split], CHUNK)
        ]
        for example in itertools.chain.from_iterable(pools.ordered(do, jobs, workers=workers)):
            if isinstance(example, str):
                dropped.append(example)
            else:
                yield example

    try:
        prepared.write(folder, {split: examples(split) for split in counts}, metadata=recipe)
    except ValueError as error:
        if len(dropped) == total:
            raise ConfigError(
                f'data.stages={tuple(data.stages)} left out every one of {total} images; first: '
                f'{", ".join(dropped[:5])}'
            ) from error
        raise
    if dropped:
        log.info(
            f'{len(dropped)} of {total} images were left out by a stage; first: {", ".join(dropped[:5])}'
        )


def _check_space(folder, needed):
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise ConfigError(
            f'{folder.parent}: the records may need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB '
            'are free; free some space or set BONEAGE_CACHE to another disk'
        )


@functools.cache
def _open_split(folder, split):
    return tfds.builder_from_directory(folder).as_data_source(split)


def prepare_chunk(folder, steps, size, fit, job):
    """The prepared images of one chunk, `job` = (split, positions), and the id alone of an image
    that a stage left out.

    Runs in a worker, which keeps its sources open.
    """
    split, positions = job
    made = []
    for i in positions:
        example = decode_record(_open_split(folder, split)[i])
        after = plan.apply_steps(
            example, steps, lambda step, i=i: cache.read(step.folder, split, i)
        )
        made.append(str(example['id']) if after is None else resize.resize(after, size, fit))
    return made


def annotate_chunk(folder, before, step, job):
    """What the finding `step` finds, or lets its network see, on the images of one chunk; `{}` for
    one left out before.
    """
    split, positions = job
    looks = []
    for i in positions:
        example = plan.apply_steps(
            decode_record(_open_split(folder, split)[i]),
            before,
            lambda earlier, i=i: cache.read(earlier.folder, split, i),
        )
        looks.append({} if example is None else plan.look(example, step))
    return looks


def decode_record(record):
    """A source record with its encoded images decoded: `image` (and `hand_mask`) uint8 `[H, W]`."""
    example = dict(record)
    for name in ('image', 'hand_mask'):
        if name in example:
            example[name] = decoding.decode(example[name], name=f'{name} of {example["id"]}')
    return example
