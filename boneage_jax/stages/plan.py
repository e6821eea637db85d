"""The named steps of preprocessing, `config.data.stages`, in any order that makes sense to the user.

A stage **draws** (changes the film: contrast, a crop; cheap, done anew whenever the film is needed) or **finds** (a mask, key
points: costly, done once for each film and stored by `findings`). What finds by a network looks at the film in a worker
process and answers in the main one. Every stage sees the film as the stages before it left it, so the final pass replays
them on the source's film, at its own size, and resamples once.

Functions are named as text and imported where they run: reading this table loads no JAX into the workers.
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
    """One of `draw(film, **options) -> film, or None for a film to leave out`, `find(film, **options) -> findings`, or
    the pair `look(film, **options) -> what the network sees`, `answer(predictor, looks, **options) -> [findings]`.

    Findings are a dict of arrays and texts that join the film: `hand_mask` at any scale (it is enlarged to the film),
    `keypoints` in the film's pixels, `flags`, `inverted` (the film is to be turned). `version`: raise it when a change
    alters what comes out.
    """

    draw: str = ''
    find: str = ''
    look: str = ''
    answer: str = ''
    version: int = 1


@dataclasses.dataclass(frozen=True)
class Step:
    """A stage of one plan: its options as a dict, its description for fingerprints, and the folder of its findings."""

    name: str
    options: dict
    described: dict
    folder: str = ''


# What a network sees of a film is the same without these, but for its size.
_UNSEEN = ('resize', 'aspect', 'points', 'unet', 'snap', 'keypoints', 'refine', 'align')
_PREPROCESS, _HERE = 'boneage_jax.preprocess', 'boneage_jax.stages'
STAGES = {
    'mask': Stage(find=f'{_HERE}.hand_mask:watershed_mask'),  # Sobel and watershed (Castillo 2018)
    'unet': Stage(look=f'{_HERE}.networks:look', answer=f'{_HERE}.networks:masks', version=3),  # a run of configs/unet.py
    'snap': Stage(find=f'{_HERE}.hand_mask:snapped_mask'),  # the mask found before, brought to the skin by a watershed
    'crop': Stage(draw=f'{_PREPROCESS}.hand_mask:crop_stage'),
    'contrast': Stage(draw=f'{_PREPROCESS}.contrast:contrast_stage'),  # inside the mask (Iglovikov 2018)
    'points': Stage(draw=f'{_HERE}.annotations:points_stage'),  # from annotation files; films without are left out
    'keypoints': Stage(look=f'{_HERE}.networks:look', answer=f'{_HERE}.networks:points', version=2),  # of configs/keypoints.py
    'refine': Stage(look=f'{_HERE}.networks:look_again', answer=f'{_HERE}.networks:points_again'),  # the same, registered
    'align': Stage(look=f'{_HERE}.networks:look', answer=f'{_HERE}.networks:aligned'),  # of configs/transformation.py
    'register': Stage(draw=f'{_HERE}.registration:register'),  # upright, thumb to the right (Iglovikov 2018)
    'region': Stage(draw=f'{_HERE}.registration:region'),  # A, B or C of the registered hand, one resampling from the film
    'aspect': Stage(draw=f'{_PREPROCESS}.resize:aspect_stage'),  # stretched, where the films lost their aspect
    'enhance': Stage(draw=f'{_PREPROCESS}.enhance:enhance_stage'),  # Hamrouni 2023; after 'resize', as the paper does
    'resize': Stage(draw=f'{_PREPROCESS}.resize:resize_stage'),  # to data.size; implied at the end where it is not named
}


def make_plan(data, data_dir=None):
    """The `Step`s of `config.data`, options and weights included; ConfigError for unknown stages and lacking runs.

    Files that options name are looked for here, then below `data_dir` (default: $BONEAGE_DATA).
    """
    unknown = [stage for stage in data.stages if stage not in STAGES]
    if unknown:
        raise ConfigError(f'data.stages: unknown {", ".join(unknown)}; known: {", ".join(STAGES)}')
    steps = []
    for name in data.stages:
        options = {'size': tuple(data.size), 'fit': data.fit} if name == 'resize' else (
            data.stage[name].to_dict() if name in data.stage else {})
        if name == 'points' and not options['files']:
            raise ConfigError('data.stage.points.files is empty: give the COCO JSON files of annotated hands')
        described = {'name': name, 'version': STAGES[name].version, 'options': _jsonable(options)}
        if 'run' in options:
            described['weights'] = _weights(name, options['run'], [step.name for step in steps])
        if 'files' in options:
            options['files'] = tuple(find_file(file, data_dir, f'data.stage.{name}.files') for file in options['files'])
            described['files'] = [hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in options['files']]
        steps.append(Step(name, options, described))
    return steps


def apply_steps(film, steps, read=None):
    """The film after all `steps`, or None where one left it out. `read(step)` gives the stored findings of a step that
    finds; without it they are found here (not those that need a network)."""
    for step in steps:
        stage = STAGES[step.name]
        if stage.draw:
            film = resolve(stage.draw)(film, **step.options)
        elif read is not None:
            film = merge_annotations(film, read(step))
        else:
            film = merge_annotations(film, resolve(stage.find)(film, **step.options))
        if film is None:
            return None
    return film


def look(film, step):
    """A finding stage's work on one film in a worker: its findings, or what its network is to see."""
    stage = STAGES[step.name]
    return resolve(stage.find or stage.look)(film, **step.options)


def make_annotator(step):
    """None for a stage that needs no network, else `answer(looks) -> [findings]` with its network loaded."""
    stage = STAGES[step.name]
    if not stage.answer:
        return None
    predictor, answer = _predictor(step.options['run'], step.described['weights']), resolve(stage.answer)

    def answers(looks):
        found = iter(answer(predictor, seen, **step.options) if (seen := [x for x in looks if x]) else ())
        return [next(found) if x else {} for x in looks]  # {}: a film that an earlier stage left out

    return answers


@functools.lru_cache(maxsize=4)
def _predictor(run, weights):
    """The network of a run, loaded once; `weights` tells a run that was trained anew."""
    del weights
    from boneage_jax.runs import predictor as predictor_lib  # here, not above: workers import this module
    return predictor_lib.Predictor(run)


def merge_annotations(film, found):
    """The film with findings joined: masks enlarged to it, flags put together."""
    found, height_width = dict(found), film['image'].shape[:2]
    if found.pop('inverted', False):
        film = film | {'image': 255 - film['image']}
    if 'hand_mask' in found and found['hand_mask'].shape[:2] != height_width:
        grey = Image.fromarray((found['hand_mask'] > 0).astype(np.uint8) * 255)
        grey = grey.resize(height_width[::-1], Image.Resampling.BILINEAR)
        found['hand_mask'] = (np.asarray(grey) >= 128).astype(np.uint8)
    if 'flags' in found:
        found['flags'] = join_flags(film, found['flags'])
    return film | found


def join_flags(film, flag):
    """The flags of a film (`a;b`) with another behind them; '' adds none."""
    return ';'.join(each for each in (film.get('flags', ''), flag) if each)


def resolve(name):
    """'package.module:function' -> the function."""
    module, _, attribute = name.partition(':')
    return getattr(importlib.import_module(module), attribute)


def _weights(name, run, before):
    """A fingerprint of the finished run that a stage predicts with; its own films must have come the same way."""
    key, folder = f'data.stage.{name}.run', pathlib.Path(run).expanduser()
    if not run:
        raise ConfigError(f'{key} is empty: give the workdir of the trained run that this stage predicts with')
    if not (folder / 'metrics.json').exists():
        raise ConfigError(f'{key}={run!r}: no finished run lies there (no metrics.json); train it first')
    config = json.loads((folder / 'config.json').read_text())
    seen, given = ([stage for stage in stages if stage not in _UNSEEN] for stages in (config['data']['stages'], before))
    if config['data']['source'] != 'hand_phantom' and seen != given:  # phantoms stand for films of any preparation
        raise ConfigError(f'{key}={run!r}: that run saw films after the stages {seen}, here {given} come '
                                     f'before {name}; make data.stages agree')
    texts = [(folder / file).read_bytes() for file in ('config.json', 'metrics.json')]
    return hashlib.sha256(b'\0'.join(texts)).hexdigest()[:12]


def find_file(file, data_dir, key):
    """The path of a file named here or below `data_dir` (default: $BONEAGE_DATA); ConfigError, which names `key`."""
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
    return {key: list(value) if isinstance(value, tuple) else value
            for key, value in options.items() if key not in ('run', 'files')}
