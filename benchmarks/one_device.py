"""Where the time of a training step goes on one device, and how near it comes to its peak.

    python -m benchmarks.one_device                    # ResNet-34 of 512 px and PRSNet on it
    python -m benchmarks.one_device --side 96 --batch 32 --backbone resnet18 --width 32 \
        --part_size 65

Of the baseline and of the full PRSNet: images a second; operations an image by XLA's count of the
whole step and by hand (those of the convolutions and matrix products of a forward pass, from their
shapes, three times); utilisation, which is the latter over the dense peak measured here with one
large matrix product; shares of the step; memory; inference; the paper's 100 epochs of 12,611 images
extrapolated. Shares: augmentation, forward and forward-with-gradient are timed as programs of their
own; the update is what remains of the whole step, where all of them are fused, so it may come out
below zero. Input: what a step takes longer when each batch is a new one, with the images on the
device and on the host (random images in memory, no decoding).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import machine, prsnet, report, traced, train_step
from boneage_jax import models
from boneage_jax.data import augment, pipeline, source
from boneage_jax.runtime import sharding

IMAGES, EPOCHS = 12611, 100  # Ji et al. 2019; five hours on two cards there


def main(argv=None):
    on_gpu = jax.default_backend() == 'gpu'
    parser = report.parser('one_device', __doc__)
    parser.add_argument('--backbone', default='resnet34')
    parser.add_argument('--width', type=int, default=64)
    parser.add_argument(
        '--depth', type=int, default=0, help="blocks a stage; 0 = the backbone's own"
    )
    parser.add_argument('--side', type=int, default=512)
    parser.add_argument('--batch', type=int, default=64 if on_gpu else 2)
    parser.add_argument(
        '--many', type=int, default=256 if on_gpu else 4, help='images at once in batched inference'
    )
    parser.add_argument('--part_size', type=int, default=96)
    parser.add_argument(
        '--matrix',
        type=int,
        default=8192 if on_gpu else 1024,
        help='side of the matrices of the peak',
    )
    parser.add_argument(
        '--seconds', type=float, default=1.0, help='length of a turn; one step at least'
    )
    arguments = parser.parse_args(argv)
    facts = machine.facts()
    dtype = jnp.bfloat16 if on_gpu else jnp.float32
    peaks = _peak(arguments.matrix, dtype, arguments.repeats)
    rows = [
        report.row(
            f'dense peak, {arguments.matrix} squared, {jnp.dtype(dtype).name}', peaks, 'TFLOP/s'
        )
    ]
    networks = {
        'baseline': {},
        'PRSNet': dict(relation=True, selection=True, part_size=arguments.part_size),
    }
    for name, switches in networks.items():
        model = functools.partial(
            models.build,
            'prsnet',
            backbone=arguments.backbone,
            width=arguments.width,
            depth=arguments.depth,
            dtype=dtype,
            **switches,
        )
        rows += _rows(name, model, max(peaks), arguments)
    return report.finish('one_device', arguments, facts, rows)


def _peak(side, dtype, repeats):
    """TFLOP/s of one matrix product of that side, ten in a row."""
    a = jnp.ones((side, side), dtype)
    product = jax.jit(
        lambda a: jax.lax.fori_loop(0, 10, lambda _, x: (x @ a) * jnp.asarray(1 / side, dtype), a)
    )
    jax.block_until_ready(product(a))
    return [
        10 * 2 * side**3 * rate / 1e12
        for rate in machine.rates(lambda: jax.block_until_ready(product(a)), 1, repeats)
    ]


def _rows(name, model, peak, arguments):
    batch, row = arguments.batch, functools.partial(report.row, network=name)
    examples = train_step.random_images(arguments.side, max(batch, arguments.many))
    few = jax.tree.map(lambda x: x[:batch], examples)
    whole = train_step.ours(model(), few, 'sgd', train_step.AUGMENT, 'age_parts')
    works = {'step': whole, **_parts(model(), few)}
    works |= {f'step, images on the {place}': work for place, work in _fed(model, few).items()}
    answer = prsnet.inference(model())
    works |= {
        count: functools.partial(prsnet.repeat, *answer(examples, size))
        for count, size in {'one': 1, 'many': arguments.many}.items()
    }
    found = train_step.in_turns(works, 1, arguments.repeats, arguments.seconds)  # calls a second
    least = {part: 1 / max(rates) for part, rates in found.items()}
    step, by_hand = least['step'], 3 * traced.products(*answer(examples, 1))
    share = {
        'augmentation': least['augmentation'],
        'forward': least['forward'],
        'backward': least['gradient'] - least['forward'],
        'update, and what fusing saves': step - least['augmentation'] - least['gradient'],
        **{
            f'input, {place}': least[f'step, {place}'] - step
            for place in ('images on the device', 'images on the host')
        },
    }
    speeds = [batch * rate for rate in found['step']]
    rows = [
        row(
            f'{name}: training, batch {batch}',
            speeds,
            'images/s',
            note=f'{1000 * step:.3g} ms a step',
        ),
        row(
            f'{name}: operations an image, XLA, whole step', [whole.flops() / batch / 1e9], 'GFLOP'
        ),
        row(f'{name}: operations an image, by hand', [by_hand / 1e9], 'GFLOP'),
        row(
            f'{name}: utilisation',
            [100 * by_hand * batch / step / 1e12 / peak],
            '%',
            note='of the dense peak above; target 40',
        ),
    ]
    rows += [
        row(
            f'{name}: share of {part}', [100 * seconds / step], '%', note=f'{1000 * seconds:.3g} ms'
        )
        for part, seconds in share.items()
    ]
    plan, stats = whole.memory(), jax.devices()[0].memory_stats()
    if plan:
        held = (
            plan.argument_size_in_bytes
            + plan.output_size_in_bytes
            - plan.alias_size_in_bytes
            + plan.temp_size_in_bytes
        )
        rows.append(
            row(f'{name}: memory of the step, planned', [held / 2**30], 'GiB', smaller=True)
        )
    if stats:
        rows.append(
            row(
                f'{name}: peak memory of this process so far',
                [stats['peak_bytes_in_use'] / 2**30],
                'GiB',
                smaller=True,
            )
        )
    minutes = [IMAGES * EPOCHS / speed / 60 for speed in speeds]
    return rows + [
        row(
            f'{name}: one image',
            [1000 / rate for rate in found['one']],
            'ms',
            smaller=True,
            note='target 2',
        ),
        row(
            f'{name}: inference, batch {arguments.many}',
            [arguments.many * rate for rate in found['many']],
            'images/s',
            note='target 5,000',
        ),
        row(
            f'{name}: {EPOCHS} epochs of {IMAGES:,} images',
            minutes,
            'minutes',
            smaller=True,
            note='extrapolated; target 20',
        ),
    ]


def _parts(model, examples):
    """`work(steps)` of a step's parts, each jitted alone."""
    _, state, graphdefs, task, options = train_step.build(
        model, 'sgd', train_step.AUGMENT, 'age_parts'
    )
    batch, key = jax.device_put(examples), jax.random.key(0)

    def loss_of(trainable, batch):
        net = nnx.merge(
            graphdefs.train, trainable, state.frozen_params, state.batch_stats, copy=True
        )
        prediction, aux = net(batch['image'], batch['male'], rngs=nnx.Rngs(key))
        loss, _ = task.loss(prediction, aux, batch)
        return loss, nnx.to_pure_dict(nnx.state(net, nnx.BatchStat))

    draw = jax.jit(lambda batch: augment.augment(key, batch, options))
    seen = draw(batch)
    return {
        'augmentation': _repeated(draw, batch),
        'forward': _repeated(jax.jit(loss_of), state.params, seen),
        'gradient': _repeated(
            jax.jit(jax.value_and_grad(loss_of, has_aux=True)), state.params, seen
        ),
    }


def _repeated(function, *given):
    def work(steps):
        for _ in range(steps):
            out = function(*given)
        jax.block_until_ready(out)

    return work


def _fed(build, examples):
    """`work(steps)` of whole steps, a new batch for each, for either place of the images: as
    boneage_jax.train feeds them.

    Each place has a network of its own from `build()`: a step takes the arrays that it is given.
    """
    mesh = jax.make_mesh(
        (1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1]
    )
    size = len(examples['male'])
    split = source.Split(
        'train',
        _Images(examples['image']),
        np.arange(8 * size),
        [str(i) for i in range(8 * size)],
        np.tile(examples['months'], 8),
        np.tile(examples['male'], 8),
    )
    works = {}
    for place in ('device', 'host'):
        batches = pipeline.TrainBatches(split, batch_size=size, seed=0, placement=place, mesh=mesh)
        step, state, *_ = train_step.build(build(), 'sgd', train_step.AUGMENT, 'age_parts')
        kept, stream, key = [state], batches.iterate(0, 10**6), jax.random.key(0)

        def work(steps, kept=kept, stream=stream, step=step, resident=batches.resident, key=key):
            for _ in range(steps):
                kept[0], metrics = step(
                    kept[0], sharding.shard_batch(next(stream), mesh), resident, key
                )
            jax.block_until_ready((kept[0], metrics))

        works[place] = work
    return works


class _Images:
    """As many records as are asked for, of a few images."""

    def __init__(self, images):
        self._images = images

    def __getitem__(self, index):
        return {'image': self._images[index % len(self._images)]}

    def __getitems__(self, indices):
        return [self[i] for i in indices]


if __name__ == '__main__':
    main()
