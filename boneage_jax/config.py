"""All that configs/ may import: the base configuration, argument parsing, sweep rows, validation.

A paper is a config: `configs/X.py` calls `build(BASE, arg, PRESETS, sweep())` and gets a locked
`ml_collections.ConfigDict` with *every* knob in it, so the code never needs a silent default. A
config may also have `finish(config)`, see `load`. This module imports no jax: a config can be read,
printed and checked on any machine in a moment.
"""

import dataclasses
import json
import pathlib
import types
from collections.abc import Iterable, Sequence

import ml_collections

from boneage_jax import config_files, renamed
from boneage_jax import config_keys as keys
from boneage_jax import config_ranges as ranges
from boneage_jax.config_files import load_module
from boneage_jax.config_keys import differences, flat, same
from boneage_jax.errors import ConfigError
from boneage_jax.stages import catalog

__all__ = [
    'Row',
    'base',
    'build',
    'check',
    'differences',
    'flat',
    'from_command_line',
    'from_json',
    'from_saved',
    'load',
    'load_module',
    'override',
    'same',
]

DEFAULT_SPLIT = 1000  # images of the validation and of the holdout split
RECORDED = ('config_file', 'finish_reads')  # keys that `load` writes; nobody sets them


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a paper's table.

    Attributes:
        name: of the row, and of its folder in a sweep.
        overrides: what it changes, by dotted keys such as `model.width`.
        paper_value: its published figure, where there is one.
        reference: the row that this one is compared with, image by image; itself, or None, means
            none. Where no row of a config names one, all are compared with 'baseline', or the
            first.
        optional: whether a sweep trains it only where `--rows` names it.
    """

    name: str
    overrides: dict
    paper_value: float | None = None
    reference: str | None = None
    optional: bool = False


def base() -> dict:
    """Every knob that a run has, with its neutral value; a config changes what its paper says."""
    return dict(
        trainer='gradient',  # 'gradient' | 'classical'
        seed=0,  # of parameters, shuffling, augmentation and dropout
        data=dict(
            source='rsna_bone_age',  # one of tfds_rsna.SOURCES
            # rsna_bone_age: the folder below $BONEAGE_DATA (or --data_dir) with the files, '' for
            # that folder itself; prepared: a folder of prepared records, as boneage_jax.prepare
            # prints it
            folder='',
            # rsna_bone_age: a table (id, width, height) of the sizes that images had before they
            # were squashed, here or below $BONEAGE_DATA: their aspect is restored. '' = as they are
            native_sizes='',
            # rsna_bone_age: folders below $BONEAGE_DATA with larger copies of some of the images,
            # files named by id; they take the place of the others
            better_copies=(),
            # further folders of prepared records, whose images all join the training split
            extra_train_folders=(),
            # how often an epoch shows each training image that comes from no folder of these
            train_repeats=1,
            # rsna_bone_age: fetch the official files (11 GB) into that folder first
            download=False,
            # what a bad image or label does to the build: 'stop' | 'skip' (see its rejected.csv)
            on_error='stop',
            phantom=dict(count=4000, size=(512, 512), seed=0),
            # a user's own images: paths, here or below $BONEAGE_DATA, and the CSV's columns
            image_folder=dict(
                images='',
                labels='',
                id_column='id',
                months_column='boneage',
                male_column='male',
                image_column='',
                group_column='',
                source_column='',
                age_unit='months',  # 'months' | 'years'
                sex='',  # 'male' | 'female': of all images, where the table has no such column
                # within which equal ids are a leak: '' = this folder, 'rsna' = RSNA's images
                id_space='',
            ),
            # named preprocessing stages (boneage_jax/stages), in order, before the resize
            stages=(),
            # the options of every stage, by its name (boneage_jax/stages/catalog.py)
            stage_options=catalog.default_options(),
            size=(512, 512),  # rows, columns of the records that the network sees
            resize='pad',  # 'pad' keeps the aspect ratio (zeros around), 'stretch' does not
            # True: the official validation and test splits where the source has them
            official_splits=True,
            # images taken from the training split where there is no official validation split; a
            # fifth of it where these two, at their default, would take more than half
            validation=DEFAULT_SPLIT,
            # images taken from it where there is no official test split: reported once, never
            # selected on
            holdout=DEFAULT_SPLIT,
            # file of ids, one a line or a table with the column `id`, here, below $BONEAGE_DATA or
            # beside the configs: these images are the holdout in the place of drawn ones, and
            # mining leaves them out
            holdout_ids='',
            # draws these two; apart from `seed`, so that runs of several seeds share their splits
            split_seed=0,
            # cross-validation: the images outside the holdout are divided by this, 0 = off; ...
            folds=0,
            fold=0,  # ... the part, from 0, that this run predicts and has not seen: split 'fold'
            # 'both' | 'male' | 'female': these images alone, of the splits that all three share
            sex='both',
            # 'host': grain threads; 'device': the split is kept in device memory. Same batches.
            placement='host',
        ),
        # strengths of the random changes of a training image (boneage_jax/data/augment.py)
        augment=dict(
            flip=0.0,  # probability of the mirror image
            rotation=0.0,  # degrees to either side
            shift=0.0,  # share of a side
            scale=0.0,  # 0.1: sizes from 1 / 1.1 to 1.1
            shear=0.0,  # degrees to either side
            gamma=0.0,
            brightness=0.0,
            contrast=0.0,
            fill='zero',  # of pixels from outside: 'zero' | 'nearest'
            # faults of an archive's images (boneage_jax/data/degrade.py)
            exposure=0.0,  # 0.25: grey times 0.8 to 1.25, clipped
            polarity=0.0,  # probability of the negative: black padding becomes white
            occlusion=0.0,  # probability of a rectangle of one grey, 10 to 40% of the sides
            blur=0.0,  # Gaussian, up to this standard deviation in pixels
            # every second image shrunk and enlarged again, by a factor of up to 1 + resolution
            resolution=0.0,
            noise=0.0,  # Gaussian, up to this standard deviation, share of the full range
            compression=0.0,  # probability of what JPEG loses at quality 30 to 95
        ),
        # the network (boneage_jax.models) and its options; it takes the images' size from
        # `data.size` and the number of classes from `task.classes`
        model=dict(name=''),
        task=dict(
            name='age',
            loss='l1',  # 'l1' | 'l2', on normalised ages
            # 'zscore' (training ages) | 'unit' ((age - 120) / 120) | 'months' (as they are)
            normalisation='zscore',
        ),
        optimizer=dict(
            name='adamw',  # 'sgd' | 'adam' | 'adamw'
            learning_rate=1e-3,
            momentum=0.9,  # SGD's momentum; Adam's first beta
            b2=0.999,  # Adam's second beta
            # decoupled for adamw, added to the gradient for sgd and adam; never on biases and norms
            weight_decay=0.0,
            grad_clip_norm=0.0,  # global gradient norm, 0 = off
            # times the learning rate, below the parts `backbone` and `part_backbone`
            backbone_rate=1.0,
            schedule='constant',  # 'constant' | 'step' | 'cosine' | 'one_cycle' | 'plateau'
            # epochs in which the rate climbs to its schedule's; 'one_cycle' has its own
            warmup_epochs=0.0,
            step_epochs=25,  # 'step': every so many epochs ...
            step_factor=0.1,  # ... the rate is multiplied by this; 'plateau' uses it too
            plateau_patience=5,  # 'plateau': evaluations without improvement before the rate drops
        ),
        frozen=(),  # parameter path prefixes that are not trained, as 'backbone' or 'backbone/stem'
        # 'float16' | 'float32' | 'off': what a frozen backbone makes of an image is computed once
        # and kept in that type, where nothing is augmented and the model can start from it
        # (boneage_jax/training/feature_cache.py)
        cache_features='off',
        batch_size=32,  # global: over all devices and hosts
        # parts that a batch is computed in, one after the other, where its memory does not suffice:
        # the same gradient, but batch normalisation takes the statistics of each part; refused
        # where a loss compares images with one another
        grad_accum_steps=1,
        # 'replicated': every device holds parameters and optimiser; 'fsdp': each holds its share
        sharding='replicated',
        epochs=30,
        # epochs between evaluations on the validation split; a checkpoint is saved at each
        eval_every_epochs=1,
        checkpoint_every_steps=500,  # steps between further checkpoints
        # training batches, not augmented, whose batch statistics replace the running ones before
        # each evaluation; 0 = the running ones, which are of augmented images
        precise_bn_batches=0,
        patience=0,  # evaluations without improvement before training stops; 0 = never
        log_every_steps=20,  # steps between lines in metrics.jsonl
        # '10:15': a profiler trace of steps 10 to 15 into the workdir's `profile`
        profile_steps='',
        # decay of a moving average of the parameters, which is evaluated in their place; 0 = none
        ema=0.0,
        flip_tta=False,  # evaluation averages the image and its mirror image
        # degrees: evaluation also averages the image turned so far to either side; 0 = not
        turn_tta=0.0,
        # compute type: 'float32' | 'bfloat16' | 'auto' = bfloat16 on accelerators; parameters stay
        # float32
        dtype='auto',
        # accelerators: deterministic kernels (slower), so that a resumed run is bit-identical
        deterministic=False,
        # what this run starts from: '' = nothing, another run's workdir (its best parameters), a
        # file of weights, the name of a shipped network, package:<name> (of Python's registry,
        # installed), hf:<folder> or hf:<owner>/<repo>, or 'fresh': as drawn at random, which a run
        # with `frozen` parts must say
        init_from='',
        # what it takes of them, {part of ours: part of theirs}: {} = all, which must fit; typed as
        # init_map=backbone or init_map=(backbone,part_backbone:backbone); the rest starts fresh
        init_map={},
        init_optional=(),  # parts of ours in init_map that this network may lack
        # written by `load`, not by anybody else: the config that this configuration comes from, ...
        config_file='',
        finish_reads=(),  # ... and the keys from which its `finish` derives others
    )


def build(
    base: dict, arg: str | None, presets: dict[str, dict], rows: Iterable[Row] = ()
) -> ml_collections.ConfigDict:
    """`base` with presets, a row and single keys applied, locked.

    Args:
        base: every knob with its value.
        arg: what follows the colon of `--config=configs/X.py:arg`, comma-separated: names of
            presets (`phantom`), `row=NAME` for one row of the sweep, and `key=value` pairs. Presets
            are applied first, in the order given, then the row, then the pairs, wherever each
            stands. A key is dotted (`optimizer.learning_rate`) or its last part alone
            (`learning_rate`; `size` is `data.size`, not `data.phantom.size`: the shallowest one
            wins, two equally shallow ones are an error).
        presets: `{name: {dotted key: value}}`.
        rows: of the sweep.

    Raises:
        ConfigError: a name or key is unknown, and it lists the known, or a value is impossible.
    """
    config = ml_collections.ConfigDict(base)
    names, row, pairs = keys.parse(arg)
    for name in names:
        if name not in presets:
            raise ConfigError(
                f'unknown preset {name!r}; known: {", ".join(presets) or "none"}; or write '
                "key=value. A value with a comma in it needs quotes: images='/data/a,b'; or "
                '--config.KEY=VALUE'
            )
        override(config, presets[name])
    if row is not None:
        by_name = {known.name: known for known in rows}
        if row not in by_name:
            raise ConfigError(f'unknown row {row!r}; known: {", ".join(by_name) or "none"}')
        override(config, by_name[row].overrides)
    _override_pairs(config, pairs)
    check(config)
    return config.lock()


def override(config, changes: dict, *, literal: bool = True) -> None:
    """Sets dotted (or uniquely short) keys of an unlocked config.

    Args:
        config: is changed.
        changes: `{key: value}`.
        literal: False for values that are text, read as the type of the value they replace.

    Raises:
        ConfigError: a key is unknown or ambiguous, or a value has another type.
    """
    for key, value in changes.items():
        path = keys.find_key(config, key)
        if path in RECORDED:
            raise ConfigError(f'{path} is written by the program; leave it out')
        *parents, leaf = path.split('.')
        node = config
        for part in parents:
            node = node[part]
        if path in keys.MAPS:
            node[leaf] = keys.convert_map(path, value)
        else:
            node[leaf] = keys.convert(path, value, node[leaf], literal)


def _override_pairs(config, pairs):
    for key, text in pairs:
        override(config, {key: text}, literal=False)


def check(config) -> None:
    """Refuses values that no run can have: the one place where ranges are checked.

    The options of a model or a task are checked where it is built. Raises ConfigError.
    """
    catalog.check_names(config.data.stages)
    for key, known in ranges.ONE_OF.items():
        _require(config, key, keys.get(config, key) in known, 'one of ' + ', '.join(known))
    for key in ranges.AT_LEAST_1:
        _require(config, key, keys.get(config, key) >= 1, 'at least 1')
    for key in ranges.ZERO_OR_MORE:
        _require(config, key, keys.get(config, key) >= 0, 'zero or more')
    for key in ranges.SHARES:
        _require(config, key, 0 <= keys.get(config, key) <= 1, 'a number from 0 to 1')
    shear = config.augment.shear
    _require(config, 'augment.shear', 0 <= shear <= 89, 'degrees from 0 to 89')
    for key in ranges.BETAS:
        _require(config, key, 0 <= keys.get(config, key) < 1, 'at least 0 and below 1')
    for key in ranges.SIZES:
        _require(
            config, key, keys.is_size(keys.get(config, key)), '(rows, columns), each at least 8'
        )
    _require(
        config,
        'batch_size',
        config.batch_size % config.grad_accum_steps == 0,
        f'a multiple of grad_accum_steps={config.grad_accum_steps}',
    )
    folds = config.data.folds
    _require(config, 'data.folds', folds >= 0 and folds != 1, '2 or more, or 0 (off)')
    part_expected = f'a part from 0 to {folds - 1}' if folds else '0, without data.folds'
    _require(config, 'data.fold', 0 <= config.data.fold < max(folds, 1), part_expected)
    least = 0 if folds else 1
    _require(config, 'data.holdout', config.data.holdout >= least, 'at least 1, or 0 with folds')
    can_cache = config.cache_features == 'off' or config.sharding == 'replicated'
    _require(config, 'cache_features', can_cache, "off, with sharding='fsdp'")
    steps_expected = "'' or 'FIRST:LAST' steps, as 10:15"
    _require(config, 'profile_steps', keys.is_range(config.profile_steps), steps_expected)

    optimizer = config.optimizer
    _require(config, 'optimizer.learning_rate', optimizer.learning_rate > 0, 'a positive number')
    _require(config, 'optimizer.step_factor', 0 < optimizer.step_factor <= 1, 'above 0, at most 1')
    if optimizer.schedule == 'one_cycle':
        holds = optimizer.warmup_epochs == 0
        expected = "0: 'one_cycle' has a warm-up of its own"
    else:
        holds = optimizer.warmup_epochs < config.epochs
        expected = 'fewer than epochs'
    _require(config, 'optimizer.warmup_epochs', holds, expected)


def _require(config, key, holds, expected):
    if not holds:
        raise ConfigError(f'{key}={keys.get(config, key)!r}: expected {expected}')


def from_command_line(spec: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config of `--config=path[:arg]` with arguments `--config.KEY=VALUE` applied, locked."""
    pairs = []
    for argument in overrides:
        key, equals, value = argument.removeprefix('--config.').partition('=')
        if not argument.startswith('--config.') or not equals:
            raise ConfigError(
                f'unknown argument {argument!r}; see --help, and --config.KEY=VALUE for the config'
            )
        pairs.append((key, value))
    return load(spec, pairs)[1]


def load(
    spec: str, pairs: Sequence[tuple[str, str]] = ()
) -> tuple[types.ModuleType | None, ml_collections.ConfigDict]:
    """The config module of `path[:arg]` and its configuration, locked; no module for a config.json.

    A config may have `finish(config)`, which derives some keys from others, those that it names in
    `FINISH_READS`. It runs here, after the last override, and must be idempotent. A key that was
    typed and that it would change is refused: the two would contradict each other.

    Args:
        spec: a path or bare name (see `load_module`), or a run's config.json, and what `build`
            takes after the colon.
        pairs: further (key, text) pairs, applied last.

    Raises:
        ConfigError: as `build`.
    """
    path, _, arg = spec.partition(':')
    if path.endswith('.json'):
        return None, from_json(path, arg, pairs)
    module = load_module(path)
    config = module.get_config(arg or None).unlock()
    _override_pairs(config, pairs)
    config.config_file = config_files.recorded_path(pathlib.Path(module.__file__))
    if hasattr(module, 'finish'):
        config.finish_reads = tuple(module.FINISH_READS)
        _finish(config, module, [key for key, _ in (*keys.parse(arg)[2], *pairs)])
    check(config)
    return module, config.lock()


def from_json(
    path: pathlib.Path | str, arg: str | None = None, pairs: Sequence[tuple[str, str]] = ()
) -> ml_collections.ConfigDict:
    """The configuration that a run wrote as its config.json, locked.

    It is taken as it is: `finish` of the config that it came from runs only where a key that it
    reads is changed. Knobs that a newer release added have their neutral value; names of earlier
    releases are translated.

    Args:
        path: of the config.json.
        arg: comma-separated `key=value` pairs to apply.
        pairs: further (key, text) pairs, applied last.

    Raises:
        ConfigError: the file is no such configuration, or as `build`; also where a key is changed
            from which others are derived, and the config that derives them is not there.
    """
    try:
        saved = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f'{path}: not the configuration of a run ({error})') from error
    return from_saved(saved, path, arg, pairs)


def from_saved(
    saved: dict,
    where: pathlib.Path | str,
    arg: str | None = None,
    pairs: Sequence[tuple[str, str]] = (),
) -> ml_collections.ConfigDict:
    """The same from a config.json's content `saved`; `where` it comes from, for messages."""
    config = ml_collections.ConfigDict(base())
    try:
        config.update(keys.tuples(renamed.config(saved)))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ConfigError(
            f'{where}: not the configuration of a run of this release ({error})'
        ) from error
    config = build(config, arg, {}).unlock()
    _override_pairs(config, pairs)
    typed = [key for key, _ in (*keys.parse(arg)[2], *pairs)]
    read = [key for key in typed if _is_read(config, keys.find_key(config, key))]
    if read:
        module = config_files.origin(config.config_file)
        if module is None:
            raise ConfigError(
                f'{read[0]}: other keys were derived from it by {config.config_file}, which is not '
                f'here; run this where that file is, or give that config instead of {where}'
            )
        _finish(config, module, typed)
    check(config)
    return config.lock()


def _is_read(config, path):
    return any(path == key or path.startswith(key + '.') for key in config.finish_reads)


def _finish(config, module, typed):
    """Runs the `finish` of a config, and refuses what was typed and that it changes."""
    before = {
        path: keys.get(config, path) for path in (keys.find_key(config, key) for key in typed)
    }
    module.finish(config)
    for path, value in before.items():
        derived = keys.get(config, path)
        if not same(derived, value):
            raise ConfigError(
                f'{path}={value!r}: this config derives {path}={derived!r} from '
                f'{", ".join(module.FINISH_READS)}; leave it out, or change those'
            )
