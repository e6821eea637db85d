"""Where the hand lies, as five numbers: the transformation network of Bae 2018 (section 2.1)."""

import jax.numpy as jnp

from boneage_jax.preprocess import keypoints as points_lib
from boneage_jax.preprocess import register
from boneage_jax.tasks import hands
from boneage_jax.tasks.task import by_value, mean_of_examples


def similarity(options):
    """Prediction: `[B, 5]` as `preprocess.register.parameters` gives them (log-scale, cos, sin, dx,
    dy) from key points, which the augmentation moves along: the image's similarity onto the
    registered image, without a mirror.

    Columns: `error_percent` of the hand's length (1,500 of the registered image's 2,080 rows), by
    which the prediction misplaces fingertip and capitate, their mean; `degrees` by which it turns
    the hand.
    """
    per_value = by_value(options)

    def columns(prediction, aux, batch):
        del aux
        shape, points = batch['image'].shape[1:3], batch['keypoints']
        truth = register.parameters(points, shape)
        off = register.moved(prediction, points[:, ::2], shape) - register.moved(
            truth, points[:, ::2], shape
        )
        across = prediction[:, 2] * truth[:, 1] - prediction[:, 1] * truth[:, 2]
        degrees = jnp.degrees(
            jnp.abs(jnp.arctan2(across, (prediction[:, 1:3] * truth[:, 1:3]).sum(1)))
        )
        length = points_lib.LENGTH / (max(register.SIZE) / 2)
        return {
            'error_percent': 100 * jnp.sqrt(jnp.sum(off**2, -1)).mean(1) / length,
            'degrees': degrees,
        }

    def loss(prediction, aux, batch):
        truth = register.parameters(batch['keypoints'], batch['image'].shape[1:3])
        value = per_value(prediction, truth).mean(1)
        return mean_of_examples(
            batch, 'error_percent', value, columns(prediction, aux, batch)['error_percent']
        )

    def summary_line(report):
        percent, degrees = report['overall']['error_percent'], report['overall']['degrees']
        return (
            f"fingertip and capitate {percent['value']:.2f}% of the hand's length off, 95% interval "
            f'{percent["lower"]:.2f} to {percent["upper"]:.2f}; turned by {degrees["value"]:.1f} degrees; '
            f'{100 * report["overall"]["beyond_5_percent"]["value"]:.1f}% of images beyond 5%'
        )

    return hands.misplacement('similarity', loss, columns, summary_line, register.unflip)
