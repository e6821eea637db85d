"""Key points: from COCO-hand's 21, to and from heat maps, their errors, and their files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boneage_jax.preprocess import keypoints
from tfds_rsna.annotations import hand_points
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom.anatomy import hand


@pytest.mark.parametrize('mirror', [1, -1])
def test_capitate_from_coco(mirror):
    off = []
    for i in range(40):
        drawn = hand(1 + 5.7 * i, bool(i % 2), np.random.default_rng(1000 + i))
        # x to the thumb, y to the fingertips -> (row, column), turned by 0.4
        turn = 700 * np.array(
            [[np.sin(0.4) * mirror, -np.cos(0.4)], [np.cos(0.4) * mirror, np.sin(0.4)]]
        )
        coco = drawn.joints @ turn.T + 900
        capitate = drawn.capitate @ turn.T + 900
        three = keypoints.from_coco(coco)
        np.testing.assert_allclose(three[:2], coco[[12, 4]], rtol=1e-6)
        off.append(np.hypot(*(three[2] - capitate)) / np.hypot(*(coco[12] - capitate)))
    assert (
        np.mean(off) < 0.014 and np.max(off) < 0.025
    )  # phantoms: real capitates lie 1% from where they are drawn


def test_normalised_points_come_back():
    points = np.array([[[-0.5, -0.5], [99.5, 49.5], [10, 20]]], np.float32)
    unit = keypoints.normalise(points, (100, 50))
    np.testing.assert_allclose(unit[0, :2], [[0, 0], [1, 1]])
    np.testing.assert_allclose(keypoints.denormalise(unit, (100, 50)), points, atol=1e-4)


def test_peaks_of_heatmaps_are_exact():
    points = np.random.default_rng(0).uniform(2, 28, (4, 3, 2)).astype(np.float32)
    maps = keypoints.heatmaps(points, (32, 30), 1.7)
    assert maps.shape == (4, 32, 30, 3) and float(maps.max()) <= 1
    found, heights = jax.jit(keypoints.peaks)(maps)
    np.testing.assert_allclose(found, points, atol=2e-3)
    np.testing.assert_allclose(heights, maps.max((1, 2)))
    middle = np.clip(points, 9, 20)  # the mean of a bump that the border cuts is not its peak
    logits = jnp.log(keypoints.heatmaps(middle, (32, 30), 1.7) + 1e-9)
    np.testing.assert_allclose(keypoints.soft_argmax(logits, 1.0), middle, atol=0.02)


def test_peaks_on_the_border_and_of_nothing():
    points = np.array([[[0.0, 10.0], [9.0, 19.0], [np.nan, np.nan]]], np.float32)
    maps = keypoints.heatmaps(points, (10, 20), 2.0)
    found, heights = jax.jit(keypoints.peaks)(maps)
    assert np.isfinite(found).all() and float(heights[0, 2]) == 0
    assert np.abs(np.asarray(found)[0, :2] - points[0, :2]).max() <= 0.5


def test_errors_in_their_units():
    truth = np.array([[[100, 800], [700, 1400], [1600, 800]]], np.float32)
    predicted = truth + np.array([[15, 0], [0, 30], [0, 0]], np.float32)
    full = keypoints.errors(predicted, truth, (2080, 1600))
    np.testing.assert_allclose(full['percent'], [[1, 2, 0]], atol=1e-4)
    np.testing.assert_allclose(full['pixels'], [[15, 30, 0]], atol=1e-3)
    np.testing.assert_allclose(full['registered'], [[15, 30, 0]], atol=1e-3)
    half = keypoints.errors(predicted / 2, truth / 2, (1040, 800))
    for name in full:
        np.testing.assert_allclose(half[name], full[name], atol=1e-2)


def annotation(**more):
    values = [number for i in range(21) for number in (10 * i, 5 * i + 1, 2)]
    return {
        'image_id': 3,
        'bbox': [0, 1, 200, 100],
        'lefthand_valid': True,
        'lefthand_kpts': values,
        **more,
    }


def write(
    path,
    annotations,
    images=({'id': 3, 'file_name': 'folder/41.png', 'width': 300, 'height': 150},),
):
    path.write_text(json.dumps({'images': list(images), 'annotations': annotations}))
    return path


def test_annotations_are_read(tmp_path):
    zeros = [0] * 63
    hands = hand_points.read(
        write(
            tmp_path / 'a.json',
            [
                annotation(),
                annotation(bbox=[0, 0, 5, 5], lefthand_kpts=zeros),  # the larger hand counts
            ],
        ),
        write(
            tmp_path / 'b.json',
            [
                annotation(
                    lefthand_valid=False,
                    lefthand_kpts=zeros,
                    righthand_kpts=[7, 8, 0] + annotation()['lefthand_kpts'][3:],
                )
            ],
            images=[{'id': 3, 'file_name': '42.png', 'width': 300, 'height': 150}],
        ),
    )
    assert list(hands) == ['41', '42'] and hands['41'].left and not hands['42'].left
    np.testing.assert_array_equal(hands['41'].points[4], [21, 40])
    np.testing.assert_array_equal(hands['41'].box, [1, 0, 101, 200])
    assert hands['41'].size == (150, 300)
    assert np.isnan(hands['42'].points[0]).all() and np.isfinite(hands['42'].points[1:]).all()
    scaled = hands['41'].scaled((75, 100))
    np.testing.assert_allclose(scaled.points[4], [(21.5 / 2) - 0.5, (40.5 / 3) - 0.5], rtol=1e-5)
    assert scaled.size == (75, 100)
    assert (
        hand_points.NAMES[0] == 'wrist'
        and hand_points.NAMES[4] == 'thumb4'
        and len(hand_points.NAMES) == 21
    )


@pytest.mark.parametrize(
    'content, message',
    [
        ('{', 'not a COCO JSON'),
        ('[1, 2]', 'not a COCO JSON'),
        ('{"images": []}', "has no 'annotations'"),
        (
            json.dumps(
                {
                    'images': [{'id': 3, 'file_name': '1.png', 'height': 5}],
                    'annotations': [annotation()],
                }
            ),
            "'width'",
        ),
        (
            json.dumps(
                {
                    'images': [{'id': 3, 'file_name': '1.png', 'width': 5, 'height': 5}],
                    'annotations': [annotation(lefthand_kpts=[1, 2, 2])],
                }
            ),
            '3 numbers instead of 21 x',
        ),
    ],
)
def test_bad_annotations_are_refused(tmp_path, content, message):
    (tmp_path / 'bad.json').write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        hand_points.read(tmp_path / 'bad.json')
    assert 'bad.json' in str(raised.value)


def test_missing_and_doubled_annotations_are_refused(tmp_path):
    with pytest.raises(UserError, match='no such file'):
        hand_points.read(tmp_path / 'none.json')
    one = write(tmp_path / 'a.json', [annotation()])
    two = write(tmp_path / 'b.json', [annotation()])
    with pytest.raises(UserError, match='annotated in another'):
        hand_points.read(one, two)
