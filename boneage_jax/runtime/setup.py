"""JAX set up for a run: precision, determinism, the compile cache on disk; and the processor."""

import hashlib
import os
import pathlib
import platform

import jax
import ml_collections

from boneage_jax.runtime import files


def set_up_jax(config: ml_collections.ConfigDict):
    """Sets precision and determinism as `config` asks, and the compile cache on disk.

    With the cache a second start is quick.
    """
    if config.dtype == 'float32':  # or accelerators would multiply in TF32 or bfloat16 all the same
        jax.config.update('jax_default_matmul_precision', 'highest')
    if config.deterministic:
        flags = os.environ.get('XLA_FLAGS', '')
        if '--xla_gpu_deterministic_ops' not in flags:  # read when the backend starts
            os.environ['XLA_FLAGS'] = f'{flags} --xla_gpu_deterministic_ops=true'.strip()
    folder = files.cache_folder() / 'compiled' / _instruction_set()
    jax.config.update('jax_compilation_cache_dir', str(folder))
    # Every program, however small: drawing the initial values alone compiles one for each kernel
    # shape, half a second each.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def processor_name() -> str:
    """The name of this machine's processor, as 'AMD EPYC 7B13'; its architecture at least."""
    return _cpuinfo('model name') or platform.processor() or platform.machine()


def _instruction_set():
    """A name for what this processor can do, twelve hex digits.

    Programs compiled for another kind of CPU, in a home shared by a cluster, may not run here.
    """
    parts = [platform.machine()]
    flags = _cpuinfo('flags', 'Features')
    if flags:
        parts.append(flags)
    return hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]


def _cpuinfo(*keys):
    """The first value of one of `keys` in /proc/cpuinfo; '' where nothing says so."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return ''
    for line in lines:
        if line.startswith(keys):
            return line.partition(':')[2].strip()
    return ''
