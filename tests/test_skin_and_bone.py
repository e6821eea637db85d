"""Key points at the skin and at the bone: there and back, and the offset fitted anew."""

import os
import pathlib

import numpy as np
import pytest

from boneage_jax.preprocess import keypoints
from tfds_rsna.annotations import hand_points, three_points

ROOT = pathlib.Path(__file__).resolve().parents[1]
# (row, column): an upright hand of 1,000 pixels with its thumb to the right
HAND = np.array([[100, 800], [700, 1200], [1100, 800]], np.float32)


def turned(points, degrees):
    angle = np.radians(degrees)
    matrix = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return points @ np.array(matrix)


def mirrored(points):
    return points * [1, -1]


def lengths(points):
    return np.linalg.norm(points[..., 0, :] - points[..., 2, :], axis=-1)


def test_tips_move_back_to_the_bone():
    bone = keypoints.skin_to_bone(HAND)
    assert bone.dtype == np.float32
    moved = bone - HAND
    assert moved[0, 0] == pytest.approx(31, abs=0.01) and moved[0, 1] > 0  # down, to the thumb
    assert (moved[2] == 0).all()  # the capitate stays
    line = (HAND[1] - HAND[2]) / np.hypot(400, 400)
    assert moved[1] @ line == pytest.approx(-0.042 * np.hypot(400, 400), abs=0.01)
    assert moved[1] @ [1, 1] > 0  # across, away from the middle finger: down and to the right


@pytest.mark.parametrize('change', [lambda p: p, mirrored, lambda p: p[..., ::-1]])
@pytest.mark.parametrize('degrees', [0, 90, 137, 180, 270])
def test_they_turn_and_mirror_with_the_hand_and_come_back(change, degrees):
    hand = change(turned(HAND, degrees))
    bone = keypoints.skin_to_bone(hand)
    np.testing.assert_allclose(
        bone, change(turned(keypoints.skin_to_bone(HAND), degrees)), atol=1e-3
    )
    np.testing.assert_allclose(keypoints.bone_to_skin(bone), hand, atol=1e-3)
    np.testing.assert_allclose(keypoints.skin_to_bone(3 * hand + 7), 3 * bone + 7, atol=1e-2)


def test_many_hands_at_once_and_points_that_are_missing():
    hands = np.stack([HAND, mirrored(HAND)])
    bone = keypoints.skin_to_bone(hands)
    assert bone.shape == (2, 3, 2)
    np.testing.assert_array_equal(bone[0], keypoints.skin_to_bone(HAND))
    missing = np.full((3, 2), np.nan)
    assert np.isnan(keypoints.skin_to_bone(missing)).all()
    assert np.isnan(keypoints.bone_to_skin(missing)).all()
    no_thumb = np.where([[False], [True], [False]], np.nan, HAND)
    found = keypoints.skin_to_bone(no_thumb)
    np.testing.assert_allclose(found, [[131, 800], [np.nan, np.nan], [1100, 800]], rtol=1e-6)
    np.testing.assert_allclose(keypoints.bone_to_skin(found), no_thumb, rtol=1e-6)


def held_out():
    """(ids of clicked points, ids of outlines) of configs/hands_holdout.txt."""
    groups = []
    for line in (ROOT / 'configs' / 'hands_holdout.txt').read_text().splitlines():
        if line.startswith('#'):
            groups.append([])
        else:
            groups[-1].append(int(line))
    return groups


def test_the_hold_out_file():
    points, outlines = held_out()
    assert len(points) == 400 and len(outlines) == 10
    assert points == sorted(set(points)) and outlines == sorted(set(outlines))
    assert not set(points) & set(outlines)


needs_data = pytest.mark.skipif(
    not os.environ.get('BONEAGE_DATA'), reason='BONEAGE_DATA names no folder of annotations'
)


@needs_data
def test_the_hold_out_is_the_draw_that_it_says():
    data = pathlib.Path(os.environ['BONEAGE_DATA'])
    drawn = sorted(int(file.stem) for file in (data / 'hand_masks').glob('*.json'))
    table = three_points.read(data / 'annotations' / 'rsna_three_keypoints.csv')
    clicked = []
    for name, hand in table.hands.items():
        if hand.origin == 'clicked_by_hand' and int(name) not in drawn:
            clicked.append(int(name))
    wanted = []
    for ids, count in ((sorted(clicked), 400), (drawn, 10)):
        wanted.append(sorted(np.random.default_rng(0).permutation(ids)[:count].tolist()))
    assert held_out() == wanted


def both(part):
    """(points of the table, points at the bone), [N, 3, 2] each, of COCO's `part`."""
    folder = pathlib.Path(os.environ['BONEAGE_DATA'], 'annotations')
    table = three_points.read(folder / 'rsna_three_keypoints.csv').hands
    coco = hand_points.read(folder / f'rsna_hand_keypoints_{part}.json')
    excluded = {str(name) for group in held_out() for name in group}
    names = sorted((set(table) & set(coco)) - excluded, key=int)
    skin = np.stack([table[name].points for name in names])
    bone = np.stack([keypoints.from_coco(coco[name].points) for name in names])
    return skin.astype(np.float64), bone.astype(np.float64)


def shares(skin, bone):
    """[N, 3, 2]: where the bone's points lie from the skin's, along and across each line."""
    middle, thumb, capitate = np.moveaxis(skin, 1, 0)
    found = []
    for i, tip in enumerate((middle, thumb, middle)):
        line = tip - capitate
        across = np.stack([-line[:, 1], line[:, 0]], -1)
        # Across is positive from the fingertip to the thumb.
        ahead = thumb - capitate if tip is middle else capitate - middle
        across *= np.sign(np.sum(across * ahead, -1, keepdims=True))
        moved = bone[:, i] - skin[:, i]
        squared = np.sum(line**2, -1)
        found.append(np.stack([np.sum(moved * v, -1) / squared for v in (line, across)], -1))
    return np.stack(found, 1)


def percent(a, b):
    """Medians over hands of the distances between the points, in % of the hand's length."""
    distances = np.linalg.norm(a - b, axis=-1) / lengths(b)[:, None]
    return 100 * np.median(distances, 0)


# BONEAGE_DATA=... python -m pytest -s -k offset tests/test_skin_and_bone.py prints the figures.
@needs_data
def test_the_offset_fitted_anew_and_what_it_mends():
    skin, bone = both('train')
    assert len(skin) == 314
    found = shares(skin, bone)
    np.testing.assert_allclose(np.median(found[:, :2], 0), keypoints._SKIN_TO_BONE, atol=5.5e-4)
    for i, name in enumerate(keypoints.NAMES):
        low, middle, high = np.percentile(100 * found[:, i], [25, 50, 75], axis=0)
        for j, way in enumerate(('along', 'across')):
            print(f'{name} {way}: {middle[j]:.2f}% ({low[j]:.2f} to {high[j]:.2f})')
    # The validation part's images had no say in it.
    skin, bone = both('val')
    before = percent(skin, bone)
    after = percent(keypoints.skin_to_bone(skin), bone)
    print(f'{len(skin)} other images: {before.round(2)}% before, {after.round(2)}% after')
    assert len(skin) == 77 and (before[:2] > 3).all()
    assert (after[:2] < 1.4).all() and after[2] == before[2]
    np.testing.assert_allclose(
        percent(keypoints.bone_to_skin(bone), skin)[:2], after[:2], atol=0.15
    )
