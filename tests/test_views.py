"""Test-time augmentation: which views an image has, and the mean over them."""

import dataclasses
import re

import numpy as np
import pytest
from test_step import DROPOUT, batch, make

from boneage_jax import config as c
from boneage_jax import tasks
from boneage_jax.data import views
from boneage_jax.errors import ConfigError
from boneage_jax.training import loop

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 1), np.uint8)


def test_views_are_the_mirror_image_and_two_turned_ones():
    mirrored, left, right = views.Views(True, 90.0).of(IMAGES)
    np.testing.assert_array_equal(mirrored, IMAGES[:, :, ::-1])
    assert np.abs(np.asarray(left, int) - np.rot90(IMAGES, 1, (1, 2))).max() <= 1
    assert np.abs(np.asarray(right, int) - np.rot90(IMAGES, -1, (1, 2))).max() <= 1
    assert left.dtype == np.uint8
    assert views.Views().of(IMAGES) == []
    counts = [views.Views(flip, turn).count for flip, turn in ((False, 0), (True, 0), (True, 8.0))]
    assert counts == [1, 2, 4]


def test_the_mean_puts_the_mirrored_prediction_back_and_no_other():
    task = tasks.for_checks(c.from_command_line('configs/prsnet.py:tiny').task)
    task = dataclasses.replace(task, unflip=lambda prediction: -prediction)
    of_views = [np.float32([4.0]), np.float32([10.0])]
    assert task.mean_of_views(np.float32([2.0]), of_views, mirrored=True) == pytest.approx(8 / 3)
    assert task.mean_of_views(np.float32([2.0]), of_views, mirrored=False) == pytest.approx(16 / 3)
    assert task.mean_of_views(np.float32([2.0]), [], mirrored=False) == 2


def test_evaluation_averages_the_turned_images():
    given = batch()
    state, _, turned_too = make(model=DROPOUT, turn_tta=20.0)
    plain = make(model=DROPOUT)[2]

    def predicted(image):
        return np.asarray(plain(state, given | {'image': image}, {})['columns']['prediction'])

    each = [given['image'], *views.Views(turn=20.0).of(given['image'])]
    expected = np.mean([predicted(np.asarray(image)) for image in each], axis=0)
    found = turned_too(state, given, {})['columns']['prediction']
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(expected - predicted(given['image'])).max() > 1e-3


@pytest.mark.parametrize('config', ['unet', 'keypoints'])
def test_outlines_and_points_have_no_mean_over_turned_images(config):
    options = c.from_command_line(f'configs/{config}.py:tiny,turn_tta=5.0')
    with pytest.raises(ConfigError, match=re.escape('turn_tta=5.0')):
        loop.GradientTrainer.check(options, fresh=True)
