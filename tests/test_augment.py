"""Augmentation: exact where it must be, and image, mask and key points stay together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from boneage_jax import config as c
from boneage_jax.data import augment

OFF = dict.fromkeys(augment.OPTIONS, 0.0) | {'fill': 'zero'}
GEOMETRY = OFF | {'flip': 0.5, 'rotation': 20.0, 'shift': 0.1, 'scale': 0.2, 'shear': 5.0}
ALL = GEOMETRY | {'gamma': 0.4, 'contrast': 0.3, 'brightness': 0.2}
KEY = jax.random.key(3)


def run(key, batch, options, first=0):
    return compiled(tuple(sorted(options.items())))(key, batch, first)


@functools.cache
def compiled(options):
    return jax.jit(
        lambda key, batch, first: augment.augment(key, batch, dict(options), first=first)
    )


@pytest.fixture
def upper_end(monkeypatch):
    """Every draw at its upper end."""
    monkeypatch.setattr(jax.random, 'uniform', lambda key, shape: jnp.ones(shape))
    compiled.cache_clear()
    yield
    compiled.cache_clear()


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_switched_off_it_is_the_image_over_255_and_compiles_no_gather():
    batch = {'image': noise((4, 20, 24, 1)), 'male': np.ones(4, bool)}
    out = run(KEY, batch, OFF)
    assert out['image'].dtype == jnp.float32
    np.testing.assert_array_equal(out['image'], batch['image'] * np.float32(1 / 255))
    np.testing.assert_allclose(out['image'], batch['image'] / 255, atol=1e-7)
    np.testing.assert_array_equal(out['male'], batch['male'])
    np.testing.assert_array_equal(jax.jit(augment.to_float)(batch)['image'], out['image'])
    assert 'gather' not in str(jax.make_jaxpr(lambda b: augment.augment(KEY, b, OFF))(batch))
    assert 'gather' in str(jax.make_jaxpr(lambda b: augment.augment(KEY, b, GEOMETRY))(batch))


@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_a_quarter_turn_is_rot90(upper_end, dtype):
    image = noise((2, 17, 17, 1))
    image = image if dtype == 'uint8' else image.astype(np.float32) / 255
    mask = (noise((2, 17, 17, 1), 1) > 127).astype(np.uint8)
    out = run(KEY, {'image': image, 'hand_mask': mask}, OFF | {'rotation': 90.0})
    expected = np.rot90(augment.to_float({'image': image})['image'], axes=(1, 2))
    # The border may fall a rounding error outside the image, where black begins.
    np.testing.assert_allclose(out['image'][:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-4)
    np.testing.assert_array_equal(out['hand_mask'], np.rot90(mask, axes=(1, 2)))


def test_whole_pixel_shift_and_both_fills(upper_end):
    image = noise((1, 10, 20, 1))
    moved = np.zeros((10, 20), np.uint8)
    moved[1:, 2:] = image[0, :-1, :-2, 0]
    out = run(KEY, {'image': image}, OFF | {'shift': 0.1})
    np.testing.assert_allclose(out['image'][0, ..., 0], moved / 255, atol=1e-5)
    out = run(KEY, {'image': image}, OFF | {'shift': 0.1, 'fill': 'nearest'})
    edge = np.pad(image[0, :-1, :-2, 0], ((1, 0), (2, 0)), mode='edge')
    np.testing.assert_allclose(out['image'][0, ..., 0], edge / 255, atol=1e-5)


def blobs(points, shape):
    """Images [B, H, W, 1] uint8, each with a bright round blob at its point; their masks."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    square = (rows - points[:, 0, None, None]) ** 2 + (columns - points[:, 1, None, None]) ** 2
    return (
        (255 * np.exp(-square / 18)).round().astype(np.uint8)[..., None],
        (square < 36).astype(np.uint8)[..., None],
    )


@pytest.mark.parametrize('shape', [(96, 96), (80, 120)])
def test_key_points_and_mask_follow_the_image(shape):
    points = np.random.default_rng(1).uniform(0.35, 0.65, (32, 2)) * shape
    image, mask = blobs(points, shape)
    batch = {'image': image, 'hand_mask': mask, 'keypoints': points[:, None].astype(np.float32)}
    out = jax.tree.map(np.asarray, run(KEY, batch, GEOMETRY))
    assert np.abs(out['keypoints'] - batch['keypoints']).max() > 5  # something moved
    grid = np.stack(np.mgrid[: shape[0], : shape[1]], -1)[None]
    for name, weight in (
        ('image', out['image']),
        ('hand_mask', out['hand_mask'].astype(np.float32)),
    ):
        centre = (weight * grid).sum((1, 2)) / weight.sum((1, 2))
        assert np.abs(centre - out['keypoints'][:, 0]).max() < 0.5, name
    inside, outside = out['image'][out['hand_mask'] == 1], out['image'][out['hand_mask'] == 0]
    assert out['hand_mask'].dtype == np.uint8
    assert inside.min() > 0.05 and outside.max() < 0.3  # the blob's edge lies at exp(-2) = 0.135


def test_flip_mirrors_everything_and_twice_is_nothing():
    points = np.array([[10.0, 5.0], [20.0, 30.0]])
    image, mask = blobs(points, (32, 40))
    batch = {'image': image, 'hand_mask': mask, 'keypoints': points[:, None].astype(np.float32)}
    once = augment.flip(batch)
    np.testing.assert_array_equal(once['image'], blobs(points * [1, -1] + [0, 39], (32, 40))[0])
    np.testing.assert_array_equal(once['keypoints'][:, 0], points * [1, -1] + [0, 39])
    jax.tree.map(np.testing.assert_array_equal, augment.flip(once), batch)
    certain = run(KEY, batch, OFF | {'flip': 1.0})
    jax.tree.map(np.testing.assert_array_equal, certain, augment.to_float(once))


def test_flip_happens_as_often_as_asked():
    image = np.zeros((400, 1, 2, 1), np.uint8)
    image[:, :, 0] = 255
    share = float(run(KEY, {'image': image}, OFF | {'flip': 0.3})['image'][:, 0, 1, 0].mean())
    assert 0.22 < share < 0.38  # 3.5 standard deviations


def test_draws_depend_on_key_and_position_only():
    batch = {'image': noise((8, 24, 24, 1)), 'keypoints': np.full((8, 1, 2), 9, np.float32)}
    whole = run(KEY, batch, ALL)
    jax.tree.map(np.testing.assert_array_equal, run(KEY, batch, ALL), whole)
    halves = []
    for first in (0, 4):
        half = {name: array[first : first + 4] for name, array in batch.items()}
        halves.append(run(KEY, half, ALL, first=first))
    for name in batch:
        np.testing.assert_allclose(
            np.concatenate([half[name] for half in halves]), whole[name], atol=1e-5
        )
    other = run(jax.random.key(4), batch, ALL)
    assert (np.abs(other['keypoints'] - whole['keypoints']).max((1, 2)) > 0.01).all()
    # No two examples share draws.
    assert len(np.unique(np.asarray(whole['keypoints'])[:, 0, 0])) == 8


def test_an_option_switched_on_leaves_the_other_draws_alone():
    batch = {'image': noise((8, 24, 24, 1)), 'keypoints': np.full((8, 1, 2), 9, np.float32)}
    plain = run(KEY, batch, GEOMETRY)['keypoints']
    np.testing.assert_array_equal(run(KEY, batch, ALL)['keypoints'], plain)


def test_sharded_equals_one_device_without_communication():
    assert jax.device_count() >= 4
    mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    split = NamedSharding(mesh, PartitionSpec('data'))
    batch = {
        'image': noise((8, 24, 24, 1)),
        'hand_mask': noise((8, 24, 24, 1), 1) // 128,
        'keypoints': np.full((8, 1, 2), 9, np.float32),
    }
    function = jax.jit(lambda key, b: augment.augment(key, b, ALL))
    spread = jax.device_put(batch, split)
    out = function(KEY, spread)
    assert out['image'].sharding.is_equivalent_to(split, 4)
    single = function(KEY, batch)
    np.testing.assert_array_equal(out['hand_mask'], single['hand_mask'])
    for name in ('image', 'keypoints'):  # rounding only: other shapes fuse differently
        np.testing.assert_allclose(out[name], single[name], atol=1e-5)
    text = function.lower(KEY, spread).compile().as_text()
    assert not any(
        word in text for word in ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute')
    )


@pytest.mark.parametrize('name, value', [('gamma', 2.0), ('contrast', 1.0), ('brightness', 1.0)])
def test_intensity_stays_in_range_and_moves(name, value):
    batch = {'image': noise((64, 8, 8, 1))}
    out = np.asarray(run(KEY, batch, OFF | {name: value})['image'])
    change = (out - batch['image'] / 255).mean((1, 2, 3))
    assert out.min() >= 0 and out.max() <= 1
    if name == 'contrast':
        spread = out.std((1, 2, 3)) - (batch['image'] / 255).std((1, 2, 3))
        assert spread.min() < -0.1 and spread.max() > 0.05
    else:
        assert change.min() < -0.1 and change.max() > 0.1  # both ways


def test_gamma_is_a_power():
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    out = np.asarray(run(KEY, {'image': image}, OFF | {'gamma': 0.5})['image']).reshape(-1)
    exponent = np.log(out[128]) / np.log(128 / 255)
    assert 1 / 1.5 <= exponent <= 1.5 and abs(exponent - 1) > 0.01
    np.testing.assert_allclose(out, (np.arange(256) / 255) ** exponent, atol=1e-5)


@pytest.mark.parametrize(
    'change, words',
    [
        ('fill=wrap', "augment.fill='wrap'"),
        ('flip=1.5', 'augment.flip=1.5'),
        ('gamma=-0.1', 'augment.gamma=-0.1'),
        ('shift=nan', 'augment.shift=nan'),
        ('shear=90', 'augment.shear=90.0: expected degrees from 0 to 89'),
    ],
)
def test_values_out_of_range_are_named_with_the_config(change, words):
    with pytest.raises(ValueError, match=words):
        c.build(c.base(), f'augment.{change}', {})


def test_missing_and_unknown_options_are_named():
    batch = {'image': noise((1, 8, 8, 1))}
    with pytest.raises(ValueError, match="unknown \\['rotate'\\]"):
        augment.augment(KEY, batch, OFF | {'rotate': 3.0})
    with pytest.raises(ValueError, match="missing \\['shear'\\]"):
        without = {name: value for name, value in OFF.items() if name != 'shear'}
        augment.augment(KEY, batch, without)
