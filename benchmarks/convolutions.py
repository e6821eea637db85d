"""Where a training step's time goes: each convolution and max-pool beside XLA's and PyTorch's.

    python -m benchmarks.convolutions                  # ResNet-34, 96 px, batch 32
    python -m benchmarks.convolutions --network vgg16 --size 224:4
    python -m benchmarks.convolutions --network regional --size 250x188:8

For each convolution: forward, gradient of the input, gradient of the kernel, each compiled alone
(the first layer's input needs none); for each max-pool forward and gradient together. Ours is what
the project computes (boneage_jax/models/cpu.py); beside it, on a CPU, XLA's own operation, and
PyTorch's (channels_last). The table is sorted by what it costs us: the time times how often it
occurs. On a GPU ours is XLA's, both frameworks compute in bfloat16.
"""

import collections
import dataclasses
import functools
import inspect
import math
import os
import time

os.environ.setdefault(
    'XLA_PYTHON_CLIENT_PREALLOCATE', 'false'
)  # PyTorch needs room on the same GPU

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import machine, report, traced, train_step
from boneage_jax import models
from boneage_jax.models import cpu

KINDS = ('forward', 'input', 'kernel', 'pool')
NUMBERS = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # NHWC, HWIO, NHWC


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution, or a max-pool (`outputs` 0) of maps `[rows, columns, inputs]`; pads are the
    same on both sides.
    """

    rows: int
    columns: int
    inputs: int
    outputs: int
    window: tuple
    stride: int
    pads: tuple
    groups: int = 1

    def __str__(self):
        what = f'{self.inputs} -> {self.outputs}' if self.outputs else f'{self.inputs} channels'
        groups = f' in {self.groups} groups' if self.groups > 1 else ''
        window = f'{self.window[0]}x{self.window[1]}/{self.stride}'
        return f'{window}, {what}{groups}, {self.rows}x{self.columns} px'


def main(argv=None):
    on_gpu = jax.default_backend() == 'gpu'
    parser = report.parser('convolutions', __doc__)
    parser.add_argument(
        '--network',
        default='resnet34',
        help=f'{", ".join(models.MODELS)}; a backbone also as name:width',
    )
    parser.add_argument(
        '--size',
        default='512:64' if on_gpu else '96:32',
        help='pixels:batch, or ROWSxCOLUMNS:batch',
    )
    parser.add_argument(
        '--seconds', type=float, default=0.1, help='length of a measurement; one call at least'
    )
    arguments = parser.parse_args(argv)
    facts = machine.facts()
    side, batch = arguments.size.split(':')
    sides, batch = tuple(map(int, side.split('x'))), int(batch)
    sides = sides * 2 if len(sides) == 1 else sides
    name, _, width = arguments.network.partition(':')
    torch_step = train_step.import_torch()
    dtype = jnp.bfloat16 if on_gpu else jnp.float32
    rows = []
    for layer, count in layers(name, int(width or 0), sides).items():
        for kind in _kinds(layer):
            contenders = {'ours': _ours(layer, batch, kind, dtype)}
            if not on_gpu:
                contenders['XLA'] = _ours(layer, batch, kind, dtype, native=True)
            if torch_step:
                contenders['PyTorch'] = torch_step.layer(layer, batch, kind, on_gpu)
            found = {who: _times(work, arguments) for who, work in contenders.items()}
            rows.append(_row(layer, kind, count, found))
    rows.sort(key=lambda r: -r['best'] * r['count'])
    return report.finish('convolutions', arguments, facts, rows + _totals(rows))


def layers(name, width, sides):
    """`{Layer: how often}` of a network of `models.build` on images of `sides` pixels with one
    channel.
    """
    known = models.MODELS[name]
    taken = inspect.signature(known.__init__ if isinstance(known, type) else known).parameters
    options = {'channels': 1} if name in models.BACKBONES else {}
    options |= ({'width': width} if width else {}) | ({'size': sides} if 'size' in taken else {})
    model = nnx.eval_shape(lambda: models.build(name, **options))
    graph, state = nnx.split(model)
    given = [jax.ShapeDtypeStruct((2, *sides, 1), jnp.float32)]
    if 'male' in inspect.signature(type(model).__call__).parameters:
        given.append(jax.ShapeDtypeStruct((2,), jnp.bool))
    found = collections.Counter()
    for equation, times in traced.equations(
        lambda state, *given: nnx.merge(graph, state)(*given, rngs=nnx.Rngs(0)), state, *given
    ):
        if equation.primitive.name in ('conv_general_dilated', 'reduce_window_max'):
            found[_layer(equation)] += times
    return found


def _layer(equation):
    options, (_, rows, columns, inputs) = equation.params, equation.invars[0].aval.shape
    pads = (
        options['padding'][-2:]
        if equation.primitive.name == 'conv_general_dilated'
        else options['padding'][1:3]
    )
    pads = tuple(first for first, _ in pads)
    if equation.primitive.name == 'reduce_window_max':
        return Layer(
            rows,
            columns,
            inputs,
            0,
            options['window_dimensions'][1:3],
            options['window_strides'][1],
            pads,
        )
    *window, _, outputs = equation.invars[1].aval.shape
    return Layer(
        rows,
        columns,
        inputs,
        outputs,
        tuple(window),
        options['window_strides'][0],
        pads,
        options['feature_group_count'],
    )


def _kinds(layer):
    if not layer.outputs:
        return ('pool',)
    if layer.inputs == 1:
        return ('forward', 'kernel')
    return ('forward', 'input', 'kernel')


def _ours(layer, batch, kind, dtype, native=False):
    """`work(steps)` of a layer's `kind`, as boneage_jax/models computes it, or as XLA does by
    itself.
    """
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(batch, layer.rows, layer.columns, layer.inputs)), dtype)
    if kind == 'pool':
        function, given = functools.partial(_pool, layer), (x,)
    else:
        kernel = draw.normal(size=(*layer.window, layer.inputs // layer.groups, layer.outputs))
        function, given = functools.partial(_convolve, layer), (x, jnp.asarray(kernel, dtype))
    gradient = jnp.asarray(draw.normal(size=jax.eval_shape(function, *given).shape), dtype)

    def compute(*given):
        if kind == 'forward':
            return function(*given)
        y, pull = jax.vjp(function, *given)
        return (y, pull(gradient)) if kind == 'pool' else pull(gradient)[kind == 'kernel']

    compute = jax.jit(compute)
    if native:
        with cpu.counting():
            compute = compute.lower(*given).compile()

    def work(steps):
        for _ in range(steps):
            out = compute(*given)
        jax.block_until_ready(out)

    return work


def _convolve(layer, x, kernel):
    pads = [(pad, pad) for pad in layer.pads]
    return cpu.convolver(layer.inputs, layer.outputs, layer.groups)(
        x,
        kernel,
        (layer.stride, layer.stride),
        pads,
        dimension_numbers=NUMBERS,
        feature_group_count=layer.groups,
    )


def _pool(layer, x):
    return cpu.max_pool(x, layer.window[0], layer.stride, layer.pads[0])


def _times(work, arguments):
    """Milliseconds of a call, one number for each of --repeats measurements."""
    work(1)  # compiles
    begin = time.perf_counter()
    work(1)
    steps = max(1, math.ceil(arguments.seconds / (time.perf_counter() - begin)))
    time.sleep(0.1)  # the other framework's idle threads spin for a while
    return [1000 / rate for rate in machine.rates(lambda: work(steps), steps, arguments.repeats)]


def _row(layer, kind, count, found):
    best = {who: min(values) for who, values in found.items()}
    note = '; '.join(
        [
            f'x {count} = {count * best["ours"]:.3g} ms',
            *(
                f'{who} {other:.3g} ms, ours takes {best["ours"] / other:.2f} x that'
                for who, other in best.items()
                if who != 'ours'
            ),
        ]
    )
    return report.row(
        f'{kind}: {layer}',
        found['ours'],
        'ms',
        note=note,
        smaller=True,
        count=count,
        kind=kind,
        each=best,
        layer=str(layer),
    )


def _totals(rows):
    """All layers of one step, a row for each contender: the sums of the best times."""
    totals = []
    for who in rows[0]['each']:
        parts = {
            kind: sum(r['each'][who] * r['count'] for r in rows if r['kind'] == kind)
            for kind in KINDS
        }
        note = '; '.join(f'{kind} {part:.3g} ms' for kind, part in parts.items() if part)
        totals.append(
            report.row(
                f'all of them in a step, {who}',
                [sum(parts.values())],
                'ms',
                note=note,
                smaller=True,
                who=who,
            )
        )
    return totals


if __name__ == '__main__':
    main()
