"""The path of a batch: a pure function of (seed, step).

It is the same at any number of hosts and in both placements. Each epoch is a permutation of the
split drawn from (seed, epoch); the images that do not fill a batch sit that epoch out. Shuffle
first, slice per host after. Nothing of the iterator is saved: resuming at step s asks for batch(s).
"""

import functools
from collections.abc import Iterator

import grain
import jax
import jax.numpy as jnp
import numpy as np

from boneage_jax.data.source import Split
from boneage_jax.runtime import sharding
from tfds_rsna.errors import UserError


class TrainBatches:
    """`batches(step)` -> this host's rows of the global batch, numpy.

    With `placement='host'` the rows carry the images; with 'device' only `index` and `valid`, and
    `resident` holds the split's arrays for `gather` to take them from.

    Attributes:
        steps_per_epoch: how many batches make an epoch.
        resident: the split's arrays on the devices, {} with `placement='host'`.

    Raises:
        UserError: the split is smaller than a batch.
    """

    def __init__(
        self, split: Split, *, batch_size: int, seed: int, placement: str, mesh: jax.sharding.Mesh
    ):
        if len(split) < batch_size:
            raise UserError(
                f'{len(split)} training images do not fill one batch of {batch_size}; lower '
                'batch_size'
            )
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = len(split) // batch_size
        self.resident = make_resident(split, mesh) if placement == 'device' else {}
        # Threads read ahead across the end of an epoch: two orders are in use at a time. They are
        # not drawn anew for each step.
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, epoch):
        generator = np.random.default_rng([self.seed, epoch])
        return generator.permutation(len(self.split)).astype(np.int32)

    def indices(self, step: int) -> np.ndarray:
        """Positions in the split of the whole global batch, int32 `[B]`."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        index = self.indices(step)[sharding.host_rows(self.batch_size)]
        if self.resident:
            return {'index': index, 'valid': np.ones(len(index), bool)}
        return take(self.split, index)

    def ids(self, step: int) -> list[str]:
        """The ids of the global batch at `step`, for messages."""
        return [self.split.ids[i] for i in self.indices(step)]

    def iterate(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches start .. stop-1, loaded ahead by grain's threads."""
        source = grain.MapDataset.range(start, stop).map(self)
        options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
        return iter(source.to_iter_dataset(options))


def eval_batches(split: Split, *, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """This host's rows of every example of the split, each exactly once, in order.

    The last batch is padded with `valid` false.
    """
    rows = sharding.host_rows(batch_size)
    for start in range(0, len(split), batch_size):
        index = np.arange(start, start + batch_size, dtype=np.int32)
        valid = index < len(split)
        index = np.where(valid, index, 0)
        yield take(split, index[rows]) | {'valid': valid[rows]}


def take(split: Split, index: np.ndarray) -> dict[str, np.ndarray]:
    """The examples `index` int `[B]` of a split as a batch, all of them valid.

    A batch has `index`, `valid`, `months`, `male` (`[B]`) and the arrays of `split.inputs`.
    """
    return {
        'index': index,
        'valid': np.ones(len(index), bool),
        'months': split.months[index],
        'male': split.male[index],
        **split.arrays(index),
    }


def make_resident(split: Split, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """The whole split on every device, images as uint8.

    RSNA's training images at 512x512 take 3.3 GB.
    """
    arrays = {}
    for name, first in split.arrays([0]).items():
        arrays[name] = np.empty((len(split), *first.shape[1:]), first.dtype)
    for start in range(0, len(split), 512):
        stop = min(start + 512, len(split))
        for name, part in split.arrays(range(start, stop)).items():
            arrays[name][start:stop] = part
    return sharding.place_replicated(arrays | {'months': split.months, 'male': split.male}, mesh)


def gather(batch: dict, resident: dict) -> dict:
    """Completes a batch inside the step with the rows `index` of the resident arrays, if any."""
    if not resident:
        return batch
    rows = {name: jnp.take(array, batch['index'], axis=0) for name, array in resident.items()}
    return batch | rows
