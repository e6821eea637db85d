"""Where the hand lies, as five numbers: the transformation network of Bae 2018 (section 2.1)."""

import jax.numpy as jnp
import ml_collections

from boneage_jax.preprocess import keypoints as points_lib
from boneage_jax.preprocess import register
from boneage_jax.tasks import hands
from boneage_jax.tasks.task import Task, by_value, mean_of_examples


def similarity(options: ml_collections.ConfigDict) -> Task:
    """The image's similarity onto the registered image, without a mirror.

    Prediction: `[B, 5]` as `preprocess.register.parameters` gives them (log-scale, cos, sin, dx,
    dy) from key points, which the augmentation moves along.

    Columns: `error_percent` of the hand's length (1,500 of the registered image's 2,080 rows), by
    which the prediction misplaces fingertip and capitate, their mean; `degrees` by which it turns
    the hand.
    """
    per_value = by_value(options)

    def columns(prediction, aux, batch):
        del aux
        shape = batch['image'].shape[1:3]
        points = batch['keypoints']
        truth = register.parameters(points, shape)
        off = _misplacement(prediction, truth, points[:, ::2], shape)
        hand = points_lib.LENGTH / (max(register.SIZE) / 2)
        return {'error_percent': 100 * off / hand, 'degrees': _turn(prediction, truth)}

    def loss(prediction, aux, batch):
        truth = register.parameters(batch['keypoints'], batch['image'].shape[1:3])
        value = per_value(prediction, truth).mean(1)
        error = columns(prediction, aux, batch)['error_percent']
        return mean_of_examples(batch, 'error_percent', value, error)

    def summary_line(report):
        overall = report['overall']
        percent = overall['error_percent']
        beyond = overall['beyond_5_percent']['value']
        return (
            f"fingertip and capitate {percent['value']:.2f}% of the hand's length off, "
            f'95% interval {percent["lower"]:.2f} to {percent["upper"]:.2f}; '
            f'turned by {overall["degrees"]["value"]:.1f} degrees; '
            f'{100 * beyond:.1f}% of images beyond 5%'
        )

    return hands.misplacement('similarity', loss, columns, summary_line, register.unflip)


def _misplacement(prediction, truth, points, shape):
    """How far points `[B, 2, 2]` land from where they should `[B]`, in register's units."""
    off = register.moved(prediction, points, shape) - register.moved(truth, points, shape)
    return jnp.sqrt(jnp.sum(off**2, -1)).mean(1)


def _turn(prediction, truth):
    """The angle in degrees `[B]` between the directions (cos, sin) of two similarities."""
    across = prediction[:, 2] * truth[:, 1] - prediction[:, 1] * truth[:, 2]
    along = (prediction[:, 1:3] * truth[:, 1:3]).sum(1)
    return jnp.degrees(jnp.abs(jnp.arctan2(across, along)))
