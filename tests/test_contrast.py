"""Contrast inside the mask: the percentiles land where they should, the background is empty."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boneage_jax.preprocess import contrast
from boneage_jax.stages import appearance, catalog
from tfds_rsna.errors import UserError

OPTIONS = catalog.STAGES['contrast'].options


def stretch(image, mask, **options):
    return contrast.stretch(image, mask, **(OPTIONS | options))


def example(seed=0, low=40, high=90):
    """A dim disc with a gradient of greys on a brighter ground."""
    r, c = np.mgrid[:60, :50]
    mask = np.hypot(r - 30, c - 25) < 20
    rng = np.random.default_rng(seed)
    return np.where(mask, rng.integers(low, high, mask.shape), 200).astype(np.uint8), mask


def test_percentiles_land_on_bottom_and_top():
    image, mask = example()
    for options in ({}, {'low': 5, 'high': 90, 'bottom': 20, 'top': 200}):
        result = stretch(image, mask, **options)
        low, high, bottom, top = (
            {**OPTIONS, **options}[k] for k in ('low', 'high', 'bottom', 'top')
        )
        found = np.percentile(result[mask], (low, high))
        assert result.dtype == np.uint8 and np.abs(found - (bottom, top)).max() < 3
        assert not result[~mask].any()


def test_the_stretch_is_linear_and_ignores_the_background():
    image, mask = example()
    result = stretch(image, mask)
    inside = mask & (result > 0) & (result < 255)
    slope, offset = np.polyfit(image[inside], result[inside].astype(float), 1)
    assert slope > 1 and np.abs(slope * image[inside] + offset - result[inside]).max() < 1
    other = image.copy()
    other[~mask] = 7
    assert (stretch(other, mask) == result).all()
    assert stretch(image, mask, background=None)[0, 0] == 255


def test_brightness_and_contrast_of_the_image_do_not_matter():
    image, mask = example(low=20, high=60)
    brighter = (image.astype(int) * 2 + 30).clip(0, 255).astype(np.uint8)
    difference = stretch(image, mask).astype(int) - stretch(brighter, mask)
    assert np.abs(difference).max() <= 1


def test_a_hand_of_one_grey():
    image, mask = example(low=50, high=51)
    assert set(np.unique(stretch(image, mask))) == {0, 128}


@pytest.mark.parametrize(
    'change, message',
    [
        ({'mask': np.zeros((60, 50), bool)}, 'mask is empty'),
        ({'mask': np.ones((50, 60), bool)}, 'same shape'),
        ({'low': 99, 'high': 1}, 'low must lie below high'),
        ({'top': 300}, 'bottom below top'),
    ],
)
def test_bad_input_is_named(change, message):
    image, mask = example()
    options = dict(change)
    with pytest.raises(UserError, match=message):
        stretch(image, options.pop('mask', mask), **options)


def test_stage_keeps_the_rest_and_names_the_image():
    image, mask = example()
    done = appearance.contrast(
        {'id': '7', 'image': image, 'hand_mask': mask.astype(np.uint8), 'male': True},
        **(OPTIONS | {'low': 0}),
    )
    assert done['male'] and (done['image'] == stretch(image, mask, low=0)).all()
    with pytest.raises(UserError, match='image 7 has no hand_mask'):
        appearance.contrast({'id': '7', 'image': image}, **OPTIONS)
    with pytest.raises(UserError, match='image 7: contrast: the mask is empty'):
        empty = np.zeros_like(image)
        appearance.contrast({'id': '7', 'image': image, 'hand_mask': empty}, **OPTIONS)


def test_an_image_on_which_a_network_found_no_hand_is_taken_whole():
    image, mask = example()
    unseen = {'id': '7', 'image': image, 'hand_mask': 0 * mask.astype(np.uint8)}
    unseen['flags'] = 'inverted;no_hand'
    done = appearance.contrast(unseen, **OPTIONS)
    np.testing.assert_array_equal(done['image'], stretch(image, np.ones_like(mask), **OPTIONS))
    cut = appearance.crop(unseen, margin=0.0, mask=True)
    np.testing.assert_array_equal(cut['image'], image)
    assert done['flags'] == cut['flags'] == unseen['flags']


@pytest.mark.skipif('BONEAGE_DATA' not in os.environ, reason='BONEAGE_DATA: folder of real images')
def test_defaults_are_the_authors_greys():
    """Iglovikov's own registered images: 1st, 50th and 99th percentile inside the hand, medians
    over the images.
    """
    found = []
    for path in sorted(Path(os.environ['BONEAGE_DATA'], 'rsna_registered').glob('*.png')):
        image = np.asarray(
            Image.open(path).convert('L').resize((400, 520), Image.Resampling.NEAREST)
        )
        found.append(np.percentile(image[image > 0], (1, 50, 99)))
    low, middle, high = np.median(found, axis=0)
    assert (
        abs(low - OPTIONS['bottom']) < 8 and abs(high - OPTIONS['top']) < 8 and 110 < middle < 155
    )
