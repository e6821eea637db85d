"""Enhancement: each step does what its library does, in the paper's order; each can be off."""

import inspect
import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from skimage import exposure, filters
from skimage.restoration import denoise_bilateral

from boneage_jax.preprocess import enhance
from boneage_jax.stages import appearance, catalog
from tfds_rsna.errors import UserError

DEFAULTS = catalog.STAGES['enhance'].options
OFF = DEFAULTS | {
    'bilateral': False,
    'brightness': 1.0,
    'contrast': 1.0,
    'normalise': False,
    'blur': 0.0,
    'equalise': False,
}


@pytest.fixture
def example():
    r, c = np.mgrid[:64, :48].astype(float)
    grey = 60 + 80 * (np.hypot(r - 32, c - 24) < 15) + 10 * np.sin(r / 5)
    return (grey + np.random.default_rng(0).normal(0, 6, grey.shape)).clip(0, 255).astype(np.uint8)


def by_definition(image, radius, colour, spatial):
    """The bilateral filter pixel by pixel."""
    padded = np.pad(image.astype(float), radius, mode='edge')
    result = np.zeros(image.shape)
    offsets = np.arange(-radius, radius + 1)
    near = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * spatial**2))
    for r, c in itertools.product(*map(range, image.shape)):
        window = padded[r : r + 2 * radius + 1, c : c + 2 * radius + 1]
        weight = near * np.exp(-((window - float(image[r, c])) ** 2) / (2 * colour**2))
        result[r, c] = (weight * window).sum() / weight.sum()
    return result


@pytest.mark.parametrize('radius, colour, spatial', [(1, 30, 1.0), (2, 20, 1.5), (3, 60, 2.0)])
def test_bilateral_is_its_definition(example, radius, colour, spatial):
    example = example[:30, :25]
    found = enhance.bilateral_filter(example, radius, colour, spatial)
    assert np.abs(found - by_definition(example, radius, colour, spatial)).max() <= 0.501


def test_bilateral_with_flat_weights_is_scikit_image_s(example):
    theirs = 255 * denoise_bilateral(
        example / 255, win_size=5, sigma_color=20 / 255, sigma_spatial=1e6, mode='edge'
    )
    assert np.abs(theirs - enhance.bilateral_filter(example, 2, 20, 1e6)).max() < 0.6


def test_bilateral_keeps_edges_and_removes_grain(example):
    smooth = enhance.bilateral_filter(example, 2, 30, 1.5).astype(float)
    example = example.astype(float)
    r, c = np.mgrid[:64, :48]
    distance = np.hypot(r - 32, c - 24)
    inside = distance < 12
    outside = distance > 18
    assert np.diff(smooth)[inside[:, 1:]].std() < 0.5 * np.diff(example)[inside[:, 1:]].std()
    assert smooth[inside].mean() - smooth[outside].mean() == pytest.approx(80, abs=4)


def test_everything_off_is_the_image(example):
    assert (enhance.enhance(example, **OFF) == example).all()


def test_each_step_alone(example):
    def only(**options):
        return enhance.enhance(example, **(OFF | options)).astype(int)

    pil = Image.fromarray(example)
    assert (only(bilateral=True) == enhance.bilateral_filter(example, 2, 20.0, 1.5)).all()
    assert (only(brightness=1.3) == np.asarray(ImageEnhance.Brightness(pil).enhance(1.3))).all()
    assert (only(contrast=0.5) == np.asarray(ImageEnhance.Contrast(pil).enhance(0.5))).all()
    spread = only(normalise=True, normalise_low=2, normalise_high=98)
    assert np.percentile(spread, 2) == pytest.approx(0, abs=3) and np.percentile(
        spread, 98
    ) == pytest.approx(255, abs=3)
    assert (
        np.abs(
            only(blur=1.5) - filters.gaussian(example.astype(float), 1.5, preserve_range=True)
        ).max()
        < 0.6
    )
    tiled = 255 * exposure.equalize_adapthist(example, kernel_size=(16, 12), clip_limit=0.02)
    assert np.abs(only(equalise=True, equalise_tiles=4, equalise_clip=0.02) - tiled).max() < 0.6


def test_the_paper_s_order(example, monkeypatch):
    """Steps do not commute, so all of them at once must equal one after the other."""
    expected = example
    for step in (
        {'bilateral': True},
        {'brightness': 1.2},
        {'contrast': 1.4},
        {'normalise': True},
        {'blur': 1.0},
        {'equalise': True},
    ):
        expected = enhance.enhance(expected, **(OFF | step))
    together = {
        'bilateral': True,
        'brightness': 1.2,
        'contrast': 1.4,
        'normalise': True,
        'blur': 1.0,
        'equalise': True,
    }
    assert (enhance.enhance(example, **(DEFAULTS | together)) == expected).all()
    backwards = example
    for name in reversed(together):
        backwards = enhance.enhance(backwards, **(OFF | {name: together[name]}))
    assert (backwards != expected).mean() > 0.1


def test_stage_takes_options_and_keeps_the_rest(example):
    assert set(DEFAULTS) == set(inspect.signature(enhance.enhance).parameters) - {'image'}
    done = appearance.enhance({'image': example, 'id': '3'}, **OFF)
    assert done['id'] == '3' and (done['image'] == example).all()
    with pytest.raises(TypeError, match='sharpen'):
        appearance.enhance({'image': example}, **DEFAULTS, sharpen=1)


@pytest.mark.parametrize(
    'options',
    [
        {'blur': -1},
        {'bilateral_radius': 0},
        {'normalise_low': 99.9},
        {'equalise_clip': 0},
        {'brightness': -1},
    ],
)
def test_values_out_of_range(example, options):
    with pytest.raises(UserError, match='out of its range'):
        enhance.enhance(example, **(DEFAULTS | options))


def test_only_uint8_images(example):
    with pytest.raises(UserError, match='give a uint8 image'):
        enhance.enhance(example / 255, **DEFAULTS)


@pytest.mark.parametrize('grey', [0, 255])
def test_an_even_image_stays_even(grey):
    image = np.full((40, 40), grey, np.uint8)
    assert np.ptp(enhance.enhance(image, **DEFAULTS)) == 0
