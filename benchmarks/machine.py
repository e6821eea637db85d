"""What the figures were measured on; clocks."""

import importlib.metadata
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

from boneage_jax.runtime import setup

PACKAGES = (
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'grain',
    'array_record',
    'tensorflow-datasets',
    'numpy',
    'pillow',
    'torch',
    'torchvision',
)
QUIET = 0.5  # load average above which figures mean little
ROOT = pathlib.Path(__file__).resolve().parents[1]


def cores():
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def facts():
    """A JSON-ready dict: processor, cores, GPU, versions, commit, load at the start; warns of a
    busy machine.
    """
    load = os.getloadavg()[0]
    if load > QUIET:
        print(
            f'Warning: the load average is {load:.2f}; other work runs here, so these figures are '
            f'too low (wait until it is below {QUIET}).',
            file=sys.stderr,
        )
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
        'processor': setup.processor_name(),
        'cores': cores(),
        'memory_gib': _memory(),
        'gpu': _output('nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader'),
        'system': platform.platform(),
        'python': platform.python_version(),
        'versions': versions,
        'commit': _output('git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--abbrev=12'),
        'load_average': round(load, 2),
    }


def summary(values, smaller=False):
    """`{'best', 'median', 'runs'}` of measured rates, or of times where `smaller` is better."""
    best = min(values) if smaller else max(values)
    return {
        'best': best,
        'median': statistics.median(values),
        'runs': [float(f'{v:.5g}') for v in values],
    }


def rates(work, count, repeats):
    """`work()` does `count` things; things per second of each of `repeats` calls."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        found.append(count / (time.perf_counter() - begin))
    return found


def _memory():
    try:
        return round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30, 1)
    except (ValueError, OSError):
        return None


def _output(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
