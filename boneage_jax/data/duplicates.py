"""Whether images of one split stand in another too: by their ids, and by their pictures.

Runs before every training. The same id in two splits ends the run. Pictures are compared by a
64-bit difference hash (Krawetz 2013: the sign of the horizontal differences of a 9x8 thumbnail);
pairs within NEAR bits are then compared as 32x32 thumbnails, since hands are alike: what correlates
by ALIKE or more is listed in leaks.csv and counted in metrics.json. It may be one child imaged
twice or a file given twice, or, of registered hands, merely two that are much alike: it ends no
run. On the 12,000 images of 100 px of RSNA's training set the hash alone pairs about 9,800; none is
the same picture.
"""

import itertools
import pathlib

import numpy as np

from boneage_jax.data import splits as splits_lib
from boneage_jax.errors import LeakageError
from boneage_jax.runtime import files, log

NEAR = 6  # bits of 64 by which the hashes of one picture, stored twice, may differ
ALIKE = 0.985  # correlation of the thumbnails from which two pictures count as one
COLUMNS = ('split', 'id', 'other_split', 'other_id', 'kind', 'bits', 'correlation')
_CHUNK = 256  # images held at once
_SIDE = 32


def check(splits, workdir=None):
    """Compares all pairs of `splits` `{name: Split}`; writes leaks.csv into `workdir` where
    pictures are found twice.

    Returns `{'same_id': 0, 'same_picture': pairs, 'near_picture': pairs}`. Raises Leak where an id
    stands in two splits.
    """
    refuse_same_ids(splits)
    seen = {name: _look(split) for name, split in splits.items()}
    rows = [
        row
        for one, other in itertools.combinations(splits, 2)
        for row in _pairs(
            (one, splits[one].ids, *seen[one]), (other, splits[other].ids, *seen[other])
        )
    ]
    counts = {
        kind: sum(row[4] == kind for row in rows) for kind in ('same_picture', 'near_picture')
    }
    path = pathlib.Path(workdir) / 'leaks.csv' if workdir else None
    if path and rows:
        files.write_table(path, COLUMNS, rows)
    elif path:
        path.unlink(missing_ok=True)
    if rows:
        reported = sum(
            row[0] in splits_lib.REPORTED or row[2] in splits_lib.REPORTED for row in rows
        )
        log.info(
            f'Leak check: {counts["same_picture"]} pairs of images of different splits are the same picture, '
            f'{counts["near_picture"]} nearly so ({reported} concern a reported split)'
            + (f': {path}' if path else '')
            + '. Name the patients (data.image_folder.group_column) or take these '
            'images out where the figures are to be quoted.'
        )
    return {'same_id': 0, **counts}


def refuse_same_ids(splits):
    """Raises Leak where two of `splits` `{name: Split}` share an id."""
    for one, other in itertools.combinations(splits, 2):
        if both := sorted(set(splits[one].ids) & set(splits[other].ids)):
            raise LeakageError(
                f'{len(both)} images stand in {one} and in {other}, the first: {", ".join(both[:5])}. An image may be in '
                'one split only. Where data.extra_train_folders brings images of other sources, their ids must differ from these.'
            )


def hashes(images):
    """Difference hashes uint64 `[N]` of images `[N, H, W]` uint8."""
    small = _shrink(images, 8, 9)
    bits = small[:, :, 1:] > small[:, :, :-1]
    return np.packbits(bits.reshape(len(images), 64), axis=1).view(np.uint64)[:, 0]


def _look(split):
    """(hashes [N], thumbnails [N, 1024] of mean 0 and length 1) of a split."""
    found = []
    for start in range(0, len(split), _CHUNK):
        places = [int(p) for p in split.positions[start : start + _CHUNK]]
        examples = np.stack(
            [record['image'][..., 0] for record in split.records.__getitems__(places)]
        )
        small = _shrink(examples, _SIDE, _SIDE).reshape(len(examples), -1)
        small = small - small.mean(1, keepdims=True)
        small /= np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)
        found.append((hashes(examples), small.astype(np.float32)))
    return tuple(np.concatenate(part) for part in zip(*found))


def _shrink(images, rows, columns):
    """Means over a grid of `rows` x `columns` cells: float32 `[N, rows, columns]`. A large image is
    read every few pixels.
    """
    images = np.asarray(images)
    step = max(1, min(images.shape[1] // (4 * rows), images.shape[2] // (4 * columns)))
    images = images[:, ::step, ::step].astype(np.float32)
    for axis, cells in ((1, rows), (2, columns)):
        size = images.shape[axis]
        edges = np.minimum(np.arange(cells) * size // cells, size - 1)
        counts = np.diff(np.append(edges, size)).clip(1).astype(np.float32)
        images = np.add.reduceat(images, edges, axis=axis)
        images = images / counts.reshape((1, -1, 1) if axis == 1 else (1, 1, -1))
    return images


def _pairs(one, other):
    """Lines of leaks.csv for the images of two splits, `(name, ids, hashes, thumbnails)` each."""
    rows = []
    for start in range(0, len(one[2]), _CHUNK):
        bits = np.bitwise_count(one[2][start : start + _CHUNK, None] ^ other[2][None])
        for i, j in np.argwhere(bits <= NEAR):
            a, b = one[3][start + i], other[3][j]
            if (alike := float(a @ b)) >= ALIKE:
                kind = 'same_picture' if alike >= 0.99999 else 'near_picture'
                rows.append(
                    (
                        one[0],
                        one[1][start + i],
                        other[0],
                        other[1][j],
                        kind,
                        int(bits[i, j]),
                        f'{alike:.4f}',
                    )
                )
    return rows
