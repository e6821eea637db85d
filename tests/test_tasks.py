"""Segmentation and key points as tasks: losses by hand, columns, un-mirroring."""

import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from boneage_jax import tasks
from boneage_jax.preprocess.keypoints import denormalise, normalise
from boneage_jax.tasks import losses
from tfds_rsna.errors import UserError


def options(**values):
    return ml_collections.ConfigDict(values)


def images(count=3, height=6, width=4, seed=0):
    rng = np.random.default_rng(seed)
    mask = (rng.random((count, height, width)) < 0.5).astype(np.uint8)
    return rng.normal(size=mask.shape).astype(np.float32), mask, np.ones(count, bool)


def test_segmentation_loss_by_hand():
    logits, mask, valid = images()
    p, y = 1 / (1 + np.exp(-logits)), mask.astype(float)
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    overlap = (y * p).sum() / (y.sum() + p.sum() - (y * p).sum())
    np.testing.assert_allclose(
        losses.segmentation(logits, mask, valid), entropy - np.log(overlap), rtol=1e-5
    )
    literal = (y * p / (y + p - y * p)).mean()
    np.testing.assert_allclose(
        losses.segmentation(logits, mask, valid, jaccard='literal'),
        entropy - np.log(literal),
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match='jaccard'):
        losses.segmentation(logits, mask, valid, jaccard='local')


def test_images_that_are_not_valid_count_nowhere():
    logits, mask, valid = images()
    changed = np.where(np.arange(3)[:, None, None] == 2, 9.0, logits)
    valid[2] = False
    for jaccard in ('global', 'literal'):
        one, other = (
            losses.segmentation(x, mask, valid, jaccard=jaccard) for x in (logits, changed)
        )
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(
            one, losses.segmentation(logits[:2], mask[:2], valid[:2], jaccard=jaccard), rtol=1e-5
        )


def test_images_without_a_hand_have_finite_gradients():
    logits, mask, valid = images()
    for jaccard in ('global', 'literal'):
        gradient = jax.grad(
            lambda x, j=jaccard: losses.segmentation(x, 0 * mask, valid, jaccard=j)
        )(logits)
        assert np.isfinite(gradient).all() and (gradient != 0).any()


def test_overlap_of_masks():
    task = tasks.build(options(name='segmentation', jaccard='global'), {})
    mask = np.zeros((2, 4, 4, 1), np.uint8)
    mask[0, :2] = 255
    logits = np.full((2, 4, 4), -1.0)
    logits[0, 1:3] = 1.0
    columns = task.per_example(jnp.asarray(logits), {}, {'hand_mask': mask})
    np.testing.assert_allclose(columns['iou'], [1 / 3, 1.0])  # no hand and none found is right
    np.testing.assert_allclose(columns['dice'], [0.5, 1.0])
    np.testing.assert_array_equal(task.unflip(logits[..., ::-1]), logits)


def keypoint_task(**changed):
    return tasks.build(
        options(**({'name': 'keypoints', 'loss': 'l2', 'heatmap_weight': 1.0} | changed)), {}
    )


def test_errors_of_key_points():
    task, size = keypoint_task(), (131, 101)
    truth = np.array([[[10, 50], [60, 20], [110, 50]]], np.float32)
    batch = {'image': np.zeros((1, *size, 1)), 'keypoints': truth, 'valid': np.ones(1, bool)}
    found = normalise(truth + np.array([[3, 4], [0, 0], [0, 0]], np.float32), size)
    columns = task.per_example(found, {}, batch)
    np.testing.assert_allclose(
        columns['error_percent'], 5 / 3, rtol=1e-4
    )  # of a hand of 100 pixels
    np.testing.assert_allclose(columns['error_percent_0'], 5, rtol=1e-4)
    np.testing.assert_allclose(columns['error_pixels'], 5 / 3 * 1600 / 101, rtol=1e-4)
    loss, sums = task.loss(found, {}, batch)
    np.testing.assert_allclose(loss, ((3 / 131) ** 2 + (4 / 101) ** 2) / 6, rtol=1e-4)
    assert task.selection_metric in sums
    np.testing.assert_allclose(denormalise(normalise(truth, size), size), truth, rtol=1e-5)
    mirrored = np.stack([truth[..., 0], size[1] - 1 - truth[..., 1]], axis=-1)
    np.testing.assert_allclose(
        task.unflip(normalise(mirrored, size)), normalise(truth, size), atol=1e-6
    )


def test_heat_maps_are_trained_towards_the_points():
    task = keypoint_task()
    truth = np.array([[[2, 3], [5, 1]]], np.float32)
    batch = {'image': np.zeros((1, 8, 8, 1)), 'keypoints': truth, 'valid': np.ones(1, bool)}
    maps, points = jnp.zeros((1, 8, 8, 2)), normalise(truth, (8, 8))
    gradient = jax.grad(lambda m: task.loss(points, {'heatmaps': m}, batch)[0])(maps)
    for k, (row, column) in enumerate(truth[0].astype(int)):
        assert np.unravel_index(np.argmin(gradient[0, ..., k]), (8, 8)) == (row, column)


def test_reports_of_a_split_read_as_a_line():
    split = types.SimpleNamespace(ids=['a', 'b'], months=np.ones(2), male=np.ones(2, bool))
    masks = tasks.build(options(name='segmentation', jaccard='global'), {})
    report = masks.report({'iou': np.array([0.8, 1.0]), 'dice': np.array([0.9, 1.0])}, split, None)
    assert (
        report['overall']['iou']['value'] == 0.9
        and report['overall']['iou_below_0.9']['value'] == 0.5
    )
    assert 'IoU 0.9000' in masks.summary_line(
        report
    ) and '50.0% of images below' in masks.summary_line(report)
    points = keypoint_task()
    report = points.report(
        {'error_percent': np.array([1.0, 9.0]), 'error_pixels': np.array([20.0, 180.0])},
        split,
        None,
    )
    assert "error 5.00% of the hand's length" in points.summary_line(report)


@pytest.mark.parametrize(
    'given',
    [
        dict(name='segmentation', jaccard='local'),
        dict(name='keypoints', loss='l3'),
        dict(name='keypoint'),
    ],
)
def test_unknown_choices_are_refused(given):
    with pytest.raises(UserError, match='expected'):
        tasks.inputs(options(**given))


def test_inputs_are_named():
    assert tasks.inputs(options(name='segmentation', jaccard='global')) == ('image', 'hand_mask')
