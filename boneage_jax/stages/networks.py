"""Stages that ask a trained network: a U-Net's hand mask, a key-point network's three points.

A worker prepares an image at the size that the network was trained at (`look`). What the
network answers is brought back to the image's own pixels.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from scipy import ndimage

from boneage_jax.errors import ConfigError
from boneage_jax.preprocess import hand_mask, resize
from boneage_jax.preprocess import transform as transforms
from boneage_jax.runs import exported

# How far the views of `look_again` differ.
_TURN = 6.0  # degrees
_ZOOM = 0.08  # share
_MOVE = 0.02  # share of the longer side
_SECOND = 0.3  # of the hand's area: a marker's letters are smaller
_FINER = 3  # times the network's scale, at which masks are kept
_LEAST = 0.002  # of the network's pixels, below which a mask shows no hand
_SURE = (0.1, 4.0)  # least and largest logit that counts between the network's pixels
_TRUST = 0.06  # of the hand's length, by which a second look may move a point


def look(example: dict, run: str, **_) -> dict:
    """The image as the network of `run` takes it, uint8 `[rows, columns, 1]`, and its own shape."""
    size, fit = _input(run)
    resized = resize.resize({'image': example['image']}, size, fit)
    shape = np.array(example['image'].shape[:2], np.int32)
    return {'image': resized['image'], 'shape': shape}


def masks(predictor: Callable, looks: list[dict], *, threshold: float, run: str) -> list[dict]:
    """The hand mask of each image, the largest component, `_FINER` times the network's scale.

    Its holes are filled: networks leave out a carpus now and then, and what is between touching
    fingers does no harm. Between the network's pixels the outline goes where the logits cross the
    threshold.

    Args:
        predictor: images -> (logits [N, rows, columns], ...).
        looks: what `look` gave.
        threshold: probability from which on a pixel is hand.
        run: where the network is, its workdir or file.

    Returns:
        A dict for each image: `hand_mask` uint8, and `flags`: 'no_hand' where there is none,
        'second_hand' where another component has `_SECOND` of its area or more.
    """
    _, fit = _input(run)
    limit = np.log(threshold / (1 - threshold))
    logits, _ = predictor(_images(looks))
    found = []
    for logit, look in zip(logits, looks, strict=True):
        margin = resize.uncovered(logit - limit, look['shape'], fit)
        hand = margin > 0
        mask = hand_mask.largest_component(hand)
        second = hand_mask.largest_component(hand & ~mask).sum() > _SECOND * mask.sum()
        if mask.mean() < _LEAST:
            mask = np.zeros_like(mask)
            flags = 'no_hand'
        elif second:
            flags = 'second_hand'
        else:
            flags = ''
        filled = _finer(margin, ndimage.binary_fill_holes(mask))
        found.append({'hand_mask': filled, 'flags': flags})
    return found


def _finer(margin, mask):
    """A mask [h, w] on a finer grid, its outline where `margin` float [h, w] crosses zero."""
    signed = np.where(mask, np.maximum(margin, _SURE[0]), np.minimum(margin, -_SURE[0]))
    signed = np.clip(signed, -_SURE[1], _SURE[1]).astype(np.float32)
    size = (_FINER * mask.shape[1], _FINER * mask.shape[0])
    enlarged = Image.fromarray(signed).resize(size, Image.Resampling.BILINEAR)
    return (np.asarray(enlarged) > 0).astype(np.uint8)


def points(
    predictor: Callable, looks: list[dict], *, run: str, least: float, tips: str
) -> list[dict]:
    """The three key points of each image, in its own pixels.

    Args:
        predictor: images -> (points in [0, 1], aux); aux has `heights` where there are heat maps.
        looks: what `look` gave.
        run: where the network is, its workdir or file.
        least: a point whose heat map peaks below it (share of the map's sum at its highest pixel)
            was not found. Networks without heat maps always find all three.
        tips: 'bone' moves the points of a network that learnt tips at the skin
            (`keypoints.skin_to_bone`); 'found' leaves them where they were found.

    Returns:
        A dict for each image: `keypoints` float32 `[3, 2]`, NaN for a point that was not found, and
        `flags`, then 'points_doubtful'.
    """
    # Imported here: it brings JAX, which workers do without.
    from boneage_jax.preprocess import keypoints

    size, fit = _input(run)
    prediction, aux = predictor(_images(looks))
    found = np.asarray(keypoints.denormalise(prediction, size))
    if 'heights' in aux:
        faint = np.asarray(aux['heights']) < least
    else:
        faint = np.zeros(found.shape[:2], bool)
    found = np.where(faint[..., None], np.nan, found)
    answers = []
    move = _tip_mover(run, tips)
    for each, look, missed in zip(found, looks, faint, strict=True):
        answers.append(
            {
                'keypoints': move(resize.restore_points(each, look['shape'], size, fit)),
                'flags': 'points_doubtful' if missed.any() else '',
            }
        )
    return answers


def look_again(example: dict, run: str, *, views: int, **_) -> dict:
    """The image registered by the key points that it has, as the network of `run` would take it.

    There are several views of it, with small turns, zooms and shifts, every other one mirrored.

    Args:
        example: with `image` and `keypoints`.
        run: where the network is, its workdir or file.
        views: how many.

    Returns:
        `image` uint8 `[views, rows, columns, 1]`, `transform` `[views, 3, 3]` that leads there, and
        the `keypoints`. `{}` where the points are implausible: nothing is seen again then.
    """
    from boneage_jax.preprocess import register

    points = example['keypoints']
    if register.implausible(points, None, example['image'].shape[:2]):
        return {}
    size, _ = _input(run)
    onto = register.from_keypoints(points, size)
    seen = [view @ onto for view in _views(size, views)]
    images = [transforms.warp(example['image'], each, size) for each in seen]
    return {
        'image': np.stack(images)[..., None],
        'transform': np.stack(seen).astype(np.float32),
        'keypoints': np.asarray(points, np.float32),
    }


def _views(size, count) -> Iterator[np.ndarray]:
    """`count` transforms of a registered image of `size`, the same for every image.

    The first leaves the image as it is, and every other one mirrors it.
    """
    generator = np.random.default_rng(0)
    centre = transforms.shift((size[0] - 1) / 2, (size[1] - 1) / 2)
    for i in range(count):
        turn = np.radians(generator.uniform(-_TURN, _TURN))
        zoom = generator.uniform(1 - _ZOOM, 1 + _ZOOM)
        move = generator.uniform(-_MOVE, _MOVE, 2) * max(size)
        cos = zoom * np.cos(turn)
        sin = zoom * np.sin(turn)
        turned = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        change = transforms.shift(*move) @ centre @ turned @ np.linalg.inv(centre)
        if i == 0:
            yield np.eye(3)
        elif i % 2:
            yield transforms.mirror(size[1]) @ change
        else:
            yield change


def points_again(
    predictor: Callable, looks: list[dict], *, run: str, views: int, tips: str
) -> list[dict]:
    """Fingertip and capitate of each image, in its own pixels, as the median over its views.

    A point that would move by more than `_TRUST` of the hand's length stays where it was. So does
    the thumb: the views may cut it off, and only the side that it is on counts.

    Args:
        predictor: images -> (points in [0, 1], ...).
        looks: what `look_again` gave.
        run: where the network is, its workdir or file.
        views: how many there are of each image.
        tips: as for `points`; the same for both stages, or they would move points back and forth.

    Returns:
        A dict for each image: `keypoints` float32 `[3, 2]`.
    """
    from boneage_jax.preprocess import keypoints

    size, _ = _input(run)
    prediction, _ = predictor(np.concatenate([look['image'] for look in looks]))
    found = np.asarray(keypoints.denormalise(prediction, size)).reshape(len(looks), views, -1, 2)
    move = _tip_mover(run, tips)
    answers = []
    for look, seen in zip(looks, found, strict=True):
        back = []
        for view, points in zip(look['transform'], seen):
            back.append(transforms.apply(np.linalg.inv(view), points))
        again = move(np.median(back, axis=0))
        answers.append({'keypoints': _taken(look['keypoints'], again)})
    return answers


def _tip_mover(run, tips):
    """What is done to the points [3, 2] that the network of `run` found."""
    from boneage_jax.preprocess import keypoints

    if tips not in ('bone', 'found'):
        raise ConfigError(f"tips={tips!r}: expected 'bone' or 'found'")
    if tips == 'bone' and _learnt_tips(run) == 'skin':
        return keypoints.skin_to_bone
    return functools.partial(np.asarray, dtype=np.float32)


@functools.cache
def _learnt_tips(run):
    """'bone' or 'skin': networks of earlier releases learnt the bone's, and do not say so."""
    task = exported.read_config(exported.find(run)).get('task', {})
    return task.get('tips', 'bone')


def _taken(first, again):
    """The points [3, 2] of the second look, or of the first where the two are far apart.

    The thumb is always the first look's.
    """
    length = np.hypot(*(first[0] - first[2]))
    keep = np.hypot(*(again - first).T) > _TRUST * length
    keep[1] = True
    return np.where(keep[:, None], first, again).astype(np.float32)


def aligned(predictor: Callable, looks: list[dict], *, run: str) -> list[dict]:
    """Fingertip and capitate of each image as a transformation network places them.

    They are in the image's own pixels: `keypoints` float32 `[3, 2]`, the thumb NaN. With these
    `register` turns, zooms and centres the image and does not mirror it.
    """
    from boneage_jax.preprocess import register

    size, fit = _input(run)
    values, _ = predictor(_images(looks))
    answers = []
    for look, value in zip(looks, values, strict=True):
        found = register.axis_points(value, size)
        answers.append({'keypoints': resize.restore_points(found, look['shape'], size, fit)})
    return answers


def _images(looks):
    return np.stack([look['image'] for look in looks])


@functools.cache
def _input(run):
    """(size, fit) of the images that the network was trained on."""
    data = exported.read_config(exported.find(run))['data']
    return tuple(data['size']), data['resize']
