"""From a source through the stages to fixed-size records, each step built once and cached.

A step's folder name ends in a fingerprint of what went into it (the source's files and options,
stages, size, versions), so a changed option or file builds anew beside the old one. The cache is
$BONEAGE_CACHE, by default ~/.cache/boneage_jax.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import time

import ml_collections

import tfds_rsna
from boneage_jax import config as config_lib
from boneage_jax import tasks
from boneage_jax.data import id_spaces, source
from boneage_jax.data import splits as splits_lib
from boneage_jax.errors import ConfigError, UserError
from boneage_jax.preprocess import resize
from boneage_jax.runtime import files, log
from boneage_jax.stages import cache, id_files, plan
from tfds_rsna import prepared, streamed_builder
from tfds_rsna.io import decoding
from tfds_rsna.parallel import lock, pools
from tfds_rsna.problems import Problems

VERSION = 1  # raise it when a change here alters the records
POOL_SECONDS = 20  # below that a pool of processes costs more than it saves
CHUNK = 16  # images that a worker takes at once


def get_records(data: ml_collections.ConfigDict, data_dir=None) -> pathlib.Path:
    """The folder of prepared records for `config.data`; builds what is missing and logs it.

    Args:
        data: `config.data`.
        data_dir: where raw data is (default: $BONEAGE_DATA).

    Raises:
        ConfigError: the source needs raw data and has none. The builders raise their own errors,
            which name the file.
    """
    if data.source == 'prepared':
        return _given(data)
    fetch(data, data_dir)
    folder, steps, recipe = _places(data, data_dir)
    marker = folder / prepared.MARKER
    if marker.exists():
        return folder
    with lock.exclusive(
        folder.with_name(f'.{folder.name}.lock'),
        wait=True,
        on_wait=lambda: log.info(f'Waiting for another process that prepares {folder}.'),
    ):
        if not marker.exists():
            builder = build_source(data, data_dir)
            for i, step in enumerate(steps):
                if not step.stage.transform:
                    _annotate(builder, steps[:i], step)
            _write_records(builder, folder, data, steps, recipe)
    return folder


def existing_records(data: ml_collections.ConfigDict, data_dir=None) -> pathlib.Path | None:
    """The folder that `get_records` would give where its records are there already, else None.

    Builds and fetches nothing.
    """
    if data.source == 'prepared':
        return _given(data)
    folder, _, _ = _places(data, data_dir)
    return folder if (folder / prepared.MARKER).exists() else None


def open_splits(config: ml_collections.ConfigDict, data_dir=None) -> dict[str, source.Split]:
    """Gets the records and cuts them into splits of the images that `data.sex` names.

    The images of `data.extra_train_folders` join the training split.
    """
    data = config.data
    inputs = tasks.inputs(config.task)
    derive = functools.partial(
        splits_lib.derive,
        validation=data.validation,
        holdout=data.holdout,
        seed=data.split_seed,
        official=data.official_splits,
        holdout_ids=holdout_ids(data, data_dir),
        shrink={data.validation, data.holdout} == {config_lib.DEFAULT_SPLIT},
        folds=data.folds,
        fold=data.fold,
    )
    space = id_spaces.of(data)
    splits = source.open_splits(get_records(data, data_dir), derive, inputs, space)
    extra = []
    for folder in data.extra_train_folders:
        place = pathlib.Path(folder).expanduser()
        extra += source.open_splits(place, splits_lib.whole, inputs).values()
    train = source.repeat(splits['train'], data.train_repeats)
    splits['train'] = source.join(train, extra)
    splits = {name: source.of_sex(split, data.sex) for name, split in splits.items()}
    tasks.validate_labels(config.task, splits)
    return splits


def holdout_ids(data: ml_collections.ConfigDict, data_dir=None) -> frozenset[str] | None:
    """The ids in the file `data.holdout_ids`; None where none is named."""
    if not data.holdout_ids:
        return None
    return id_files.read(data.holdout_ids, data_dir, 'data.holdout_ids')


def fetch(data: ml_collections.ConfigDict, data_dir=None) -> None:
    """Downloads the files of the source (11 GB) where `data.download` asks for it.

    Files that are there are kept.
    """
    if data.source == 'rsna_bone_age' and data.download:
        folder = _raw_folder(data, data_dir)
        folder.mkdir(parents=True, exist_ok=True)
        tfds_rsna.RsnaBoneAge.fetch(folder)


def build_source(data: ml_collections.ConfigDict, data_dir=None):
    """The TFDS builder of the source of `config.data`, its files written where they are not yet.

    Raises ConfigError for prepared records: their images are no longer as they came.
    """
    if data.source == 'prepared':
        raise ConfigError(
            "data.source='prepared' holds no images as they came; name their own source"
        )
    fetch(data, data_dir)
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


def native_images(data: ml_collections.ConfigDict, count: int, data_dir=None) -> list[dict]:
    """Training images of the source, at most `count`, evenly spaced, as they came.

    Returns:
        Dicts with `image` uint8 `[H, W]`, `id` and the labels.
    """
    records = _open_split(str(build_source(data, data_dir).data_path), 'train')
    wanted = min(count, len(records))
    step = (len(records) - 1) / max(count - 1, 1)
    chosen = sorted({round(i * step) for i in range(wanted)})
    return [decode_record(records[i]) for i in chosen]


def process(
    examples: list[dict], data: ml_collections.ConfigDict, data_dir=None
) -> list[dict | UserError | None]:
    """A few images prepared as `config.data` says, here and now; nothing is stored.

    Args:
        examples: dicts with `image` uint8 `[H, W]`, `id` and so on, any sizes.
        data: `config.data`.
        data_dir: folder of the raw data, where files are that its stages name.

    Returns:
        The prepared images; None for one that a stage left out, the error for one that it refused.
    """
    processed = []
    for example in apply_stages(examples, plan.make_plan(data, data_dir), tolerant=True):
        if isinstance(example, dict):
            example = resize.resize(example, tuple(data.size), data.resize)
        processed.append(example)
    return processed


def apply_stages(
    examples: list[dict], steps: list[plan.Step], *, tolerant: bool = False
) -> list[dict | UserError | None]:
    """Images after `steps` at their own size, networks included.

    None stands for one that was left out. The error of one that a stage refuses is raised, or where
    `tolerant` stands in its place.
    """
    examples = list(examples)
    for step in steps:
        annotate = plan.make_annotator(step)
        places = [i for i, example in enumerate(examples) if isinstance(example, dict)]
        given = [examples[i] for i in places]
        if annotate is None:
            changed = [_or_error(plan.apply_steps, example, [step]) for example in given]
        else:
            found = annotate([_look(example, step) for example in given])
            changed = [_or_error(plan.merge_annotations, *pair) for pair in zip(given, found)]
        for i, example in zip(places, changed, strict=True):
            if isinstance(example, UserError) and not tolerant:
                raise example
            examples[i] = example
    return examples


def _or_error(function, *arguments):
    """What the function gives, or the UserError that it raises."""
    try:
        return function(*arguments)
    except UserError as error:
        return error


def _look(example, step):
    """`plan.look`, or why the stage refuses the image."""
    seen = _or_error(plan.look, example, step)
    return {plan.REFUSED: str(seen)} if isinstance(seen, UserError) else seen


def decode_record(record: dict) -> dict:
    """A source record with its encoded images decoded: `image` (and `hand_mask`) uint8 `[H, W]`.

    `flags` are those of the image's decoding. An image that was squashed since it had its native
    size gets its aspect ratio back.
    """
    example = dict(record)
    decoded = decoding.read(example['image'], name=f'image of {example["id"]}')
    example['image'] = decoded.grey
    example['flags'] = ';'.join(decoding.flags_of(decoded, bool(example['male'])))
    if 'hand_mask' in example:
        example['hand_mask'] = decoding.decode(example['hand_mask'], f'mask of {example["id"]}')
    native_shape = (int(example['height']), int(example['width']))
    return resize.restore_aspect(example, native_shape)


def _given(data):
    """The folder of `source='prepared'`, whose images are taken as they are.

    Refused where stages or another size are asked for.
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


def _places(data, data_dir):
    """(folder of the records, the stages' steps with their folders, recipe of the records)."""
    described = tfds_rsna.builder_class(data.source).describe(**_options(data, data_dir))
    steps = []
    sofar = [described]
    for step in plan.make_plan(data, data_dir):
        sofar.append(step.described)
        name = f'{step.name}-{data.source}-{_fingerprint(sofar)}'
        folder = files.cache_folder() / 'findings' / name
        steps.append(dataclasses.replace(step, folder=str(folder)))
    recipe = {
        'source': described,
        'stages': [step.described for step in steps],
        'size': list(data.size),
        'fit': data.resize,
        'version': VERSION,
    }
    if data.source == 'image_folder' and data.image_folder.id_space:
        recipe |= id_spaces.metadata(data)
    rows, columns = data.size
    name = f'{data.source}-{rows}x{columns}-{_fingerprint(recipe)}'
    return files.cache_folder() / 'records' / name, steps, recipe


def _options(data, data_dir):
    """The builder's options for `config.data`; fetches nothing."""
    if data.source == 'hand_phantom':
        return {**data.phantom, 'size': tuple(data.phantom['size'])}
    if data.source == 'image_folder':
        return _folder_options(data, data_dir)
    folder = _raw_folder(data, data_dir)
    if not folder.is_dir():
        raise ConfigError(
            f'{folder}: no such folder; set BONEAGE_DATA (or --data_dir) and data.folder, '
            'or data.download=true to fetch the official files into it'
        )
    options = {'source': str(folder), 'on_error': data.on_error}
    if data.native_sizes:
        found = plan.find_file(data.native_sizes, data_dir, 'data.native_sizes')
        options['native_sizes'] = str(found)
    if data.better_copies:
        root = pathlib.Path(data_dir or os.environ['BONEAGE_DATA']).expanduser()
        options['better_copies'] = [
            str(root / pathlib.Path(name).expanduser()) for name in data.better_copies
        ]
    return options


def _folder_options(data, data_dir):
    options = {key: value for key, value in data.image_folder.items() if value}
    options.pop('id_space', None)  # not the builder's
    for key, what in (('images', 'folder of images'), ('labels', 'CSV of labels')):
        if key not in options:
            raise ConfigError(f'data.image_folder.{key} is empty: give the path of your {what}')
        options[key] = str(plan.find_path(options[key], data_dir, f'data.image_folder.{key}'))
    return options | {'on_error': data.on_error}


def _raw_folder(data, data_dir):
    """Where the files of RSNA are, or will be downloaded to."""
    root = data_dir or os.environ.get('BONEAGE_DATA')
    if not root:
        raise ConfigError(
            "data.source='rsna_bone_age' needs the folder of the RSNA files: set BONEAGE_DATA or "
            'pass --data_dir; without data, try the preset phantom: '
            '--config=configs/prsnet.py:phantom'
        )
    return pathlib.Path(root).expanduser() / data.folder


def _fingerprint(description):
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]


def _counts(builder):
    return {split: info.num_examples for split, info in builder.info.splits.items()}


def _annotate(builder, before, step):
    """Fills the folder of a step that annotates: many processes, but its network in this one."""
    counts = _counts(builder)
    if cache.is_complete(step.folder, counts):
        return
    look = functools.partial(annotate_chunk, str(builder.data_path), before, step)
    workers, left = _workers(look, counts)
    log.info(
        f'Stage {step.name}: {sum(counts.values())} images into {step.folder}: about {left} '
        '(once; if it is stopped, the next start continues it).'
    )
    cache.fill(step.folder, counts, look, answer=plan.make_annotator(step), workers=workers)


def _workers(do, counts):
    """(number of worker processes that `do` is worth, the time that it will take in words)."""
    split = next(iter(counts))
    sample = range(min(CHUNK, counts[split]))
    begin = time.monotonic()
    do((split, sample))
    seconds = (time.monotonic() - begin) / len(sample) * sum(counts.values())
    workers = pools.cores() if seconds > POOL_SECONDS else 1
    cores = 'cores' if workers > 1 else 'core'
    return workers, f'{log.duration(seconds / workers)} on {workers} {cores}'


def _write_records(builder, folder, data, steps, recipe):
    """Runs every image of every split through the stages and the resize, on many cores."""
    rows, columns = data.size
    do = functools.partial(
        prepare_chunk, str(builder.data_path), steps, (rows, columns), data.resize
    )
    counts = _counts(builder)
    total = sum(counts.values())
    folder.parent.mkdir(parents=True, exist_ok=True)
    files.check_free_space(
        folder.parent,
        2 * total * rows * columns,  # image and, where there is one, mask
        'the records',
        'free some space or set BONEAGE_CACHE to another disk',
    )
    workers, left = _workers(do, counts)
    log.info(f'Preparing {total} images at {rows}x{columns} into {folder}: about {left} (once).')
    dropped = []
    flagged = collections.Counter()
    problems = Problems(data.on_error)
    about = recipe | id_spaces.metadata(data)

    def examples(split):
        jobs = []
        for start in range(0, counts[split], CHUNK):
            jobs.append((split, range(start, min(start + CHUNK, counts[split]))))
        for example in itertools.chain.from_iterable(pools.ordered(do, jobs, workers=workers)):
            if isinstance(example, Dropped):
                dropped.append(example.id)
                if example.reason:
                    problems.add('image that a stage refuses', example.id, split, example.reason)
            else:
                # 'registered_by_mask: thumb tip not found' counts as 'registered_by_mask'
                flags = example.get('flags', '').split(';')
                flagged.update({flag.partition(':')[0] for flag in flags if flag})
                yield example
        problems.raise_if_any()

    try:
        prepared.write(folder, {split: examples(split) for split in counts}, metadata=about)
    except ValueError as error:
        if len(dropped) == total:
            lines = [
                f'data.stages={tuple(data.stages)} left out every one of {total} images; first: '
                f'{", ".join(dropped[:5])}'
            ]
            raise ConfigError('\n'.join([*lines, *problems.lines()])) from error
        raise
    if dropped:
        first = ', '.join(dropped[:5])
        log.info(f'{len(dropped)} of {total} images were left out by a stage; first: {first}')
    if flagged:
        counted = ', '.join(f'{flag} {count:,}' for flag, count in flagged.most_common())
        log.info(f'Flagged images (records.csv in that folder has their ids): {counted}')
    if len(problems):
        problems.report(folder)


@dataclasses.dataclass(frozen=True)
class Dropped:
    """An image that is not among the records: a stage left it out, or refused it for a reason."""

    id: str
    reason: str = ''


@functools.cache
def _open_split(folder, split):
    return streamed_builder.open_split(folder, split)


def prepare_chunk(
    folder: str, steps: list[plan.Step], size: tuple[int, int], fit: str, job: tuple
) -> list[dict | Dropped]:
    """The prepared images of one chunk; runs in a worker, which keeps its sources open.

    Args:
        folder: of the source's builder.
        steps: of the plan.
        size: (rows, columns) of the records.
        fit: 'pad' or 'stretch'.
        job: (split, positions).

    Returns:
        The images, and `Dropped` for one that a stage left out or refused.
    """
    split, positions = job
    made = []
    for i in positions:
        example = decode_record(_open_split(folder, split)[i])
        after = _or_error(plan.apply_steps, example, steps, _reader(split, i))
        if isinstance(after, dict):
            made.append(resize.resize(after, size, fit))
        else:
            made.append(Dropped(str(example['id']), '' if after is None else str(after)))
    return made


def annotate_chunk(folder: str, before: list[plan.Step], step: plan.Step, job: tuple) -> list[dict]:
    """What `step` finds on the images of one chunk, or what its network is to see of them.

    Args:
        folder: of the source's builder.
        before: the steps before this one.
        step: one that annotates.
        job: (split, positions).

    Returns:
        A dict for each image; `{}` for one that a step before left out, the reason under
        `plan.REFUSED` for one that a step refuses.
    """
    split, positions = job
    looks = []
    for i in positions:
        example = decode_record(_open_split(folder, split)[i])
        example = _or_error(plan.apply_steps, example, before, _reader(split, i))
        if isinstance(example, UserError):
            looks.append({plan.REFUSED: str(example)})
        else:
            looks.append({} if example is None else _look(example, step))
    return looks


def _reader(split, position):
    """`read(step)`: the stored annotations of one image."""

    def read(step):
        return cache.read(step.folder, split, position)

    return read
