"""A run that was trained, made ready to predict: its configuration, its network, its best
parameters, its task.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from boneage_jax import config as config_lib
from boneage_jax import models, tasks
from boneage_jax.data import augment
from boneage_jax.runs import state as state_lib
from boneage_jax.runtime import checkpoint
from tfds_rsna.errors import UserError


class Predictor:
    """The best network of the run in `workdir`, as a function of images.

    `predictor(images [N, H, W, 1] uint8, male [N] bool) -> (prediction, aux)`, arrays of numpy with
    N rows, as the model gives them: nothing is mirrored, averaged or turned into months
    (`predictor.task.months` does that). Images must be prepared as in training, H and W are
    `predictor.config.data.size`. Any N will do: images go through in batches of `batch_size` (the
    run's own by default), padded so that few programs are compiled.

    Attributes: `config` (of the run, knobs that a newer release added at their neutral value),
    `task`, `step` (of the checkpoint), `needs_sex` (False where the prediction does not read it;
    `male` may then be None).

    Raises:
        UserError: no run there, no checkpoint yet, a run without a network (trainer='classical'), a
            checkpoint that does not fit.
    """

    def __init__(self, workdir, *, batch_size=0):
        workdir = pathlib.Path(workdir)
        self.config, self.task = read_config(workdir), read_task(workdir)
        self.batch_size = batch_size or self.config.batch_size
        graphdefs, *parts = state_lib.partition(
            nnx.eval_shape(lambda: build_model(self.config)), self.config.frozen
        )  # shapes alone: nothing is drawn
        state = state_lib.State(None, *parts, None, None)
        with checkpoint.Checkpoints(workdir) as checkpoints:
            state = checkpoints.load_parameters(state)
            self.step = checkpoints.best_or_latest
        self._parts = state.params, state.frozen_params, state.batch_stats
        self._sizes = set()

        def apply(parts, image, male):
            model = nnx.merge(graphdefs.evaluate, *parts)
            return model(augment.to_float({'image': image})['image'], male)

        self._apply = jax.jit(apply)
        self.needs_sex = _reads_last(apply, self._parts, *self._shapes(1))

    def __call__(self, images, male=None):
        images = np.asarray(images)
        expected = (*self.config.data.size, 1)
        if (
            images.ndim != 4
            or images.shape[1:] != expected
            or images.dtype != np.uint8
            or not len(images)
        ):
            raise UserError(
                f'images: expected uint8 [N, {", ".join(map(str, expected))}], as this run was trained on; '
                f'found {images.dtype} {list(images.shape)}'
            )
        if male is None:
            if self.needs_sex:
                raise UserError('male: this network reads the sex; give it for every image')
            male = np.zeros(len(images), bool)
        male = np.asarray(male, bool)
        if male.shape != (len(images),):
            raise UserError(
                f'male: expected {len(images)} values, one an image; found shape {list(male.shape)}'
            )
        outputs = [
            self._batch(images[i : i + self.batch_size], male[i : i + self.batch_size])
            for i in range(0, len(images), self.batch_size)
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)

    def predict_tta(self, images, male=None):
        """The same as the run's evaluation has it: `prediction` averaged with that of the mirror
        image under `flip_tta`.
        """
        prediction, aux = self(images, male)
        if self.config.flip_tta:
            mirrored, _ = self(np.asarray(images)[:, :, ::-1], male)
            prediction = (prediction + self.task.unflip(mirrored)) / 2
        return prediction, aux

    def _batch(self, images, male):
        """One program's worth of images: padded to a size that is compiled already, or else to a
        power of two.
        """
        count = len(images)
        fitting = [size for size in self._sizes if size >= count]
        size = min(fitting) if fitting else min(self.batch_size, 1 << (count - 1).bit_length())
        self._sizes.add(size)
        gap = size - count
        images = np.pad(images, ((0, gap), (0, 0), (0, 0), (0, 0)))
        out = jax.device_get(self._apply(self._parts, images, np.pad(male, (0, gap))))
        return jax.tree.map(lambda x: x[:count], out)

    def _shapes(self, count):
        return (
            jax.ShapeDtypeStruct((count, *self.config.data.size, 1), jnp.uint8),
            jax.ShapeDtypeStruct((count,), jnp.bool_),
        )


def read_config(workdir):
    """The configuration of the run in `workdir`, locked; UserError where there is none that has a
    network.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / 'config.json'
    if not path.is_file():
        raise UserError(
            f'{workdir}: no run lies there (no config.json); give the --workdir of a training'
        )
    config = config_lib.from_json(path)
    if config.trainer != 'gradient':
        raise UserError(
            f'{workdir} holds a run with trainer={config.trainer!r}, which keeps no network to predict '
            'with; give the workdir of a gradient-trained run'
        )
    return config


def read_task(workdir):
    """The task of the run in `workdir`, with the numbers that were fitted on its training ages."""
    path = pathlib.Path(workdir) / 'task.json'
    if not path.is_file():
        raise UserError(f'{path}: no such file: this run has not begun to train')
    return tasks.build(read_config(workdir).task, json.loads(path.read_text()))


def step_of(workdir):
    """The step whose network `Predictor(workdir)` loads, without loading it; raises as it does."""
    read_task(workdir)
    with checkpoint.Checkpoints(workdir) as checkpoints:
        return checkpoints.best_or_latest


def build_model(config):
    """The network of a configuration with freshly drawn parameters, computing in `config.dtype`."""
    options = {key: value for key, value in config.model.items() if key != 'name'}
    name = config.dtype
    if name == 'auto':
        name = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    return models.build(config.model.name, seed=config.seed, dtype=jnp.dtype(name), **options)


def _reads_last(function, *arguments):
    """Whether the first output of `function` can depend on its last argument at all, read off its
    jaxpr backwards.
    """
    jaxpr = jax.make_jaxpr(lambda *a: jax.tree.leaves(function(*a)[0]))(*arguments).jaxpr
    needed = {var for var in jaxpr.outvars if not hasattr(var, 'val')}
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(var for var in equation.invars if not hasattr(var, 'val'))
    return jaxpr.invars[-1] in needed
