"""Key points from annotation files: images of a source whose hands were annotated by people."""

import functools
import pathlib

import numpy as np

from boneage_jax.preprocess import keypoints
from tfds_rsna.annotations import hand_landmarks, hand_points

STRETCHED = 0.02  # by which aspect ratios differ before an image counts as stretched


def points_stage(example, *, files):
    """The image with `keypoints` float32 `[3, 2]` in its own pixels; None (left out) where the
    `files` lack it, or one of the points that the three are derived from was not annotated.

    An image that was stretched since it was annotated says so in `native_shape` (see `resize`).
    """
    found = annotation(str(example['id']), example['image'].shape[:2], files)
    if found is None or not np.isfinite(found['keypoints']).all():
        return None
    example = example | {'keypoints': found['keypoints']}
    shape, native = example['image'].shape[:2], found['native_shape']
    stretched = abs(native[0] * shape[1] / (native[1] * shape[0]) - 1) > STRETCHED
    return example | {'native_shape': native} if stretched else example


def annotation(name, shape, files):
    """What `files` say of an image: `keypoints` [3, 2], `points` [N, 2] (all that were annotated),
    `box` [4] or None, in pixels of the image of `shape`, and the `native_shape` that was annotated;
    None where they do not know it.

    `files` ending in .csv hold the DHA's landmarks, in pixels of the image as it is; others are
    COCO JSON.
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


def names(files):
    """The ids of all images that `files` know."""
    coco, landmarks = _read(tuple(map(str, files)))
    return [*coco, *landmarks]


@functools.cache
def _read(files):
    landmarks = {}
    for file in files:
        if pathlib.Path(file).suffix == '.csv':
            landmarks |= hand_landmarks.read(file)
    return hand_points.read(
        *(file for file in files if pathlib.Path(file).suffix != '.csv')
    ), landmarks
