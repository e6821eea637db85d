"""Every config and every row at the paper's size, compiled for accelerators that are not there.

    launch/run.sh benchmarks.accelerators                             # the rest of the table
    launch/run.sh benchmarks.accelerators --configs prsnet --targets h100
    launch/run.sh benchmarks.accelerators --only_table

Each training step is compiled as `boneage fits` does, and what is found is kept in
docs/benchmarks/accelerators.json at once: a stopped call goes on, rows that make the same program
are compiled once. docs/accelerators.md is written anew from it. A TPU program takes minutes, more
where the machine has other work.
"""

import argparse
import collections
import json
import pathlib

from benchmarks import machine
from boneage_jax import config as config_lib
from boneage_jax.errors import UserError
from boneage_jax.runtime import files, log

TARGETS = ('h100', 'a100-40', 'v5e')
KEPT = machine.ROOT / 'docs' / 'benchmarks' / 'accelerators.json'
PAGE = machine.ROOT / 'docs' / 'accelerators.md'
HEAD = """# Accelerators

Written by `python -m benchmarks.accelerators`: the training step of every config and row at the
paper's size, compiled for devices that were not there. **Nothing was run on these devices**:
memory, bytes and programs are what XLA's compilers say; times are operations, bytes moved and bytes
sent over the devices' peaks, whichever is largest. A device takes longer. The peaks and their
sources are in `boneage_jax/accelerators/targets.py`; the
[guide](guide.md#accelerators-without-one) says what the columns count.
"""


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.accelerators',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--targets', nargs='+', default=list(TARGETS))
    parser.add_argument('--configs', nargs='+', help='names of configs (default: all)')
    parser.add_argument('--rows', nargs='+', help='names of rows (default: all)')
    parser.add_argument('--nolargest', action='store_true', help='leave the largest batch out')
    parser.add_argument('--only_table', action='store_true', help='compile nothing')
    parser.add_argument('--output', type=pathlib.Path, default=KEPT)
    parser.add_argument('--page', type=pathlib.Path, default=PAGE)
    arguments = parser.parse_args(argv)
    kept = read(arguments.output)
    wanted = list(specs(arguments.configs, arguments.rows))
    if not arguments.only_table:
        import jax

        jax.config.update('jax_platforms', 'cpu')
        for target in arguments.targets:
            for name, row, spec in wanted:
                if not _has(kept, name, row, target):
                    _fill(kept, name, row, spec, target, not arguments.nolargest)
                    files.write_json(arguments.output, kept)
    files.write_atomic(arguments.page, page(kept, list(specs())))
    print(arguments.page)


def specs(names=None, rows=None):
    """`(config, row, spec)` of every row of every config that trains by gradients; of a config
    without rows itself, its row ''.
    """
    for path in sorted((machine.ROOT / 'configs').glob('*.py')):
        if path.stem.startswith('_') or (names and path.stem not in names):
            continue
        module = config_lib.load_module(str(path))
        every = module.sweep() if hasattr(module, 'sweep') else ()
        found = [row.name for row in every if not row.optional]
        for row in found or ['']:
            if rows and row not in rows:
                continue
            spec = f'{path}:row={row}' if row else str(path)
            if config_lib.load(spec)[1].trainer == 'gradient':
                yield path.stem, row, spec


def read(path: pathlib.Path) -> dict:
    """{'programs': {digest: figures}, 'rows': [config, row, target, digest]}, empty where there is
    no file.
    """
    if not path.exists():
        return {'programs': {}, 'rows': []}
    return json.loads(path.read_text())


def _has(kept, name, row, target):
    return any(known[:3] == [name, row, target] for known in kept['rows'])


def _fill(kept, name, row, spec, target, largest):
    from boneage_jax.accelerators import compile as compile_lib
    from boneage_jax.accelerators import fits, targets, topology

    config = config_lib.load(spec)[1]
    goal = targets.parse(target)
    run = compile_lib.Run(config, goal, topology.devices(goal), images=fits.IMAGES)
    digest = f'{target}-{run.digest(compile_lib.TRAIN, config.batch_size)}'
    if digest not in kept['programs']:
        log.info(f'{name} {row}, {target}')
        try:
            figures = fits.fits(config, target, largest=largest, names=(compile_lib.TRAIN,))
        except UserError as error:
            kept['programs'][digest] = {'error': str(error)}
        else:
            kept['programs'][digest] = summary(figures)
    kept['rows'].append([name, row, target, digest])


def summary(figures: dict) -> dict:
    """What the table needs of `fits.fits`."""
    step = figures['programs']['training step']
    wanted = (
        'fits',
        'memory',
        'operations',
        'moved_bytes',
        'estimated_cycles',
        'seconds',
        'bound',
        'least_seconds',
        'forbidden',
    )
    largest = figures['largest_batch']
    return {
        'batch_size': figures['run']['batch_size'],
        'epochs': figures['run']['epochs'],
        'images': figures['run']['images'],
        'dtype': figures['run']['dtype'],
        'largest': largest['size'] if largest else None,
        'versions': figures['versions'],
        **{name: step[name] for name in wanted if name in step},
    }


def page(kept: dict, wanted: list) -> str:
    """docs/accelerators.md: a table for each target, and what is missing."""
    text = [HEAD]
    targets = sorted({row[2] for row in kept['rows']} | set(TARGETS))
    for target in targets:
        lines = [
            '| config | row | batch | memory, GB | fits | largest batch | moved, GB | TFLOP '
            '| least ms a step | bound by | least hours of training |',
            '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |',
        ]
        missing = []
        for name, row, _ in wanted:
            digest = next(
                (known[3] for known in kept['rows'] if known[:3] == [name, row, target]), None
            )
            if digest is None:
                missing.append(name)
            else:
                lines.append(_line(name, row, kept['programs'][digest]))
        text.append(f'## {target}\n')
        if len(lines) > 2:
            text.append('\n'.join(lines) + '\n')
        if missing:
            counts = collections.Counter(missing)
            left = ', '.join(f'{count} of {name}' for name, count in counts.items())
            text.append(f'Not compiled yet, {len(missing)} of {len(wanted)} rows: {left}.\n')
    return '\n'.join(text)


def _line(name, row, program):
    if 'error' in program:
        cells = [name, row, '', '', program['error'], *[''] * 6]
    elif 'least_seconds' not in program:
        total = program['memory']['total'] / 1e9
        cells = [name, row, program['batch_size'], f'{total:.1f}', 'no', *[''] * 6]
    else:
        steps = program['epochs'] * (program['images'] // program['batch_size'])
        cells = [
            name,
            row,
            program['batch_size'],
            f'{program["memory"]["total"] / 1e9:.2f}',
            program['fits'],
            program['largest'] or '',
            f'{program["moved_bytes"] / 1e9:.2f}',
            f'{sum(program["operations"].values()) / 1e12:.3g}',
            f'{1000 * program["least_seconds"]:.2f}',
            program['bound'],
            f'{steps * program["least_seconds"] / 3600:.2g}',
        ]
    return '| ' + ' | '.join(map(str, cells)) + ' |'


if __name__ == '__main__':
    main()
