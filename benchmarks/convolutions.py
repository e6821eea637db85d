"""Where a training step's time goes: its parts, and every distinct convolution beside PyTorch's.

    python -m benchmarks.convolutions --network resnet34:64 --size 96:32

For each convolution of the network: forward, gradient of the input, gradient of the kernel, each compiled alone, times
how often it occurs. The table is sorted by what it costs us, PyTorch's times (channels_last) beside.
"""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine, report, train_step
from boneage_jax.models import resnet


def main(argv=None):
    parser = report.parser('convolutions', __doc__)
    parser.add_argument('--network', default='resnet34:64', help='backbone:width')
    parser.add_argument('--size', default='96:32', help='pixels:batch')
    arguments = parser.parse_args(argv)
    facts = machine.facts()
    (backbone, width), (side, batch) = arguments.network.split(':'), map(int, arguments.size.split(':'))
    torch_step = train_step.import_torch()
    rows = []
    for shape, count in _shapes(backbone, int(width), side).items():
        for what, ours in _ours(shape, batch).items():
            values = [1000 / rate for rate in machine.rates(ours, 1, arguments.repeats + 1)[1:]]
            theirs = None
            if torch_step:
                work = torch_step.convolution(shape, batch, what)
                theirs = min(1000 / rate for rate in machine.rates(work, 1, arguments.repeats + 1)[1:])
            rows.append(_row(shape, what, count, values, theirs))
    rows.sort(key=lambda r: -r['best'] * r['count'])
    rows.append(_total(rows))
    return report.finish('convolutions', arguments, facts, rows)


def _shapes(backbone, width, side):
    """`{(inputs, outputs, size, stride, side of the input): how often}`; square inputs."""
    found = collections.Counter({(1, width, 7, 2, side): 1})
    side, inputs = -(-(-(-side // 2)) // 2), width
    for level, blocks in enumerate(resnet.BLOCKS[backbone]):
        outputs = width << level
        for block in range(blocks):
            stride = 2 if level and block == 0 else 1
            found[inputs, outputs, 3, stride, side] += 1
            if inputs != outputs:
                found[inputs, outputs, 1, stride, side] += 1
            side, inputs = -(-side // stride), outputs
            found[outputs, outputs, 3, 1, side] += 1
    return found


def _ours(shape, batch):
    """`{'forward' | 'input' | 'kernel': work()}`; the stem's input needs no gradient."""
    inputs, outputs, size, stride, side = shape
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(batch, side, side, inputs)), jnp.float32)
    kernel = jnp.asarray(draw.normal(size=(size, size, inputs, outputs)), jnp.float32)

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(size // 2, size // 2)] * 2,
                                            dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    g = jnp.asarray(draw.normal(size=jax.eval_shape(convolve, x, kernel).shape), jnp.float32)
    forward = jax.jit(convolve)
    to_input = jax.jit(lambda g, kernel: jax.linear_transpose(lambda x: convolve(x, kernel), x)(g)[0])
    to_kernel = jax.jit(lambda x, g: jax.linear_transpose(lambda k: convolve(x, k), kernel)(g)[0])
    works = {'forward': functools.partial(forward, x, kernel), 'input': functools.partial(to_input, g, kernel),
             'kernel': functools.partial(to_kernel, x, g)}
    if inputs == 1:
        del works['input']
    return {what: lambda work=work: work().block_until_ready() for what, work in works.items()}


def _row(shape, what, count, values, theirs):
    inputs, outputs, size, stride, side = shape
    note = f'x {count} = {count * min(values):.0f} ms'
    if theirs:
        note += f'; PyTorch {theirs:.2f} ms, ours takes {min(values) / theirs:.2f} x that'
    return report.row(f'{what}: {size}x{size}/{stride}, {inputs} -> {outputs}, {side} px', values, 'ms', note=note,
                      smaller=True, count=count, torch=theirs, kind=what, shape=list(shape))


def _total(rows):
    """All convolutions of one step, ours and PyTorch's."""
    ours = sum(r['best'] * r['count'] for r in rows)
    note = '; '.join(f'{kind} {sum(r["best"] * r["count"] for r in rows if r["kind"] == kind):.0f} ms'
                     for kind in ('forward', 'input', 'kernel'))
    if all(r['torch'] for r in rows):
        note += f'; PyTorch {sum(r["torch"] * r["count"] for r in rows):.0f} ms'
    return report.row('all convolutions of a step', [ours], 'ms', note=note, smaller=True)


if __name__ == '__main__':
    main()
