"""What a frozen backbone makes of each image, computed once and kept.

Training then never runs the backbone.

    $BONEAGE_CACHE/features/<fingerprint>/00000.npy     [n, h, w, C] of some images, and so on

The fingerprint is of the backbone's parameters and of all that is between it and the image. An
image is known by its pixels, so the runs of both sexes, of all folds and of every seed share what
was computed, whatever their splits. What was written stays: a stopped computation goes on.
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

VERSION = 2  # raise it when a change here, or in a network, alters the features
BACKBONE = 'backbone'  # the part of a model that makes them
OF_HEADS = ('head', 'hidden_units', 'use_sex')  # options of a model that change no feature
CHUNK = 256  # images that are computed and written together


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
    store = _Store(folder / hashlib.sha256(about.encode()).hexdigest()[:16])
    digests = _digests(split)
    store.read()
    if not store.has(digests):
        with lock.exclusive(
            folder / f'.{store.folder.name}.lock',
            wait=True,
            on_wait=lambda: log.info(f'Waiting for another process that computes {store.folder}.'),
        ):
            store.folder.mkdir(parents=True, exist_ok=True)
            store.read()
            _add(store, split, digests, compute)
    positions = np.array([store.places[digest] for digest in digests])
    return dataclasses.replace(split, records=store, positions=positions, inputs=('features',))


def _digests(split):
    """One of each image's pixels, str."""
    digests = []
    for start in range(0, len(split), CHUNK):
        for image in split.arrays(range(start, min(start + CHUNK, len(split))))['image']:
            digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
            digest.update(np.ascontiguousarray(image))
            digests.append(digest.hexdigest())
    return digests


def _add(store, split, digests, compute):
    """Computes what the store lacks of a split, chunk after chunk; what is done stays done."""
    first = {}
    for i, digest in enumerate(digests):
        if digest not in store.places:
            first.setdefault(digest, i)
    missing = list(first.values())
    began = time.monotonic()
    for start in range(0, len(missing), CHUNK):
        rows = missing[start : start + CHUNK]
        made = compute(split.arrays(rows)['image'])
        if not np.isfinite(made).all():
            raise UserError(
                f'{store.folder}: features of image {split.ids[rows[0]]} or one of the next '
                f'{len(rows)} are not finite as {made.dtype}; set cache_features=float32'
            )
        left = len(missing) - start - len(rows)
        if not start:
            files.check_free_space(
                store.folder,
                len(missing) * made[0].nbytes,
                'the features',
                'free some space, set BONEAGE_CACHE to another disk, or cache_features=off',
            )
        store.add(made, [digests[i] for i in rows])
        if not start and left:
            shape = ' x '.join(map(str, made.shape[1:]))
            duration = log.duration((time.monotonic() - began) / len(rows) * left)
            log.info(
                f'Features of {len(missing):,} {split.name} images, {shape} each, into '
                f'{store.folder}: about {duration} (once; it goes on where it was stopped).'
            )


class _Store:
    """The features that one backbone has made, as records.

    Attributes:
        folder: chunks, `00000.npy` [n, h, w, C] and so on, each with `00000.txt`, a digest a line.
        places: {digest of an image: position of its features}.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.places = {}
        self._rows = []  # (chunk, row in it) by position
        self._chunks = 0

    def __getitems__(self, positions):
        records = []
        for position in positions:
            chunk, row = self._rows[position]
            records.append({'features': chunk[row]})
        return records

    def has(self, digests):
        return self.places.keys() >= set(digests)

    def read(self):
        """Takes in the chunks that are new. Raises UserError where one is damaged."""
        while (path := self._path('npy')).exists():
            try:
                chunk = np.load(path, mmap_mode='r')
                digests = self._path('txt').read_text().split()
            except (OSError, ValueError, EOFError) as error:
                raise UserError(
                    f'{path}: damaged ({error}); delete the folder {self.folder}'
                ) from error
            if len(chunk) != len(digests):
                raise UserError(
                    f'{path}: {len(chunk)} images for {len(digests)} digests; delete the folder '
                    f'{self.folder}'
                )
            for row, digest in enumerate(digests):
                self.places[digest] = len(self._rows)
                self._rows.append((chunk, row))
            self._chunks += 1

    def add(self, made, digests):
        """Writes a chunk. It is there once its array is, which comes last."""
        files.write_atomic(self._path('txt'), '\n'.join(digests) + '\n')
        with files.replacing(self._path('npy')) as temporary, temporary.open('wb') as file:
            np.save(file, made)
        self.read()

    def _path(self, suffix):
        return self.folder / f'{self._chunks:05d}.{suffix}'
