"""How near an image is to the training images of a network, and the ages of its neighbours.

An image's embedding, what the network's last layers see of it, is reduced to the training images'
principal components. What these leave out is one more coordinate, by its length, so that an image
unlike all of them stays far from them. Distances are Euclidean in these coordinates. An image's own
distance is the mean of those to its `COUNT` nearest training images; what it means, the same
distance of each training image to all others tells.

`boneage export` computes all this from the run's training images, and it travels in the network's
file, at most `LIMIT` bytes, without any image or name of one:

    reference = neighbours.read('bone_age')
    prediction, aux = predictor(images, male)
    reference.quantile(aux['embeddings'])  # 0 to 1: 1 is farther than every training image
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial import distance as distances_lib

from boneage_jax.runs import exported
from boneage_jax.runtime import tensors
from tfds_rsna.errors import UserError

LIMIT = 1_000_000  # bytes of what a file holds of them
COUNT = 5  # neighbours, whose mean distance is an image's
FEWEST = 20  # training images
MOST = 20_000  # training images: more are thinned, evenly by age
DIMENSIONS = 64  # components at most
_LEVELS = 1001  # quantiles that are kept at most
_AT_ONCE = 512  # images whose distances are held at once
_PARTS = ('components', 'leave_one_out', 'male', 'mean', 'months', 'scale', 'vectors')


class Neighbours(NamedTuple):
    """The nearest training images of each of N images, the nearest first.

    Attributes:
        distance: `[N, K]`.
        months: their ages `[N, K]`.
        male: their sexes, bool `[N, K]`.
    """

    distance: np.ndarray
    months: np.ndarray
    male: np.ndarray


@dataclasses.dataclass(frozen=True)
class Reference:
    """The training images of a network by their reduced embeddings.

    Attributes:
        mean: of the embeddings, float32 `[F]`.
        components: the principal ones, float32 `[D, F]`.
        vectors: the training images, float32 `[N, D + 1]`, see `reduce`.
        months: their ages `[N]`.
        male: their sexes, bool `[N]`.
        leave_one_out: quantiles, at even steps from 0 to 1, of the training images' distances to
            the others, float32 `[Q]`.
    """

    mean: np.ndarray
    components: np.ndarray
    vectors: np.ndarray
    months: np.ndarray
    male: np.ndarray
    leave_one_out: np.ndarray

    def reduce(self, embeddings: np.ndarray) -> np.ndarray:
        """Embeddings `[N, F]` -> float32 `[N, D + 1]`: components, and the length of the rest.

        Raises UserError where they are of another network, or not finite.
        """
        embeddings = np.asarray(embeddings, np.float32)
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.mean):
            raise UserError(
                f'embeddings: expected [N, {len(self.mean)}], as this network gives them; found '
                f'{list(embeddings.shape)}'
            )
        if not np.isfinite(embeddings).all():
            raise UserError('embeddings: some are not finite')
        return _reduced(embeddings, self.mean, self.components)

    def nearest(self, embeddings: np.ndarray, count: int = COUNT) -> Neighbours:
        """The `count` nearest training images of each of the embeddings `[N, F]`."""
        if not 0 < count <= len(self.vectors):
            raise UserError(f'count={count}: expected 1 to {len(self.vectors)} training images')
        distance, index = _nearest(self.reduce(embeddings), self.vectors, count)
        return Neighbours(distance, self.months[index], self.male[index])

    def distance(self, embeddings: np.ndarray) -> np.ndarray:
        """The mean distance of each of the embeddings `[N, F]` to its `COUNT` nearest, `[N]`."""
        return self.nearest(embeddings).distance.mean(1)

    def quantile(self, embeddings: np.ndarray) -> np.ndarray:
        """The share of training images that are nearer to the others than this image is, `[N]`.

        Of images like those of the training it is spread over 0 to 1, mostly above its middle: the
        network has adapted to the training images. 1 is farther than each of them.
        """
        levels = np.linspace(0, 1, len(self.leave_one_out))
        return np.interp(self.distance(embeddings), self.leave_one_out, levels)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file holds, names as `tensors.read_beside` takes them."""
        scale = np.float32(max(np.abs(self.vectors).max(), 1e-12))
        parts = {
            'components': self.components.astype(np.float16),
            'leave_one_out': self.leave_one_out.astype(np.float32),
            'male': self.male.astype(np.uint8),
            'mean': self.mean.astype(np.float32),
            'months': self.months.astype(np.float16),
            'scale': scale.reshape(1),
            'vectors': (self.vectors / scale).astype(np.float16),
        }
        return {f'{tensors.BESIDE}{name}': array for name, array in parts.items()}


def fit(embeddings: np.ndarray, months: Sequence, male: Sequence) -> Reference:
    """The reference of training images, as it will be read from a file: rounded as it is there.

    Args:
        embeddings: `[N, F]`.
        months: ages `[N]`.
        male: bool `[N]`.

    Raises:
        UserError: fewer than `FEWEST` images, or embeddings that are all the same, not finite, or
            too long to be kept.
    """
    embeddings = np.asarray(embeddings, np.float32)
    months = np.asarray(months, np.float32)
    male = np.asarray(male, bool)
    if len(embeddings) < FEWEST:
        raise UserError(f'{len(embeddings)} training images are too few; {FEWEST} are needed')
    if not np.isfinite(embeddings).all() or not np.ptp(embeddings, axis=0).any():
        raise UserError('the embeddings of the training images are all the same or not finite')
    if len(embeddings) > MOST:
        by_age = np.argsort(months, kind='stable')
        chosen = by_age[np.linspace(0, len(months) - 1, MOST).astype(int)]
        embeddings = embeddings[chosen]
        months = months[chosen]
        male = male[chosen]

    mean = embeddings.mean(0)
    components = _components(embeddings - mean, _dimensions(*embeddings.shape))
    vectors = _reduced(embeddings, mean, components)
    rounded = Reference(mean, components, vectors, months, male, np.zeros(1, np.float32))
    rounded = _from_arrays(_as_read(rounded.arrays()))
    own = _leave_one_out(rounded.vectors)
    levels = np.linspace(0, 1, min(_LEVELS, len(own)))
    return dataclasses.replace(rounded, leave_one_out=np.quantile(own, levels).astype(np.float32))


def read(place: pathlib.Path | str) -> Reference:
    """The reference in the file of a network.

    Args:
        place: a file of `boneage export`, or the name of a shipped network.

    Raises:
        UserError: a workdir, which holds none, a file without, or one that is damaged.
    """
    path = exported.find(place)
    if not exported.is_file(path):
        raise UserError(
            f'{place}: a workdir holds no reduced embeddings of its training images; `boneage '
            'export` writes a file that does'
        )
    exported.read(path)
    found = tensors.read_beside(path)
    missing = [name for name in _PARTS if name not in found]
    if len(missing) == len(_PARTS):
        raise UserError(
            f'{path} holds no embeddings of its training images: it was exported without, or its '
            'network gives none; export its run again, where the training images are at hand'
        )
    if missing:
        raise UserError(f'{path}: its embeddings lack {", ".join(missing)}; export it again')
    return _from_arrays(found)


def _from_arrays(found: Mapping[str, np.ndarray]) -> Reference:
    return Reference(
        found['mean'],
        found['components'],
        found['vectors'] * found['scale'],
        found['months'],
        found['male'].astype(bool),
        found['leave_one_out'],
    )


def _as_read(arrays):
    """Arrays for a file as they come back from it."""
    found = {}
    for name, array in arrays.items():
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        found[name.removeprefix(tensors.BESIDE)] = array
    return found


def _dimensions(count, features):
    """How many components of so many images and features the file has room for."""
    fixed = 4 * features + 3 * count + 4 * _LEVELS + 2 * count + 2_000  # the last for its header
    room = (LIMIT - fixed) // (2 * (count + features))
    if room < 1:
        raise UserError(f'embeddings of {features} numbers are too long for {LIMIT:,} bytes')
    return int(min(room, DIMENSIONS, features, count - 1))


def _components(centred, dimensions):
    """The principal components `[D, F]` of centred embeddings `[N, F]`, as float16 has them."""
    centred = centred.astype(np.float64)
    if centred.shape[0] < centred.shape[1]:
        _, _, rows = np.linalg.svd(centred, full_matrices=False)
        chosen = rows[:dimensions]
    else:
        _, columns = np.linalg.eigh(centred.T @ centred)  # values ascend
        chosen = columns[:, ::-1][:, :dimensions].T
    return chosen.astype(np.float16).astype(np.float32)


def _reduced(embeddings, mean, components):
    centred = (embeddings - mean).astype(np.float64)
    kept = centred @ components.T
    rest = centred - kept @ components
    return np.column_stack([kept, np.linalg.norm(rest, axis=1)]).astype(np.float32)


def _leave_one_out(vectors):
    """Each image's mean distance to its `COUNT` nearest others, `[N]`."""
    found = []
    for start in range(0, len(vectors), _AT_ONCE):
        rows = vectors[start : start + _AT_ONCE]
        distances = distances_lib.cdist(rows, vectors)
        distances[np.arange(len(rows)), start + np.arange(len(rows))] = np.inf
        found.append(np.partition(distances, COUNT - 1, axis=1)[:, :COUNT].mean(1))
    return np.concatenate(found)


def _nearest(points, vectors, count):
    """(distances, places in `vectors`), both `[N, count]`, the nearest first."""
    distances = []
    places = []
    for start in range(0, len(points), _AT_ONCE):
        found = distances_lib.cdist(points[start : start + _AT_ONCE], vectors)
        nearest = np.argsort(found, axis=1, kind='stable')[:, :count]
        places.append(nearest)
        distances.append(np.take_along_axis(found, nearest, axis=1))
    return np.concatenate(distances), np.concatenate(places)
