"""Transforms, the similarity and its five numbers, implausible key points, the fallbacks."""

import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from boneage_jax.preprocess import keypoints as keypoints_lib
from boneage_jax.preprocess import register, transform
from boneage_jax.stages import registration
from tfds_rsna.annotations import hand_points
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom.render import phantom

LEFT = np.array(
    [[50, 200], [170, 330], [330, 210]], np.float32
)  # a left hand: upright, thumb to the right
SHAPE = (400, 420)


@pytest.fixture(scope='module')
def images():
    return [phantom(11, i, (256, 232)) for i in range(6)]


def turned(points, degrees, shape=SHAPE):
    angle = np.radians(degrees)
    centre = (np.array(shape) - 1) / 2
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points - centre) @ matrix.T + centre


def square(centre, shape=(200, 160), half=6):
    image = np.zeros(shape, np.uint8)
    image[centre[0] - half : centre[0] + half + 1, centre[1] - half : centre[1] + half + 1] = 200
    return image


def centroid(image):
    rows, columns = np.indices(image.shape)
    weight = image.astype(float)
    return np.array([(rows * weight).sum(), (columns * weight).sum()]) / weight.sum()


@pytest.mark.parametrize('factor', [0.2, 0.37, 0.8, 1.0, 1.7])
def test_pixels_go_where_points_go(factor):
    angle = np.radians(20)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 30], [np.sin(angle), np.cos(angle), -20], [0, 0, 1]]
    )
    matrix = transform.zoom(factor, factor) @ turn @ transform.mirror(160)
    size = (round(240 * factor), round(200 * factor))
    for centre in ((60, 80), (120, 60)):
        out = transform.warp(square(centre), matrix, size)
        assert out.shape == size and out.dtype == np.uint8
        np.testing.assert_allclose(centroid(out), transform.apply(matrix, centre), atol=0.06)
        mask = transform.warp_mask(square(centre) > 0, matrix, size)
        assert set(np.unique(mask)) == {0, 1}
        assert abs(mask.sum() / (13 * factor) ** 2 - 1) < 0.35
        box = transform.apply_boxes(
            matrix, np.array([centre[0] - 6, centre[1] - 6, centre[0] + 6, centre[1] + 6])
        )
        np.testing.assert_allclose(
            box.reshape(2, 2).mean(0), transform.apply(matrix, centre), atol=1e-3
        )


def test_shrinking_filters_and_identity_changes_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8)
    small = transform.warp(noise, transform.zoom(0.1, 0.1), (40, 40))
    np.testing.assert_allclose(small, noise.reshape(40, 10, 40, 10).mean((1, 3)), atol=1.1)
    np.testing.assert_array_equal(transform.warp(noise, np.eye(3), (400, 400)), noise)
    assert (transform.warp(noise, transform.shift(1000, 0), (50, 60), fill=7) == 7).all()


def test_warp_refuses():
    with pytest.raises(UserError, match='8-bit grey'):
        transform.warp(np.zeros((4, 4, 3), np.uint8), np.eye(3), (4, 4))
    with pytest.raises(UserError, match='not invertible'):
        transform.warp(np.zeros((4, 4), np.uint8), np.zeros((3, 3)), (4, 4))


@pytest.mark.parametrize('degrees', [0, 25, -70, 180])
@pytest.mark.parametrize('right_hand', [False, True])
def test_similarity_meets_its_targets(degrees, right_hand):
    points = turned(LEFT, degrees)
    if right_hand:
        points = transform.apply(transform.mirror(SHAPE[1]), points)
    matrix = register.from_keypoints(points)
    moved = transform.apply(matrix, points)
    np.testing.assert_allclose(moved[[0, 2]], [register.TIP, register.CAPITATE], atol=1e-2)
    assert moved[1, 1] > 1200  # the thumb's side; its row shows that nothing is upside down
    assert 500 < moved[1, 0] < 1100
    assert (np.linalg.det(matrix[:2, :2]) < 0) == right_hand
    scale = np.linalg.svd(matrix[:2, :2])[1]
    np.testing.assert_allclose(scale[0], scale[1])  # the aspect is kept
    small = transform.apply(register.from_keypoints(points, (520, 500)), points)
    np.testing.assert_allclose(small[0], [24.625, 249.625], atol=1e-2)  # a quarter, 50 columns in


def test_similarity_of_one_point_is_refused():
    with pytest.raises(UserError, match='same point'):
        register.similarity((5, 5), (5, 5), False)


@pytest.mark.parametrize(
    'change, reason',
    [
        (lambda p: p, None),
        (lambda p: turned(p, 180), None),
        (lambda p: p + [0, 250], 'fingertip outside the image'),
        (lambda p: (p - p[2]) * 0.2 + p[2], 'hand as long as 0.13 of the image'),
        (lambda p: p[[1, 0, 2]], 'thumb reaches'),
        (lambda p: np.stack([p[0], p[0] + 5, p[2]]), 'thumb'),
        (lambda p: p * [[1, 1], [1, 1], [np.nan, 1]], 'not found: capitate'),
        (lambda p: p * [[1, 1], [np.nan, 1], [1, 1]], 'thumb tip not found'),
    ],
)
def test_implausible(change, reason):
    reasons = register.implausible(change(LEFT), None, SHAPE)
    assert bool(reasons) == (reason is not None)
    if reason:
        assert any(found.startswith(reason) for found in reasons), reasons


def test_implausible_against_the_mask(images):
    for example in images:
        points = example['keypoints']
        mask = example['hand_mask']
        shape = example['image'].shape
        assert register.implausible(points, mask, shape) == []
        assert register.implausible(points, np.zeros(shape), shape) == ['the mask is empty']
        tip, thumb, capitate = points
        for wrong, reason in (
            (np.stack([capitate, thumb, tip]), 'fingertip inside the hand'),
            (
                np.stack([example['coco_keypoints'][11], thumb, capitate]),
                'fingertip inside the hand',
            ),
            (points + [0, 60], 'outside the hand'),
        ):
            assert any(reason in found for found in register.implausible(wrong, mask, shape)), (
                reason,
                wrong,
            )


@pytest.mark.parametrize('upside_down', [False, True])
def test_axis_of_mask(images, upside_down):
    for example in images:
        mask = example['hand_mask']
        tip, _, capitate = example['keypoints']
        if upside_down:
            tip, capitate = (mask.shape[0] - 1, 0) + np.array([-1, 1]) * (tip, capitate)
            mask = mask[::-1]
        found = register.axis_of_mask(mask)
        length = np.hypot(*(tip - capitate))
        assert np.hypot(*(found[0] - tip)) < 0.06 * length
        assert np.hypot(*(found[1] - capitate)) < 0.20 * length
    assert register.axis_of_mask(np.zeros((30, 30))) is None


def test_a_long_forearm_is_no_finger(images):
    for example in images:
        mask = example['hand_mask'].copy()
        last = np.flatnonzero(mask.any(1))[-1]
        forearm = np.repeat(mask[last - 2 : last - 1], 300, 0)
        long = np.concatenate([mask[:last], forearm, np.zeros((20, mask.shape[1]), np.uint8)])
        tip = register.axis_of_mask(long)[0]
        assert np.hypot(*(tip - example['keypoints'][0])) < 12, tip


def test_stage_says_how_it_registered(images):
    example = images[0] | {'id': '7'}
    good = registration.registered(example, size=(520, 400))
    assert (good['registered'], good['doubts'], good['id']) == ('keypoints', '', '7')
    assert good['image'].shape == good['hand_mask'].shape == (520, 400)
    np.testing.assert_allclose(
        good['keypoints'][[0, 2]], [[24.625, 199.625], [399.625, 199.625]], atol=1e-2
    )
    np.testing.assert_allclose(
        transform.apply(np.linalg.inv(good['transform']), good['coco_keypoints']),
        example['coco_keypoints'],
        atol=1e-2,
    )
    points = example['keypoints']
    shape = example['image'].shape
    wrong_mask = example | {'hand_mask': np.roll(example['hand_mask'], 90, 1)}
    assert registration.registered(wrong_mask, size=(520, 400))['registered'] != 'keypoints'
    assert register.register(shape, points, None)[1] == 'keypoints'
    ways = {
        'axis': example | {'keypoints': np.stack([points[0], points[0], points[2]])},
        'mask': example | {'keypoints': points[[2, 1, 0]]},
        'none': {'image': example['image']},
    }
    for how, changed in ways.items():
        out = registration.registered(changed, size=(520, 400))
        assert out['registered'] == how and out['doubts']
    assert register.register(shape)[2] == ['no key points', 'no mask']
    assert register.register(shape, None, example['hand_mask'])[1] == 'mask'
    assert (
        register.register(shape, points, np.ones(shape))[1] == 'keypoints'
    )  # a mask of the whole image is none
    assert register.register(shape, None, np.ones(shape))[1] == 'none'
    assert (
        abs(
            transform.apply(register.register(shape, None, example['hand_mask'])[0], points)[0]
            - (100, 800)
        ).max()
        < 90
    )


def test_five_numbers_are_the_similarity():
    hands = np.stack([turned(LEFT, degrees) for degrees in (0, 20, -35)])
    values = register.parameters(hands, SHAPE)
    assert values.shape == (3, 5) and values.dtype == jnp.float32
    np.testing.assert_allclose(values[:, 1] ** 2 + values[:, 2] ** 2, 1, rtol=1e-5)
    for points, five in zip(hands, values):
        np.testing.assert_allclose(
            register.from_parameters(five, SHAPE),
            register.from_keypoints(points),
            rtol=1e-3,
            atol=0.05,
        )
        # cos and sin as a network gives them
        np.testing.assert_allclose(
            register.from_parameters(five * np.array([1, 3, 3, 1, 1]), SHAPE),
            register.from_parameters(five, SHAPE),
            rtol=1e-4,
            atol=0.05,
        )
    mirrored = transform.apply(transform.mirror(SHAPE[1]), hands[1])
    np.testing.assert_allclose(
        register.from_parameters(register.parameters(mirrored, SHAPE), SHAPE, mirrored=True),
        register.from_keypoints(mirrored),
        rtol=1e-3,
        atol=0.05,
    )


@pytest.mark.skipif(
    not os.environ.get('BONEAGE_DATA'), reason='BONEAGE_DATA names no folder of real radiographs'
)
def test_registration_aligns_real_hands():
    folder = pathlib.Path(os.environ['BONEAGE_DATA']) / 'annotations'
    hands = hand_points.read(*sorted(folder.glob('rsna_hand_keypoints_*.json')))
    assert len(hands) == 534
    before = []
    after = []
    for hand in hands.values():
        three = keypoints_lib.from_coco(hand.points)
        assert register.implausible(three, None, hand.size) == []
        matrix = register.from_keypoints(three)
        assert (np.linalg.det(matrix[:2, :2]) < 0) == (
            not hand.left
        )  # right hands, and they alone, are mirrored
        after.append(transform.apply(matrix, hand.points))
        before.append(transform.apply(transform.fit(hand.size, register.SIZE), hand.points))
    assert (np.array(after)[:, 4, 1] > 800).all()  # every thumb is on the right
    knuckles = [5, 9, 13, 17]
    spread = [
        np.hypot(*np.std(points, 0).T)[knuckles].mean() / keypoints_lib.LENGTH
        for points in (before, after)
    ]
    assert spread[0] > 0.10 and spread[1] < 0.035, (
        spread
    )  # 11.4% of the hand's length before, 3.2% after
