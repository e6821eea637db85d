"""Where the hand is: its mask and its key points (Iglovikov 2018, section 3)."""

import jax
import jax.numpy as jnp

from boneage_jax.preprocess import keypoints as points_lib
from boneage_jax.tasks import losses, metrics
from boneage_jax.tasks.task import Task, by_value, mean_of_examples
from tfds_rsna.errors import UserError


def fit(options, months):
    """Nothing is taken from the ages."""
    del options, months
    return {}


def segmentation(options):
    """Prediction: logits `[B, H, W]` of the hand. Columns: `iou`, `dice` of the mask at probability
    1/2.
    """
    if options.jaccard not in ('global', 'literal'):
        raise UserError(f"task.jaccard={options.jaccard!r}: expected 'global' or 'literal'")

    def columns(logits, aux, batch):
        del aux
        predicted, mask = logits > 0, batch['hand_mask'][..., 0] > 0
        both, either = (predicted & mask).sum((1, 2)), (predicted | mask).sum((1, 2))
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
        iou, dice = report['overall']['iou'], report['overall']['dice']
        return (
            f'IoU {iou["value"]:.4f}, 95% interval {iou["lower"]:.4f} to {iou["upper"]:.4f}; Dice {dice["value"]:.4f}; '
            f'{100 * report["overall"]["iou_below_0.9"]["value"]:.1f}% of images below IoU 0.9'
        )

    return Task(
        loss,
        columns,
        report,
        summary_line,
        kind='segmentation',
        selection_metric='iou_miss',
        metric_format='1 - IoU {:.4f}',
        unflip=lambda logits: logits[:, :, ::-1],
        batch_dependent_loss=True,
        inputs=('image', 'hand_mask'),
    )


def keypoints(options):
    """Prediction: points `[B, K, 2]` as `preprocess.keypoints.normalise` gives them (0 to 1 from
    edge to edge).

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
        errors = points_lib.errors(
            points_lib.denormalise(prediction, size), batch['keypoints'], size
        )
        percent = errors['percent']
        return {
            'error_percent': percent.mean(1),
            'error_pixels': errors['pixels'].mean(1),
            **{f'error_percent_{k}': percent[:, k] for k in range(percent.shape[1])},
        }

    def loss(prediction, aux, batch):
        truth = points_lib.normalise(batch['keypoints'], batch['image'].shape[1:3])
        value = per_value(prediction, truth).mean((1, 2))
        if 'heatmaps' in aux:
            value += options.heatmap_weight * _map_entropy(aux['heatmaps'], truth).mean(1)
        return mean_of_examples(
            batch, 'error_percent', value, columns(prediction, aux, batch)['error_percent']
        )

    def summary_line(report):
        percent, pixels = report['overall']['error_percent'], report['overall']['error_pixels']
        return (
            f"error {percent['value']:.2f}% of the hand's length, 95% interval {percent['lower']:.2f} to "
            f'{percent["upper"]:.2f}; {pixels["value"]:.1f} pixels of 2080x1600; '
            f'{100 * report["overall"]["beyond_5_percent"]["value"]:.1f}% of images beyond 5%'
        )

    def unflip(prediction):
        return jnp.stack([prediction[..., 0], 1 - prediction[..., 1]], axis=-1)

    return misplacement('keypoints', loss, columns, summary_line, unflip)


def misplacement(kind, loss, columns, summary_line, unflip):
    """A task learnt from key points, whose column `error_percent` (of the hand's length) selects
    and is reported.
    """

    def report(columns, split, train_months):
        del split, train_months
        return {
            'overall': metrics.intervals(
                columns | {'beyond_5_percent': columns['error_percent'] > 5}
            )
        }

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
    """Logits `[B, h, w, K]`, points `[B, K, 2]` (0 to 1) -> `[B, K]`: cross-entropy with the
    Gaussian around each point.
    """
    size = maps.shape[1:3]
    target = points_lib.heatmaps(points_lib.denormalise(truth, size), size, sigma=1.0)
    target /= jnp.maximum(target.sum((1, 2), keepdims=True), 1e-6)
    maps = maps.astype(jnp.float32)
    return jax.nn.logsumexp(maps, axis=(1, 2)) - (target * maps).sum((1, 2))
