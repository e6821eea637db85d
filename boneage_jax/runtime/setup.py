"""JAX set up for a run: precision, determinism, the compile cache on disk."""

import hashlib
import os
import pathlib
import platform

import jax

from boneage_jax.runtime import files


def set_up_jax(config):
    """The compile cache on disk (a second start is quick), and deterministic kernels where asked
    for.
    """
    if config.dtype == 'float32':  # or accelerators would multiply in TF32 or bfloat16 all the same
        jax.config.update('jax_default_matmul_precision', 'highest')
    if config.deterministic:
        flags = os.environ.get('XLA_FLAGS', '')
        if '--xla_gpu_deterministic_ops' not in flags:  # read when the backend starts
            os.environ['XLA_FLAGS'] = f'{flags} --xla_gpu_deterministic_ops=true'.strip()
    jax.config.update(
        'jax_compilation_cache_dir', str(files.cache_folder() / 'compiled' / _processor())
    )
    # Every program, however small: drawing the initial values alone compiles one for each kernel
    # shape, half a second each.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def _processor():
    """A name for this kind of CPU: programs compiled for another kind, in a home shared by a
    cluster, may not run here.
    """
    info = pathlib.Path('/proc/cpuinfo')
    flags = (
        [line for line in info.read_text().splitlines() if line.startswith(('flags', 'Features'))]
        if (info.exists())
        else []
    )
    return hashlib.sha256('|'.join([platform.machine(), *flags[:1]]).encode()).hexdigest()[:12]
