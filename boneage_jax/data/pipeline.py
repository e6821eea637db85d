"""The path of a batch: a pure function of (seed, step), the same at any host count and in both
placements.

Each epoch is a permutation of the split drawn from (seed, epoch); the images that do not fill a
batch sit that epoch out. Shuffle first, slice per host after. Nothing of the iterator is saved:
resuming at step s asks for batch(s).
"""

import functools

import grain
import jax.numpy as jnp
import numpy as np

from boneage_jax.runtime import sharding
from tfds_rsna.errors import UserError


class TrainBatches:
    """`batches(step)` -> this host's rows of the global batch, numpy. `steps_per_epoch` of them
    make an epoch.

    With `placement='host'` the rows carry the images; with 'device' only `index` and `valid`, and
    `resident` holds the split's arrays for `gather` to take them from. Raises UserError where the
    split is smaller than a batch.
    """

    def __init__(self, split, *, batch_size, seed, placement, mesh):
        if len(split) < batch_size:
            raise UserError(
                f'{len(split)} training images do not fill one batch of {batch_size}; lower batch_size'
            )
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.steps_per_epoch = len(split) // batch_size
        self.resident = make_resident(split, mesh) if placement == 'device' else {}
        # Threads read ahead across the end of an epoch: two orders are in use at a time, never
        # drawn anew for each step.
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, epoch):
        return (
            np.random.default_rng([self.seed, epoch]).permutation(len(self.split)).astype(np.int32)
        )

    def indices(self, step):
        """Positions in the split of the whole global batch, int32 `[B]`."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]

    def __call__(self, step):
        index = self.indices(step)[sharding.host_rows(self.batch_size)]
        return _rows(self.split, index, np.ones(len(index), bool), with_arrays=not self.resident)

    def ids(self, step):
        """The ids of the global batch at `step`, for messages."""
        return [self.split.ids[i] for i in self.indices(step)]

    def iterate(self, start, stop):
        """Batches start .. stop-1, loaded ahead by grain's threads."""
        source = grain.MapDataset.range(start, stop).map(self)
        return iter(
            source.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=8))
        )


def eval_batches(split, *, batch_size):
    """Every example of the split exactly once, in order; the last batch is padded with `valid`
    false.
    """
    rows = sharding.host_rows(batch_size)
    for start in range(0, len(split), batch_size):
        index = np.arange(start, start + batch_size, dtype=np.int32)
        valid = index < len(split)
        yield _rows(split, np.where(valid, index, 0)[rows], valid[rows], with_arrays=True)


def _rows(split, index, valid, *, with_arrays):
    batch = {'index': index, 'valid': valid}
    if with_arrays:
        batch |= {'months': split.months[index], 'male': split.male[index], **split.arrays(index)}
    return batch


def make_resident(split, mesh):
    """The whole split on every device, uint8 images and all: RSNA's training images at 512x512 take
    3.3 GB.
    """
    arrays = {
        name: np.empty((len(split), *array.shape[1:]), array.dtype)
        for name, array in split.arrays([0]).items()
    }
    for start in range(0, len(split), 512):
        for name, part in split.arrays(range(start, min(start + 512, len(split)))).items():
            arrays[name][start : start + 512] = part
    return sharding.place_replicated(arrays | {'months': split.months, 'male': split.male}, mesh)


def gather(batch, resident):
    """Completes a batch inside the step: takes the rows `index` of the resident arrays, if there
    are any.
    """
    if not resident:
        return batch
    return batch | {
        name: jnp.take(array, batch['index'], axis=0) for name, array in resident.items()
    }
