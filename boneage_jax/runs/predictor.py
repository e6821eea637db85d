"""A trained network, made ready to predict: its configuration, its best parameters and its task."""

import json
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from boneage_jax import config as config_lib
from boneage_jax import models, tasks
from boneage_jax.data import augment, pipeline, views
from boneage_jax.data.source import Split
from boneage_jax.runs import exported, initialize, shipped
from boneage_jax.runs import state as state_lib
from boneage_jax.runtime import checkpoint, target
from tfds_rsna.errors import UserError

# Images at once in the smallest program: XLA computes one or two by other sums, whose last digits
# are not those of the same image among others.
_FEWEST = 4


class Predictor:
    """The best network of a run, or the one in a file or shipped, as a function of images.

    `predictor(images [N, H, W, 1] uint8, male [N] bool) -> (prediction, aux)`, arrays of numpy with
    N rows, as the model gives them: nothing is mirrored, averaged or turned into months
    (`predictor.task.months` does that). Images must be prepared as in training, H and W are
    `predictor.config.data.size`. N is free: images go through in batches of `batch_size`, padded so
    that few programs are compiled.

    Args:
        place: the run's workdir, a file of `boneage export`, or the name of a shipped network.
        batch_size: images at once; 0 = the run's own.
        dtype: of computing; '' = the run's own.

    Attributes:
        config: the run's configuration; knobs that a newer release added have their neutral value.
        task: the run's task, with the numbers fitted on its training ages.
        step: the step of the checkpoint.
        batch_size: images at once; the run's own where none is given.
        views: of an image, with which `predict_tta` averages.
        needs_sex: whether the prediction depends on the sex; `male` may be None where it does not.

    Raises:
        UserError: `place` holds no run, no checkpoint yet, a checkpoint that does not fit, or a
            run without a network (trainer='classical'); a file that is damaged or foreign.
    """

    def __init__(self, place: pathlib.Path | str, *, batch_size: int = 0, dtype: str = ''):
        place = exported.find(place)
        self.config = read_config(place)
        if dtype:
            with self.config.unlocked():
                self.config.dtype = dtype
        self.task = read_task(place)
        self.batch_size = batch_size or self.config.batch_size
        # Shapes alone: no parameter is drawn.
        model = nnx.eval_shape(lambda: build_model(self.config))
        graphdefs, *parts = state_lib.partition(model, self.config.frozen)
        state = state_lib.State(None, *parts, None, None)
        if exported.is_file(place):
            state = initialize.load_file(state, place)
            self.step = step_of(place)
        else:
            with checkpoint.Checkpoints(place) as checkpoints:
                state = checkpoints.load_parameters(state)
                self.step = checkpoints.best_or_latest
        self._parts = (state.params, state.frozen_params, state.batch_stats)
        self._sizes = set()
        self.views = views.Views.of_config(self.config)

        apply = make_apply(graphdefs)
        self._graphs = apply
        self._apply = jax.jit(apply)
        image = jax.ShapeDtypeStruct((1, *self.config.data.size, 1), jnp.uint8)
        male = jax.ShapeDtypeStruct((1,), jnp.bool_)
        self.needs_sex = _reads_last(apply, self._parts, image, male)

    def apply(self, images: jax.Array, male: jax.Array) -> tuple[jax.Array, dict]:
        """As `predictor(images, male)`, to be traced: at once, and nothing is checked."""
        return self._graphs(self._parts, images, male)

    def __call__(self, images, male=None):
        images = np.asarray(images)
        self._check_images(images)
        male = self._checked_sexes(male, len(images))
        outputs = []
        for start in range(0, len(images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            outputs.append(self._batch(images[rows], male[rows]))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)

    def predict_tta(self, images, male=None):
        """The same as the run's evaluation has it.

        `prediction` is averaged with those of the image's views, under `flip_tta` and `turn_tta`.
        """
        images = np.asarray(images)
        self._check_images(images)
        male = self._checked_sexes(male, len(images))
        at_once = max(1, self.batch_size // self.views.count)
        parts = []
        for start in range(0, len(images), at_once):
            rows = slice(start, start + at_once)
            parts.append(self._averaged(images[rows], male[rows], at_once))
        return jax.tree.map(lambda *each: np.concatenate(each), *parts)

    def _averaged(self, images, male, at_once):
        """(prediction, aux) of `at_once` images or fewer, with their views in the same batch."""
        count = len(images)
        padded = self._padded(images, at_once)  # so that turning them is one program
        others = [np.asarray(view)[:count] for view in self.views.of(padded)]
        prediction, aux = self(np.concatenate([images, *others]), np.tile(male, 1 + len(others)))
        own, *of_views = np.split(prediction, 1 + len(others))
        prediction = self.task.mean_of_views(own, of_views, mirrored=self.views.flip)
        return prediction, jax.tree.map(lambda x: x[:count], aux)

    def over(
        self, split: Split, batch_size: int | None = None, *, tta: bool = False
    ) -> Iterator[tuple[slice, dict, np.ndarray, dict]]:
        """Runs the images of a split through the network, batch by batch, in order.

        Args:
            split: the images and their labels; each comes exactly once.
            batch_size: images at once; the predictor's own where it is None.
            tta: predict as the run's evaluation does (`predict_tta`).

        Yields:
            `(rows, batch, prediction, aux)`: the slice of the split, its images and labels (as
            `pipeline.take` gives them), and what the network made of them. Nothing is padded.
        """
        predict = self.predict_tta if tta else self
        size = batch_size or self.batch_size
        for start in range(0, len(split), size):
            rows = slice(start, min(start + size, len(split)))
            batch = pipeline.take(split, np.arange(rows.start, rows.stop))
            prediction, aux = predict(batch['image'], batch['male'])
            yield rows, batch, prediction, aux

    def _check_images(self, images):
        shape = (*self.config.data.size, 1)
        fits = images.ndim == 4 and images.shape[1:] == shape and images.dtype == np.uint8
        if not fits or not len(images):
            raise UserError(
                f'images: expected uint8 [N, {", ".join(map(str, shape))}], as this run was '
                f'trained on; found {images.dtype} {list(images.shape)}'
            )

    def _checked_sexes(self, male, count):
        if male is None:
            if self.needs_sex:
                raise UserError('male: this network reads the sex; give it for every image')
            return np.zeros(count, bool)
        male = np.asarray(male, bool)
        if male.shape != (count,):
            raise UserError(
                f'male: expected {count} values, one an image; found shape {list(male.shape)}'
            )
        return male

    def _batch(self, images, male):
        """At most `batch_size` images, padded to a size that is compiled already if there is one.

        Otherwise they are padded to a power of two, `_FEWEST` at least.
        """
        count = len(images)
        size = self._size(count)
        outputs = self._apply(
            self._parts, self._padded(images, size), np.pad(male, (0, size - count))
        )
        return jax.tree.map(lambda x: x[:count], jax.device_get(outputs))

    def _size(self, count):
        fitting = [size for size in self._sizes if size >= count]
        power_of_two = 1 << (count - 1).bit_length()
        size = min(fitting, default=min(self.batch_size, max(_FEWEST, power_of_two)))
        self._sizes.add(size)
        return size

    @staticmethod
    def _padded(images, size):
        return np.pad(images, ((0, size - len(images)), (0, 0), (0, 0), (0, 0)))


def make_apply(graphdefs: state_lib.GraphDefs) -> Callable:
    """`apply(parts, image, male) -> (prediction, aux)`, to be jitted.

    `parts` are the parameters, frozen parameters and batch statistics, `image` is uint8
    `[B, H, W, 1]`.
    """

    def apply(parts, image, male):
        model = nnx.merge(graphdefs.evaluate, *parts)
        return model(augment.to_float({'image': image})['image'], male)

    return apply


def read_config(place: pathlib.Path | str) -> ml_collections.ConfigDict:
    """The configuration of the network at `place`, as `Predictor` takes it, locked.

    Raises UserError where there is no run, or none that has a network.
    """
    path = exported.find(place)
    if exported.is_file(path):
        config = config_lib.from_saved(exported.read(path).config, path)
    elif (path / 'config.json').is_file():
        config = config_lib.from_json(path / 'config.json')
    else:
        raise UserError(
            f'{place}: no run lies there (no config.json); give {exported.WHERE} '
            f'({shipped.listed()})'
        )
    if config.trainer != 'gradient':
        raise UserError(
            f'{place} holds a run with trainer={config.trainer!r}, which keeps no network to '
            'predict with; give the workdir of a gradient-trained run'
        )
    return config


def read_task(place: pathlib.Path | str) -> tasks.Task:
    """The task of the network at `place`, with the numbers fitted on its training ages."""
    path = exported.find(place)
    config = read_config(path)
    if exported.is_file(path):
        fitted = exported.read(path).task
    elif (path / 'task.json').is_file():
        fitted = json.loads((path / 'task.json').read_text())
    else:
        raise UserError(f'{path / "task.json"}: no such file: this run has not begun to train')
    return tasks.build(config.task, fitted)


def step_of(place: pathlib.Path | str) -> int:
    """The step whose network `Predictor(place)` loads, without loading it; raises as it does."""
    path = exported.find(place)
    read_task(path)
    if exported.is_file(path):
        return exported.read(path).step
    with checkpoint.Checkpoints(path) as checkpoints:
        return checkpoints.best_or_latest


def build_model(config: ml_collections.ConfigDict) -> nnx.Module:
    """The network of a configuration with freshly drawn parameters, computing in `config.dtype`."""
    options = {key: value for key, value in config.model.items() if key != 'name'}
    known = config_lib.flat(config)
    for option, key in models.SHARED_OPTIONS.get(config.model.name, {}).items():
        if key not in known:
            raise UserError(
                f'model.name={config.model.name!r} needs {key}: take a task that has it'
            )
        options[option] = known[key]
    dtype = config.dtype
    if dtype == 'auto':
        dtype = 'float32' if target.platform() == 'cpu' else 'bfloat16'
    return models.build(config.model.name, seed=config.seed, dtype=jnp.dtype(dtype), **options)


def _reads_last(function, *arguments):
    """Whether the first output of `function` can depend on its last argument at all.

    It follows the jaxpr backwards from the output.
    """
    jaxpr = jax.make_jaxpr(lambda *a: jax.tree.leaves(function(*a)[0]))(*arguments).jaxpr
    needed = set(_variables(jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(_variables(equation.invars))
    return jaxpr.invars[-1] in needed


def _variables(operands):
    """Those of a jaxpr's operands that are variables, not literals."""
    return [operand for operand in operands if not hasattr(operand, 'val')]
