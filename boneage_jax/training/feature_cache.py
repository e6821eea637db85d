"""What a frozen backbone makes of each image, computed once and kept.

Training then never runs the backbone.

    $BONEAGE_CACHE/features/<fingerprint>.npy     one array [N, h, w, C] for each split

The fingerprint is of the images themselves, in their order, of the backbone's parameters and of all
that is between: another image, weight or option gives another file. A file is written under a
temporary name, goes on where it was stopped, and gets its name when it is whole.
"""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from flax import nnx

from boneage_jax.data import augment
from boneage_jax.data.source import Split
from boneage_jax.errors import ConfigError
from boneage_jax.runs.state import GraphDefs, State
from boneage_jax.runtime import files, log
from tfds_rsna.errors import UserError
from tfds_rsna.parallel import lock

VERSION = 1  # raise it when a change here, or in a network, alters the features
BACKBONE = 'backbone'  # the part of a model that makes them
OF_HEADS = ('head', 'hidden_units', 'use_sex')  # options of a model that change no feature
CHUNK = 256  # images between two marks of progress


def can_cache(config: ml_collections.ConfigDict, model: nnx.Module) -> bool:
    """Whether `config.cache_features` asks for kept features and nothing can change them.

    Augmentation and mirror images would. Raises ConfigError where the model cannot take features,
    or its backbone is not frozen.
    """
    if config.cache_features == 'off':
        return False
    if not hasattr(model, 'from_features') or BACKBONE not in config.frozen:
        if config.frozen:
            raise ConfigError(
                f'cache_features={config.cache_features!r}: {config.model.name} with frozen='
                f'{tuple(config.frozen)} has no whole frozen {BACKBONE}; set cache_features=off'
            )
        return False
    augmented = any(value for name, value in config.augment.items() if name != 'fill')
    return not config.flip_tta and not config.turn_tta and not augmented


def with_features(
    splits: dict[str, Split],
    state: State,
    graphdefs: GraphDefs,
    config: ml_collections.ConfigDict,
    folder,
) -> dict[str, Split]:
    """The splits with `features` in the place of `image`.

    What is not in `folder` yet is computed, and the terminal shows it.

    Args:
        splits: with images.
        state: its frozen parameters make the features.
        graphdefs: the model's structure.
        config: of the run.
        folder: where features are kept.
    """
    parts = jax.tree.map(np.asarray, (state.params, state.frozen_params, state.batch_stats))
    compute = _feature_function(parts, graphdefs, config)
    about = _about(parts, config)
    folder = pathlib.Path(folder)
    return {name: _ensure(split, compute, about, folder) for name, split in splits.items()}


def _feature_function(parts, graphdefs, config) -> Callable[[np.ndarray], np.ndarray]:
    """`images uint8 [N, H, W, 1] -> features [N, h, w, C]`, on all devices of this host."""
    # Every host works for itself: no step is shared, a shared folder is locked.
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.array(devices), ('images',))
    by_image = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('images'))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = jax.device_put(parts, replicated)

    @jax.jit
    def make(parts, image):
        model = nnx.merge(graphdefs.evaluate, *parts)
        features = model.features(augment.to_float({'image': image})['image'])
        return features.astype(config.cache_features)

    size = -(-config.batch_size // len(devices)) * len(devices)

    def compute(images):
        gap = -len(images) % size
        padded = np.pad(images, ((0, gap), (0, 0), (0, 0), (0, 0)))
        made = []
        for start in range(0, len(padded), size):
            batch = jax.device_put(padded[start : start + size], by_image)
            made.append(np.asarray(make(placed, batch)))
        return np.concatenate(made)[: len(images)]

    return compute


def _about(parts, config):
    """All but the images that the features depend on, as text."""
    arrays = {}
    for path, array in jax.tree_util.tree_flatten_with_path(parts)[0]:
        arrays[jax.tree_util.keystr(path, simple=True, separator='.')] = array
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        if f'.{BACKBONE}.' in name:
            digest.update(f'{name.partition(".")[2]} {array.shape} {array.dtype}'.encode())
            digest.update(np.ascontiguousarray(array))
    # Heads share their features.
    options = {name: value for name, value in config.model.items() if name not in OF_HEADS}
    return json.dumps(
        [
            VERSION,
            digest.hexdigest(),
            options,
            config.cache_features,
            config.dtype,
            jax.default_backend(),
        ],
        sort_keys=True,
    )


def _ensure(split, compute, about, folder):
    path = folder / f'{_fingerprint(split, about)}.npy'
    if not path.exists():
        with lock.exclusive(
            folder / f'.{path.stem}.lock',
            wait=True,
            on_wait=lambda: log.info(f'Waiting for another process that computes {path}.'),
        ):
            if not path.exists():
                _write(path, split, compute)
    kept = np.load(path, mmap_mode='r')
    return dataclasses.replace(
        split, records=_Rows(kept), positions=np.arange(len(split)), inputs=('features',)
    )


def _fingerprint(split, about):
    digest = hashlib.sha256(about.encode())
    for start in range(0, len(split), CHUNK):
        rows = range(start, min(start + CHUNK, len(split)))
        digest.update(np.ascontiguousarray(split.arrays(rows)['image']))
    return digest.hexdigest()[:16]


def _write(path, split, compute):
    """Chunk after chunk into a temporary file; a file beside it says how many images are done."""
    temporary = path.with_name(f'.{path.name}.tmp')
    mark = path.with_name(f'.{path.name}.done')
    first = int(mark.read_text()) if mark.exists() and temporary.exists() else 0
    began = time.monotonic()
    if first:
        kept = np.load(temporary, mmap_mode='r+')
    else:
        one = compute(split.arrays([0])['image'])
        files.check_free_space(
            path.parent,
            len(split) * one.nbytes,
            'the features',
            'free some space, set BONEAGE_CACHE to another disk, or cache_features=off',
        )
        kept = np.lib.format.open_memmap(temporary, 'w+', one.dtype, (len(split), *one.shape[1:]))
    for start in range(first, len(split), CHUNK):
        rows = range(start, min(start + CHUNK, len(split)))
        made = compute(split.arrays(rows)['image'])
        if not np.isfinite(made).all():
            raise UserError(
                f'{path}: features of image {split.ids[start]} or one of the next {len(rows)} are '
                f'not finite as {made.dtype}; set cache_features=float32'
            )
        kept[rows.start : rows.stop] = made
        kept.flush()
        files.write_atomic(mark, str(rows.stop))
        if start == first and rows.stop < len(split):
            left = (time.monotonic() - began) / len(rows) * (len(split) - rows.stop)
            shape = ' x '.join(map(str, made.shape[1:]))
            log.info(
                f'Features of {len(split):,} {split.name} images, {shape} each, into {path}: '
                f'about {log.duration(left)} (once; it goes on where it was stopped).'
            )
    del kept
    temporary.rename(path)
    mark.unlink()


class _Rows:
    """The rows of a file as records."""

    def __init__(self, kept):
        self._kept = kept

    def __getitems__(self, positions):
        return [{'features': self._kept[i]} for i in positions]
