"""How a training step should scale, counted from the compiled program.

That is bytes on the wire and operations a device.

    python -m benchmarks.scaling --config=configs/prsnet.py --devices=8
    python -m benchmarks.scaling --config=configs/prsnet.py:sharding=fsdp --devices=8 \
        --images_a_device=32

A PREDICTION, not a measurement: nothing is run. The step is compiled for so many virtual CPU
devices, its collectives are read off the HLO, and each link's time for them is set beside the
chip's for its operations. Bytes are what one device sends in a ring: 2 (n-1)/n of an all-reduce's
size, (n-1)/n of an all-gather's or a reduce-scatter's whole, all of a permute's. Under fsdp a
device keeps its share alone of most gradients' sums: the compilers of GPUs and TPUs make a
reduce-scatter of such an all-reduce, half the bytes, which is taken off here. A collective inside a
loop counts once; latency and input do not count at all. Gradients travel as float32, as compiled
here; where the network computes in bfloat16 those compilers may send half of it. The efficiency is
that without any overlap; the note says what full overlap would give, and how many images a device
make it 90% without.
"""

import math

import jax
import numpy as np
from flax import nnx

from benchmarks import machine, report
from boneage_jax import config as config_lib
from boneage_jax import tasks
from boneage_jax.accelerators import audit, hlo, targets
from boneage_jax.models import cpu
from boneage_jax.runs import predictor
from boneage_jax.runs import state as state_lib
from boneage_jax.runtime import sharding
from boneage_jax.training import optimizer, programs

CHIPS = {  # dense bfloat16 operations a second
    'H200': targets.CHIPS['h200'].bfloat16,
    'A100': targets.CHIPS['a100-40'].bfloat16,
    'v5e': targets.CHIPS['v5e'].bfloat16,
    'v5p': targets.CHIPS['v5p'].bfloat16,
}
LINKS = {  # bytes a second that a device sends, one direction; of one chip where it says so
    'NVLink 4': targets.CHIPS['h200'].links,
    'NVLink 3': targets.CHIPS['a100-40'].links,
    'ICI v5e': targets.CHIPS['v5e'].links,
    'ICI v5p': targets.CHIPS['v5p'].links,
    'InfiniBand NDR': 50e9,
    '100 GbE': 12.5e9,
}
ONLY = {'NVLink 4': 'H200', 'NVLink 3': 'A100', 'ICI v5e': 'v5e', 'ICI v5p': 'v5p'}
KINDS = audit.COLLECTIVES


def main(argv=None):
    parser = report.parser('scaling', __doc__)
    parser.add_argument('--config', required=True, help='as of boneage_jax.main')
    parser.add_argument('--devices', type=int, default=8)
    parser.add_argument(
        '--images_a_device', type=int, help="default: the config's batch_size over the devices"
    )
    parser.add_argument(
        '--chip',
        nargs='+',
        default=list(CHIPS),
        help='names (default: %(default)s) or NAME=OPERATIONS_A_SECOND',
    )
    parser.add_argument(
        '--link',
        nargs='+',
        default=list(LINKS),
        help='names (default: %(default)s) or NAME=BYTES_A_SECOND',
    )
    parser.add_argument(
        '--utilisation',
        type=float,
        default=0.4,
        help="of the chip's rate, on one device (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    chips, links = (
        dict(map(_rate, given, [known] * len(given)))
        for given, known in ((arguments.chip, CHIPS), (arguments.link, LINKS))
    )
    virtual_devices(arguments.devices)
    config = config_lib.load(arguments.config)[1]
    count = arguments.devices
    batch = arguments.images_a_device * count if arguments.images_a_device else config.batch_size
    lowered, parameters, shared = lower(config, count, batch)
    flops = lowered.cost_analysis()['flops'] / count
    found = collectives(lowered.compile().as_text())
    sent = sum(audit.wire_bytes(kind, size, count) for kind, size in found) - audit.wire_bytes(
        'all-gather', shared, count
    )
    rows = [
        report.row(f'operations a device, {batch // count} images', [flops / 1e9], 'GFLOP'),
        report.row('trained parameters', [parameters / 1e6], 'MB', bytes=parameters),
    ]
    for kind in KINDS:
        sizes = [size for other, size in found if other == kind]
        if sizes:
            rows.append(
                report.row(kind, [sum(sizes) / 1e6], 'MB', note=f'{len(sizes)} a step', kind=kind)
            )
    note = 'a step, in a ring' + (
        f'; sums of {shared / 1e6:.3g} MB of gradients as reduce-scatters' if shared else ''
    )
    rows.append(report.row('sent by each device', [sent / 1e6], 'MB', note=note, bytes=sent))
    for chip, rate in chips.items():
        for link, speed in links.items():
            if ONLY.get(link, chip) == chip or chip not in CHIPS:
                rows.append(
                    _predicted(
                        chip,
                        link,
                        flops / rate / arguments.utilisation,
                        sent / speed,
                        batch // count,
                    )
                )
    return report.finish('scaling', arguments, machine.facts(), rows)


def _rate(given, known):
    name, equals, value = given.partition('=')
    if not equals and name not in known:
        raise SystemExit(f'{name!r}: known are {", ".join(known)}; others as NAME=RATE')
    return name, float(value) if equals else known[name]


def _predicted(chip, link, compute, wire, images):
    return report.row(
        f'predicted efficiency, {chip} over {link}',
        [100 * compute / (compute + wire)],
        '%',
        chip=chip,
        link=link,
        note=f'compute {1000 * compute:.3g} ms, wire {1000 * wire:.3g} ms; '
        f'{100 * compute / max(compute, wire):.3g}% if they overlap; '
        f'90% from {math.ceil(9 * wire / compute * images):,} images a device',
    )


def virtual_devices(count):
    """Makes this process see `count` CPU devices; refuses where JAX has started with fewer."""
    try:
        jax.config.update('jax_platforms', 'cpu')
        jax.config.update('jax_num_cpu_devices', count)
    except RuntimeError:  # it has started: in tests, with four
        pass
    if jax.device_count() < count:
        raise SystemExit(f'{jax.device_count()} devices where {count} are needed: unset XLA_FLAGS')


def lower(config, count, batch_size):
    """(training step of `config` lowered for `count` devices, bytes of its trained parameters,
    bytes of those in shares).

    Nothing is drawn, loaded or run. Operations are those of other devices than CPUs
    (boneage_jax/models/cpu.py).
    """
    mesh = sharding.make_mesh(jax.devices()[:count])
    sharding.check_batch_size(batch_size, mesh, config.grad_accum_steps)
    model = nnx.eval_shape(lambda: predictor.build_model(config))
    transform = optimizer.build(config.optimizer, config.optimizer.learning_rate)
    task = tasks.build(config.task, tasks.fit(config.task, np.arange(240.0, dtype=np.float32)))
    graphdefs, *_ = state_lib.partition(model, config.frozen)
    state = jax.eval_shape(
        lambda: state_lib.create_state(predictor.build_model(config), transform, config.frozen)[0]
    )
    steps = programs.build(config, state, graphdefs, task, transform, mesh)
    place = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
        for name, x in programs.batch_shapes(config, batch_size).items()
    }
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, steps.places
    )
    with cpu.counting():
        lowered = steps.train_step.lower(
            state, batch, {}, jax.eval_shape(lambda: jax.random.key(0))
        )
    trained = jax.tree.leaves(state.params)
    return lowered, *(
        sum(x.size * x.dtype.itemsize for x in trained if cut(x.sharding))
        for cut in (lambda _: True, lambda place: not place.is_fully_replicated)
    )


def collectives(text):
    """[(kind, bytes)] of the collectives in the text of an HLO module; bytes of the result on one
    device, tuples added up.
    """
    return audit.collectives(hlo.parse(text))


if __name__ == '__main__':
    main()
