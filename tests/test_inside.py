"""Looking inside a run: which parts lie on bones, and the files that come of it."""

import json

import numpy as np
import pytest

from boneage_jax import config as c
from boneage_jax import inside, train
from tfds_rsna.errors import UserError


def test_a_part_is_on_a_bone_where_half_of_the_smaller_lies_in_the_other():
    bones = np.array([[[10, 10, 20, 20], [np.nan] * 4]], np.float32)
    parts = np.array([[[0, 0, 40, 40], [12, 12, 16, 16], [10, 15, 20, 25], [10, 16, 20, 26], [30, 30, 40, 40]]], np.float32)
    np.testing.assert_array_equal(inside.on_bones(parts, bones), [[True, True, True, False, False]])
    assert not inside.on_bones(parts, bones * np.nan).any()


def test_figures_and_the_share_of_parts_on_bones(tmp_path, monkeypatch):
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'cache'))
    run = tmp_path / 'run'
    train.train(c.load('configs/prsnet.py:tiny,row=full')[1], run)
    report = inside.inside(run, tmp_path / 'out', split='holdout', count=3)
    assert report == json.loads((tmp_path / 'out' / 'parts.json').read_text())
    assert report['films'] == 8 and 0 <= report['selected']['value'] <= 1 and 0 < report['by_chance']['value'] < 1
    assert {p.name for p in (tmp_path / 'out').iterdir()} == {
        'anchors.png', 'parts.json', 'parts_res3.png', 'parts_res4.png', 'parts_res5.png'}
    with pytest.raises(UserError, match='--split=tset: expected one of train, validation, holdout'):
        inside.inside(run, tmp_path / 'out', split='tset')
