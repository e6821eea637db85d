"""Stages that ask a trained network: the U-Net's hand mask, the key-point network's three points.

A worker shows the network its image at the size that the network's run was trained at (`look`); the
answers come back to the image's own pixels.
"""

import functools
import json
import pathlib

import numpy as np
from scipy import ndimage

from boneage_jax.preprocess import hand_mask, resize
from boneage_jax.preprocess import transform as transforms

_TURN, _ZOOM, _MOVE = (
    6.0,
    0.08,
    0.02,
)  # degrees, share, share of the longer side: how far the views of `look_again` differ
_SECOND = 0.3  # of the hand's area: a marker's letters are smaller
_TRUST = 0.06  # of the hand's length, by which a second look may move a point


def look(example, run, **_):
    """The image as the network of `run` takes it, uint8 `[rows, columns, 1]`, and the image's own
    shape.
    """
    size, fit = _input(run)
    shape = example['image'].shape[:2]
    return {
        'image': resize.resize({'image': example['image']}, size, fit)['image'],
        'shape': np.array(shape, np.int32),
    }


def masks(predictor, looks, *, threshold, run):
    """The largest component above `threshold` (probability) of each image, at the network's scale:
    `hand_mask`, `flags`.

    Its holes are filled: networks leave out a carpus now and then, and what lies between touching
    fingers does no harm. Flags: 'no_hand' where there is none, 'second_hand' where another
    component has `_SECOND` of its area or more.
    """
    fit, limit = _input(run)[1], np.log(threshold / (1 - threshold))
    logits, _ = predictor(np.stack([x['image'] for x in looks]))
    found = []
    for logit, x in zip(logits, looks, strict=True):
        hand = resize.uncovered(logit > limit, x['shape'], fit)
        mask = hand_mask.largest_component(hand)
        second = hand_mask.largest_component(hand & ~mask).sum() > _SECOND * mask.sum()
        found.append(
            {
                'hand_mask': ndimage.binary_fill_holes(mask).astype(np.uint8),
                'flags': 'second_hand' if second else '' if mask.any() else 'no_hand',
            }
        )
    return found


def points(predictor, looks, *, run, least):
    """The three key points of each image, in its own pixels: `keypoints` float32 `[3, 2]`, `flags`.

    A point whose heat map peaks below `least` (share of the map's sum at its highest pixel) was not
    found: NaN, and the image is flagged 'points_doubtful'. Networks without heat maps always find
    all three.
    """
    from boneage_jax.preprocess import (
        keypoints,
    )  # not above: it brings JAX, which workers do without

    size, fit = _input(run)
    prediction, aux = predictor(np.stack([x['image'] for x in looks]))
    found = np.asarray(keypoints.denormalise(prediction, size))
    faint = (
        np.asarray(aux['heights']) < least if 'heights' in aux else np.zeros(found.shape[:2], bool)
    )
    found = np.where(faint[..., None], np.nan, found)
    return [
        {
            'keypoints': resize.restore_points(p, x['shape'], size, fit),
            'flags': 'points_doubtful' if missed.any() else '',
        }
        for p, x, missed in zip(found, looks, faint, strict=True)
    ]


def look_again(example, run, *, views):
    """The image registered by the key points that it has, as the network of `run` would take it,
    `views` times with small turns, zooms and shifts and every other one mirrored: uint8 `[views,
    rows, columns, 1]` and the transforms `[views, 3, 3]` that lead there. `{}` where the points are
    implausible: nothing is seen again then.
    """
    from boneage_jax.preprocess import register

    points, shape = example['keypoints'], example['image'].shape[:2]
    if register.implausible(points, None, shape):
        return {}
    size = _input(run)[0]
    onto = register.from_keypoints(points, size)
    seen = [view @ onto for view in _views(size, views)]
    return {
        'image': np.stack([transforms.warp(example['image'], each, size) for each in seen])[
            ..., None
        ],
        'transform': np.stack(seen).astype(np.float32),
        'keypoints': np.asarray(points, np.float32),
    }


def _views(size, count):
    """`count` transforms of a registered image of `size`, the first of which leaves it as it is;
    the same for every image.
    """
    generator = np.random.default_rng(0)
    centre = transforms.shift(*((side - 1) / 2 for side in size))
    for i in range(count):
        turn, zoom = (
            np.radians(generator.uniform(-_TURN, _TURN)),
            generator.uniform(1 - _ZOOM, 1 + _ZOOM),
        )
        move = generator.uniform(-_MOVE, _MOVE, 2) * max(size)
        cos, sin = zoom * np.cos(turn), zoom * np.sin(turn)
        change = (
            transforms.shift(*move)
            @ centre
            @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
            @ np.linalg.inv(centre)
        )
        yield (transforms.mirror(size[1]) if i % 2 else np.eye(3)) @ (change if i else np.eye(3))


def points_again(predictor, looks, *, run, views):
    """Fingertip and capitate of each image, in its own pixels, as the median over its views:
    `keypoints` float32 `[3, 2]`.

    A point that would move by more than `_TRUST` of the hand's length stays where it was, and so
    does the thumb: the views may cut it off, and only the side that it is on counts.
    """
    from boneage_jax.preprocess import keypoints

    size = _input(run)[0]
    prediction, _ = predictor(np.concatenate([x['image'] for x in looks]))
    found = np.asarray(keypoints.denormalise(prediction, size)).reshape(len(looks), views, -1, 2)
    back = [
        [transforms.apply(np.linalg.inv(view), p) for view, p in zip(x['transform'], points)]
        for x, points in zip(looks, found, strict=True)
    ]
    return [
        {'keypoints': _taken(x['keypoints'], np.median(each, axis=0))}
        for x, each in zip(looks, back, strict=True)
    ]


def _taken(first, again):
    """The points [3, 2] of the first look where the second one says something else altogether, or
    sees the thumb.
    """
    length = np.hypot(*(first[0] - first[2]))
    keep = np.hypot(*(again - first).T) > _TRUST * length
    keep[1] = True
    return np.where(keep[:, None], first, again).astype(np.float32)


def aligned(predictor, looks, *, run):
    """Fingertip and capitate of each image as a transformation network places them, in its own
    pixels: `keypoints` float32 `[3, 2]`, the thumb NaN, with which `register` turns, zooms and
    centres the image and does not mirror it.
    """
    from boneage_jax.preprocess import register

    size, fit = _input(run)
    values, _ = predictor(np.stack([x['image'] for x in looks]))
    found = [register.axis_points(value, size) for value in values]
    return [
        {'keypoints': resize.restore_points(p, x['shape'], size, fit)}
        for p, x in zip(found, looks, strict=True)
    ]


@functools.cache
def _input(run):
    """(size, fit) of the images that the run was trained on."""
    data = json.loads((pathlib.Path(run).expanduser() / 'config.json').read_text())['data']
    return tuple(data['size']), data['resize']
