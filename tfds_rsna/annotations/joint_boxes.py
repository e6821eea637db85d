"""Reads tables of boxes around the joints and bones of hands, a row a box."""

import pathlib
from typing import NamedTuple

import numpy as np

from tfds_rsna.annotations import csv_rows
from tfds_rsna.errors import UserError

_SIDES = ('ymin', 'xmin', 'ymax', 'xmax')
_LABELS = ('class', 'name')
_COLUMNS = ('id', 'width', 'height', *_SIDES)


class JointBoxes(NamedTuple):
    """The boxes of one hand, in pixels of the native image; pixel (r, c) has its centre at (r, c).

    A box may reach over the edge of the image, as a finger does.
    """

    boxes: np.ndarray  # float32 [N, 4] (row0, column0, row1, column1)
    names: tuple[str, ...]  # what each box holds, in the table's words
    size: tuple[int, int]  # (rows, columns) of the native image

    def scaled(self, size: tuple[int, int]) -> 'JointBoxes':
        """The same boxes on the image resampled to `size` (rows, columns), edge to edge."""
        factor = np.array(size, np.float32) / np.array(self.size, np.float32)
        corners = (self.boxes.reshape(-1, 2, 2) + 0.5) * factor - 0.5
        return self._replace(boxes=corners.reshape(-1, 4), size=(int(size[0]), int(size[1])))


def read(path: str | pathlib.Path) -> dict[str, JointBoxes]:
    """The boxes of a CSV `id,width,height,class,xmin,ymin,xmax,ymax`, {image id: `JointBoxes`}.

    `name` may stand in place of `class`. Boxes without a width or a height, which a slip of the
    mouse leaves, are left out; an image that has no others is in the result without boxes.

    Raises:
        UserError: a file that is missing or lacks a column, a number that is not finite, a box
            whose maximum is below its minimum or that lies outside its image, or an image with two
            sizes; names file and line.
    """
    what = f'boxes of joints ({",".join(_COLUMNS)} and {" or ".join(_LABELS)})'
    label = next((each for each in _LABELS if each in csv_rows.header(path)), _LABELS[0])
    sizes = {}
    boxes = {}
    names = {}
    for row in csv_rows.read(path, (*_COLUMNS, label), what):
        image = row.cells['id'].strip()
        size = row.size()
        if sizes.setdefault(image, size) != size:
            raise UserError(
                f'{row.where}: image {image} is {size[1]}x{size[0]} here and '
                f'{sizes[image][1]}x{sizes[image][0]} before'
            )
        box = _box(row, size)
        of_image = boxes.setdefault(image, [])
        labels = names.setdefault(image, [])
        if (box[2:] > box[:2]).all():
            of_image.append(box)
            labels.append(row.cells[label].strip())
    found = {}
    for image, size in sizes.items():
        stacked = np.array(boxes[image], np.float32).reshape(-1, 4)
        found[image] = JointBoxes(stacked, tuple(names[image]), size)
    return found


def _box(row: csv_rows.Row, size: tuple[int, int]) -> np.ndarray:
    """(row0, column0, row1, column1) of a row, float64 [4]."""
    box = row.numbers(_SIDES)
    y0, x0, y1, x1 = box
    if y1 < y0 or x1 < x0:
        raise UserError(f'{row.where}: the box x {x0:g} to {x1:g}, y {y0:g} to {y1:g} is reversed')
    if y1 < 0 or x1 < 0 or y0 > size[0] or x0 > size[1]:
        raise UserError(
            f'{row.where}: the box x {x0:g} to {x1:g}, y {y0:g} to {y1:g} is outside the image of '
            f'{size[1]}x{size[0]}; correct it or leave the row out'
        )
    return box
