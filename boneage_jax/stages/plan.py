"""The named steps of preprocessing, `config.data.stages`, in any order that makes sense to the
user.

A stage **draws** (changes the image: contrast, a crop; cheap, done anew whenever the image is
needed) or **finds** (a mask, key points: costly, done once for each image and stored by
`findings`). What finds by a network looks at the image in a worker process and answers in the main
one. Every stage sees the image as the stages before it left it, so the final pass replays them on
the source's image, at its own size, and resamples once.

Functions are named as text and imported where they run: reading this table loads no JAX into the
workers.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import os
import pathlib

import numpy as np
from PIL import Image

from boneage_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of `transform(image, **options) -> image, or None for an image to leave out`,
    `annotate(image, **options) -> findings`, or the pair `network_input(image, **options) -> what
    the network sees`, `network_output(predictor, looks, **options) -> [findings]`.

    Findings are a dict of arrays and texts that join the image: `hand_mask` at any scale (it is
    enlarged to the image), `keypoints` in the image's pixels, `flags`, `inverted` (the image is to
    be turned). `version`: raise it when a change alters what comes out.
    """

    transform: str = ''
    annotate: str = ''
    network_input: str = ''
    network_output: str = ''
    version: int = 1


@dataclasses.dataclass(frozen=True)
class Step:
    """A stage of one plan: its options as a dict, its description for fingerprints, and the folder
    of its findings.
    """

    name: str
    options: dict
    described: dict
    folder: str = ''


# What a network sees of an image is the same without these, but for its size.
_UNSEEN = ('resize', 'aspect', 'points', 'unet', 'snap', 'keypoints', 'refine', 'align')
_PREPROCESS, _HERE = 'boneage_jax.preprocess', 'boneage_jax.stages'
STAGES = {
    'mask': Stage(
        annotate=f'{_HERE}.hand_mask:watershed_mask'
    ),  # Sobel and watershed (Castillo 2018)
    'unet': Stage(
        network_input=f'{_HERE}.networks:look', network_output=f'{_HERE}.networks:masks', version=3
    ),  # a run of configs/unet.py
    'snap': Stage(
        annotate=f'{_HERE}.hand_mask:snapped_mask'
    ),  # the mask found before, brought to the skin by a watershed
    'crop': Stage(transform=f'{_PREPROCESS}.hand_mask:crop_stage'),
    'contrast': Stage(
        transform=f'{_PREPROCESS}.contrast:contrast_stage'
    ),  # inside the mask (Iglovikov 2018)
    'points': Stage(
        transform=f'{_HERE}.annotations:points_stage'
    ),  # from annotation files; images without are left out
    'keypoints': Stage(
        network_input=f'{_HERE}.networks:look', network_output=f'{_HERE}.networks:points', version=2
    ),  # of configs/keypoints.py
    'refine': Stage(
        network_input=f'{_HERE}.networks:look_again',
        network_output=f'{_HERE}.networks:points_again',
    ),  # the same, registered
    'align': Stage(
        network_input=f'{_HERE}.networks:look', network_output=f'{_HERE}.networks:aligned'
    ),  # of configs/transformation.py
    'register': Stage(
        transform=f'{_HERE}.registration:register'
    ),  # upright, thumb to the right (Iglovikov 2018)
    'region': Stage(
        transform=f'{_HERE}.registration:region'
    ),  # A, B or C of the registered hand, one resampling from the image
    'aspect': Stage(
        transform=f'{_PREPROCESS}.resize:aspect_stage'
    ),  # stretched, where the images lost their aspect
    'enhance': Stage(
        transform=f'{_PREPROCESS}.enhance:enhance_stage'
    ),  # Hamrouni 2023; after 'resize', as the paper does
    'resize': Stage(
        transform=f'{_PREPROCESS}.resize:resize_stage'
    ),  # to data.size; implied at the end where it is not named
}


def make_plan(data, data_dir=None):
    """The `Step`s of `config.data`, options and weights included; ConfigError for unknown stages
    and lacking runs.

    Files that options name are looked for here, then below `data_dir` (default: $BONEAGE_DATA).
    """
    unknown = [stage for stage in data.stages if stage not in STAGES]
    if unknown:
        raise ConfigError(f'data.stages: unknown {", ".join(unknown)}; known: {", ".join(STAGES)}')
    steps = []
    for name in data.stages:
        options = (
            {'size': tuple(data.size), 'fit': data.resize}
            if name == 'resize'
            else (data.stage_options[name].to_dict() if name in data.stage_options else {})
        )
        if name == 'points' and not options['files']:
            raise ConfigError(
                'data.stage_options.points.files is empty: give the COCO JSON files of annotated hands'
            )
        described = {'name': name, 'version': STAGES[name].version, 'options': _jsonable(options)}
        if 'run' in options:
            described['weights'] = _weights(name, options['run'], [step.name for step in steps])
        if 'files' in options:
            options['files'] = tuple(
                find_file(file, data_dir, f'data.stage_options.{name}.files')
                for file in options['files']
            )
            described['files'] = [
                hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in options['files']
            ]
        steps.append(Step(name, options, described))
    return steps


def apply_steps(example, steps, read=None):
    """The image after all `steps`, or None where one left it out. `read(step)` gives the stored
    findings of a step that finds; without it they are found here (not those that need a network).
    """
    for step in steps:
        stage = STAGES[step.name]
        if stage.transform:
            example = resolve(stage.transform)(example, **step.options)
        elif read is not None:
            example = merge_annotations(example, read(step))
        else:
            example = merge_annotations(example, resolve(stage.annotate)(example, **step.options))
        if example is None:
            return None
    return example


def look(example, step):
    """A finding stage's work on one image in a worker: its findings, or what its network is to see."""
    stage = STAGES[step.name]
    return resolve(stage.annotate or stage.network_input)(example, **step.options)


def make_annotator(step):
    """None for a stage that needs no network, else `answer(looks) -> [findings]` with its network
    loaded.
    """
    stage = STAGES[step.name]
    if not stage.network_output:
        return None
    predictor, answer = (
        _predictor(step.options['run'], step.described['weights']),
        resolve(stage.network_output),
    )

    def answers(looks):
        found = iter(
            answer(predictor, seen, **step.options) if (seen := [x for x in looks if x]) else ()
        )
        return [
            next(found) if x else {} for x in looks
        ]  # {}: an image that an earlier stage left out

    return answers


@functools.lru_cache(maxsize=4)
def _predictor(run, weights):
    """The network of a run, loaded once; `weights` tells a run that was trained anew."""
    del weights
    from boneage_jax.runs import (
        predictor as predictor_lib,
    )  # here, not above: workers import this module

    return predictor_lib.Predictor(run)


def merge_annotations(example, found):
    """The image with findings joined: masks enlarged to it, flags put together."""
    found, height_width = dict(found), example['image'].shape[:2]
    if found.pop('inverted', False):
        example = example | {'image': 255 - example['image']}
    if 'hand_mask' in found and found['hand_mask'].shape[:2] != height_width:
        grey = Image.fromarray((found['hand_mask'] > 0).astype(np.uint8) * 255)
        grey = grey.resize(height_width[::-1], Image.Resampling.BILINEAR)
        found['hand_mask'] = (np.asarray(grey) >= 128).astype(np.uint8)
    if 'flags' in found:
        found['flags'] = join_flags(example, found['flags'])
    return example | found


def join_flags(example, flag):
    """The flags of an image (`a;b`) with another behind them; '' adds none."""
    return ';'.join(each for each in (example.get('flags', ''), flag) if each)


def resolve(name):
    """'package.module:function' -> the function."""
    module, _, attribute = name.partition(':')
    return getattr(importlib.import_module(module), attribute)


def _weights(name, run, before):
    """A fingerprint of the finished run that a stage predicts with; its own images must have come
    the same way.
    """
    key, folder = f'data.stage_options.{name}.run', pathlib.Path(run).expanduser()
    if not run:
        raise ConfigError(
            f'{key} is empty: give the workdir of the trained run that this stage predicts with'
        )
    if not (folder / 'metrics.json').exists():
        raise ConfigError(
            f'{key}={run!r}: no finished run lies there (no metrics.json); train it first'
        )
    config = json.loads((folder / 'config.json').read_text())
    seen, given = (
        [stage for stage in stages if stage not in _UNSEEN]
        for stages in (config['data']['stages'], before)
    )
    if (
        config['data']['source'] != 'hand_phantom' and seen != given
    ):  # phantoms stand for images of any preparation
        raise ConfigError(
            f'{key}={run!r}: that run saw images after the stages {seen}, here {given} come '
            f'before {name}; make data.stages agree'
        )
    texts = [(folder / file).read_bytes() for file in ('config.json', 'metrics.json')]
    return hashlib.sha256(b'\0'.join(texts)).hexdigest()[:12]


def find_file(file, data_dir, key):
    """The path of a file named here or below `data_dir` (default: $BONEAGE_DATA); ConfigError,
    which names `key`.
    """
    places = [pathlib.Path(file).expanduser()]
    root = data_dir or os.environ.get('BONEAGE_DATA')
    if root:
        places.append(pathlib.Path(root).expanduser() / file)
    for path in places:
        if path.is_file():
            return path
    raise ConfigError(f'{key}: {" and ".join(map(str, places))}: no such file')


def _jsonable(options):
    """Options without what is fingerprinted by its content."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in options.items()
        if key not in ('run', 'files')
    }
