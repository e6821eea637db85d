"""A training step of the baseline age model beside the same network in PyTorch.

    python -m benchmarks.train_step                    # CPU: 96 px, batch 32; 512 px, batch 4
    python -m benchmarks.train_step --torch_compile    # a GPU: PyTorch compiled too

The two take turns in one process, so that whatever else the machine does meets both. Ours is
boneage_jax.step's whole step: uint8 images in, augmentation (with and without), loss, gradient, its
norm, optimiser. PyTorch gets the images as floats on its device, no augmentation, its fused
optimiser, and the better of its two memory layouts counts. On a CPU both compute in float32; on a
GPU in bfloat16 (`autocast` there), float32 beside it.
"""

import functools
import os
import sys
import time

os.environ.setdefault(
    'XLA_PYTHON_CLIENT_PREALLOCATE', 'false'
)  # PyTorch needs room on the same GPU

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine, report
from boneage_jax import config as config_lib
from boneage_jax import models, tasks
from boneage_jax.runs import state as state_lib
from boneage_jax.training import flops, optimizer
from boneage_jax.training import step as step_lib

AUGMENT = dict(flip=0.5, rotation=15.0, shift=0.1, scale=0.1)  # as in configs/prsnet.py
RATE, DECAY, CENTRE, SCALE = 1e-3, 1e-4, 127.0, 41.0


def main(argv=None):
    on_gpu = jax.default_backend() == 'gpu'
    parser = report.parser('train_step', __doc__)
    parser.add_argument(
        '--networks',
        nargs='+',
        default=['resnet34:64', 'resnet18:32'],
        help='backbone:width[:blocks a stage]',
    )
    sizes = ['96:256', '512:16', '512:64'] if on_gpu else ['96:32', '512:4']
    parser.add_argument(
        '--sizes', nargs='+', default=sizes, help='pixels:batch (default: %(default)s)'
    )
    parser.add_argument('--optimizer', choices=('adamw', 'sgd'), default='adamw')
    parser.add_argument(
        '--seconds', type=float, default=1.0, help='length of a turn; one step at least'
    )
    parser.add_argument(
        '--torch_compile', action='store_true', help='PyTorch also under torch.compile'
    )
    parser.add_argument('--without_torch', action='store_true')
    arguments = parser.parse_args(argv)
    facts = machine.facts()
    torch_step = None if arguments.without_torch else import_torch()
    rows = []
    for size in arguments.sizes:
        side, batch = map(int, size.split(':'))
        for network in arguments.networks:
            backbone, width, depth = (*network.split(':'), 0)[:3]
            rows += _compare(
                backbone, int(width), int(depth), side, batch, torch_step, on_gpu, arguments
            )
    return report.finish('train_step', arguments, facts, rows)


def import_torch():
    """benchmarks.torch_step, or None and a word where PyTorch is missing."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        print(
            f'No comparison: PyTorch cannot be imported ({error}). It is optional: '
            "pip install 'boneage_jax[parity]', or a CPU build of torch.",
            file=sys.stderr,
        )
        return None
    from benchmarks import torch_step

    return torch_step


def _compare(backbone, width, depth, side, batch, torch_step, on_gpu, arguments):
    types = ('bfloat16', 'float32') if on_gpu else ('float32',)
    model = functools.partial(models.build, 'prsnet', backbone=backbone, width=width, depth=depth)
    images = random_images(side, batch)
    contenders = {}
    for dtype in types:
        for name, augment in (('ours', {}), ('ours, augmenting', AUGMENT)):
            contenders[f'{name}, {dtype}'] = ours(
                model(dtype=jnp.dtype(dtype)), images, arguments.optimizer, augment
            )
        if torch_step:
            for layout in ('contiguous', 'channels_last'):
                for compiled in (False, True)[: 1 + arguments.torch_compile]:
                    name = f'PyTorch, {layout}{", compiled" if compiled else ""}, {dtype}'
                    contenders[name] = torch_step.theirs(
                        model(),
                        backbone,
                        width,
                        depth,
                        images,
                        arguments.optimizer,
                        RATE,
                        DECAY,
                        dtype=dtype,
                        channels_last=layout == 'channels_last',
                        compiled=compiled,
                        on_gpu=on_gpu,
                    )
    found = in_turns(contenders, batch, arguments.repeats, arguments.seconds)
    best_torch = {
        dtype: max(
            (
                max(values)
                for name, values in found.items()
                if name.startswith('PyTorch') and name.endswith(dtype)
            ),
            default=None,
        )
        for dtype in types
    }
    rows = []
    for name, values in found.items():
        reference = best_torch[name.rpartition(', ')[2]]
        ratio = max(values) / reference if reference and name.startswith('ours') else None
        note = f'{1000 * batch / max(values):,.0f} ms a step'
        if ratio:
            note += f'; {ratio:.2f} x PyTorch'
        rows.append(
            report.row(
                f'{backbone} w{width}, {side} px, batch {batch}: {name}',
                values,
                'images/s',
                note=note,
                ratio=ratio,
                backbone=backbone,
                width=width,
                side=side,
                batch=batch,
                contender=name,
            )
        )
    return rows


def in_turns(contenders, batch, rounds, seconds):
    """Images a second of each contender in each round; a turn takes about `seconds`, one step at
    least.
    """
    steps = {}
    for name, work in contenders.items():
        work(1)  # compiles
        begin = time.perf_counter()
        work(1)
        steps[name] = max(1, round(seconds / (time.perf_counter() - begin)))
    found = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            time.sleep(0.2)  # the other framework's idle threads spin for a while
            turn = functools.partial(work, steps[name])
            found[name] += machine.rates(turn, steps[name] * batch, 1)
    return found


def random_images(side, batch):
    draw = np.random.default_rng(0)
    return {
        'image': draw.integers(0, 256, (batch, side, side, 1), np.uint8),
        'valid': np.ones(batch, bool),
        'months': draw.uniform(10, 220, batch).astype(np.float32),
        'male': draw.random(batch) < 0.5,
    }


def build(model, name, augmentation, task='age'):
    """(jitted training step, State, GraphDefs, Task, augmentation options) of a network, as
    boneage_jax.train makes them.
    """
    settings = config_lib.base()
    settings['optimizer'].update(name=name, learning_rate=RATE, weight_decay=DECAY)
    settings['augment'].update(augmentation)
    settings['task'].update(name=task, rank_weight=1.0, part_weight=1.0, ranking_form='corrected')
    config = config_lib.build(settings, None, {})
    transform = optimizer.build(config.optimizer, lambda step: RATE)
    state, graphdefs = state_lib.create_state(model, transform)
    task = tasks.build(config.task, {'centre': CENTRE, 'scale': SCALE})
    step = jax.jit(
        step_lib.make_train_step(graphdefs, task, transform, config.augment.to_dict()),
        donate_argnums=0,
    )
    return step, state, graphdefs, task, config.augment.to_dict()


def ours(model, images, name, augmentation, task='age'):
    """`work(steps)` of our training step on one resident batch; `work.flops()` counts those of one
    step.
    """
    step, state, *_ = build(model, name, augmentation, task)
    batch, key, kept = jax.device_put(images), jax.random.key(0), [state]

    def work(steps):
        for _ in range(steps):
            kept[0], metrics = step(kept[0], batch, {}, key)
        jax.block_until_ready((kept[0], metrics))

    work.flops = lambda: flops.flops(step, kept[0], batch, {}, key)
    work.memory = lambda: step.lower(kept[0], batch, {}, key).compile().memory_analysis()
    return work


if __name__ == '__main__':
    main()
