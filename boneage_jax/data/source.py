"""A split: random-access records of fixed-size arrays, its labels at hand without any image."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from boneage_jax.data import id_spaces
from tfds_rsna import prepared
from tfds_rsna.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of a split; example i is `records[positions[i]]`.

    Attributes:
        name: 'train', 'validation', 'fold', 'holdout' or 'test'.
        records: random access to the prepared records.
        positions: int `[N]`.
        ids: list of str.
        months: ages, float32 `[N]`.
        male: bool `[N]`.
        inputs: what a batch carries besides its labels, of `image`, `hand_mask`, `keypoints`.
        sources: where each image comes from, list of str, '' where nothing says so.
        spaces: the id space of each image, list of str; () where nothing declares them.
        folder: of the prepared records.
    """

    name: str
    records: Any
    positions: np.ndarray
    ids: list[str]
    months: np.ndarray
    male: np.ndarray
    inputs: tuple[str, ...] = ('image',)
    sources: Sequence[str] = ()
    spaces: Sequence[str] = ()
    folder: str = ''

    def __len__(self):
        return len(self.positions)

    def arrays(self, index: Sequence[int]) -> dict[str, np.ndarray]:
        """The stacked `inputs` of the examples `index` int `[B]`.

        `image` is uint8 `[B, H, W, 1]`, and so on.
        """
        records = self.records.__getitems__([int(self.positions[i]) for i in index])
        return {name: np.stack([record[name] for record in records]) for name in self.inputs}


def open_splits(
    folder,
    derive: Callable[[Mapping], dict[str, tuple[str, np.ndarray]]],
    inputs: tuple[str, ...] = ('image',),
    space: str | None = None,
) -> dict[str, Split]:
    """The prepared records in `folder`, cut by `derive(labels)` as `splits.derive` cuts them.

    Their id space is `space`, or the one that the folder declares. Raises UserError where the
    records lack one of `inputs`.
    """
    opened = prepared.open(folder)
    if space is None:
        space = id_spaces.of_folder(folder)
    for records in opened.splits.values():
        missing = set(inputs) - set(records[0])
        if missing:
            raise UserError(
                f'{folder}: these images have no {", ".join(sorted(missing))}, which config.task '
                'needs; take a source that has them (hand_phantom) or a stage that finds them '
                '(data.stages)'
            )
    splits = {}
    for name, (source, positions) in derive(opened.labels).items():
        labels = opened.labels[source]
        splits[name] = Split(
            name=name,
            records=opened.splits[source],
            positions=positions,
            ids=[labels['ids'][i] for i in positions],
            months=np.asarray(labels['months'], np.float32)[positions],
            male=np.asarray(labels['male'], bool)[positions],
            inputs=inputs,
            sources=[labels['sources'][i] for i in positions],
            spaces=[space] * len(positions),
            folder=str(folder),
        )
    return splits


def repeat(split: Split, times: int) -> Split:
    """`split` with each of its images `times` times, one pass behind the other."""
    if times == 1:
        return split
    return dataclasses.replace(
        split,
        positions=np.tile(split.positions, times),
        ids=list(split.ids) * times,
        sources=list(split.sources) * times,
        spaces=list(split.spaces) * times,
        months=np.tile(split.months, times),
        male=np.tile(split.male, times),
    )


def join(split: Split, others: Sequence[Split]) -> Split:
    """`split` with all images of the `others` behind its own.

    So the images of further sources join a training split. Raises UserError where they are of
    other sizes.
    """
    if not others:
        return split
    every = (split, *others)
    shapes = [_shapes(part) for part in every]
    if any(shape != shapes[0] for shape in shapes):
        raise UserError(
            'data.extra_train_folders: its images are of other sizes than those of data.source: '
            f'{shapes}; prepare them alike'
        )
    ids = []
    sources = []
    spaces = []
    positions = []
    for number, part in enumerate(every):
        ids += part.ids
        sources += part.sources
        spaces += part.spaces or [id_spaces.UNDECLARED] * len(part)
        positions.append(_Joined.address(number, part.positions))
    return dataclasses.replace(
        split,
        records=_Joined([part.records for part in every]),
        positions=np.concatenate(positions),
        ids=ids,
        sources=sources,
        spaces=spaces,
        months=np.concatenate([part.months for part in every]),
        male=np.concatenate([part.male for part in every]),
    )


def _shapes(split):
    return {name: array.shape[1:] for name, array in split.arrays([0]).items()}


def of_sex(split: Split, sex: str) -> Split:
    """The images of one sex ('male' | 'female'), or all ('both').

    Raises UserError where the split has none.
    """
    if sex == 'both':
        return split
    chosen = np.flatnonzero(split.male == (sex == 'male'))
    if not len(chosen):
        raise UserError(
            f'data.sex={sex!r}: none of the {len(split)} {split.name} images is of that sex'
        )
    return take(split, chosen)


def each_once(split: Split) -> Split:
    """The images of a split without those that come again: the same id of the same id space."""
    spaces = split.spaces or [id_spaces.UNDECLARED] * len(split)
    first = {}
    for i, image in enumerate(zip(split.ids, spaces, strict=True)):
        first.setdefault(image, i)
    return take(split, np.array(list(first.values()), int))


def take(split: Split, chosen: np.ndarray) -> Split:
    """The examples `chosen` int `[M]` of a split, in that order."""
    return dataclasses.replace(
        split,
        positions=split.positions[chosen],
        ids=[split.ids[i] for i in chosen],
        sources=[split.sources[i] for i in chosen] if split.sources else (),
        spaces=[split.spaces[i] for i in chosen] if split.spaces else (),
        months=split.months[chosen],
        male=split.male[chosen],
    )


class _Joined:
    """Records of several folders; an address is (folder number, position) in one integer."""

    _FOLDER = 1 << 40

    def __init__(self, parts):
        self._parts = parts

    @classmethod
    def address(cls, number, positions):
        return np.asarray(positions, np.int64) + number * cls._FOLDER

    def __getitems__(self, addresses):
        return [self._parts[a // self._FOLDER][a % self._FOLDER] for a in addresses]
