"""Save, resume, keep the best: the one module that knows Orbax.

A checkpoint is the whole State as one flat dict `{'params.head.kernel': array, ...}`, so it can be
read without our classes. The latest is kept (to resume) and the best by the selecting metric (to
report). Saving is synchronous and atomic: Orbax writes into a temporary folder and renames it, so a
kill or a full disk leaves the earlier ones whole. Checkpoints of earlier releases are read under
the names of today (`boneage_jax.renamed`).
"""

import contextlib
import dataclasses
import pathlib
import shutil

import jax
import numpy as np
from absl import logging
from orbax.checkpoint import v1

from boneage_jax import renamed
from boneage_jax.errors import CheckpointError
from tfds_rsna.errors import is_disk_full

PARAMETERS = ('params', 'frozen_params', 'batch_stats')  # the parts of a State that make the model


class Checkpoints:
    """The checkpoints of one workdir, in `workdir/checkpoints/<step>`. Use as a context manager.

    `clean` removes what a killed save left behind: for the process that holds the workdir's lock,
    no other.
    """

    def __init__(self, workdir: pathlib.Path | str, *, clean: bool = False):
        self.directory = pathlib.Path(workdir).resolve() / 'checkpoints'
        if clean:
            for rest in self.directory.glob('*.orbax-checkpoint-tmp'):
                shutil.rmtree(rest, ignore_errors=True)
        policies = v1.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics['value'],
            reverse=True,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        kept = policies.AnyPreservationPolicy([policies.LatestN(1), best])
        with _damage_named(self.directory):
            self._orbax = v1.training.Checkpointer(self.directory, preservation_policy=kept)
        self._failed = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Closing would raise a failed save's error a second time, in front of our message.
        if not self._failed:
            self._orbax.close()

    @property
    def latest(self) -> int | None:
        """The newest step saved, or None."""
        return self._orbax.latest.step if self._orbax.latest else None

    @property
    def best(self) -> int | None:
        """The step of the best checkpoint, or None before the first evaluation."""
        with _damage_named(self.directory):
            scored = [checkpoint for checkpoint in self._orbax.checkpoints if checkpoint.metrics]
            if not scored:
                return None
            return min(scored, key=lambda checkpoint: checkpoint.metrics['value']).step

    @property
    def best_or_latest(self) -> int:
        """The step that a run is read at: the best, or the latest where none was evaluated.

        Raises CheckpointError where there is no checkpoint.
        """
        step = self.best if self.best is not None else self.latest
        if step is None:
            raise CheckpointError(f'{self.directory}: no checkpoint to start from')
        return step

    def save(self, step: int, state, value: float | None = None) -> None:
        """Writes `state`, all of it or nothing.

        Args:
            step: names the checkpoint.
            state: a `State`.
            value: the selecting metric (smaller is better), given where it is the best so far.

        Raises:
            CheckpointError: the disk is full; the earlier checkpoints are whole.
        """
        metrics = None if value is None else {'value': float(value)}
        before = self.latest
        verbosity = logging.get_verbosity()
        # A failed save logs a dozen tracebacks, one from each of Orbax's threads.
        logging.set_verbosity(logging.FATAL)
        try:
            self._orbax.save(step, _flatten(state), metrics=metrics, force=True, overwrite=True)
        except Exception as error:  # tensorstore wraps the system's errors in ValueError and others
            self._failed = True
            if not is_disk_full(error):
                raise
            if before is None:
                kept = 'None was written before'
            else:
                kept = f'The checkpoint of step {before} is whole'
            raise CheckpointError(
                f'{self.directory}: no space left to write the checkpoint of step {step}. '
                f'{kept}: free some space and run the same command to go on.'
            ) from error
        finally:
            logging.set_verbosity(verbosity)

    def load(self, like, step: int | None = None):
        """The state saved at `step` (default: the latest), shaped and placed like `like`.

        `like` is a State of arrays with shardings. Raises CheckpointError where names or shapes
        differ.
        """
        step = self.latest if step is None else step
        wanted = _flatten(like)
        saved = self._leaves(step)
        _refuse_misfits(
            self.directory / str(step),
            {name: leaf.shape for name, leaf in saved.items()},
            {name: x.shape for name, x in wanted.items()},
        )
        abstract = {}
        for name, x in wanted.items():
            on_disk = saved[name].name
            abstract[on_disk] = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        with _damage_named(self.directory / str(step)):
            loaded = self._orbax.load(step, abstract)
        return jax.tree.unflatten(
            jax.tree.structure(like), [loaded[saved[name].name] for name in wanted]
        )

    def load_parameters(self, state):
        """`state` with the parameters and batch statistics of this workdir's best checkpoint.

        Whether they are frozen may differ there. Raises CheckpointError where they do not fit.
        """
        step, saved = self.read_parameters()
        names = {name: name for name in {*saved, *parameter_shapes(state)}}
        return put_parameters(state, saved, names, where=self.directory / str(step))

    def read_parameters(self) -> tuple[int, dict[str, np.ndarray]]:
        """(step, `{'backbone.stem.kernel': array, ...}`) of the best checkpoint, or the latest.

        Parameters, frozen or not, and batch statistics; of a run that keeps moving averages these.
        Raises CheckpointError where there is no checkpoint.
        """
        step = self.best_or_latest
        parameters = {}
        averages = {}
        for name, array in self.read(step).items():
            field, _, path = name.partition('.')
            if field in PARAMETERS:
                parameters[path] = array
            elif field == 'averages':
                averages[path] = array
        return step, parameters | averages

    def read(self, step: int) -> dict[str, np.ndarray]:
        """All arrays of a checkpoint, `{'params.head.kernel': array, ...}`, without any model."""
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        leaves = self._leaves(step)
        abstract = {
            leaf.name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
            for leaf in leaves.values()
        }
        with _damage_named(self.directory / str(step)):
            loaded = self._orbax.load(step, abstract)
        return {name: np.asarray(loaded[leaf.name]) for name, leaf in leaves.items()}

    def _leaves(self, step):
        """`{name: _Leaf}` of a checkpoint, under the names of today."""
        with _damage_named(self.directory / str(step)):
            found = v1.metadata(self.directory / str(step), checkpointable_name='state').metadata
            leaves = {}
            for name, x in found.items():
                leaves[renamed.array(name)] = _Leaf(name, tuple(x.shape), x.dtype)
        return leaves


@contextlib.contextmanager
def _damage_named(place):
    """What Orbax raises of damaged files becomes a CheckpointError that names `place`.

    A lost host and a full memory are no damage: JAX's own errors pass.
    """
    try:
        yield
    except (CheckpointError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # its handlers', tensorstore's, the JSON parser's
        lines = str(error).strip().splitlines() or ['no message']
        raise CheckpointError(
            f'{place}: a checkpoint that is damaged or incomplete ({type(error).__name__}: '
            f'{lines[0][:200]}). Copy it again from where it is whole, or move it away: the run '
            'continues from an earlier one, or from the start'
        ) from error


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """An array on disk: its name there, which an earlier release may have given it."""

    name: str
    shape: tuple
    dtype: np.dtype


def parameter_shapes(state) -> dict[str, tuple]:
    """`{'backbone.stem.kernel': shape, ...}` of a State's parameters and batch statistics."""
    shapes = {}
    for name, x in _flatten(_parameter_groups(state)).items():
        shapes[name.partition('.')[2]] = tuple(x.shape)
    return shapes


def put_parameters(state, saved: dict[str, np.ndarray], names: dict[str, str], *, where: object):
    """`state` with parameters and batch statistics from `saved`, placed as they are in `state`.

    Args:
        state: a State of arrays with shardings.
        saved: `{'backbone.stem.kernel': array, ...}`.
        names: `{name in state: name in saved}` of the arrays to take.
        where: what `saved` was read from, for the message.

    Raises:
        CheckpointError: some are missing on either side, or have another shape.
    """
    shapes = parameter_shapes(state)
    found = {name: saved[there].shape for name, there in names.items() if there in saved}
    wanted = {name: shapes[name] for name in names if name in shapes}
    _refuse_misfits(where, found, wanted)

    groups = _parameter_groups(state)
    leaves = []
    for full_name, x in _flatten(groups).items():
        name = full_name.partition('.')[2]
        if name in names:
            leaves.append(jax.device_put(saved[names[name]], x.sharding))
        else:
            leaves.append(x)
    return dataclasses.replace(state, **jax.tree.unflatten(jax.tree.structure(groups), leaves))


def _parameter_groups(state):
    return {group: getattr(state, group) for group in PARAMETERS}


def _refuse_misfits(where, saved, wanted):
    """Raises CheckpointError where two `{name: shape}` differ."""
    wrong = []
    for name in sorted({*saved, *wanted}):
        if saved.get(name) != wanted.get(name):
            wrong.append(
                f'{name}: {_show(saved.get(name))} saved, {_show(wanted.get(name))} expected'
            )
    if not wrong:
        return
    lines = [f'{where} does not fit this model:', *wrong[:8]]
    if len(wrong) > 8:
        lines.append(f'and {len(wrong) - 8} more')
    raise CheckpointError('\n  '.join(lines))


def _show(shape):
    return 'absent' if shape is None else str(tuple(shape))


def _flatten(tree):
    """`{'params.head.kernel': leaf, ...}` of nested containers."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in paths}
