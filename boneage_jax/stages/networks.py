"""Stages that ask a trained network: the U-Net's hand mask, the key-point network's three points.

A worker shows the network its film at the size that the network's run was trained at (`look`); the answers come back to the
film's own pixels.
"""

import functools
import json
import pathlib

import numpy as np

from boneage_jax.preprocess import hand_mask, resize


def look(film, run, **_):
    """The film as the network of `run` takes it, uint8 `[rows, columns, 1]`, and the film's own shape."""
    size, fit = _input(run)
    shape = film['image'].shape[:2]
    return {'image': resize.resize({'image': film['image']}, size, fit)['image'], 'shape': np.array(shape, np.int32)}


def masks(predictor, looks, *, threshold, run):
    """The largest component above `threshold` (probability) of each film, at the network's scale: `hand_mask`, `flags`."""
    fit, limit = _input(run)[1], np.log(threshold / (1 - threshold))
    logits, _ = predictor(np.stack([x['image'] for x in looks]))
    found = []
    for logit, x in zip(logits, looks, strict=True):
        mask = hand_mask.largest_component(resize.uncovered(logit > limit, x['shape'], fit))
        found.append({'hand_mask': mask.astype(np.uint8), 'flags': '' if mask.any() else 'no_hand'})
    return found


def points(predictor, looks, *, run):
    """The three key points of each film, in its own pixels: `keypoints` float32 `[3, 2]`."""
    from boneage_jax.preprocess import keypoints  # not above: it brings JAX, which workers do without
    size, fit = _input(run)
    prediction, _ = predictor(np.stack([x['image'] for x in looks]))
    found = np.asarray(keypoints.denormalise(prediction, size))
    return [{'keypoints': resize.restore_points(p, x['shape'], size, fit)} for p, x in zip(found, looks, strict=True)]


def aligned(predictor, looks, *, run):
    """Fingertip and capitate of each film as a transformation network places them, in its own pixels: `keypoints`
    float32 `[3, 2]`, the thumb NaN, with which `register` turns, zooms and centres the film and does not mirror it."""
    from boneage_jax.preprocess import register
    size, fit = _input(run)
    values, _ = predictor(np.stack([x['image'] for x in looks]))
    found = [register.axis_points(value, size) for value in values]
    return [{'keypoints': resize.restore_points(p, x['shape'], size, fit)} for p, x in zip(found, looks, strict=True)]


@functools.cache
def _input(run):
    """(size, fit) of the films that the run was trained on."""
    data = json.loads((pathlib.Path(run).expanduser() / 'config.json').read_text())['data']
    return tuple(data['size']), data['fit']
