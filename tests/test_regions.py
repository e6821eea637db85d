"""Regions: where their windows are, and that one resampling reaches them from any image."""

import numpy as np
import pytest

from boneage_jax.preprocess import regions, register, transform
from boneage_jax.stages import registration
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom.render import phantom


@pytest.fixture(scope='module')
def example():
    return phantom(11, 1, (1024, 820))


@pytest.mark.parametrize(
    'name, size', [('A', (500, 375)), ('B', (375, 375)), ('C', (300, 700)), ('bones', (300, 375))]
)
def test_sizes_and_windows(name, size):
    region = regions.REGIONS[name]
    assert region.output == size
    for side in (0, 1):  # the window lies inside the registered image
        assert region.centre[side] - region.size[side] / 2 >= 0
        assert region.centre[side] + region.size[side] / 2 <= register.SIZE[side]
    middle = transform.apply(regions.cut(name), np.array(region.centre))
    np.testing.assert_allclose(middle, np.array(size) / 2, atol=0.51)


@pytest.mark.parametrize('name', regions.REGIONS)
def test_stage_moves_everything_together(example, name):
    out = registration.cut_region(example, region=name)
    size = regions.REGIONS[name].output
    assert out['image'].shape == out['hand_mask'].shape == size and out['registered'] == 'keypoints'
    matrix = regions.cut(name) @ register.from_keypoints(example['keypoints'])
    np.testing.assert_allclose(out['transform'], matrix, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(
        out['coco_keypoints'], transform.apply(matrix, example['coco_keypoints']), atol=1e-3
    )
    assert out['bone_boxes'].shape == example['bone_boxes'].shape
    np.testing.assert_array_equal(np.isnan(out['bone_boxes']), np.isnan(example['bone_boxes']))


def test_a_region_of_a_native_image_is_that_of_the_registered_one_but_sharper(example):
    twice = registration.cut_region(registration.registered(example), region='B')
    once = registration.cut_region(example, region='B')
    np.testing.assert_allclose(once['transform'], twice['transform'], atol=1e-3)
    difference = once['image'].astype(float) - twice['image']
    assert np.abs(difference).mean() < 1 and np.abs(difference).max() > 0
    detail = [np.abs(np.diff(cut['image'].astype(float), axis=0)).mean() for cut in (once, twice)]
    assert detail[0] > detail[1]
    # any size with the registered image's aspect will do
    small = registration.cut_region(registration.registered(example, size=(1040, 800)), region='B')
    np.testing.assert_allclose(small['keypoints'], once['keypoints'], atol=1e-2)


def test_bones_are_in_their_regions(example):
    coco = {
        name: registration.cut_region(example, region=name)['coco_keypoints']
        for name in regions.REGIONS
    }

    def inside(name, points):
        size = np.array(regions.REGIONS[name].output)
        return bool(((coco[name][points] > 0) & (coco[name][points] < size - 1)).all())

    assert inside('B', [0, 1]) and not inside('B', [9])
    assert inside('C', [5, 9, 13, 17]) and not inside('C', [0])
    assert inside('bones', [1, 5, 6, 9, 10, 13, 14, 17, 18])


def test_unknown_region_is_refused(example):
    with pytest.raises(UserError, match="region 'D': known are A, B, C"):
        registration.cut_region(example, region='D')
