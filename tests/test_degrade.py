"""Faults of an archive's images: the right amount of each, in the image alone."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image
from scipy import ndimage

from boneage_jax import config as c
from boneage_jax.data import augment, degrade

OFF = dict.fromkeys(augment.OPTIONS, 0.0) | {'fill': 'zero'}
ALL = {
    'exposure': 0.5,
    'polarity': 0.5,
    'occlusion': 0.5,
    'blur': 1.5,
    'resolution': 2.0,
    'noise': 0.05,
    'compression': 0.5,
}
KEY = jax.random.key(3)
IMAGES = np.random.default_rng(0).random((3, 20, 28, 1), np.float32)


def run(options, batch):
    return compiled(tuple(options.items()))(batch)


@functools.cache
def compiled(options):
    return jax.jit(lambda batch: augment.augment(KEY, batch, OFF | dict(options)))


def flat(grey, shape=(4, 20, 28, 1)):
    return np.full(shape, grey, np.float32)


def test_all_faults_are_tried_here():
    assert set(ALL) == set(degrade.OPTIONS) == set(degrade._SLOTS)


def test_a_checkerboard_at_half_the_resolution():
    """Two pixels become one by the weights 1, 3, 3, 1: of a checkerboard nothing is left inside."""
    board = (np.indices((16, 16)).sum(0) % 2).astype(np.float32)[None, ..., None]
    coarse = np.asarray(degrade.coarsen(board, jnp.full(1, 2.0)))
    np.testing.assert_allclose(coarse[:, 3:-3, 3:-3], 0.5, atol=1e-6)
    # Squares of two pixels: (1 * 0 + 3 * 1 + 3 * 1 + 1 * 0) / 8, then 3 and 1 quarters of those.
    pairs = (np.arange(16) // 2 % 2).astype(np.float32)
    columns = np.broadcast_to(pairs, (1, 16, 16))[..., None]
    coarse = np.asarray(degrade.coarsen(columns, jnp.full(1, 2.0)))
    assert columns[:, :, 4:12].std() == 0.5
    assert coarse[:, :, 4:12].std() == pytest.approx(0.5 / 4, rel=1e-5)


@pytest.mark.parametrize('factor', [1.0, 1.5, 2.0, 7.3, 200.0])
def test_coarsen_is_a_resize_there_and_back(factor):
    rows, columns = (max(1, round(side / factor)) for side in IMAGES.shape[1:3])
    small = jax.image.resize(IMAGES, (3, rows, columns, 1), 'linear')
    expected = jax.image.resize(small, IMAGES.shape, 'linear')
    found = degrade.coarsen(IMAGES, jnp.full(3, factor))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_each_image_has_its_own_factor():
    together = degrade.coarsen(IMAGES, jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(together[0], IMAGES[0])
    for place, factor in ((1, 2.0), (2, 3.0)):
        alone = degrade.coarsen(IMAGES[place : place + 1], jnp.full(1, factor))
        np.testing.assert_allclose(together[place], alone[0], atol=1e-6)


def test_blur_is_a_gaussian():
    image = np.random.default_rng(1).random((2, 40, 44, 1), np.float32)
    blurred = degrade.blur(image, jnp.array([0.7, 1.6]))
    for place, deviation in enumerate((0.7, 1.6)):
        expected = ndimage.gaussian_filter(image[place, ..., 0], deviation, truncate=8)
        np.testing.assert_allclose(
            blurred[place, 14:-14, 14:-14, 0], expected[14:-14, 14:-14], atol=1e-6
        )
    np.testing.assert_array_equal(degrade.blur(image, jnp.zeros(2)), image)


@pytest.mark.parametrize('quality', [20, 30, 60, 95])
@pytest.mark.parametrize('shape', [(40, 48), (37, 43)])
def test_compression_is_jpeg(quality, shape):
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 1.5)
    image = np.clip(smooth * 200 + 128, 0, 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'jpeg', quality=quality)
    expected = np.asarray(Image.open(file)).astype(np.float32)
    batch = np.stack([image, image])[..., None] / np.float32(255)
    chosen = jnp.array([True, False])
    found = 255 * degrade.compress(batch, jnp.full(2, float(quality)), chosen)[..., 0]
    # An encoder in whole numbers rounds some coefficients the other way.
    off = np.abs(found[0] - expected)
    assert np.median(off) < 0.5 and off.mean() < 0.65
    assert np.abs(image - expected).mean() > 0.7
    np.testing.assert_allclose(found[1], image, atol=1e-3)


@pytest.mark.parametrize(
    'name, tolerance', [('resolution', 1e-6), ('blur', 1e-6), ('compression', 1.7 / 255)]
)
def test_constant_images_stay(name, tolerance):
    """JPEG's mean of a block is a multiple of 3.3 / 255 at quality 30."""
    for grey in (0.0, 0.3, 1.0):
        out = run({name: 1.0}, {'image': flat(grey)})['image']
        np.testing.assert_allclose(out, grey, atol=tolerance)


def test_resolution_changes_about_half_of_the_images():
    image = np.random.default_rng(1).random((400, 8, 8, 1), np.float32)
    out = np.asarray(run({'resolution': 9.0}, {'image': image})['image'])
    spread = out.std((1, 2, 3)) / image.std((1, 2, 3))
    assert 0.40 < (spread < 0.99).mean() < 0.58  # those of factors up to 8 / 7.5 stay
    assert spread.min() < 0.2


def test_deviations_of_the_blur_reach_from_nothing_to_what_was_asked():
    image = np.zeros((200, 21, 21, 1), np.float32)
    image[:, 10, 10] = 1
    out = np.asarray(run({'blur': 2.0}, {'image': image})['image'])[..., 0]
    square = (np.arange(21) - 10) ** 2
    deviation = np.sqrt((out.sum(2) * square).sum(1) / out.sum((1, 2)))
    assert deviation.max() == pytest.approx(2, abs=0.05)
    assert deviation.mean() == pytest.approx(1, abs=0.15)


def test_resolutions_reach_from_all_pixels_to_a_third():
    image = np.random.default_rng(1).random((1, 21, 21, 1), np.float32)
    sizes = np.arange(7, 22)
    expected = degrade.coarsen(np.repeat(image, len(sizes), 0), 21 / jnp.asarray(sizes))
    out = np.asarray(run({'resolution': 2.0}, {'image': np.repeat(image, 200, 0)})['image'])
    off = np.abs(out[:, None] - np.asarray(expected)[None]).max((2, 3, 4))
    assert off.min(1).max() < 1e-5
    counts = np.bincount(sizes[off.argmin(1)], minlength=22)
    assert (counts[7:21] > 0).all() and 80 < counts[21] < 125
    assert 25 < counts[7:12].sum() < 65  # log-uniform: a factor above 21 / 11.5 is 45% of a half


def test_noise_has_the_asked_deviation():
    out = np.asarray(run({'noise': 0.1}, {'image': flat(0.5, (200, 32, 32, 1))})['image'])
    deviation = out.std((1, 2, 3))
    assert deviation.max() == pytest.approx(0.1, rel=0.05)
    assert deviation.mean() == pytest.approx(0.05, rel=0.2)  # uniform from 0
    assert np.abs(out.mean() - 0.5) < 1e-3
    exact = degrade.add_noise(jax.random.split(KEY, 2), flat(0.5, (2, 99, 99, 1)), jnp.ones(2) / 20)
    np.testing.assert_allclose(np.asarray(exact).std((1, 2, 3)), 0.05, rtol=0.03)
    assert np.abs(exact[0] - exact[1]).max() > 0.05


def test_exposure_is_a_factor_both_ways():
    out = np.asarray(run({'exposure': 1.0}, {'image': flat(0.4, (200, 4, 4, 1))})['image'])
    logarithm = np.log2(out[:, 0, 0, 0] / 0.4)
    assert -1 <= logarithm.min() < -0.9 and 0.9 < logarithm.max() <= 1
    assert abs(logarithm.mean()) < 0.15
    np.testing.assert_allclose(
        degrade.expose(flat(0.4, (2, 1, 1, 1)), jnp.array([0.5, 3.0])).ravel(), [0.2, 1.0]
    )


def test_polarity_is_the_negative_as_often_as_asked():
    image = np.random.default_rng(1).integers(0, 256, (400, 2, 2, 1), np.uint8)
    certain = run({'polarity': 1.0}, {'image': image})['image']
    np.testing.assert_allclose(certain, 1 - image / 255, atol=1e-6)
    np.testing.assert_allclose(degrade.invert(certain), image / 255, atol=1e-6)
    some = np.asarray(run({'polarity': 0.3}, {'image': image})['image'])
    inverted = np.abs(some - certain).max((1, 2, 3)) == 0
    assert 0.22 < inverted.mean() < 0.38  # 3.5 standard deviations
    np.testing.assert_allclose(some[~inverted], image[~inverted] / 255, atol=1e-6)


def test_polarity_turns_the_fill_white():
    image = {'image': flat(0.3)}
    out = np.asarray(run({'polarity': 1.0, 'shift': 0.5}, image)['image'])
    assert set(np.unique(out.round(4))) >= {np.float32(0.7), np.float32(1.0)}


def test_occlusion_covers_rectangles_of_one_grey():
    shape = (300, 50, 80, 1)
    out = np.asarray(run({'occlusion': 1.0}, {'image': flat(2.0, shape)})['image'])[..., 0]
    covered = out != 2
    rows = covered.any(2).sum(1)
    columns = covered.any(1).sum(1)
    np.testing.assert_array_equal(covered.sum((1, 2)), rows * columns)  # a full rectangle
    assert rows.min() == 5 and rows.max() == 20
    assert 8 <= columns.min() <= 9 and 31 <= columns.max() <= 32
    assert covered.any((0, 1)).all() and covered.any((0, 2)).all()  # up to every border
    greys = np.array([np.ptp(image[inside]) for image, inside in zip(out, covered, strict=True)])
    assert (greys == 0).all() and out[covered].min() < 0.05 and 0.95 < out[covered].max() < 1
    some = np.asarray(run({'occlusion': 0.3}, {'image': flat(2.0, shape)})['image'])
    assert 0.20 < (some != 2).any((1, 2, 3)).mean() < 0.40


def test_a_rectangle_at_the_ends_of_its_draws():
    ends = jnp.array([[0.0, 1.0, 0.0, 0.999999, 0.25], [1.0, 0.0, 0.999999, 0.0, 0.75]])
    out = np.asarray(degrade._cover(flat(0.5, (2, 40, 60, 1)), jnp.array([True, True]), ends))
    expected = flat(0.5, (2, 40, 60, 1))
    expected[0, :4, 36:] = 0.25
    expected[1, 24:, :6] = 0.75
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize('name', ALL)
def test_one_fault_moves_nothing_and_leaves_the_draws_of_others_alone(name):
    batch = {
        'image': (255 * IMAGES).astype(np.uint8),
        'hand_mask': (IMAGES > 0.5).astype(np.uint8),
        'keypoints': np.full((3, 2, 2), 9, np.float32),
    }
    out = run({name: ALL[name], 'flip': 0.5}, batch)
    plain = run({'flip': 0.5}, batch)
    np.testing.assert_array_equal(out['hand_mask'], plain['hand_mask'])
    np.testing.assert_array_equal(out['keypoints'], plain['keypoints'])
    assert out['image'].min() >= 0 and out['image'].max() <= 1
    # With another option on, it does what it does alone.
    if name in ('exposure', 'polarity'):
        alone = run({name: ALL[name]}, batch)['image']
        both = run({name: ALL[name], 'blur': 1e-6}, batch)['image']
        np.testing.assert_allclose(both, alone, atol=1e-6)
    elif name in ('blur', 'resolution'):
        alone = run({name: ALL[name]}, batch)['image']
        both = run({name: ALL[name], 'polarity': 1.0}, batch)['image']
        np.testing.assert_allclose(1 - both, alone, atol=1e-6)


def test_the_numbers_of_every_option_differ():
    keys = jax.random.split(KEY, 3)
    first = [np.asarray(degrade._draws(keys, name, 1)) for name in degrade._SLOTS]
    first.append(np.asarray(jax.vmap(lambda key: jax.random.uniform(key, (1,)))(keys)))
    assert len(np.unique(first)) == 3 * (len(degrade._SLOTS) + 1)


def test_sharded_equals_one_device_and_pieces_equal_the_batch():
    mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    split = NamedSharding(mesh, PartitionSpec('data'))
    batch = {'image': np.random.default_rng(2).integers(0, 256, (8, 24, 20, 1), np.uint8)}
    # Compression would turn differences of rounding into steps.
    options = OFF | ALL | {'rotation': 9.0, 'compression': 0.0}
    function = jax.jit(lambda first, b: augment.augment(KEY, b, options, first=first)['image'])
    single = function(0, batch)
    spread = jax.device_put(batch, split)
    out = function(0, spread)
    assert out.sharding.is_equivalent_to(split, 4)
    np.testing.assert_allclose(out, single, atol=1e-5)
    half = function(4, {'image': batch['image'][4:]})
    np.testing.assert_allclose(half, single[4:], atol=1e-5)
    options = OFF | {'compression': 1.0}
    function = jax.jit(lambda b: augment.augment(KEY, b, options)['image'])
    off = np.abs(np.asarray(function(spread)) - np.asarray(function(batch)))
    assert (off > 1e-4).mean() < 0.05  # a coefficient half-way between steps changes its block
    text = function.lower(spread).compile().as_text()
    assert not any(word in text for word in ('all-gather', 'all-reduce', 'all-to-all'))


@pytest.mark.parametrize(
    'change, words',
    [
        ('polarity=1.1', 'augment.polarity=1.1: expected a number from 0 to 1'),
        ('occlusion=-1', 'augment.occlusion=-1.0'),
        ('compression=2', 'augment.compression=2.0'),
        ('noise=nan', 'augment.noise=nan'),
        ('resolution=-0.5', 'augment.resolution=-0.5: expected zero or more'),
        ('blur=-1', 'augment.blur=-1.0'),
        ('exposure=nan', 'augment.exposure=nan'),
    ],
)
def test_values_out_of_range_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        c.build(c.base(), f'augment.{change}', {})
    assert set(c.base()['augment']) == set(augment.OPTIONS)
