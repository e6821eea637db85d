"""One mesh over all devices of all hosts, batches onto it, and the start of a multi-host run.

The mesh has one axis, `data`, of type Auto: JAX's default Explicit axes refuse the pairwise differences of ranking
losses. Every host holds the whole state (replicated) and its slice of each global batch.
"""

import os
import signal

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from boneage_jax import log
from tfds_rsna.errors import UserError


def start(environ=os.environ):
    """Joins the other hosts where BONEAGE_COORDINATOR, BONEAGE_PROCESSES, BONEAGE_PROCESS are set (before any jax call)."""
    names = ('BONEAGE_COORDINATOR', 'BONEAGE_PROCESSES', 'BONEAGE_PROCESS')
    given = [name for name in names if environ.get(name)]
    if not given:
        return
    if len(given) < len(names):
        missing = ', '.join(set(names) - set(given))
        raise UserError(f'a multi-host run needs {", ".join(names)}; missing: {missing}')
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(
        environ['BONEAGE_COORDINATOR'], int(environ['BONEAGE_PROCESSES']), int(environ['BONEAGE_PROCESS']))


def make_mesh():
    return jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))


def over_batch(mesh):
    """Sharding of arrays `[B, ...]`: the batch over the mesh."""
    return NamedSharding(mesh, PartitionSpec('data'))


def replicated(mesh):
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(batch_size, mesh):
    if batch_size % mesh.size:
        raise UserError(f'batch_size={batch_size} does not divide over {mesh.size} devices; '
                         f'take a multiple of {mesh.size}')


def host_rows(batch_size):
    """The rows of each global batch that this host loads."""
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def put_batch(batch, mesh):
    """This host's rows (numpy, a pytree) -> the global batch on the mesh."""
    sharding = over_batch(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_replicated(tree, mesh):
    """The same host values on every device of the mesh."""
    sharding = replicated(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def is_main():
    """Whether this host writes the shared files."""
    return jax.process_index() == 0


def many_hosts():
    return jax.process_count() > 1


def barrier(name):
    """Waits until every host is here."""
    if many_hosts():
        multihost_utils.sync_global_devices(name)


class Preemption:
    """Whether the run was asked to stop (SIGTERM, Ctrl-C): `asked(step)` is true on every host at the same step.

    With several hosts jax's coordination service carries the notice of SIGTERM; alone, a signal handler sets a flag, and
    a second Ctrl-C stops at once. The old handlers come back when the `with` block ends.
    """

    def __enter__(self):
        self._flag = False
        self._old = {}
        if not many_hosts():
            try:
                for number in (signal.SIGTERM, signal.SIGINT):
                    self._old[number] = signal.signal(number, self._set)
            except ValueError:  # not the main thread, as in some notebooks: nobody sends us signals there
                pass
        return self

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _set(self, number, frame):
        del frame
        if not self._flag:
            log.say('Stopping after this step and saving; once more stops at once.')
        self._flag = True
        signal.signal(number, self._old[number])

    def asked(self, step):
        if many_hosts():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._flag
