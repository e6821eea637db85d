"""A split as random-access records of fixed-size arrays, with its labels at hand without touching an image."""

import dataclasses

import numpy as np

from tfds_rsna import prepared


@dataclasses.dataclass(frozen=True)
class Split:
    """`records[positions[i]]` is example i. `ids` list of str, `months` float32 `[N]`, `male` bool `[N]`."""

    name: str
    records: object
    positions: np.ndarray
    ids: list
    months: np.ndarray
    male: np.ndarray
    inputs: tuple = ('image',)  # what a batch carries besides its labels, of `image`, `hand_mask`, `keypoints`

    def __len__(self):
        return len(self.positions)

    def arrays(self, index):
        """`index` int `[B]` -> the stacked `inputs` of these examples: `image` uint8 `[B, H, W, 1]` and so on."""
        records = self.records.__getitems__([int(self.positions[i]) for i in index])
        return {name: np.stack([record[name] for record in records]) for name in self.inputs}


def open_splits(folder, derive):
    """The prepared records in `folder`, cut by `derive(labels) -> {name: (source split, positions)}`."""
    opened = prepared.open(folder)
    splits = {}
    for name, (source, positions) in derive(opened.labels).items():
        labels = opened.labels[source]
        splits[name] = Split(name, opened.splits[source], positions, [labels['ids'][i] for i in positions],
                             np.asarray(labels['months'], np.float32)[positions],
                             np.asarray(labels['male'], bool)[positions])
    return splits
