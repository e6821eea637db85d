"""Looking inside a run: which parts lie on bones, and the files that come of it."""

import json

import numpy as np
import pytest

from boneage_jax.analysis import interpret
from tfds_rsna.errors import UserError


def test_a_part_is_on_a_bone_where_half_of_the_smaller_lies_in_the_other():
    bones = np.array([[[10, 10, 20, 20], [np.nan] * 4]], np.float32)
    parts = np.array(
        [[[0, 0, 40, 40], [12, 12, 16, 16], [10, 15, 20, 25], [10, 16, 20, 26], [30, 30, 40, 40]]],
        np.float32,
    )
    np.testing.assert_array_equal(
        interpret.on_bones(parts, bones), [[True, True, True, False, False]]
    )
    assert not interpret.on_bones(parts, bones * np.nan).any()


def test_corners_are_near_both_borders():
    boxes = np.array([[[0, 0, 10, 10], [0, 45, 10, 55], [90, 92, 110, 112]]], np.float32)
    np.testing.assert_array_equal(interpret.in_corner(boxes, (100, 100)), [[True, False, True]])


def test_figures_and_the_share_of_parts_on_bones(tmp_path, finished_run):
    run = finished_run('configs/prsnet.py:tiny,row=full')
    report = interpret.interpret(run, tmp_path / 'out', split='holdout', count=3)
    assert report == json.loads((tmp_path / 'out' / 'parts.json').read_text())
    assert (
        report['images'] == 8
        and 0 <= report['on_bones']['value'] <= 1
        and 0 < report['on_bones_by_chance']['value'] < 1
    )
    assert (
        report['part_mae']['value'] > 0
        and sum(b['count'] for b in report['in_corner_by_age'].values()) == 8
    )
    assert {p.name for p in (tmp_path / 'out').iterdir()} == {
        'anchors.png',
        'parts.json',
        'parts_res3.png',
        'parts_res4.png',
        'parts_res5.png',
    }
    with pytest.raises(UserError, match='--split=tset: expected one of train, validation, holdout'):
        interpret.interpret(run, tmp_path / 'out', split='tset')
