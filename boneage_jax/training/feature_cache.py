"""What a frozen backbone makes of each image, computed once and kept: training then never runs the
backbone.

    $BONEAGE_CACHE/features/<fingerprint>.npy     one array [N, h, w, C] for each split

The fingerprint is of the images themselves, in their order, of the backbone's parameters and of all
that lies between: another image, weight or option gives another file. A file is written under a
temporary name, goes on where it was stopped, and gets its name when it is whole.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import time

import jax
import numpy as np
from flax import nnx

from boneage_jax.data import augment
from boneage_jax.errors import ConfigError
from boneage_jax.runtime import files, log
from tfds_rsna.errors import UserError
from tfds_rsna.parallel import lock

VERSION = 1  # raise it when a change here, or in a network, alters the features
BACKBONE = 'backbone'  # the part of a model that makes them
OF_HEADS = ('head', 'hidden_units', 'use_sex')  # options of a model that change no feature
CHUNK = 256  # images between two marks of progress


def can_cache(config, model):
    """Whether `config.cache_features` asks for kept features and nothing can change them: no
    augmentation, no mirror image.

    Raises ConfigError where the model cannot take features, or its backbone is not frozen.
    """
    if config.cache_features == 'off':
        return False
    if not hasattr(model, 'from_features') or BACKBONE not in config.frozen:
        if config.frozen:
            raise ConfigError(
                f'features={config.cache_features!r}: {config.model.name} with frozen='
                f'{tuple(config.frozen)} has no whole frozen {BACKBONE}; set cache_features=off'
            )
        return False
    return not config.flip_tta and not any(
        value for name, value in config.augment.items() if name != 'fill'
    )


def with_features(splits, state, graphdefs, config, folder):
    """The splits, which carry `features` in the place of `image`; computes what is not in `folder`
    yet and says so.
    """
    parts = jax.tree.map(np.asarray, (state.params, state.frozen_params, state.batch_stats))
    devices = (
        jax.local_devices()
    )  # every host works for itself: no step is shared, a shared folder is locked
    mesh = jax.sharding.Mesh(np.array(devices), ('images',))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('images'))
    placed = jax.device_put(parts, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))

    @jax.jit
    def make(parts, image):
        model = nnx.merge(graphdefs.evaluate, *parts)
        return model.features(augment.to_float({'image': image})['image']).astype(
            config.cache_features
        )

    size = -(-config.batch_size // len(devices)) * len(devices)

    def compute(images):
        gap = -len(images) % size
        padded = np.pad(images, ((0, gap), (0, 0), (0, 0), (0, 0)))
        made = [
            np.asarray(make(placed, jax.device_put(padded[i : i + size], sharding)))
            for i in range(0, len(padded), size)
        ]
        return np.concatenate(made)[: len(images)]

    about = _about(parts, config)
    return {
        name: _ensure(split, compute, about, pathlib.Path(folder)) for name, split in splits.items()
    }


def _about(parts, config):
    """All but the images that the features depend on, as text."""
    digest = hashlib.sha256()
    for path, array in sorted(
        (jax.tree_util.keystr(path, simple=True, separator='.'), array)
        for path, array in jax.tree_util.tree_flatten_with_path(parts)[0]
    ):
        if f'.{BACKBONE}.' in path:
            digest.update(f'{path.partition(".")[2]} {array.shape} {array.dtype}'.encode())
            digest.update(np.ascontiguousarray(array))
    options = {
        name: value for name, value in config.model.items() if name not in OF_HEADS
    }  # heads share their features
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
        digest.update(
            np.ascontiguousarray(
                split.arrays(range(start, min(start + CHUNK, len(split))))['image']
            )
        )
    return digest.hexdigest()[:16]


def _write(path, split, compute):
    """Chunk after chunk into a temporary file; beside it stands how many images of it are done."""
    temporary, mark = path.with_name(f'.{path.name}.tmp'), path.with_name(f'.{path.name}.done')
    done = int(mark.read_text()) if mark.exists() and temporary.exists() else 0
    begin, first = time.monotonic(), done
    if done:
        kept = np.load(temporary, mmap_mode='r+')
    else:
        one = compute(split.arrays([0])['image'])
        _check_space(path, len(split) * one.nbytes)
        kept = np.lib.format.open_memmap(temporary, 'w+', one.dtype, (len(split), *one.shape[1:]))
    while done < len(split):
        rows = range(done, min(done + CHUNK, len(split)))
        made = compute(split.arrays(rows)['image'])
        if not np.isfinite(made).all():
            raise UserError(
                f'{path}: features of image {split.ids[rows[0]]} or one of the next {len(rows)} are not finite as '
                f'{made.dtype}; set cache_features=float32'
            )
        kept[rows.start : rows.stop] = made
        kept.flush()
        files.write_atomic(mark, str(rows.stop))
        if done == first and rows.stop < len(split):
            left = (time.monotonic() - begin) / len(rows) * (len(split) - rows.stop)
            log.info(
                f'Features of {len(split):,} {split.name} images, {" x ".join(map(str, made.shape[1:]))} each, into {path}: '
                f'about {log.duration(left)} (once; it goes on where it was stopped).'
            )
        done = rows.stop
    del kept
    temporary.rename(path)
    mark.unlink()


def _check_space(path, needed):
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise UserError(
            f'{path.parent}: the features need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free some '
            'space, set BONEAGE_CACHE to another disk, or cache_features=off'
        )


class _Rows:
    """The rows of a file as records."""

    def __init__(self, kept):
        self._kept = kept

    def __getitems__(self, positions):
        return [{'features': self._kept[i]} for i in positions]
