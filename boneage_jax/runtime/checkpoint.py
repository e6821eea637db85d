"""Save, resume, keep the best: the one module that knows Orbax.

A checkpoint is the whole State as one flat dict `{'params.head.kernel': array, ...}`, so it can be
read without our classes. The latest is kept (to resume) and the best by the selecting metric (to
report). Saving is synchronous and atomic: Orbax writes into a temporary folder and renames it, so a
kill or a full disk leaves the earlier ones whole.
"""

import dataclasses
import errno
import pathlib
import shutil

import jax
import numpy as np
from absl import logging
from orbax.checkpoint import v1

from boneage_jax.errors import CheckpointError

PARAMETERS = ('params', 'frozen_params', 'batch_stats')  # the parts of a State that make the model


class Checkpoints:
    """The checkpoints of one workdir, in `workdir/checkpoints/<step>`. Use as a context manager.

    `clean` removes what a killed save left behind: for the process that holds the workdir's lock,
    no other.
    """

    def __init__(self, workdir, *, clean=False):
        keep = v1.training.preservation_policies
        best = keep.BestN(
            get_metric_fn=lambda m: m['value'],
            reverse=True,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self.directory = pathlib.Path(workdir).resolve() / 'checkpoints'
        if clean:
            for rest in self.directory.glob('*.orbax-checkpoint-tmp'):
                shutil.rmtree(rest, ignore_errors=True)
        self._orbax = v1.training.Checkpointer(
            self.directory, preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(1), best])
        )
        self._failed = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if (
            not self._failed
        ):  # closing would raise the failed save's error a second time, in front of our message
            self._orbax.close()

    @property
    def latest(self):
        """The newest step saved, or None."""
        return self._orbax.latest.step if self._orbax.latest else None

    @property
    def best(self):
        """The step of the best checkpoint by the selecting metric, or None before the first
        evaluation.
        """
        scored = [c for c in self._orbax.checkpoints if c.metrics]
        return min(scored, key=lambda c: c.metrics['value']).step if scored else None

    @property
    def best_or_latest(self):
        """The step that a finished run is read at: the best, or the latest where none was
        evaluated; CheckpointError for none.
        """
        step = self.best if self.best is not None else self.latest
        if step is None:
            raise CheckpointError(f'{self.directory}: no checkpoint to start from')
        return step

    def save(self, step, state, value=None):
        """Writes `state`. `value` is the selecting metric (smaller is better), given where it is
        the best so far.
        """
        metrics = None if value is None else {'value': float(value)}
        before, verbosity = self.latest, logging.get_verbosity()
        logging.set_verbosity(
            logging.FATAL
        )  # a failed save logs a dozen tracebacks, one from each of Orbax's threads
        try:
            self._orbax.save(step, _flatten(state), metrics=metrics, force=True, overwrite=True)
        except (
            Exception
        ) as error:  # tensorstore wraps the operating system's errors in ValueError and others
            self._failed = True
            if _disk_full(error):
                raise CheckpointError(
                    f'{self.directory}: no space left to write the checkpoint of step {step}. '
                    + (
                        'None was written before: '
                        if before is None
                        else f'The checkpoint of step {before} is whole: '
                    )
                    + 'free some space and run the same command to go on.'
                ) from error
            raise
        finally:
            logging.set_verbosity(verbosity)

    def load(self, like, step=None):
        """The state saved at `step` (default: the latest), shaped and placed like `like` (arrays
        with shardings).
        """
        step = self.latest if step is None else step
        flat = _flatten(like)
        saved = {name: tuple(x.shape) for name, x in self._leaves(step)}
        expected = {name: x.shape for name, x in flat.items()}
        wrong = [
            f'{name}: {_show(saved.get(name))} saved, {_show(expected.get(name))} expected'
            for name in sorted({*expected, *saved})
            if saved.get(name) != expected.get(name)
        ]
        _refuse(self.directory / str(step), wrong)
        abstract = {
            k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for k, x in flat.items()
        }
        loaded = self._orbax.load(step, abstract)
        return jax.tree.unflatten(
            jax.tree.structure(like), [loaded[name] for name in _flatten(like)]
        )

    def load_parameters(self, state, parts=()):
        """`state` with the parameters and batch statistics of this workdir's best checkpoint; see
        `take`.
        """
        step, saved = self.read_parameters()
        return take(state, saved, parts, where=self.directory / str(step))

    def read_parameters(self):
        """(step, `{'backbone.stem.kernel': numpy array, ...}`) of the `chosen` checkpoint.

        Parameters, frozen or not, and batch statistics. Raises CheckpointError where there is no
        checkpoint.
        """
        step = self.best_or_latest
        return step, {
            name.partition('.')[2]: array
            for name, array in self.read(step).items()
            if name.partition('.')[0] in PARAMETERS
        }

    def read(self, step):
        """The checkpoint as it lies on disk: `{'params.head.kernel': array, ...}`, numpy, without
        any model.
        """
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
            for name, x in self._leaves(step)
        }
        return jax.tree.map(np.asarray, self._orbax.load(step, abstract))

    def _leaves(self, step):
        return v1.metadata(self.directory / str(step), checkpointable_name='state').metadata.items()


def take(state, saved, parts=(), *, where):
    """`state` with parameters and batch statistics from `saved`, `{'backbone.stem.kernel': array,
    ...}`, frozen or not there.

    `parts` names the subtrees to take: 'backbone' or, from another place of that model,
    'part_backbone=backbone'; with 'part_backbone?=backbone' a model that has no part_backbone goes
    without. The rest of `state` stays as it is. Without `parts` the whole model is taken. Raises
    CheckpointError, naming `where`, where a part names nothing or arrays do not fit, with their
    names.
    """
    groups = {part: getattr(state, part) for part in PARAMETERS}
    ours = _flatten(groups)
    wanted = {name.partition('.')[2]: x for name, x in ours.items()}
    chosen = {}  # our name -> its name there
    for target, source, optional in pairs(parts):
        mine = [name for name in wanted if below(name, target)]
        theirs = [name for name in saved if below(name, source)]
        if optional and not mine:
            continue
        if not mine or not theirs:
            what = 'this model' if not mine else str(where)
            names = wanted if not mine else saved
            raise CheckpointError(
                f'init_parts: {what} has no parameters below {target if not mine else source!r}; '
                f'it has {", ".join(sorted({name.partition(".")[0] for name in names}))}'
            )
        chosen |= {target + name[len(source) :]: name for name in theirs}
        chosen |= {name: source + name[len(target) :] for name in mine}
    _refuse(
        where,
        [
            f'{name}: {_show(getattr(saved.get(there), "shape", None))} saved, '
            f'{_show(getattr(wanted.get(name), "shape", None))} expected'
            for name, there in sorted(chosen.items())
            if getattr(saved.get(there), 'shape', None) != getattr(wanted.get(name), 'shape', None)
        ],
    )
    leaves = [
        jax.device_put(saved[chosen[key]], x.sharding)
        if (key := name.partition('.')[2]) in chosen
        else x
        for name, x in ours.items()
    ]
    return dataclasses.replace(state, **jax.tree.unflatten(jax.tree.structure(groups), leaves))


def shapes(state):
    """`{'backbone.stem.kernel': shape, ...}` of the parameters and batch statistics that `take` can
    give to `state`.
    """
    return {
        name.partition('.')[2]: x.shape
        for name, x in _flatten({g: getattr(state, g) for g in PARAMETERS}).items()
    }


def _refuse(where, wrong):
    if wrong:
        raise CheckpointError(
            f'{where} does not fit this model:\n  '
            + '\n  '.join(wrong[:8])
            + (f'\n  and {len(wrong) - 8} more' if len(wrong) > 8 else '')
        )


def pairs(parts):
    """('part_backbone?=backbone', 'head') -> [('part_backbone', 'backbone', True), ('head', 'head',
    False)]; none -> the whole model.
    """
    found = []
    for part in parts or ('',):
        target, _, source = part.replace('/', '.').partition('=')
        optional, target = target.endswith('?'), target.removesuffix('?')
        found.append((target, source or target, optional))
    return found


def below(name, prefix):
    return not prefix or name == prefix or name.startswith(prefix + '.')


def _show(shape):
    return 'absent' if shape is None else str(tuple(shape))


def _flatten(tree):
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in paths}


def _disk_full(error):
    while error is not None:
        text = str(error)
        if getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(
            hint in text
            for hint in ('No space left', 'RESOURCE_EXHAUSTED', 'Disk quota', 'File too large')
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
