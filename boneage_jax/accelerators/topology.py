"""JAX's devices of an accelerator that is not here, from its compiler alone."""

import importlib.util
import os
import sys

import jax

from boneage_jax.accelerators.targets import Gpu, Target
from boneage_jax.errors import UserError

LOCK = 'requirements-aot.lock'
ENVIRONMENT = '`launch/run.sh boneage_jax.fits ...` makes an environment that has all of it'
CUDA_PLUGINS = ('jax_cuda12_plugin', 'jax_cuda13_plugin')
SMALLEST = {'v5e': '2x2', 'v5p': '2x2x1', 'v6e': '2x2'}  # what libtpu takes for a chip or a few


def devices(target: Target) -> list:
    """The devices of `target`, to be put into a mesh. Nothing can be run on them.

    Raises:
        UserError: the compiler's wheels are not installed, or it does not know the target.
    """
    require_wheels(target)
    from jax.experimental import topologies

    try:
        if target.chip.platform == 'tpu':
            found = _tpu(topologies, target)
        else:
            found = topologies.get_topology_desc(
                platform='cuda',
                topology=f'1x1x{target.count}',
                target_config=target_config(target.chip),
            ).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise UserError(
            f'--target={target.name}: the compiler does not know it ({_first_line(error)})'
        ) from error
    if len(found) < target.count:
        raise UserError(
            f'--target={target.name}: asked for {target.count} chips, found {len(found)} devices'
        )
    return list(found)[: target.count]


# What libtpu would ask of a cloud machine, and its lock: no chip is used, so several may compile.
_TPU_SETTINGS = {
    'ALLOW_MULTIPLE_LIBTPU_LOAD': 'true',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
}


def _tpu(topologies, target):
    for name, value in _TPU_SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault('TPU_LIBRARY_PATH', _libtpu())
    name = target.name.lower().partition(':')[0]
    shape = target.shape or SMALLEST[name]
    return topologies.get_topology_desc(platform='tpu', topology_name=f'{name}:{shape}').devices


def _libtpu():
    import libtpu

    return libtpu.get_library_path()


def require_wheels(target: Target) -> None:
    """Raises UserError where the compiler for `target` is not installed, or Python is too old."""
    if sys.version_info < (3, 12):
        raise UserError(
            f'--target={target.name}: compiling for devices that are not here needs jax 0.12, '
            f'thus Python 3.12 or 3.13; found {sys.version.split()[0]}. {ENVIRONMENT}'
        )
    if target.chip.platform == 'tpu':
        names, wheels = ('libtpu',), 'libtpu'
    else:
        names, wheels = CUDA_PLUGINS, 'jax-cuda12-plugin[with-cuda] and jax-cuda12-pjrt'
    if not any(importlib.util.find_spec(name) for name in names):
        raise UserError(
            f'--target={target.name}: its compiler is not installed ({wheels}; versions in '
            f'{LOCK}). {ENVIRONMENT}'
        )


def target_config(gpu: Gpu) -> str:
    """What XLA must know of a GPU, as a GpuTargetConfigProto in text."""
    major, minor = gpu.capability
    extension = 'feature_extension: ACCELERATED_FEATURES' if major >= 9 else ''
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} {extension} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.lanes}
  clock_rate_ghz: {gpu.clock}
  memory_bandwidth: {int(gpu.bandwidth)}
  device_memory_size: {gpu.memory}
  l2_cache_size: {gpu.l2_cache}
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_block_optin: {gpu.shared_memory - 1024}
  shared_memory_per_core: {gpu.shared_memory}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: {gpu.threads}
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  registers_per_core_limit: {2**16}
  registers_per_block_limit: {2**16}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.title}"
"""


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def versions() -> dict[str, str]:
    """{package: version} of what compiled."""
    from importlib import metadata

    found = {'jax': jax.__version__}
    for name in ('jaxlib', 'libtpu', 'jax-cuda12-plugin', 'jax-cuda13-plugin'):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
