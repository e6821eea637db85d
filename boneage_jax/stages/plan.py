"""The stages of a configuration, `config.data.stages`, as steps that can be applied to an image.

They come in the order that the user gave. Every stage sees the image as the stages before it left
it. So the final pass replays them on the source's image, at its own size, and resamples once. What
a stage costs much to find is stored by `cache`; a stage with a network prepares the network's input
in a worker process, and its output is taken in the main one.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import os
import pathlib
from collections.abc import Callable

import ml_collections

from boneage_jax import config_files
from boneage_jax.errors import ConfigError, UserError
from boneage_jax.preprocess import resize
from boneage_jax.runs import exported, shipped
from boneage_jax.stages import catalog
from boneage_jax.stages.catalog import STAGES

REFUSED = 'refused'  # in place of the annotations of an image: why a stage refuses it


@dataclasses.dataclass(frozen=True)
class Step:
    """A stage of one plan.

    Attributes:
        name: of the stage.
        options: its options, files and networks found.
        described: what goes into fingerprints: name, version, options, weights, files' contents.
        folder: where its annotations are stored; '' for none.
    """

    name: str
    options: dict
    described: dict
    folder: str = ''

    @property
    def stage(self) -> catalog.Stage:
        return STAGES[self.name]


def make_plan(data: ml_collections.ConfigDict, data_dir=None) -> list[Step]:
    """The `Step`s of `config.data`, options and weights included.

    Files that options name are looked for here, then below `data_dir` (default: $BONEAGE_DATA).
    Raises ConfigError for unknown stages and for runs and files that are missing, UserError for a
    file that holds no network.
    """
    catalog.check_names(data.stages)
    steps = []
    for name in data.stages:
        options = _options(data, name)
        described = {'name': name, 'version': STAGES[name].version, 'options': _jsonable(options)}
        if 'run' in options:
            place = _network(name, options['run'])
            described['weights'] = _weights(name, place, [step.name for step in steps])
            options['run'] = str(place)
        if 'files' in options:
            key = f'data.stage_options.{name}.files'
            if not options['files']:
                raise ConfigError(f'{key} is empty: give {STAGES[name].files}')
            find = find_path if STAGES[name].takes_folders else find_file
            files = [find(file, data_dir, key) for file in options['files']]
            options['files'] = tuple(files)
            described['files'] = [_digest_of_path(file) for file in files]
        steps.append(Step(name, options, described))
    return steps


def in_place(steps: list[Step]) -> tuple[list[Step], list[Step]]:
    """The steps before the first that moves the image's pixels, and the others."""
    count = next((i for i, step in enumerate(steps) if step.stage.moves_pixels), len(steps))
    return steps[:count], steps[count:]


def _options(data, name):
    """The options of a stage, those included that are keys of `config.data` themselves."""
    options = {}
    if name in data.stage_options:
        options.update(data.stage_options[name].to_dict())
    for option, key in STAGES[name].data_options.items():
        options[option] = data[key]
    return options


def apply_steps(
    example: dict, steps: list[Step], read: Callable[[Step], dict] | None = None
) -> dict | None:
    """The image after all `steps`, or None where one left it out.

    `read(step)` gives the stored annotations of a step. Without it they are made here, which a step
    that needs a network cannot do.

    Raises:
        UserError: a step refuses the image, or has refused it when its annotations were made.
    """
    for step in steps:
        if step.stage.transform:
            example = resolve(step.stage.transform)(example, **step.options)
        elif read is not None:
            example = merge_annotations(example, read(step))
        else:
            found = resolve(step.stage.annotate)(example, **step.options)
            example = merge_annotations(example, found)
        if example is None:
            return None
    return example


def look(example: dict, step: Step) -> dict:
    """The work on one image in a worker: the step's annotations, or its network's input."""
    return resolve(step.stage.annotate or step.stage.network_input)(example, **step.options)


def make_annotator(step: Step) -> Callable[[list[dict]], list[dict]] | None:
    """`annotate(inputs) -> [annotations]` with the step's network loaded, None where it has none.

    An input `{}`, an image that an earlier stage left out, has the annotations `{}`; one that was
    refused stays so.
    """
    if not step.stage.network_output:
        return None
    predictor = _predictor(step.options['run'], step.described['weights'])
    network_output = resolve(step.stage.network_output)

    def annotate(inputs):
        seen = [each for each in inputs if each and REFUSED not in each]
        found = iter(network_output(predictor, seen, **step.options) if seen else ())
        return [each if not each or REFUSED in each else next(found) for each in inputs]

    return annotate


@functools.lru_cache(maxsize=4)
def _predictor(run, weights):
    """The network of a run, loaded once; `weights` tells a run that was trained anew."""
    del weights
    # Imported here: workers import this module and need no JAX.
    from boneage_jax.runs import predictor as predictor_lib

    return predictor_lib.Predictor(run)


def merge_annotations(example: dict, found: dict) -> dict:
    """The image with annotations joined: masks enlarged to it, flags put together.

    Raises UserError where the annotations say that the image was refused.
    """
    if REFUSED in found:
        raise UserError(str(found[REFUSED]))
    found = dict(found)
    shape = example['image'].shape[:2]
    if found.pop('inverted', False):
        example = example | {'image': 255 - example['image']}
    if 'hand_mask' in found and found['hand_mask'].shape[:2] != shape:
        found['hand_mask'] = resize.resize_mask(found['hand_mask'], shape)
    if 'flags' in found:
        found['flags'] = join_flags(example, found['flags'])
    return example | found


def join_flags(example: dict, flag: str) -> str:
    """The flags of an image (`a;b`) with another behind them; '' adds none."""
    return ';'.join(each for each in (example.get('flags', ''), flag) if each)


def resolve(name: str) -> Callable:
    """'package.module:function' -> the function."""
    module, _, attribute = name.partition(':')
    return getattr(importlib.import_module(module), attribute)


def _network(name, run):
    """Where the network of a stage is: what the option `run` names, or the shipped one."""
    key = f'data.stage_options.{name}.run'
    wanted = STAGES[name].shipped
    if run:
        return exported.find(run)
    if not wanted:
        raise ConfigError(
            f'{key} is empty: give the workdir of the trained run that this stage predicts with, '
            'or a file of `boneage export`'
        )
    place = shipped.find(wanted)
    if place is None:
        raise ConfigError(
            f'this checkout has no shipped network {wanted} (it has: {shipped.listed()}); give '
            f'{key}=WORKDIR, a finished run, or {key}=FILE of `boneage export`'
        )
    return place


def _weights(name, place, before):
    """A fingerprint of the network that a stage predicts with.

    The images of its training must have been prepared the same way, by the stages `before` this
    one.
    """
    key = f'data.stage_options.{name}.run'
    trained, kind, digest = _described(key, place)
    stage = STAGES[name]
    if stage.kind and kind not in ('', stage.kind):
        raise ConfigError(
            f'{key}={str(place)!r}: that network predicts {kind!r}, the stage {name} needs one '
            f'that predicts {stage.kind!r}'
        )
    # Phantoms take the place of images of any preparation.
    if trained['source'] != 'hand_phantom':
        seen = _seen_by_networks(trained['stages'])
        given = _seen_by_networks(before)
        if seen != given:
            raise ConfigError(
                f'{key}={str(place)!r}: that run saw images after the stages {seen}, here {given} '
                f'come before {name}; make data.stages agree'
            )
    return digest[:12]


def _described(key, place):
    """(`data` of its configuration, what it predicts or '', a digest) of a trained network."""
    if exported.is_file(place):
        header = exported.read(place)
        return header.config['data'], header.kind, exported.digest(place)
    if not (place / 'metrics.json').exists():
        raise ConfigError(
            f'{key}={str(place)!r}: no finished run is there (no metrics.json), no exported file '
            f'and no shipped network of that name ({shipped.listed()}); train it first'
        )
    texts = [(place / file).read_bytes() for file in ('config.json', 'metrics.json')]
    kind = json.loads(texts[1]).get('kind', '')
    return exported.read_config(place)['data'], kind, hashlib.sha256(b'\0'.join(texts)).hexdigest()


def _seen_by_networks(names):
    """The stages that change what a network sees; a stage of another release counts as one."""
    return [name for name in names if name not in STAGES or not STAGES[name].unseen_by_networks]


def _digest(content):
    return hashlib.sha256(content).hexdigest()[:12]


def _digest_of_path(path):
    """A fingerprint of a file's content, or of the names and contents of all files in a folder."""
    if path.is_file():
        return _digest(path.read_bytes())
    hashed = hashlib.sha256()
    for file in sorted(path.rglob('*')):
        if file.is_file():
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            hashed.update(f'{file.relative_to(path).as_posix()}\0{content}\n'.encode())
    return hashed.hexdigest()[:12]


def find_file(file: str, data_dir, key: str) -> pathlib.Path:
    """The path of a file named here, below `data_dir` ($BONEAGE_DATA) or beside the configs.

    Raises ConfigError, which names `key`, where there is none.
    """
    return _find(file, data_dir, key, pathlib.Path.is_file, 'no such file')


def find_path(path: str, data_dir, key: str) -> pathlib.Path:
    """As `find_file`, for a file or a folder."""
    return _find(path, data_dir, key, pathlib.Path.exists, 'no such file or folder')


def _find(name, data_dir, key, accept, otherwise):
    places = [pathlib.Path(name).expanduser()]
    root = data_dir or os.environ.get('BONEAGE_DATA')
    if root:
        places.append(pathlib.Path(root).expanduser() / name)
    places.append(config_files.packaged() / name)
    for path in places:
        if accept(path):
            return path
    # An absolute path stands in both places.
    looked = ' and '.join(dict.fromkeys(map(str, places[:-1])))
    hint = '; it is looked for below $BONEAGE_DATA too, which is not set'
    if root or places[0].is_absolute():
        hint = ''
    raise ConfigError(f'{key}: {looked}: {otherwise}{hint}')


def _jsonable(options):
    """Options without those that are fingerprinted by their content."""
    plain = {}
    for key, value in options.items():
        if key not in ('run', 'files'):
            plain[key] = list(value) if isinstance(value, tuple) else value
    return plain
