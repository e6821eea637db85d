"""The transformation network's numbers: on device and host, mirrored back, and as a stage."""

import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from boneage_jax import config as c
from boneage_jax import tasks
from boneage_jax.preprocess import register, resize, transform
from boneage_jax.stages import networks, plan

SHAPE = (120, 90)
POINTS = np.array(
    [[[20, 50], [60, 75], [80, 45]], [[15, 30], [45, 80], [70, 60]]], np.float32
)  # fingertip, thumb, capitate


def test_points_move_as_the_image_does():
    values = np.asarray(register.parameters(POINTS, SHAPE)) * np.array(
        [1, 2, 2, 1, 1], np.float32
    )  # no unit length
    found = np.asarray(register.moved(values, POINTS, SHAPE))
    half = max(register.SIZE) / 2
    for value, points, out in zip(values, POINTS, found):
        expected = transform.apply(register.from_parameters(value, SHAPE), points)
        np.testing.assert_allclose(
            out * half + (np.array(register.SIZE) - 1) / 2, expected, atol=0.05
        )
        np.testing.assert_allclose(expected[::2], [register.TIP, register.CAPITATE], atol=0.05)


def test_numbers_of_a_mirror_image():
    mirrored = POINTS * np.array([1, -1], np.float32) + np.array([0, SHAPE[1] - 1], np.float32)
    values = register.parameters(POINTS, SHAPE)
    np.testing.assert_allclose(
        register.unflip(register.parameters(mirrored, SHAPE)), values, atol=1e-5
    )
    assert (np.abs(register.parameters(mirrored, SHAPE) - values) > 1e-3).any()


def test_five_numbers_give_back_the_axis():
    for points in POINTS:
        found = register.axis_points(np.asarray(register.parameters(points, SHAPE)), SHAPE)
        np.testing.assert_allclose(found[::2], points[::2], atol=1e-3)
        assert np.isnan(found[1]).all()
        matrix, how, _ = register.register(SHAPE, found)
        assert how == 'axis'
        np.testing.assert_allclose(
            transform.apply(matrix, points[::2]), [register.TIP, register.CAPITATE], atol=0.1
        )
    for nonsense in (
        [6.0, 1, 0, 0, 0],
        [0.0, 0, 0, 0, 0],
        [np.nan] * 5,
    ):  # a hand of no length, no direction, no number
        assert np.isnan(register.axis_points(np.array(nonsense), SHAPE)).all()


def test_errors_in_percent_of_the_hand_and_in_degrees():
    task = tasks.build(ml_collections.ConfigDict({'name': 'similarity', 'loss': 'l2'}), {})
    batch = {
        'image': jnp.zeros((2, *SHAPE, 1)),
        'keypoints': POINTS,
        'valid': np.array([True, False]),
    }
    truth = register.parameters(POINTS, SHAPE)
    exact = task.per_example(truth, {}, batch)
    np.testing.assert_allclose([exact['error_percent'], exact['degrees']], 0, atol=1e-3)
    off = task.per_example(
        truth + jnp.array([[0, 0, 0, 15 / 1040, 0]] * 2), {}, batch
    )  # 15 pixels of the registered image
    np.testing.assert_allclose(off['error_percent'], 1, rtol=1e-3)
    angle = jnp.deg2rad(10)
    turned = (
        truth.at[:, 1]
        .set(truth[:, 1] * jnp.cos(angle) - truth[:, 2] * jnp.sin(angle))
        .at[:, 2]
        .set(truth[:, 2] * jnp.cos(angle) + truth[:, 1] * jnp.sin(angle))
    )
    np.testing.assert_allclose(task.per_example(turned, {}, batch)['degrees'], 10, rtol=1e-3)
    loss, sums = task.loss(truth + 1.0, {}, batch)
    np.testing.assert_allclose([loss, sums['loss'][0], sums['loss'][1]], 1, rtol=1e-5)
    assert (
        task.selection_metric in sums
        and np.isfinite(jax.grad(lambda x: task.loss(x, {}, batch)[0])(truth)).all()
    )
    report = task.report({name: np.asarray(x) for name, x in off.items()}, None, None)
    assert 'fingertip and capitate 1.00%' in task.summary_line(report)
    with pytest.raises(ValueError, match="task.loss='l3'"):
        tasks.build(ml_collections.ConfigDict({'name': 'similarity', 'loss': 'l3'}), {})


@pytest.mark.parametrize('fit', ['pad', 'stretch'])
def test_an_image_is_aligned_and_registered(tmp_path, fit):
    size = (60, 60)
    shape = (240, 180)
    (tmp_path / 'metrics.json').write_text('{}')
    trained = {'size': size, 'resize': fit, 'source': 'hand_phantom', 'stages': []}
    (tmp_path / 'config.json').write_text(json.dumps({'data': trained}))
    data = c.build(
        c.base(),
        f'stages=(align,register),data.stage_options.align.run={tmp_path},'
        'data.stage_options.register.size=(208,160)',
        {},
    ).data
    align, onto = plan.make_plan(data)
    points = 2 * POINTS[0]
    example = {'image': np.zeros(shape, np.uint8), 'id': 'a'}
    example['image'][*points[0].astype(int)] = 255
    networks._input.cache_clear()
    look = plan.look(example, align)
    resized = resize.resize({'image': example['image'], 'keypoints': points}, size, fit)

    def predictor(images):
        return np.asarray(register.parameters(resized['keypoints'], size))[None], {}

    found = networks.aligned(predictor, [look], run=str(tmp_path))[0]
    np.testing.assert_allclose(found['keypoints'][::2], points[::2], atol=0.02)
    after = plan.apply_steps(plan.merge_annotations(example, found), [onto])
    assert (
        after['image'].shape == (208, 160)
        and after['flags'] == 'registered_by_axis: thumb tip not found'
    )
    np.testing.assert_allclose(after['keypoints'][::2], [[10, 80], [160, 80]], atol=0.6)
