"""Reads the table of three key points a hand: tips of middle finger and thumb, capitate's centre.

The points of Iglovikov et al. (2018), clicked on RSNA's training images. The tips lie at the skin,
where COCO's and the atlas's lie at the bone.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from tfds_rsna.annotations import csv_rows
from tfds_rsna.errors import UserError

_POINTS = ('middle_tip', 'thumb_tip', 'capitate')
_XY = tuple(f'{point}_{axis}' for point in _POINTS for axis in 'xy')
COLUMNS = ('id', 'width', 'height', *_XY, 'origin', 'suspect')
_SUSPECT = {'true': True, 'false': False, '1': True, '0': False}


class ThreePoints(NamedTuple):
    """One annotated hand, in pixels of the native image; pixel (r, c) has its centre at (r, c).

    The points of the published table are multiples of 4: clicked on images of a quarter of the
    size. Nothing in it tells whether such a number means the corner or the centre of its 4x4
    pixels (1.5 pixels further, 0.1% of a hand's length), so they are taken as they are. Beside the
    edges of masks by watershed, fingertips of origin clicked_by_hand lie 1.2% of the hand's length
    (about 10 pixels, whatever its size) beyond the skin on 108 images, those of first_set at it
    (-0.2% on 109).
    """

    # float32 [3, 2] (row, column): tip of the middle finger, of the thumb, centre of the capitate
    points: np.ndarray
    size: tuple[int, int]  # (rows, columns) of the native image
    origin: str  # how the points were made, in the table's words

    def scaled(self, size: tuple[int, int]) -> 'ThreePoints':
        """The same hand on the image resampled to `size` (rows, columns), edge to edge."""
        factor = np.array(size, np.float32) / np.array(self.size, np.float32)
        points = (self.points + 0.5) * factor - 0.5
        return self._replace(points=points, size=(int(size[0]), int(size[1])))


class Table(NamedTuple):
    """The hands of a table."""

    hands: dict[str, ThreePoints]  # by image id
    suspects: tuple[str, ...]  # ids of the rows that the table marks as suspect: left out


def read(path: str | pathlib.Path) -> Table:
    """The hands of a CSV with the columns `COLUMNS`, without those that it marks as suspect.

    Raises:
        UserError: a file that is missing or lacks a column, a number that is not finite, a point
            outside its image, a mark that is neither True nor False, or an image twice; names file
            and line.
    """
    hands = {}
    suspects = []
    lines = {}
    for row in csv_rows.read(path, COLUMNS, f'three points a hand ({",".join(COLUMNS)})'):
        name = row.cells['id'].strip()
        if name in lines:
            raise UserError(f'{row.where}: image {name} is in {lines[name]} too; leave one out')
        lines[name] = row.where
        hand = _hand(row)
        mark = row.cells['suspect'].strip().lower()
        if mark not in _SUSPECT:
            raise UserError(
                f'{row.where}: suspect is {row.cells["suspect"]!r}; expected True or False'
            )
        if _SUSPECT[mark]:
            suspects.append(name)
        else:
            hands[name] = hand
    return Table(hands, tuple(suspects))


def _hand(row: csv_rows.Row) -> ThreePoints:
    size = row.size()
    points = row.numbers(_XY).reshape(len(_POINTS), 2)[:, ::-1]
    # A click on the image's edge counts as inside.
    outside = ((points < 0) | (points > size)).any(1)
    if outside.any():
        which = int(outside.argmax())
        x, y = points[which, ::-1]
        raise UserError(
            f'{row.where}: {_POINTS[which]} ({x:g}, {y:g}) is outside the image of '
            f'{size[1]}x{size[0]}; correct it or leave the row out'
        )
    return ThreePoints(points.astype(np.float32), size, row.cells['origin'].strip())
