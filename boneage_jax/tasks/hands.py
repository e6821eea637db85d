"""Where the hand is: its mask and its key points (Iglovikov 2018, section 3)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from boneage_jax.preprocess import keypoints as points_lib
from boneage_jax.tasks import losses, metrics
from boneage_jax.tasks.task import Task, by_value, mean_of_examples
from tfds_rsna.errors import UserError


def fit(options: ml_collections.ConfigDict, months: np.ndarray) -> dict:
    """Nothing is taken from the ages."""
    del options, months
    return {}


def segmentation(options: ml_collections.ConfigDict) -> Task:
    """The mask of the hand.

    Prediction: logits `[B, H, W]`. Columns: `iou`, `dice` of the mask at probability 1/2.
    """
    if options.jaccard not in ('global', 'literal'):
        raise UserError(f"task.jaccard={options.jaccard!r}: expected 'global' or 'literal'")

    def columns(logits, aux, batch):
        del aux
        predicted = logits > 0
        mask = batch['hand_mask'][..., 0] > 0
        both = (predicted & mask).sum((1, 2))
        either = (predicted | mask).sum((1, 2))
        iou = jnp.where(either > 0, both / jnp.maximum(either, 1), 1.0)
        return {'iou': iou, 'dice': 2 * iou / (1 + iou)}

    def loss(logits, aux, batch):
        valid = batch['valid'].astype(jnp.float32)
        value = losses.segmentation(
            logits, batch['hand_mask'][..., 0] > 0, batch['valid'], jaccard=options.jaccard
        )
        count = jnp.maximum(valid.sum(), 1.0)
        miss = ((1 - columns(logits, aux, batch)['iou']) * valid).sum()
        return value, {'loss': (value * count, count), 'iou_miss': (miss, count)}

    def report(columns, split, train_months):
        del split, train_months
        return {'overall': metrics.intervals(columns | {'iou_below_0.9': columns['iou'] < 0.9})}

    def summary_line(report):
        overall = report['overall']
        iou = overall['iou']
        below = overall['iou_below_0.9']['value']
        return (
            f'IoU {iou["value"]:.4f}, 95% interval {iou["lower"]:.4f} to {iou["upper"]:.4f}; '
            f'Dice {overall["dice"]["value"]:.4f}; {100 * below:.1f}% of images below IoU 0.9'
        )

    def unflip(logits):
        return logits[:, :, ::-1]

    return Task(
        loss,
        columns,
        report,
        summary_line,
        kind='segmentation',
        selection_metric='iou_miss',
        metric_format='1 - IoU {:.4f}',
        unflip=unflip,
        batch_dependent_loss=True,
        inputs=('image', 'hand_mask'),
    )


def keypoints(options: ml_collections.ConfigDict) -> Task:
    """Key points of the hand.

    Prediction: points `[B, K, 2]` as `preprocess.keypoints.normalise` gives them (0 to 1 from edge
    to edge).

    `aux['heatmaps']` logits `[B, h, w, K]`, where a model has them, are trained by the
    cross-entropy of their softmax with a Gaussian of one cell's deviation around each point (weight
    `heatmap_weight`). Columns: `error_percent` of the hand's length (middle fingertip to capitate)
    and `error_pixels` of the image padded to 2080x1600, each the mean over the points, and
    `error_percent_0` and so on for each.
    """
    per_value = by_value(options)

    def columns(prediction, aux, batch):
        del aux
        size = batch['image'].shape[1:3]
        found = points_lib.denormalise(prediction, size)
        errors = points_lib.errors(found, batch['keypoints'], size)
        percent = errors['percent']
        named = {'error_percent': percent.mean(1), 'error_pixels': errors['pixels'].mean(1)}
        for k in range(percent.shape[1]):
            named[f'error_percent_{k}'] = percent[:, k]
        return named

    def loss(prediction, aux, batch):
        truth = points_lib.normalise(batch['keypoints'], batch['image'].shape[1:3])
        value = per_value(prediction, truth).mean((1, 2))
        if 'heatmaps' in aux:
            value += options.heatmap_weight * _map_entropy(aux['heatmaps'], truth).mean(1)
        error = columns(prediction, aux, batch)['error_percent']
        return mean_of_examples(batch, 'error_percent', value, error)

    def summary_line(report):
        overall = report['overall']
        percent = overall['error_percent']
        pixels = overall['error_pixels']['value']
        beyond = overall['beyond_5_percent']['value']
        return (
            f"error {percent['value']:.2f}% of the hand's length, "
            f'95% interval {percent["lower"]:.2f} to {percent["upper"]:.2f}; '
            f'{pixels:.1f} pixels of 2080x1600; {100 * beyond:.1f}% of images beyond 5%'
        )

    def unflip(prediction):
        return jnp.stack([prediction[..., 0], 1 - prediction[..., 1]], axis=-1)

    return misplacement('keypoints', loss, columns, summary_line, unflip)


def misplacement(
    kind: str, loss: Callable, columns: Callable, summary_line: Callable, unflip: Callable
) -> Task:
    """A task learnt from key points; the arguments are fields of `Task`.

    Its column `error_percent` (of the hand's length) selects and is reported.
    """

    def report(columns, split, train_months):
        del split, train_months
        beyond = columns['error_percent'] > 5
        return {'overall': metrics.intervals(columns | {'beyond_5_percent': beyond})}

    return Task(
        loss,
        columns,
        report,
        summary_line,
        kind=kind,
        selection_metric='error_percent',
        metric_format="error {:.2f}% of the hand's length",
        unflip=unflip,
        inputs=('image', 'keypoints'),
    )


def _map_entropy(maps, truth):
    """Cross-entropy of maps with the Gaussian around each point.

    Logits `[B, h, w, K]`, points `[B, K, 2]` (0 to 1) -> `[B, K]`.
    """
    size = maps.shape[1:3]
    target = points_lib.heatmaps(points_lib.denormalise(truth, size), size, sigma=1.0)
    target /= jnp.maximum(target.sum((1, 2), keepdims=True), 1e-6)
    maps = maps.astype(jnp.float32)
    return jax.nn.logsumexp(maps, axis=(1, 2)) - (target * maps).sum((1, 2))
