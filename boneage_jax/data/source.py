"""A split as random-access records of fixed-size arrays, with its labels at hand without touching
an image.
"""

import dataclasses

import numpy as np

from tfds_rsna import prepared
from tfds_rsna.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
    """`records[positions[i]]` is example i. `ids` list of str, `months` float32 `[N]`, `male` bool
    `[N]`; `sources` list of str: where each image comes from, '' where nothing says so.
    """

    name: str
    records: object
    positions: np.ndarray
    ids: list
    months: np.ndarray
    male: np.ndarray
    inputs: tuple = (
        'image',
    )  # what a batch carries besides its labels, of `image`, `hand_mask`, `keypoints`
    sources: tuple | list = ()
    folder: str = ''  # of the prepared records

    def __len__(self):
        return len(self.positions)

    def arrays(self, index):
        """`index` int `[B]` -> the stacked `inputs` of these examples: `image` uint8 `[B, H, W, 1]`
        and so on.
        """
        records = self.records.__getitems__([int(self.positions[i]) for i in index])
        return {name: np.stack([record[name] for record in records]) for name in self.inputs}


def open_splits(folder, derive, inputs=('image',)):
    """The prepared records in `folder`, cut by `derive(labels) -> {name: (source split,
    positions)}`.

    Raises UserError where the records lack one of `inputs`.
    """
    opened = prepared.open(folder)
    splits = {}
    for split in opened.splits.values():
        missing = set(inputs) - set(split[0])
        if missing:
            raise UserError(
                f'{folder}: these images have no {", ".join(sorted(missing))}, which config.task needs; take a '
                'source that has them (hand_phantom) or a stage that finds them (data.stages)'
            )
    for name, (source, positions) in derive(opened.labels).items():
        labels = opened.labels[source]
        splits[name] = Split(
            name,
            opened.splits[source],
            positions,
            [labels['ids'][i] for i in positions],
            np.asarray(labels['months'], np.float32)[positions],
            np.asarray(labels['male'], bool)[positions],
            inputs,
            [labels['sources'][i] for i in positions],
            str(folder),
        )
    return splits


def join(split, others):
    """`split` with all images of the `others` behind its own: the images of further sources join a
    training split.
    """
    if not others:
        return split
    every = (split, *others)
    shapes = [{name: array.shape[1:] for name, array in s.arrays([0]).items()} for s in every]
    if any(shape != shapes[0] for shape in shapes):
        raise UserError(
            f'data.extra_train_folders: its images are of other sizes than those of data.source: {shapes}; prepare them alike'
        )
    return dataclasses.replace(
        split,
        records=_Joined([s.records for s in every]),
        positions=np.concatenate(
            [_Joined.address(number, s.positions) for number, s in enumerate(every)]
        ),
        ids=[i for s in every for i in s.ids],
        sources=[i for s in every for i in s.sources],
        months=np.concatenate([s.months for s in every]),
        male=np.concatenate([s.male for s in every]),
    )


def of_sex(split, sex):
    """The images of one sex ('male' | 'female'), or all ('both'). UserError where the split has
    none.
    """
    if sex == 'both':
        return split
    chosen = np.flatnonzero(split.male == (sex == 'male'))
    if not len(chosen):
        raise UserError(
            f'data.sex={sex!r}: none of the {len(split)} {split.name} images is of that sex'
        )
    return dataclasses.replace(
        split,
        positions=split.positions[chosen],
        ids=[split.ids[i] for i in chosen],
        sources=[split.sources[i] for i in chosen] if split.sources else (),
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
