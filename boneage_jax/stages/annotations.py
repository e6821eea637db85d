"""Key points and masks from annotation files: images of a source whose hands people annotated."""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from boneage_jax.errors import UserError
from boneage_jax.preprocess import keypoints, resize
from tfds_rsna.annotations import csv_rows, hand_landmarks, hand_points, mask_files, three_points


def points_stage(example: dict, *, files: Sequence, origins: Sequence) -> dict | None:
    """The image with `keypoints` float32 `[3, 2]` in its own pixels; None (left out) without them.

    An image is left out where the `files` lack it, or lack one of the points that the three are
    derived from. One that was stretched since it was annotated gets `native_shape` (see `resize`).
    `files` and `origins` are those of `annotation`.
    """
    found = annotation(str(example['id']), example['image'].shape[:2], files, origins)
    if found is None or not np.isfinite(found['keypoints']).all():
        return None
    return _with_native_shape(example | {'keypoints': found['keypoints']}, found['native_shape'])


def outlines_stage(example: dict, *, files: Sequence) -> dict | None:
    """The image with `hand_mask` uint8 `[H, W]` in its own pixels; None (left out) without one.

    The mask is drawn at its native size and resampled. An image that was stretched since it was
    drawn gets `native_shape` (see `resize`).

    Args:
        example: with `image` uint8 `[H, W]` and `id`.
        files: paths that `mask_files.read` takes. Of an image in several the first counts.

    Raises:
        UserError: a file that cannot be read, or a mask in which nothing is drawn.
    """
    draw = _outlines(tuple(map(str, files))).get(str(example['id']))
    if draw is None:
        return None
    mask = draw()
    if not mask.any():
        raise UserError(f'image {example["id"]}: its drawn mask is empty; leave it out')
    fitted = resize.resize_mask(mask, example['image'].shape[:2])
    return _with_native_shape(example | {'hand_mask': fitted}, mask.shape)


def _with_native_shape(example, native):
    """The image, with its shape when it was annotated if its aspect ratio is another now."""
    shape = example['image'].shape[:2]
    stretch = native[0] * shape[1] / (native[1] * shape[0])
    if abs(stretch - 1) > resize.STRETCHED:
        return example | {'native_shape': native}
    return example


def annotation(
    name: str, shape: tuple[int, int], files: Sequence, origins: Sequence = ()
) -> dict | None:
    """What people annotated on an image; None where it is in none of the files.

    Args:
        name: the image's id.
        shape: (rows, columns) of the image.
        files: paths. Those ending in .csv hold three points a hand, or the DHA's landmarks in
            pixels of the image as it is; the others are COCO JSON. Of an image in several the
            first counts.
        origins: of tables of three points only the rows with these origins; empty: all.

    Returns:
        `keypoints` [3, 2], `points` [N, 2] (all that were annotated), `box` [4] or None, in pixels
        of the image, and the `native_shape` that was annotated.

    Raises:
        UserError: a file that cannot be read or holds something else, or an origin that no row has.
    """
    hand = _hands(tuple(map(str, files)), tuple(map(str, origins))).get(name)
    if hand is None:
        return None
    if isinstance(hand, hand_points.HandPoints):
        scaled = hand.scaled(shape)
        three = keypoints.from_coco(scaled.points)
        return _found(three, scaled.points, scaled.box, hand.size)
    if isinstance(hand, three_points.ThreePoints):
        three = hand.scaled(shape).points
        return _found(three, three, None, hand.size)
    return _found(keypoints.from_dha(hand), hand, None, tuple(shape))


def _found(three, points, box, native):
    return {'keypoints': three, 'points': points, 'box': box, 'native_shape': native}


def names(files: Sequence, origins: Sequence = ()) -> list[str]:
    """The ids of all images that `files` know, as `annotation` takes them."""
    return list(_hands(tuple(map(str, files)), tuple(map(str, origins))))


@functools.cache
def _hands(files, origins):
    """{image id: `HandPoints`, `ThreePoints` or landmarks [37, 2]} of all files."""
    hands = {}
    known = set()
    for file in files:
        found = _reader(file)(file)
        if isinstance(found, three_points.Table):
            found = found.hands
            known |= {hand.origin for hand in found.values()}
            if origins:
                found = {name: hand for name, hand in found.items() if hand.origin in origins}
        for name, hand in found.items():
            hands.setdefault(name, hand)
    missing = [origin for origin in origins if origin not in known]
    if missing:
        raise UserError(
            f'{", ".join(files)}: no row of a table of three points has the origin '
            f'{", ".join(missing)}; found {", ".join(sorted(known)) or "no such table"}'
        )
    return hands


def _reader(file):
    """The function that reads a file of points: by its ending, and by the header of a CSV."""
    if pathlib.Path(file).suffix.lower() != '.csv':
        return hand_points.read
    header = csv_rows.header(file)
    if 'origin' in header or 'middle_tip_x' in header:
        return three_points.read
    if 'xmin' in header:
        raise UserError(f'{file}: a table of boxes; give key points (COCO JSON or CSV)')
    return hand_landmarks.read


@functools.cache
def _outlines(files):
    """{image id: function that draws its mask} of all files."""
    masks = {}
    for file in files:
        masks = mask_files.read(file) | masks
    return masks
