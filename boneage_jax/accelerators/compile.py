"""The programs of a run, compiled for a target, with their memory.

They are those of `training/programs.py`, with shapes in the place of arrays: nothing is drawn,
loaded or run.
"""

import dataclasses
import hashlib
import math
import re
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from boneage_jax import tasks
from boneage_jax.accelerators import hlo, operations
from boneage_jax.accelerators.targets import GIB, Target
from boneage_jax.errors import UserError
from boneage_jax.runs import predictor
from boneage_jax.runs import state as state_lib
from boneage_jax.runtime import sharding
from boneage_jax.runtime import target as target_lib
from boneage_jax.training import feature_cache, optimizer, programs

TRAIN = 'training step'
EVALUATE = 'evaluation step'
PREDICT = 'one image'
PROGRAMS = (TRAIN, EVALUATE, PREDICT)
_AGES = np.arange(240.0, dtype=np.float32)  # months: no figure depends on them
_TOO_LARGE = re.compile(r'Used ([\d.]+)([KMGT]?)i?B? of')
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a program runs.

    Attributes:
        state: parameters, the optimiser's memory, batch statistics.
        resident: the training images that stay on the device.
        batch: what each call is given.
        temporaries: what the program needs while it runs.
        results: what it returns and did not overwrite.
        code: the program itself.
        refused: what the compiler says that it would need, where it refused to compile; 0 else.
    """

    state: int = 0
    resident: int = 0
    batch: int = 0
    temporaries: int = 0
    results: int = 0
    code: int = 0
    refused: int = 0

    @property
    def total(self) -> int:
        """All of it, or what the compiler says."""
        parts = dataclasses.asdict(self)
        refused = parts.pop('refused')
        return refused or sum(parts.values())


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program and what its compiler says of it.

    Attributes:
        name: one of `PROGRAMS`.
        images: in a call, on all devices.
        memory: on each device.
        operations: {type: operations} of a call, on all devices.
        module: what was compiled; None where it does not fit.
        text: its HLO.
        compiler: the compiler's own figures (`flops`, `bytes accessed`), for TPUs alone.
        seconds: that compiling took here.
    """

    name: str
    images: int
    memory: Memory
    operations: dict[str, int]
    module: hlo.Module | None
    text: str = ''
    compiler: dict = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


class Run:
    """The programs of a run of `config` on `target`, to be compiled for any batch size.

    Args:
        config: of the run.
        target: what to compile for.
        devices: of the target, see `topology.devices`.
        images: training images, which `data.placement=device` keeps on every device.

    Attributes:
        dtype: what the run computes in there, 'bfloat16' or 'float32'.
        unit: batch sizes are multiples of it.
        resident: bytes that the training images take, or would take, on a device.

    Raises:
        UserError: the run has no gradient step, or the batch does not divide over the devices.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, target: Target, devices: list, *, images: int
    ):
        if config.trainer != 'gradient':
            raise UserError(
                f'trainer={config.trainer!r} trains on the host: it has no program for '
                f'{target.name}'
            )
        self.config = config
        self.target = target
        self.mesh = sharding.make_mesh(devices)
        self.unit = self.mesh.size * config.grad_accum_steps
        sharding.check_batch_size(config.batch_size, self.mesh, config.grad_accum_steps)
        fitted = tasks.fit(config.task, _AGES)
        self.task = tasks.build(config.task, fitted)
        with self._tracing():
            self.model = nnx.eval_shape(lambda: predictor.build_model(config))
            self.graphdefs, *_ = state_lib.partition(self.model, config.frozen)
            steps_per_epoch = max(1, images // config.batch_size)
            rate = optimizer.schedule(
                config.optimizer,
                steps_per_epoch=steps_per_epoch,
                total_steps=config.epochs * steps_per_epoch,
            )
            transform = optimizer.build(config.optimizer, rate)
            state = jax.eval_shape(lambda: self._create(transform))
            self.steps = programs.build(
                config, state, self.graphdefs, self.task, transform, self.mesh
            )
        self.state = jax.tree.map(_placed, state, self.steps.places)
        self.images = images
        self.dtype = _compute_type(config)
        self.resident = _bytes(self._resident())

    def _create(self, transform):
        model = predictor.build_model(self.config)
        averaged = self.config.ema > 0
        state, _ = state_lib.create_state(model, transform, self.config.frozen, averaged=averaged)
        return state

    def _tracing(self):
        return target_lib.compiling_for(self.target.chip.platform)

    # What the programs are given.

    def _examples(self, size):
        """A batch with its labels, on the host's placement; kept features where a run has them."""
        shapes = programs.batch_shapes(self.config, size)
        if feature_cache.can_cache(self.config, self.model):
            image = jax.ShapeDtypeStruct(shapes.pop('image').shape, jnp.float32)
            features = jax.eval_shape(lambda model, image: model.features(image), self.model, image)
            dtype = jnp.dtype(self.config.cache_features)
            shapes['features'] = jax.ShapeDtypeStruct(features.shape, dtype)
        return shapes

    def _batch(self, size, kept=()):
        place = sharding.batch_sharding(self.mesh)
        shapes = self._examples(size)
        return {name: _placed(x, place) for name, x in shapes.items() if name not in kept}

    def _resident(self):
        place = sharding.replicated_sharding(self.mesh)
        shapes = self._examples(self.images)
        names = [name for name in shapes if name not in ('index', 'valid')]
        return {name: _placed(shapes[name], place) for name in names}

    # The programs.

    def compile(self, name: str, size: int) -> Compiled:
        """The program `name` for batches of `size` images; UserError where that is impossible."""
        traced, held, given = self._traced(name, size)
        counted = operations.products(traced.jaxpr)
        lowered = self._lowered(traced)
        began = time.monotonic()
        try:
            program = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            needed = _refused(str(error))
            if needed:
                return Compiled(name, size, Memory(refused=needed), counted, None)
            raise UserError(
                f'the {name} of {size} images cannot be compiled for {self.target.title}: '
                f'{(str(error).splitlines() or ["no reason given"])[0][:400]}'
            ) from error
        stats = program.memory_analysis()
        text = program.as_text()
        memory = Memory(
            **held,
            batch=given,
            temporaries=stats.temp_size_in_bytes,
            results=max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0),
            code=stats.generated_code_size_in_bytes,
        )
        return Compiled(
            name,
            size,
            memory,
            counted,
            hlo.parse(text),
            text=text,
            compiler=_own_figures(program),
            seconds=time.monotonic() - began,
        )

    def digest(self, name: str, size: int) -> str:
        """A name for the program before it is compiled: equal programs have the same."""
        traced, *_ = self._traced(name, size)
        return hashlib.sha256(self._lowered(traced).as_text().encode()).hexdigest()[:16]

    def _lowered(self, traced):
        return traced.lower(lowering_platforms=(self.target.chip.platform,))

    def _traced(self, name, size):
        """(the traced program, bytes that stay on the device, bytes that each call is given)."""
        if name == PREDICT:
            return self._traced_prediction(size)
        on_device = self.config.data.placement == 'device'
        resident = self._resident() if on_device else {}
        held = {'state': _bytes(self.state), 'resident': _bytes(resident)}
        if name == EVALUATE:  # the images that are trained on stay where they are
            batch = self._batch(size)
            arguments = (self.state, batch, {})
            function = self.steps.eval_step
        else:
            key = jax.eval_shape(lambda: jax.random.key(0))
            key = _placed(key, sharding.replicated_sharding(self.mesh))
            batch = self._batch(size, kept=resident)
            arguments = (self.state, batch, resident, key)
            function = self.steps.train_step
        with self._tracing():
            return function.trace(*arguments), held, _bytes(batch)

    def _traced_prediction(self, size):
        """As `runs.predictor` has it, on one device."""
        place = sharding.replicated_sharding(sharding.make_mesh(self.mesh.devices.ravel()[:1]))
        parts = (self.state.params, self.state.frozen_params, self.state.batch_stats)
        parts = jax.tree.map(lambda x: _placed(x, place), parts)
        shapes = programs.batch_shapes(self.config, size)
        given = (_placed(shapes['image'], place), _placed(shapes['male'], place))
        apply = jax.jit(predictor.make_apply(self.graphdefs))
        with self._tracing():
            traced = apply.trace(parts, *given)
        return traced, {'state': _bytes(parts), 'resident': 0}, _bytes(given)


def _own_figures(program):
    try:
        costs = program.cost_analysis() or {}
    except (jax.errors.JaxRuntimeError, NotImplementedError):
        return {}
    return {name: costs[name] for name in ('flops', 'bytes accessed') if name in costs}


def _compute_type(config):
    return 'bfloat16' if config.dtype == 'auto' else config.dtype


def _placed(x, place):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _bytes(tree):
    """Bytes of a tree of placed shapes on one device, without the padding of layouts."""
    total = 0
    for x in jax.tree.leaves(tree):
        shape = x.sharding.shard_shape(x.shape) if x.sharding else x.shape
        width = 8 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
        total += math.prod(shape) * width
    return total


def _refused(message):
    """Bytes that a program would need that the compiler calls too large; 0 for other errors."""
    if 'RESOURCE_EXHAUSTED' not in message and 'out of memory' not in message.lower():
        return 0
    found = _TOO_LARGE.search(message)
    if not found:
        return 10**6 * GIB
    return int(float(found[1]) * _UNITS[found[2]])
