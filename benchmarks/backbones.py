"""Each backbone beside torchvision's: forward and training step, images a second and the ratio.

    python -m benchmarks.backbones                     # CPU: 224 px (Inception 299), batch 4
    python -m benchmarks.backbones --networks resnet50 --side 512 --batch 16

The two take turns in one process, as in benchmarks.train_step. Forward: evaluation mode, logits.
Training step: cross entropy over 1,000 classes, gradient, SGD with momentum, dropout on, Inception
without its auxiliary head. PyTorch's better memory layout counts. On a CPU both compute in float32;
on a GPU in bfloat16 (`autocast` there).
"""

import contextlib
import importlib.util
import os
import sys

os.environ.setdefault(
    'XLA_PYTHON_CLIENT_PREALLOCATE', 'false'
)  # PyTorch needs room on the same GPU

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import machine, report, train_step
from boneage_jax import models

RATE, MOMENTUM, CLASSES = 1e-3, 0.9, 1000


def main(argv=None):
    on_gpu = jax.default_backend() == 'gpu'
    parser = report.parser('backbones', __doc__)
    parser.add_argument(
        '--networks',
        nargs='+',
        choices=list(models.BACKBONES),
        default=[name for name in models.BACKBONES if name != 'vgg16_bn'],
    )
    parser.add_argument(
        '--side',
        type=int,
        default=224,
        help="pixels; Inception's is 299 at least (default: %(default)s)",
    )
    parser.add_argument('--batch', type=int, default=64 if on_gpu else 4)
    parser.add_argument(
        '--width', type=int, default=0, help='of networks other than ResNet; 0: the originals'
    )
    parser.add_argument(
        '--seconds', type=float, default=1.0, help='length of a turn; one step at least'
    )
    parser.add_argument('--without_torch', action='store_true')
    arguments = parser.parse_args(argv)
    facts = machine.facts()
    with_torch = not arguments.without_torch and _has_torchvision()
    dtype = 'bfloat16' if on_gpu else 'float32'
    rows = []
    for name in arguments.networks:
        side = max(arguments.side, 299 if name == 'inception_v3' else 0)
        width = 0 if name.startswith('resnet') else arguments.width
        draw = np.random.default_rng(0)
        image = draw.normal(size=(arguments.batch, side, side, 3)).astype(np.float32)
        labels = draw.integers(0, CLASSES, arguments.batch)
        contenders = ours(name, width, image, labels, dtype)
        if with_torch:
            for layout in ('contiguous', 'channels_last'):
                contenders |= theirs(name, width, image, labels, dtype, layout, on_gpu)
        rows += _rows(name, side, arguments, contenders)
    return report.finish('backbones', arguments, facts, rows)


def _has_torchvision():
    """Whether PyTorch and torchvision are there; says what is missing."""
    if train_step.import_torch() is None:
        return False
    if importlib.util.find_spec('torchvision') is None:
        print(
            'No comparison: torchvision is missing; beside a CPU build of torch, pip install '
            '--no-deps torchvision.',
            file=sys.stderr,
        )
        return False
    return True


def _rows(name, side, arguments, contenders):
    found = train_step.in_turns(contenders, arguments.batch, arguments.repeats, arguments.seconds)
    rows = []
    for (what, who), values in found.items():
        references = [
            max(rates)
            for (other, torch), rates in found.items()
            if other == what and torch != 'ours'
        ]
        ratio = max(values) / max(references) if references and who == 'ours' else None
        note = f'{1000 * arguments.batch / max(values):,.0f} ms'
        if ratio:
            note += f'; {ratio:.2f} x PyTorch'
        rows.append(
            report.row(
                f'{name}, {side} px, batch {arguments.batch}, {what}: {who}',
                values,
                'images/s',
                note=note,
                ratio=ratio,
                network=name,
                side=side,
                kind=what,
                contender=who,
            )
        )
    return rows


def ours(name, width, image, labels, dtype):
    """`{(kind, 'ours'): work(steps)}` of our network; the arrays rest on the device."""
    options = ({'width': width} if width else {}) | (
        {'aux_logits': False} if name == 'inception_v3' else {}
    )
    model = models.build(name, num_outputs=CLASSES, dtype=jnp.dtype(dtype), **options)
    model.eval()
    evaluate = nnx.graphdef(model)
    model.train()
    train, *state = nnx.split(model, nnx.Param, nnx.BatchStat)
    transform = optax.sgd(RATE, MOMENTUM)
    image, labels = jax.device_put((image, labels))

    @jax.jit
    def forward(parameters, statistics):
        return nnx.merge(evaluate, parameters, statistics)(image)

    @jax.jit
    def step(parameters, statistics, memory, key):
        def loss_of(parameters):
            model = nnx.merge(train, parameters, statistics, copy=True)
            logits = model(image, rngs=nnx.Rngs(key)).astype(jnp.float32)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, nnx.state(model, nnx.BatchStat)

        (_, statistics_), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters)
        updates, memory = transform.update(gradients, memory)
        return optax.apply_updates(parameters, updates), statistics_, memory

    kept = [(*state, transform.init(state[0]))]

    def predict(steps):
        for _ in range(steps):
            logits = forward(*kept[0][:2])
        logits.block_until_ready()

    def learn(steps):
        for number in range(steps):
            kept[0] = step(*kept[0], jax.random.key(number))
        jax.block_until_ready(kept[0])

    return {('forward', 'ours'): predict, ('training step', 'ours'): learn}


def theirs(name, width, image, labels, dtype, layout, on_gpu):
    """`{(kind, who): work(steps)}` of torchvision's network."""
    import torch

    from benchmarks import torch_backbones

    torch.set_num_threads(machine.cores())
    torch.backends.cudnn.benchmark = True
    device = 'cuda' if on_gpu else 'cpu'
    network = torch_backbones.build(name, num_outputs=CLASSES, width=width)
    if name == 'inception_v3':
        network.AuxLogits, network.aux_logits = None, False
    place = {
        'device': device,
        'memory_format': getattr(
            torch, 'channels_last' if layout == 'channels_last' else 'contiguous_format'
        ),
    }
    network = network.to(**place)
    image = torch.tensor(image.transpose(0, 3, 1, 2).copy()).to(**place)
    labels = torch.tensor(labels, device=device)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM, fused=True)
    precision = (
        (lambda: torch.autocast(device, torch.bfloat16))
        if dtype == 'bfloat16'
        else contextlib.nullcontext
    )

    def predict(steps):
        network.eval()
        with torch.inference_mode(), precision():
            for _ in range(steps):
                logits = network(image)
        logits.sum().item()

    def learn(steps):
        network.train()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with precision():
                logits = network(image)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            optimizer.step()
        loss.item()
        if on_gpu:
            torch.cuda.synchronize()

    return {
        ('forward', f'PyTorch, {layout}'): predict,
        ('training step', f'PyTorch, {layout}'): learn,
    }


if __name__ == '__main__':
    main()
