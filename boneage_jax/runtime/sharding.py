"""One mesh over all devices of all hosts, batches onto it, and the start of a multi-host run.

The mesh has one axis, `data`, of type Auto: JAX's default Explicit axes refuse the pairwise
differences of ranking losses. Every device holds the whole state, or (`fsdp`) its share of the
large arrays, and its slice of each global batch.
"""

import contextlib
import dataclasses
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from boneage_jax.runtime import log
from tfds_rsna.errors import UserError

# How JAX's errors speak of a host that is gone: the collectives' (Gloo, NCCL) and the coordination
# service's.
_COLLECTIVES = ('Gloo', 'gloo', 'NCCL')
_COORDINATION = (
    'Connection closed',
    'Connection reset',
    'heartbeat',
    'UNAVAILABLE',
    'coordination',
    'DEADLINE_EXCEEDED',
)


def initialize_distributed(environ: Mapping[str, str] = os.environ):
    """Joins the other hosts of a run, before any jax call, where the environment names them.

    BONEAGE_COORDINATOR, BONEAGE_PROCESSES and BONEAGE_PROCESS say where and who;
    `BONEAGE_COORDINATOR=auto` alone lets JAX ask the machine (a TPU slice tells its hosts all
    three). BONEAGE_HEARTBEAT: seconds of silence after which a host counts as dead and the run ends
    (60). Raises UserError where a variable is missing or the hosts do not find each other.
    """
    names = ('BONEAGE_COORDINATOR', 'BONEAGE_PROCESSES', 'BONEAGE_PROCESS')
    given = {name: environ[name] for name in names if environ.get(name)}
    if not given:
        return
    place = {}
    if given.get(names[0]) != 'auto':
        missing = [name for name in names if name not in given]
        if missing:
            raise UserError(
                f'a multi-host run needs {", ".join(names)}; missing: {", ".join(missing)}'
            )
        place = {
            'coordinator_address': given[names[0]],
            'num_processes': int(given[names[1]]),
            'process_id': int(given[names[2]]),
        }
    silence = int(environ.get('BONEAGE_HEARTBEAT') or 60)
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    try:
        jax.distributed.initialize(**place, heartbeat_timeout_seconds=silence)
    except (RuntimeError, ValueError) as error:
        settings = ', '.join(f'{name}={value}' for name, value in given.items())
        raise UserError(
            f'the hosts of this run did not find each other ({settings}); is the port open, and '
            f'does every host run? ({error})'
        ) from error
    if is_main():
        log.info(
            f'{jax.process_count()} hosts. One that dies ends the run within about {silence} s; '
            'the same command goes on from the last save, on any number of hosts.'
        )


@contextlib.contextmanager
def abort_on_error():
    """Within it, an error of this host ends its process at once, with its message.

    An orderly end waits for all hosts, which wait for this one, or are gone. With one host the
    error goes its usual way.
    """
    try:
        yield
    except BaseException as error:
        if not is_multihost():
            raise
        if isinstance(error, UserError):
            log.info(f'Error: {error}')
        elif _is_lost_host(error):
            log.info(
                f'Error: host {jax.process_index()} of {jax.process_count()} lost another host, '
                'which died or was cut off; its own output says why. The same command goes on from '
                'the last save, on any number of hosts. '
                f'({str(error).splitlines()[0][:200]})'
            )
        else:
            traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(1)


def _is_lost_host(error):
    # A collective that breaks while its result is fetched comes as a ValueError under jax 0.12.
    collectives = any(sign in str(error) for sign in _COLLECTIVES)
    if not isinstance(error, jax.errors.JaxRuntimeError):
        return collectives and isinstance(error, (ValueError, RuntimeError))
    return collectives or any(sign in str(error) for sign in _COORDINATION)


def make_mesh(devices: Sequence | None = None) -> Mesh:
    """The mesh over all devices of all hosts, or over `devices`."""
    if devices is None:
        devices = jax.devices()
    return jax.make_mesh((len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays `[B, ...]`: the batch over the mesh."""
    return NamedSharding(mesh, PartitionSpec('data'))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


SMALL = 1024  # numbers; below that a share for each device costs more than it saves


def fsdp_sharding(mesh: Mesh) -> Callable[[jax.Array], NamedSharding]:
    """`array -> sharding`: a share of a parameter, or of its optimiser's memory, on each device.

    Arrays are cut along their longest axis that divides; small ones, and those that do not divide,
    stay whole.
    """

    def place(x):
        axes = [axis for axis, length in enumerate(x.shape) if length % mesh.size == 0]
        if not axes or x.size < SMALL:
            return replicated_sharding(mesh)
        axis = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, 'data'))

    return place


def state_sharding(state, mesh: Mesh, kind: str) -> tuple:
    """(shardings of a State, the function that brings its parameters together for a step).

    `kind` is `config.sharding`.
    """
    places = jax.tree.map(lambda x: replicated_sharding(mesh), state)
    if kind == 'replicated':
        return places, lambda params: params
    share = fsdp_sharding(mesh)
    shares = {
        'params': jax.tree.map(share, state.params),
        'opt_state': jax.tree.map(share, state.opt_state),
        'averages': jax.tree.map(share, state.averages),
    }

    @jax.custom_vjp
    def gather_params(params):
        return jax.lax.with_sharding_constraint(params, replicated_sharding(mesh))

    def forward(params):
        return gather_params(params), None

    def backward(_, gradients):
        # Cut at once, before their norm is taken: each device then needs the sum of its share
        # alone.
        return (jax.lax.with_sharding_constraint(gradients, shares['params']),)

    gather_params.defvjp(forward, backward)
    return dataclasses.replace(places, **shares), gather_params


def check_batch_size(batch_size: int, mesh: Mesh, grad_accum_steps: int = 1):
    """Raises UserError where a batch does not divide over the devices, in so many parts."""
    if batch_size % (mesh.size * grad_accum_steps):
        parts = f' in {grad_accum_steps} parts' if grad_accum_steps > 1 else ''
        raise UserError(
            f'batch_size={batch_size} does not divide over {mesh.size} devices{parts}; '
            f'take a multiple of {mesh.size * grad_accum_steps}'
        )


def host_rows(batch_size: int) -> slice:
    """The rows of each global batch that this host loads."""
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def shard_batch(batch, mesh: Mesh):
    """This host's rows (numpy, a pytree) -> the global batch on the mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def place_replicated(tree, mesh: Mesh):
    """The same host values on every device of the mesh."""
    sharding = replicated_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def place(tree, shardings):
    """The same host values, given on every host, placed as the tree `shardings` says."""

    def place_one(x, sharding):
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place_one, tree, shardings)


def is_main() -> bool:
    """Whether this host writes the shared files."""
    return jax.process_index() == 0


def is_multihost() -> bool:
    """Whether the run has several hosts."""
    return jax.process_count() > 1


def barrier(name: str):
    """Waits until every host is here."""
    if is_multihost():
        multihost_utils.sync_global_devices(name)


class Preemption:
    """Whether the run was asked to stop (SIGTERM, Ctrl-C).

    `requested(step)` is true on every host at the same step. With several hosts jax's coordination
    service carries the notice of SIGTERM; alone, a signal handler sets a flag, and a second Ctrl-C
    stops at once. The old handlers come back when the `with` block ends.
    """

    def __enter__(self):
        self._flag = False
        self._old = {}
        if not is_multihost():
            try:
                for number in (signal.SIGTERM, signal.SIGINT):
                    self._old[number] = signal.signal(number, self._set)
            except ValueError:
                pass  # not the main thread, as in some notebooks: nobody sends us signals there
        return self

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _set(self, number, frame):
        del frame
        if not self._flag:
            log.info('Stopping after this step and saving; once more stops at once.')
        self._flag = True
        signal.signal(number, self._old[number])

    def requested(self, step: int) -> bool:
        if is_multihost():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._flag
