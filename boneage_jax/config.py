"""All that configs/ may import: the base configuration, argument parsing, sweep rows, validation.

A paper is a config: `configs/X.py` calls `build(BASE, arg, PRESETS, sweep())` and gets a locked
`ml_collections.ConfigDict` with *every* knob in it, so the code never needs a silent default.
This module imports no jax: a config can be read, printed and checked on any machine in a moment.
"""

import ast
import dataclasses
import importlib.util
import json
import pathlib
import re

import ml_collections

from boneage_jax.errors import ConfigError
from boneage_jax.stages import catalog


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a paper's table: `overrides` are dotted keys as in `model.width`, `paper_value`
    its published figure.

    `reference` names the row that this one is compared with, image by image; itself, or None, means
    none. Where no row of a config names one, all are compared with 'baseline', or the first.
    """

    name: str
    overrides: dict
    paper_value: float | None = None
    reference: str | None = None


def base():
    """Every knob that a run has, with its neutral value. A config starts from this dict and changes
    what its paper says.
    """
    return dict(
        trainer='gradient',  # 'gradient' | 'classical'
        seed=0,  # parameters, shuffling, augmentation, dropout
        data=dict(
            # 'rsna_bone_age' | 'image_folder' | 'hand_phantom' | 'prepared'
            source='rsna_bone_age',
            # rsna_bone_age: the folder below $BONEAGE_DATA (or --data_dir) that holds the files; ''
            # = itself; prepared: a folder of prepared records, as boneage_jax.prepare prints it
            folder='',
            # further folders of prepared records whose images all join the training split
            extra_train_folders=(),
            # rsna_bone_age: fetch the official files (11 GB) into that folder first
            download=False,
            # 'stop' | 'skip': what a bad image or label does to the build; skipped ones go to
            # rejected.csv
            on_error='stop',
            phantom=dict(count=4000, size=(512, 512), seed=0),
            image_folder=dict(  # a user's own images: paths, and the names of the CSV's columns
                images='',
                labels='',
                id_column='id',
                months_column='boneage',
                male_column='male',
                image_column='',
                group_column='',
                source_column='',
                age_unit='months',
            ),
            # named preprocessing stages (boneage_jax/stages), in order, before the resize
            stages=(),
            # the options of every stage, by its name (boneage_jax/stages/catalog.py)
            stage_options=catalog.default_options(),
            size=(512, 512),  # rows, columns of the records that the network sees
            resize='pad',  # 'pad' keeps the aspect ratio (zeros around), 'stretch' does not
            # True: the official validation and test splits where the source has them
            official_splits=True,
            # images taken from the training split where there is no official validation split
            validation=1000,
            # images taken from it where there is no official test split: reported once, never
            # selected on
            holdout=1000,
            # draws these; apart from `seed`, so that runs of several seeds share their splits
            split_seed=0,
            # 'both' | 'male' | 'female': these images alone, of the splits that all three share
            sex='both',
            # 'host': grain threads; 'device': the split lives in device memory. Same batches.
            placement='host',
        ),
        augment=dict(
            flip=0.0,
            rotation=0.0,
            shift=0.0,
            scale=0.0,
            shear=0.0,
            gamma=0.0,
            brightness=0.0,
            contrast=0.0,
            fill='zero',
        ),
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
            schedule='constant',  # 'constant' | 'step' | 'cosine' | 'one_cycle' | 'plateau'
            # the rate climbs to its schedule's over these; 'one_cycle' has its own
            warmup_epochs=0.0,
            step_epochs=25,  # 'step': every so many epochs ...
            step_factor=0.1,  # ... the rate is multiplied by this; 'plateau' uses it too
            plateau_patience=5,  # 'plateau': evaluations without improvement before the rate drops
        ),
        frozen=(),  # parameter path prefixes that are not trained, as 'backbone' or 'backbone/stem'
        # 'float16' | 'float32': what a frozen backbone makes of an image is computed once and kept
        # in that type, where nothing is augmented and the model can start from it
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
        flip_tta=False,  # evaluation averages the image and its mirror image
        # compute type: 'float32' | 'bfloat16' | 'auto' = bfloat16 on accelerators; parameters stay
        # float32
        dtype='auto',
        # accelerators: deterministic kernels (slower), so that a resumed run is bit-identical
        deterministic=False,
        # a run's workdir whose best parameters this one starts from, a file of weights, or
        # hf:<owner>/<repo>;
        init_from='',
        # 'fresh': as drawn at random, which a run with `frozen` parts must say
        # what it takes of them: () = all, which must fit, else paths as 'backbone', or
        # 'part_backbone=backbone' for its backbone as our part_backbone ('part_backbone?=backbone':
        # where we have one); the rest starts fresh
        init_parts=(),
    )


def build(base, arg, presets, rows=()):
    """`base` with the tokens of `arg` applied, locked.

    `arg` is what follows the colon of `--config=configs/X.py:arg`: comma-separated preset names
    (`phantom`), `row=NAME` for one row of the sweep, and `key=value` pairs, applied in the order
    given. A key is dotted (`optimizer.learning_rate`) or its last part alone (`learning_rate`;
    `size` is `data.size`, not `data.phantom.size`: the shallowest one wins, two equally shallow
    ones are an error). An unknown name is an error that lists the known.
    """
    config = ml_collections.ConfigDict(base)
    rows = {row.name: row for row in rows}
    for token in _split(arg or ''):
        key, equals, value = token.partition('=')
        if not equals:
            if key not in presets:
                raise ConfigError(
                    f'unknown preset {key!r}; known: {", ".join(presets) or "none"}; or write key=value'
                )
            override(config, presets[key])
        elif key == 'row':
            if value not in rows:
                raise ConfigError(f'unknown row {value!r}; known: {", ".join(rows) or "none"}')
            override(config, rows[value].overrides)
        else:
            override(config, {key: value}, literal=False)
    check(config)
    return config.lock()


def override(config, changes, *, literal=True):
    """Sets dotted (or uniquely short) keys of an unlocked config; values from text are read as the
    type that stands there.

    Raises ConfigError for unknown or ambiguous keys and for values of another type.
    """
    paths = _paths(config)
    for key, value in changes.items():
        found = [p for p in paths if p == key] or [p for p in paths if p.endswith('.' + key)]
        if not found:
            raise ConfigError(f'unknown key {key!r}; known: {", ".join(paths)}')
        depth = min(p.count('.') for p in found)
        found = [p for p in found if p.count('.') == depth]
        if len(found) > 1:
            raise ConfigError(f'key {key!r} is ambiguous; write one of: {", ".join(found)}')
        path = found[0]
        *parents, leaf = path.split('.')
        node = config
        for part in parents:
            node = node[part]
        node[leaf] = _convert(path, value, node[leaf], literal)


def check(config):
    """Refuses values that no run can have; the model's own options are checked where the model is
    built.
    """
    one_of = {
        'trainer': ('gradient', 'classical'),
        'data.source': ('rsna_bone_age', 'image_folder', 'hand_phantom', 'prepared'),
        'data.on_error': ('stop', 'skip'),
        'data.resize': ('pad', 'stretch'),
        'data.sex': ('both', 'male', 'female'),
        'data.placement': ('host', 'device'),
        'data.image_folder.age_unit': ('months', 'years'),
        'optimizer.name': ('sgd', 'adam', 'adamw'),
        'optimizer.schedule': ('constant', 'step', 'cosine', 'one_cycle', 'plateau'),
        'dtype': ('auto', 'float32', 'bfloat16'),
        'augment.fill': ('zero', 'nearest'),
        'cache_features': ('off', 'float16', 'float32'),
        'sharding': ('replicated', 'fsdp'),
    }
    catalog.check_names(config.data.stages)
    for key, known in one_of.items():
        _require(config, key, lambda x, known=known: x in known, 'one of ' + ', '.join(known))
    for key in (
        'batch_size',
        'grad_accum_steps',
        'epochs',
        'eval_every_epochs',
        'checkpoint_every_steps',
        'log_every_steps',
        'data.validation',
        'data.holdout',
        'data.phantom.count',
        'optimizer.step_epochs',
        'optimizer.plateau_patience',
    ):
        _require(config, key, lambda x: x >= 1, 'at least 1')
    for key in (
        'augment.rotation',
        'augment.shift',
        'augment.scale',
        'augment.shear',
        'augment.gamma',
        'augment.brightness',
        'optimizer.weight_decay',
        'optimizer.grad_clip_norm',
        'optimizer.warmup_epochs',
        'patience',
        'seed',
        'data.split_seed',
        'precise_bn_batches',
    ):
        _require(config, key, lambda x: x >= 0, 'zero or more')
    for key in ('data.size', 'data.phantom.size'):
        _require(
            config,
            key,
            lambda x: len(x) == 2 and all(type(n) is int and n >= 8 for n in x),
            '(rows, columns), each at least 8',
        )
    _require(
        config,
        'batch_size',
        lambda x: x % config.grad_accum_steps == 0,
        f'a multiple of grad_accum_steps={config.grad_accum_steps}',
    )
    _require(
        config,
        'cache_features',
        lambda x: x == 'off' or config.sharding == 'replicated',
        "off, with sharding='fsdp'",
    )
    _require(config, 'profile_steps', _is_range, "'' or 'FIRST:LAST' steps, as 10:15")
    for key in ('optimizer.momentum', 'optimizer.b2'):
        _require(config, key, lambda x: 0 <= x < 1, 'at least 0 and below 1')
    for key in ('augment.flip', 'augment.contrast'):
        _require(config, key, lambda x: 0 <= x <= 1, 'a number from 0 to 1')
    _require(config, 'optimizer.learning_rate', lambda x: x > 0, 'a positive number')
    _require(config, 'optimizer.step_factor', lambda x: 0 < x <= 1, 'above 0, at most 1')
    if config.optimizer.schedule == 'one_cycle':
        _require(
            config,
            'optimizer.warmup_epochs',
            lambda x: x == 0,
            "0: 'one_cycle' has a warm-up of its own",
        )
    else:
        _require(
            config, 'optimizer.warmup_epochs', lambda x: x < config.epochs, 'fewer than epochs'
        )


def _is_range(text):
    found = re.fullmatch(r'(\d+):(\d+)', text)
    return not text or (bool(found) and 1 <= int(found[1]) <= int(found[2]))


def _require(config, key, holds, expected):
    value = _get(config, key)
    if not holds(value):
        raise ConfigError(f'{key}={value!r}: expected {expected}')


def from_command_line(spec, overrides=()):
    """The config of `--config=path[:arg]` with the arguments `--config.key=value` applied, locked."""
    config = load(spec)[1].unlock()
    for argument in overrides:
        key, equals, value = argument.removeprefix('--config.').partition('=')
        if not argument.startswith('--config.') or not equals:
            raise ConfigError(
                f'unknown argument {argument!r}; see --help, and --config.KEY=VALUE for the config'
            )
        override(config, {key: value}, literal=False)
    check(config)
    return config.lock()


def from_json(path, arg=None):
    """The configuration that a run wrote as its config.json, locked, with the `key=value` pairs of
    `arg` applied.

    Knobs that a newer release added have their neutral value. ConfigError where the file is no such
    configuration.
    """
    path, config = pathlib.Path(path), ml_collections.ConfigDict(base())
    try:
        config.update(_tuples(json.loads(path.read_text())))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(
            f'{path}: not the configuration of a run of this release ({error})'
        ) from error
    return build(config, arg, {})


def _tuples(value):
    """JSON's lists as the tuples that they were."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def load(spec):
    """The config module of `path[:arg]` and its built config, as `--config` reads it; no module for
    a run's config.json.
    """
    path, _, arg = spec.partition(':')
    if path.endswith('.json'):
        return None, from_json(path, arg)
    module = load_module(path)
    return module, module.get_config(arg or None)


def load_module(path):
    """Imports a config file by its path."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ConfigError(
            f'{path}: no such config file; the configs are: '
            + ', '.join(str(p) for p in sorted(path.parent.glob('*.py')))
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def differences(a, b, ignore=()):
    """Dotted keys at which two plain config dicts differ, as `key: a -> b` lines, but for the keys
    in `ignore`.
    """
    flat_a, flat_b = flat(a), flat(b)
    missing = object()
    lines = []
    for key in sorted({*flat_a, *flat_b} - set(ignore)):
        left, right = flat_a.get(key, missing), flat_b.get(key, missing)
        if not same(left, right):
            show = ['absent' if v is missing else repr(v) for v in (left, right)]
            lines.append(f'{key}: {show[0]} -> {show[1]}')
    return lines


def flat(config):
    """`{dotted key: value}` of a nested config."""
    return {path: _get(config, path) for path in _paths(config)}


def same(a, b):
    """Equality of values, a tuple being the list that JSON makes of it."""
    return (list(a) if isinstance(a, tuple) else a) == (list(b) if isinstance(b, tuple) else b)


def _get(node, path):
    for part in path.split('.'):
        node = node[part]
    return node


def _paths(node, prefix=''):
    paths = []
    for key, value in node.items():
        path = prefix + key
        if isinstance(value, (dict, ml_collections.ConfigDict)):
            paths += _paths(value, path + '.')
        else:
            paths.append(path)
    return paths


def _split(arg):
    """Splits at commas outside brackets, so that `size=(96,96)` is one token."""
    tokens, depth, token = [], 0, ''
    for char in arg:
        depth += (char in '([') - (char in ')]')
        if char == ',' and depth == 0:
            tokens.append(token)
            token = ''
        else:
            token += char
    return [t.strip() for t in [*tokens, token] if t.strip()]


def _convert(path, value, current, literal):
    kind = type(current)
    if not literal and not isinstance(current, str):
        text = {'true': 'True', 'false': 'False'}.get(value.strip().lower(), value)
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            if kind is tuple:  # stages=(mask,contrast) and frozen=backbone need no quotes
                value = tuple(_split(value.strip().strip('()[]')))
            else:
                raise ConfigError(
                    f'{path}={value}: expected {kind.__name__}, like {current!r}'
                ) from None
    if kind is tuple and isinstance(value, (list, int, str)):
        value = tuple(value) if isinstance(value, list) else (value,)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f'{path}={value!r}: expected {kind.__name__}, like {current!r}')
    return value
