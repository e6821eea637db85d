"""Whether a run fits an accelerator, and what its programs do there: figures for words and JSON."""

import collections
import pathlib

import ml_collections

from boneage_jax.accelerators import audit, compile, roofline, targets, topology
from boneage_jax.accelerators.compile import PREDICT, PROGRAMS, TRAIN, Compiled, Run
from boneage_jax.accelerators.targets import Target
from boneage_jax.runtime import files, log

IMAGES = 12611  # of RSNA's training set
SHOWN = 5  # of the largest copies and maps
NOTE = (
    "Every figure is a compiler's or arithmetic on one: nothing was run on this device. Times are "
    'the least that its limits allow; programs take longer.'
)


def fits(
    config: ml_collections.ConfigDict,
    target: str,
    *,
    images: int = IMAGES,
    largest: bool = True,
    names: tuple[str, ...] = PROGRAMS,
    hlo_folder: pathlib.Path | None = None,
) -> dict:
    """Compiles the programs of a run for `target`; what is to be known of them, as plain values.

    Args:
        config: of the run.
        target: such as `h100`, see `targets.parse`.
        images: training images, which `data.placement=device` keeps on every device.
        largest: look for the largest batch that fits, with up to four more compiles.
        names: programs, of `compile.PROGRAMS`.
        hlo_folder: where to write the programs' HLO, None = nowhere.

    Raises:
        UserError: the target is unknown, its compiler is missing, or a program cannot be compiled.
    """
    goal = targets.parse(target)
    run = Run(config, goal, topology.devices(goal), images=images)
    found = {}
    for name in names:
        size = 1 if name == PREDICT else config.batch_size
        log.info(f'Compiling the {name} ({size} images) for {goal.title}.')
        found[name] = run.compile(name, size)
        if hlo_folder and found[name].text:
            pathlib.Path(hlo_folder).mkdir(parents=True, exist_ok=True)
            path = pathlib.Path(hlo_folder) / f'{name.replace(" ", "_")}.hlo'
            files.write_atomic(path, found[name].text)
    return {
        'note': NOTE,
        'target': {
            'name': goal.name,
            'title': goal.title,
            'devices': goal.count,
            'memory': goal.chip.memory,
            'usable': roofline.usable(goal.chip),
            'bandwidth': goal.chip.bandwidth,
            'bfloat16': goal.chip.bfloat16,
            'float32': goal.chip.float32,
            'links': goal.chip.links,
            'source': goal.chip.source,
        },
        'run': {
            'config': config.config_file,
            'model': config.model.name,
            'size': list(config.data.size),
            'dtype': run.dtype,
            'batch_size': config.batch_size,
            'sharding': config.sharding,
            'epochs': config.epochs,
            'placement': config.data.placement,
            'images': images,
            'resident_bytes': run.resident,
        },
        'versions': topology.versions(),
        'programs': {name: describe(program, run, goal) for name, program in found.items()},
        'largest_batch': _largest(run, goal, found) if largest and TRAIN in found else None,
    }


def describe(program: Compiled, run: Run, target: Target) -> dict:
    """The figures of one program."""
    memory = program.memory
    devices = 1 if program.name == PREDICT else target.count
    figures = {
        'images': program.images,
        'seconds_to_compile': round(program.seconds, 1),
        'memory': {**vars(memory), 'total': memory.total},
        'fits': roofline.verdict(memory.total, target.chip),
        'operations': program.operations,
    }
    if program.module is None:
        return figures
    module = program.module
    sent = 0.0
    kinds = collections.defaultdict(lambda: {'count': 0, 'bytes': 0})
    for kind, size in audit.collectives(module):
        kinds[kind]['count'] += 1
        kinds[kind]['bytes'] += size
        sent += audit.wire_bytes(kind, size, max(devices, 2))
    moved = audit.moved_bytes(module)
    times = roofline.times(program.operations, moved, sent, target, devices)
    bound = max(times, key=times.get)
    present = audit.opcodes(module)
    return figures | {
        'moved_bytes': moved,
        'compiler': program.compiler,
        'estimated_cycles': audit.estimated_cycles(module),
        'products': [
            {**vars(product), 'count': count} for product, count in audit.products(module).items()
        ],
        'float32_maps': _listed(
            [(part, shape.stored_bytes) for part, shape in audit.float32_maps(module)]
        ),
        'copies': _listed(audit.copies(module)),
        'movers': _listed(audit.movers(module)),
        'scatters': present.get('scatter', 0) + present.get('select-and-scatter', 0),
        'gathers': present.get('gather', 0),
        'collectives': dict(kinds),
        'sent_bytes': int(sent),
        'seconds': times,
        'bound': bound,
        'least_seconds': times[bound],
        'images_per_second': program.images / times[bound] if times[bound] else None,
        'forbidden': audit.forbidden(module, run.dtype),
    }


def _listed(pairs):
    """Count, bytes and the largest of (instruction, bytes) in order."""
    return {
        'count': len(pairs),
        'bytes': sum(size for _, size in pairs),
        'largest': [
            {'name': part.name, 'opcode': part.opcode, 'source': part.source, 'bytes': size}
            for part, size in pairs[:SHOWN]
        ],
    }


def _largest(run, target, found):
    """The largest batch of the training step, and the sizes that were compiled for it."""

    def total_of(size):
        log.info(f'Compiling the {TRAIN} ({size} images) for the largest batch.')
        return run.compile(TRAIN, size).memory.total

    known = {run.config.batch_size: found[TRAIN].memory.total}
    size, compiled = roofline.largest_batch(
        total_of,
        known,
        limit=roofline.usable(target.chip),
        unit=run.unit,
        at_most=run.images,
    )
    return {'size': size, 'compiled': {str(key): value for key, value in sorted(compiled.items())}}


__all__ = ['IMAGES', 'NOTE', 'PROGRAMS', 'compile', 'describe', 'fits']
