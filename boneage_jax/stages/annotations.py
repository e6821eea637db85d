"""Key points from annotation files: images of a source whose hands were annotated by people."""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from boneage_jax.preprocess import keypoints
from tfds_rsna.annotations import hand_landmarks, hand_points

STRETCHED = 0.02  # by which aspect ratios differ before an image counts as stretched


def points_stage(example: dict, *, files: Sequence) -> dict | None:
    """The image with `keypoints` float32 `[3, 2]` in its own pixels; None (left out) without them.

    An image is left out where the `files` lack it, or lack one of the points that the three are
    derived from. One that was stretched since it was annotated gets `native_shape` (see `resize`).
    """
    shape = example['image'].shape[:2]
    found = annotation(str(example['id']), shape, files)
    if found is None or not np.isfinite(found['keypoints']).all():
        return None
    example = example | {'keypoints': found['keypoints']}
    native = found['native_shape']
    stretch = native[0] * shape[1] / (native[1] * shape[0])
    if abs(stretch - 1) > STRETCHED:
        example['native_shape'] = native
    return example


def annotation(name: str, shape: tuple[int, int], files: Sequence) -> dict | None:
    """What people annotated on an image; None where it is in none of the files.

    Args:
        name: the image's id.
        shape: (rows, columns) of the image.
        files: paths. Those ending in .csv hold the DHA's landmarks, in pixels of the image as it
            is; the others are COCO JSON.

    Returns:
        `keypoints` [3, 2], `points` [N, 2] (all that were annotated), `box` [4] or None, in pixels
        of the image, and the `native_shape` that was annotated.
    """
    coco, landmarks = _read(tuple(map(str, files)))
    if name in coco:
        hand = coco[name].scaled(shape)
        return {
            'keypoints': keypoints.from_coco(hand.points),
            'points': hand.points,
            'box': hand.box,
            'native_shape': coco[name].size,
        }
    if name in landmarks:
        points = landmarks[name]
        return {
            'keypoints': keypoints.from_dha(points),
            'points': points,
            'box': None,
            'native_shape': tuple(shape),
        }
    return None


def names(files: Sequence) -> list[str]:
    """The ids of all images that `files` know."""
    coco, landmarks = _read(tuple(map(str, files)))
    return [*coco, *landmarks]


@functools.cache
def _read(files):
    """(hands of the COCO files, landmarks of the CSV files), each by image."""
    coco = []
    landmarks = {}
    for file in files:
        if pathlib.Path(file).suffix == '.csv':
            landmarks |= hand_landmarks.read(file)
        else:
            coco.append(file)
    return hand_points.read(*coco), landmarks
