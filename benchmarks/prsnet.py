"""What PRSNet's two modules cost over the baseline (Ji et al. 2019, section 5).

    python -m benchmarks.prsnet                        # 512 px; part sizes 96 and 224
    python -m benchmarks.prsnet --side 96 --batch 32 --backbone resnet18 --width 32 \
        --part_sizes 65 96

The paper says +10% of training and test time, 20 ms an image. Operations are XLA's count
(augmentation and optimiser included), exact on any machine; times, in turns within one process, are
this machine's. Latency: one image, from uint8 pixels on the device to its age. Memory: XLA's plan
of the training step, arguments, results and temporaries together.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import machine, report, train_step
from boneage_jax import models
from boneage_jax.data import augment
from boneage_jax.training import flops


def main(argv=None):
    on_gpu = jax.default_backend() == 'gpu'
    parser = report.parser('prsnet', __doc__)
    parser.add_argument('--backbone', default='resnet34')
    parser.add_argument('--width', type=int, default=64)
    parser.add_argument(
        '--depth', type=int, default=0, help="blocks a stage; 0 = the backbone's own"
    )
    parser.add_argument('--side', type=int, default=512)
    parser.add_argument('--batch', type=int, default=16 if on_gpu else 2)
    parser.add_argument('--part_sizes', type=int, nargs='+', default=[96, 224])
    parser.add_argument(
        '--seconds', type=float, default=1.0, help='length of a turn; one step at least'
    )
    parser.add_argument(
        '--count_only', action='store_true', help='operations alone: nothing is run'
    )
    arguments = parser.parse_args(argv)
    facts = machine.facts()
    dtype = jnp.bfloat16 if on_gpu else jnp.float32
    networks = {'baseline': {}, 'relation alone': dict(relation=True)}
    networks |= {
        f'full, parts of {size} px': dict(relation=True, selection=True, part_size=size)
        for size in arguments.part_sizes
    }
    images = train_step.random_images(arguments.side, arguments.batch)
    build = functools.partial(
        models.build,
        'prsnet',
        backbone=arguments.backbone,
        width=arguments.width,
        depth=arguments.depth,
        dtype=dtype,
    )
    training = {
        name: train_step.ours(build(**switches), images, 'sgd', train_step.AUGMENT, 'age_parts')
        for name, switches in networks.items()
    }
    answering = {name: inference(build(**switches)) for name, switches in networks.items()}
    rows = _relative(
        'training step', {name: [work.flops() / 1e9] for name, work in training.items()}, 'GFLOP'
    )
    rows += _relative(
        'one image',
        {name: [flops.flops(*answer(images, 1)) / 1e9] for name, answer in answering.items()},
        'GFLOP',
    )
    if not arguments.count_only:
        found = train_step.in_turns(training, arguments.batch, arguments.repeats, arguments.seconds)
        rows += _relative(
            f'training step, batch {arguments.batch}',
            {
                name: [1000 * arguments.batch / rate for rate in rates]
                for name, rates in found.items()
            },
            'ms',
        )
        for batch in (1, arguments.batch):
            works = {
                name: functools.partial(repeat, *answer(images, batch))
                for name, answer in answering.items()
            }
            found = train_step.in_turns(works, batch, arguments.repeats, arguments.seconds)
            rows += _relative(
                'latency of one image' if batch == 1 else f'inference, batch {batch}, an image',
                {name: [1000 / rate for rate in rates] for name, rates in found.items()},
                'ms',
            )
        memory = {name: work.memory() for name, work in training.items()}
        rows += _relative(
            'memory of the training step',
            {
                name: [
                    (m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes)
                    / 2**30
                ]
                for name, m in memory.items()
                if m
            },
            'GiB',
        )
    return report.finish('prsnet', arguments, facts, rows)


def inference(model):
    """`answer(images, batch) -> (jitted function, its arguments)`."""
    model.eval()
    graph, state = nnx.split(model)
    predict = jax.jit(
        lambda state, image, male: nnx.merge(graph, state)(
            augment.to_float({'image': image})['image'], male
        )[0]
    )

    def answer(images, batch):
        return (
            predict,
            state,
            jax.device_put(images['image'][:batch]),
            jax.device_put(images['male'][:batch]),
        )

    return answer


def repeat(predict, state, image, male, steps):
    for _ in range(steps):
        ages = predict(state, image, male)
        jax.block_until_ready(ages)  # one image after the other, as a clinic's images come


def _relative(what, values, unit):
    """Rows of times or counts (smaller is better), each with its ratio to the baseline's best."""
    base = min(values['baseline'])
    return [
        report.row(
            f'{what}: {name}',
            numbers,
            unit,
            smaller=True,
            ratio=min(numbers) / base,
            note='' if name == 'baseline' else f'{100 * (min(numbers) / base - 1):+.1f}%',
            network=name,
        )
        for name, numbers in values.items()
    ]


if __name__ == '__main__':
    main()
