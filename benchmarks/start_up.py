"""From `python -m boneage_jax.main` to its first step, by phase, with nothing cached and again;
memory.

    python -m benchmarks.start_up

Each run is a process of its own with its own $BONEAGE_CACHE: first cold (data built, everything
compiled), then warm (records and compiled programs on disk). It goes through the parts of
`boneage_jax.train` in their order, up to the second step.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from benchmarks import machine, report
from boneage_jax.runtime import setup
from boneage_jax.stages import records

RSNA100 = (
    'configs/prsnet.py:rsna100,row=baseline,source=hand_phantom,data.folder=,'
    'data.phantom.size=(100,100),data.phantom.count=400,validation=50,holdout=50'
)
PHASES = ('imports', 'data', 'model', 'trace', 'compile', 'first step', 'second step')
_BEGAN = 'BONEAGE_BENCHMARK_BEGAN'


def main(argv=None):
    parser = report.parser('start_up', __doc__)
    parser.add_argument(
        '--configs',
        nargs='+',
        default=['configs/prsnet.py:tiny,row=baseline', RSNA100],
        metavar='FILE[:ARG]',
    )
    parser.add_argument(
        '--child', metavar='FILE', type=pathlib.Path, help='be the measured process; result to FILE'
    )
    parser.set_defaults(repeats=2)
    arguments = parser.parse_args(argv)
    if arguments.child:
        return report.write(arguments.child, json.dumps(_measure(arguments.configs[0])))
    facts, rows = machine.facts(), []
    for config in arguments.configs:
        cold, warm = [], []
        for _ in range(arguments.repeats):
            with tempfile.TemporaryDirectory(prefix='boneage_start_') as cache:
                cold.append(_run(config, cache))
                warm.append(_run(config, cache))
        name = 'rsna100, 400 phantoms' if config == RSNA100 else config.rpartition('/')[2]
        for state, runs in (('nothing cached', cold), ('cached', warm)):
            rows.append(_row(f'{name}: first step, {state}', runs))
    return report.finish('start_up', arguments, facts, rows)


def _run(config, cache):
    result = pathlib.Path(cache, 'result.json')
    command = [
        sys.executable,
        '-m',
        'benchmarks.start_up',
        '--configs',
        config,
        '--child',
        str(result),
    ]
    environment = {**os.environ, 'BONEAGE_CACHE': cache, _BEGAN: repr(time.time())}
    done = subprocess.run(
        command, env=environment, cwd=machine.ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} failed:\n{done.stderr[-3000:]}')
    return json.loads(result.read_text())


def _measure(spec):
    """Seconds of every phase of this process, and its memory."""
    clock, seconds = [float(os.environ[_BEGAN])], {}

    def passed(phase):
        clock.append(time.time())
        seconds[phase] = clock[-1] - clock[-2]

    import jax

    from boneage_jax import config as config_lib
    from boneage_jax.runtime import sharding
    from boneage_jax.training import loop

    passed('imports')
    _, config = config_lib.load(spec)
    setup.set_up_jax(config)
    with tempfile.TemporaryDirectory() as workdir:
        splits = records.open_splits(config)
        passed('data')
        run = loop.GradientTrainer(config, pathlib.Path(workdir), splits)
        batch = sharding.shard_batch(next(run.batches.iterate(0, 1)), run.mesh)
    key = jax.random.key(config.seed)
    passed('model')
    lowered = run.train_step.lower(run.state, batch, run.batches.resident, key)
    passed('trace')
    step = lowered.compile()
    passed('compile')
    state, metrics = step(run.state, batch, run.batches.resident, key)
    jax.block_until_ready(metrics)
    passed('first step')
    jax.block_until_ready(step(state, batch, run.batches.resident, key))
    passed('second step')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == 'darwin' else 1024
    )
    on_device = (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use')
    return {
        'seconds': seconds,
        'peak_memory_mib': peak / 2**20,
        'peak_device_memory_mib': on_device and on_device / 2**20,
    }


def _row(what, runs):
    """Times are better small: the row shows the quickest run and the median, and the quickest one's
    phases.
    """
    totals = [sum(r['seconds'][phase] for phase in PHASES[:-1]) for r in runs]
    quickest = runs[totals.index(min(totals))]
    phases = ', '.join(f'{phase} {quickest["seconds"][phase]:.1f}' for phase in PHASES)
    memory = f'; peak memory {quickest["peak_memory_mib"]:,.0f} MiB'
    if quickest['peak_device_memory_mib']:
        memory += f', on the device {quickest["peak_device_memory_mib"]:,.0f} MiB'
    return report.row(what, totals, 's', note=phases + memory, smaller=True, all=runs)


if __name__ == '__main__':
    main()
