"""Looking inside a run: which parts lie on bones, and the files that come of it."""

import json

import numpy as np
import pytest
from PIL import Image

from boneage_jax import config as c
from boneage_jax.analysis import interpret, joints, sweep
from tfds_rsna.errors import UserError

RNG = np.random.default_rng(0)


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


def test_boxes_of_joints_follow_their_images(tmp_path):
    """100x80 pixels into 64x64: scaled by 0.64, with columns of padding; drawn at 200x160."""
    (tmp_path / 'images').mkdir()
    for name in ('41', '42'):
        image = RNG.integers(0, 256, (100, 80)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / 'images' / f'{name}.png')
    (tmp_path / 'labels.csv').write_text('id,boneage,male\n41,100,True\n42,90,False\n')
    (tmp_path / 'joints.csv').write_text(
        'id,width,height,class,xmin,ymin,xmax,ymax\n'
        '41,160,200,MCP,19.5,39.5,59.5,99.5\n41,160,200,Ulna,-0.5,-0.5,159.5,199.5\n'
        '77,160,200,MCP,20,40,60,100\n'
    )
    place = 'data.image_folder'
    _, config = c.load(
        f'configs/prsnet.py:tiny,data.source=image_folder,{place}.images={tmp_path}/images,'
        f'{place}.labels={tmp_path}/labels.csv'
    )
    found = joints.of_split(Ids(['42', '41']), config, tmp_path / 'joints.csv')
    assert found.shape == (2, 2, 4) and np.isnan(found[0]).all()
    ends = found[1] + 0.5  # pixel edges
    factor = 64 / 100
    left = (64 - 51) // 2
    across = 51 / 80
    expected = [[20, 10, 50, 30], [0, 0, 100, 80]]
    for box, native in zip(ends, np.array(expected)):
        rows = native[[0, 2]] * factor
        columns = left + native[[1, 3]] * across
        np.testing.assert_allclose(box[[0, 2]], rows, atol=1e-4)
        np.testing.assert_allclose(box[[1, 3]], columns, atol=1e-4)
    with pytest.raises(
        UserError, match=r'joints\.csv: boxes of 2 images, none of them among the 1'
    ):
        joints.of_split(Ids(['42']), config, tmp_path / 'joints.csv')


class Ids(list):
    """As much of a split as joints are placed by."""

    name = 'fold'

    @property
    def ids(self):
        return list(self)


def test_parts_are_counted_over_the_folds_of_a_cross_validation(tmp_path):
    spec = (
        'configs/prsnet.py:tiny,data.holdout=0,epochs=1,model.width=4,'
        'data.phantom.count=20,data.validation=4'
    )
    sweep.sweep(spec, tmp_path / 'cv', rows=['without relation'], folds=2)
    place = tmp_path / 'cv' / 'without-relation' / 'seed0'
    report = interpret.interpret(place, tmp_path / 'out', split='fold', count=2)
    assert report['images'] == 20 == report['images_with_bones']
    alone = interpret.interpret(place / 'fold1', tmp_path / 'one', split='fold', count=2)
    assert alone['images'] == 10
