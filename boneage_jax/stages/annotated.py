"""Key points from annotation files: films of a source whose hands were annotated by people."""

import functools

from boneage_jax.preprocess import keypoints
from tfds_rsna import hand_points


def points_stage(film, *, files):
    """The film with `keypoints` float32 `[3, 2]` in its own pixels; None (left out) where the COCO `files` lack it, or one
    of the points that the three are derived from was not annotated."""
    hand = _read(tuple(files)).get(str(film['id']))
    if hand is None:
        return None
    found = keypoints.from_coco(hand.scaled(film['image'].shape[:2]).points)
    return None if (found != found).any() else film | {'keypoints': found}


@functools.cache
def _read(files):
    return hand_points.read(*files)
