"""Whether images of one split are in another too: by their ids, and by their pictures.

It runs before every training. The same id in two splits ends the run. Pictures are compared by a
64-bit difference hash (Krawetz 2013: the sign of the horizontal differences of a 9x8 thumbnail);
pairs within NEAR bits are then compared as 32x32 thumbnails, since hands are alike: what correlates
by ALIKE or more is listed in leaks.csv and counted in metrics.json. It may be one child imaged
twice or a file given twice, or, of registered hands, merely two that are much alike: it ends no
run. On the 12,000 images of 100 px of RSNA's training set the hash alone pairs about 9,800; none is
the same picture.
"""

import itertools
import pathlib
from typing import NamedTuple

import numpy as np

from boneage_jax.data import id_spaces
from boneage_jax.data import splits as splits_lib
from boneage_jax.data.source import Split
from boneage_jax.errors import LeakageError
from boneage_jax.runtime import files, log

NEAR = 6  # bits of 64 by which the hashes of one picture, stored twice, may differ
ALIKE = 0.985  # correlation of the thumbnails from which two pictures count as one
COLUMNS = ('split', 'id', 'other_split', 'other_id', 'kind', 'bits', 'correlation')
_CHUNK = 256  # images held at once
_SIDE = 32


class _Pictures(NamedTuple):
    """What is compared of a split's images."""

    split: str
    ids: list
    hashes: np.ndarray  # uint64 [N]
    thumbnails: np.ndarray  # float32 [N, 1024], of mean 0 and length 1


def check(splits: dict[str, Split], workdir=None) -> dict[str, int]:
    """Compares all pairs of splits; writes leaks.csv into `workdir` where pictures come twice.

    Returns `{'same_id': 0, 'same_picture': pairs, 'near_picture': pairs}`. Raises LeakageError
    where an id of one id space is in two splits.
    """
    refuse_same_ids(splits)
    pictures = [_look(name, split) for name, split in splits.items()]
    rows = []
    for one, other in itertools.combinations(pictures, 2):
        rows += _pairs(one, other)
    kinds = [kind for *_, kind, _, _ in rows]
    counts = {kind: kinds.count(kind) for kind in ('same_picture', 'near_picture')}
    path = pathlib.Path(workdir) / 'leaks.csv' if workdir else None
    if path and rows:
        files.write_table(path, COLUMNS, rows)
    elif path:
        path.unlink(missing_ok=True)
    if rows:
        _tell(counts, rows, path)
    return {'same_id': 0, **counts}


def _tell(counts, rows, path):
    reported = 0
    for split, _, other_split, *_ in rows:
        reported += split in splits_lib.REPORTED or other_split in splits_lib.REPORTED
    where = f': {path}' if path else ''
    log.info(
        f'Leak check: {counts["same_picture"]} pairs of images of different splits are the same '
        f'picture, {counts["near_picture"]} nearly so ({reported} concern a reported split)'
        f'{where}. Name the patients (data.image_folder.group_column) or take these images out '
        'where the figures are to be quoted.'
    )


def refuse_same_ids(splits: dict[str, Split]):
    """Raises LeakageError where two splits share an id of one id space."""
    for one, other in itertools.combinations(splits.values(), 2):
        known = id_spaces.IdSet()
        known.add(one.ids, one.spaces or id_spaces.UNDECLARED)
        both = sorted(known.among(other.ids, other.spaces or id_spaces.UNDECLARED))
        if both:
            raise LeakageError(
                f'{len(both)} images stand in {one.name} and in {other.name}, the first: '
                f'{", ".join(both[:5])}. An image may be in one split only. Where '
                'data.extra_train_folders brings images of other sources, their records must '
                'declare an id space of their own.'
            )


def hashes(images: np.ndarray) -> np.ndarray:
    """Difference hashes uint64 `[N]` of images `[N, H, W]` uint8."""
    small = _shrink(images, 8, 9)
    bits = small[:, :, 1:] > small[:, :, :-1]
    return np.packbits(bits.reshape(len(images), 64), axis=1).view(np.uint64)[:, 0]


def _look(name, split):
    all_hashes = []
    all_thumbnails = []
    for start in range(0, len(split), _CHUNK):
        positions = [int(p) for p in split.positions[start : start + _CHUNK]]
        records = split.records.__getitems__(positions)
        images = np.stack([record['image'][..., 0] for record in records])
        thumbnails = _shrink(images, _SIDE, _SIDE).reshape(len(images), -1)
        thumbnails = thumbnails - thumbnails.mean(1, keepdims=True)
        thumbnails /= np.maximum(np.linalg.norm(thumbnails, axis=1, keepdims=True), 1e-6)
        all_hashes.append(hashes(images))
        all_thumbnails.append(thumbnails.astype(np.float32))
    return _Pictures(name, split.ids, np.concatenate(all_hashes), np.concatenate(all_thumbnails))


def _shrink(images, rows, columns):
    """Means over a grid of `rows` x `columns` cells: float32 `[N, rows, columns]`.

    A large image is read every few pixels.
    """
    images = np.asarray(images)
    step = max(1, min(images.shape[1] // (4 * rows), images.shape[2] // (4 * columns)))
    images = images[:, ::step, ::step].astype(np.float32)
    for axis, cells in ((1, rows), (2, columns)):
        size = images.shape[axis]
        edges = np.minimum(np.arange(cells) * size // cells, size - 1)
        counts = np.diff(np.append(edges, size)).clip(1).astype(np.float32)
        images = np.add.reduceat(images, edges, axis=axis)
        images = images / (counts[:, None] if axis == 1 else counts)
    return images


def _pairs(one, other):
    """Lines of leaks.csv for the _Pictures of two splits."""
    rows = []
    for start in range(0, len(one.ids), _CHUNK):
        bits = np.bitwise_count(one.hashes[start : start + _CHUNK, None] ^ other.hashes[None])
        for i, j in np.argwhere(bits <= NEAR):
            alike = float(one.thumbnails[start + i] @ other.thumbnails[j])
            if alike < ALIKE:
                continue
            kind = 'same_picture' if alike >= 0.99999 else 'near_picture'
            ids = (one.ids[start + i], other.ids[j])
            rows.append(
                (one.split, ids[0], other.split, ids[1], kind, int(bits[i, j]), f'{alike:.4f}')
            )
    return rows
