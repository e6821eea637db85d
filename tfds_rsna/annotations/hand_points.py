"""Reads hands annotated in COCO's manner: 21 points a hand, from JSON."""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from tfds_rsna.errors import UserError

_FINGERS = ('thumb', 'forefinger', 'middle_finger', 'ring_finger', 'pinky_finger')
#: The order of the points: the wrist, then each finger from its base to its tip.
NAMES = ('wrist', *(f'{finger}{joint}' for finger in _FINGERS for joint in range(1, 5)))


class HandPoints(NamedTuple):
    """One annotated hand, in pixels of the native image; pixel (r, c) has its centre at (r, c)."""

    points: np.ndarray  # float32 [21, 2] (row, column), NaN where not annotated
    box: np.ndarray  # float32 [4] (row0, column0, row1, column1)
    size: tuple[int, int]  # (rows, columns) of the native image
    left: bool

    def scaled(self, size: tuple[int, int]) -> 'HandPoints':
        """The same hand on the image resampled to `size` (rows, columns), edge to edge."""
        factor = np.array(size, np.float32) / np.array(self.size, np.float32)
        points = (self.points + 0.5) * factor - 0.5
        corners = (self.box.reshape(2, 2) + 0.5) * factor - 0.5
        return self._replace(
            points=points, box=corners.reshape(4), size=(int(size[0]), int(size[1]))
        )


def read(*paths: str | pathlib.Path) -> dict[str, HandPoints]:
    """The hands of COCO JSON files, {image id: `HandPoints`}; of several on an image the largest.

    The points are read from `keypoints` (COCO) or from `lefthand_kpts` / `righthand_kpts`
    (COCO-WholeBody), whichever the annotation marks as valid.

    Raises:
        UserError: a file that is missing, no COCO JSON, has other points than COCO-hand's 21, or
            names no image size; an image annotated in two of the files.
    """
    hands = {}
    for path in map(pathlib.Path, paths):
        new = _read(path)
        twice = sorted(set(new) & set(hands))
        if twice:
            raise UserError(
                f'{path}: {len(twice)} images are annotated in another of these files too, first '
                f'{twice[0]}; leave one of the files out'
            )
        hands |= new
    return hands


def _read(path: pathlib.Path) -> dict[str, HandPoints]:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        images = {image['id']: image for image in content['images']}
        hands = {}
        for annotation in sorted(content['annotations'], key=_area):
            image = images[annotation['image_id']]
            hands[pathlib.Path(str(image['file_name'])).stem] = _hand(annotation, image)
        return hands
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; give the COCO JSON with the hands' key points"
        ) from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        what = f'has no {error}' if isinstance(error, KeyError) else str(error)
        raise UserError(
            f'{path}: not a COCO JSON of hand key points ({what}); needed are images (id, '
            'file_name, width, height) and annotations (image_id, bbox, and 21 points as x, y, '
            'visibility)'
        ) from error


def _area(annotation: dict) -> float:
    return annotation['bbox'][2] * annotation['bbox'][3]


def _hand(annotation: dict, image: dict) -> HandPoints:
    left = bool(annotation.get('lefthand_valid', True))
    of_side = 'lefthand_kpts' if left else 'righthand_kpts'
    if 'keypoints' in annotation:
        numbers = annotation['keypoints']
    elif of_side in annotation:
        numbers = annotation[of_side]
    else:
        raise KeyError('keypoints')
    values = np.asarray(numbers, np.float64)
    if values.shape != (3 * len(NAMES),):
        raise ValueError(
            f'image {annotation["image_id"]} has {values.size} numbers instead of 21 x (x, y, '
            'visibility)'
        )
    values = values.reshape(-1, 3)
    points = np.where(values[:, 2:] > 0, values[:, 1::-1], np.nan).astype(np.float32)
    x, y, width, height = annotation['bbox']
    box = np.array([y, x, y + height, x + width], np.float32)
    return HandPoints(points, box, (int(image['height']), int(image['width'])), left)
