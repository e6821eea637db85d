"""The regional age nets (Iglovikov et al. 2018): a training step and the latency of one image.

    python -m benchmarks.regions                       # region A at the paper's size, batch 8
    python -m benchmarks.regions --size 300 700        # region C
    # as configs/regions.py:rsna100
    python -m benchmarks.regions --size 125 94 --widths 16 32 64 128 --dense 256 --batch 32

The paper gives no time. Three nets in turns within one process: regression, classification over 240
months, and regression with two 3x3 convolutions a block (the released code has 3x3 and 1x1).
Operations are XLA's count, augmentation and optimiser included. Latency: one image, from uint8
pixels on the device to the network's answer. `--count_only` runs nothing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine, prsnet, report, train_step
from boneage_jax import models
from boneage_jax.training import flops

AUGMENT = dict(rotation=5.0, shift=0.05, scale=0.05, gamma=0.25)  # as in configs/regions.py
NETWORKS = {
    'regression': ({}, 'age'),
    'classification': ({'outputs': 240}, 'age_expectation'),
    'regression, 3x3 twice': ({'second': '3x3'}, 'age'),
}


def main(argv=None):
    on_gpu = jax.default_backend() == 'gpu'
    parser = report.parser('regions', __doc__)
    parser.add_argument(
        '--size', type=int, nargs=2, default=[500, 375], help='rows and columns of an image'
    )
    parser.add_argument('--widths', type=int, nargs='+', default=[32, 64, 128, 128, 256, 384])
    parser.add_argument('--dense', type=int, default=2048)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument(
        '--seconds', type=float, default=1.0, help='length of a turn; one step at least'
    )
    parser.add_argument(
        '--count_only', action='store_true', help='operations alone: nothing is run'
    )
    arguments = parser.parse_args(argv)
    facts = machine.facts()
    dtype = jnp.bfloat16 if on_gpu else jnp.float32
    images = train_step.random_images(8, arguments.batch)
    images['image'] = np.random.default_rng(0).integers(
        0, 256, (arguments.batch, *arguments.size, 1), np.uint8
    )
    build = functools.partial(
        models.build,
        'regional',
        size=tuple(arguments.size),
        widths=tuple(arguments.widths),
        hidden_units=arguments.dense,
        dtype=dtype,
    )
    training = {
        name: train_step.ours(build(**options), images, 'adam', AUGMENT, task)
        for name, (options, task) in NETWORKS.items()
    }
    answers = {
        name: prsnet.inference(build(**options))(images, 1)
        for name, (options, _) in NETWORKS.items()
    }
    row = functools.partial(report.row, smaller=True)
    rows = [
        row(f'training step: {name}', [work.flops() / 1e9], 'GFLOP', network=name)
        for name, work in training.items()
    ]
    rows += [
        row(f'one image: {name}', [flops.flops(*answer) / 1e9], 'GFLOP', network=name)
        for name, answer in answers.items()
    ]
    if not arguments.count_only:
        found = train_step.in_turns(training, arguments.batch, arguments.repeats, arguments.seconds)
        rows += [
            row(
                f'training step, batch {arguments.batch}: {name}',
                [1000 * arguments.batch / rate for rate in rates],
                'ms',
                note=f'{max(rates):.1f} images/s',
                network=name,
            )
            for name, rates in found.items()
        ]
        works = {
            name: functools.partial(prsnet.repeat, *answer) for name, answer in answers.items()
        }
        found = train_step.in_turns(works, 1, arguments.repeats, arguments.seconds)
        rows += [
            row(
                f'latency of one image: {name}', [1000 / rate for rate in rates], 'ms', network=name
            )
            for name, rates in found.items()
        ]
    return report.finish('regions', arguments, facts, rows)


if __name__ == '__main__':
    main()
