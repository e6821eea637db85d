"""Stages `points` and `outlines`: what annotation files say of an image, in its own pixels."""

import json

import numpy as np
import pytest
from PIL import Image

from boneage_jax import config as c
from boneage_jax.errors import ConfigError, UserError
from boneage_jax.preprocess import keypoints, resize
from boneage_jax.stages import annotations, plan
from boneage_jax.stages import records as records_lib
from tfds_rsna import prepared
from tfds_rsna.annotations import three_points

NATIVE = (300, 200)
ROWS = {
    '1': ('clicked_by_hand', False, [[30, 100], [120, 180], [250, 90]]),
    '2': ('first_set', False, [[20, 110], [110, 190], [240, 80]]),
    '3': ('first_set', True, [[20, 110], [110, 190], [240, 80]]),
}
RING = [[40, 60], [160, 60], [160, 240], [40, 240]]  # x, y of its corners
OUTLINE = np.zeros(NATIVE, bool)
OUTLINE[60:240, 40:160] = True


def table(path, names=tuple(ROWS)):
    lines = [','.join(three_points.COLUMNS)]
    for name in names:
        origin, suspect, points = ROWS[name]
        numbers = [value for row, column in points for value in (column, row)]
        cells = [name, NATIVE[1], NATIVE[0], *numbers, origin, suspect]
        lines.append(','.join(map(str, cells)))
    path.write_text('\n'.join(lines) + '\n')
    return path


def landmarks(path, name):
    path.write_text(f'{name},' + ','.join(str(value) for value in range(74)) + '\n')
    return path


def coco(path, name):
    points = [number for i in range(21) for number in (5 * i, 10 * i + 3, 2)]
    image = {'id': 1, 'file_name': f'{name}.png', 'height': NATIVE[0], 'width': NATIVE[1]}
    hand = {'image_id': 1, 'bbox': [0, 0, 100, 200], 'keypoints': points}
    path.write_text(json.dumps({'images': [image], 'annotations': [hand]}))
    return path


def outlines(folder, names=('1', '2'), ring=tuple(RING)):
    folder.mkdir()
    for name in names:
        thing = {'classTitle': 'bone', 'points': {'exterior': ring, 'interior': []}}
        document = {'size': {'height': NATIVE[0], 'width': NATIVE[1]}, 'objects': [thing]}
        (folder / f'{name}.json').write_text(json.dumps(document))
    return folder


def image(name, shape):
    return {'image': np.full(shape, 9, np.uint8), 'id': name}


def step(name, tmp_path, **options):
    data = c.build(c.base(), f'stages=({name},)', {}).data
    for key, value in options.items():
        data.stage_options[name][key] = value
    return plan.make_plan(data, tmp_path)


def test_points_of_the_table_in_the_images_own_pixels(tmp_path):
    files = [table(tmp_path / 'three.csv')]
    whole = annotations.points_stage(image('1', NATIVE), files=files, origins=())
    np.testing.assert_array_equal(whole['keypoints'], ROWS['1'][2])  # all three as they are
    assert 'native_shape' not in whole
    half = annotations.points_stage(image('1', (150, 100)), files=files, origins=())
    np.testing.assert_allclose(half['keypoints'], np.array(ROWS['1'][2]) / 2 - 0.25)
    assert 'native_shape' not in half
    square = annotations.points_stage(image('1', (90, 90)), files=files, origins=())
    assert square['native_shape'] == NATIVE  # squashed since: `pad` gives the aspect back
    back = resize.resize(square, NATIVE, 'pad')
    np.testing.assert_allclose(back['keypoints'], ROWS['1'][2], atol=1e-3)
    for missing in ('3', '4'):  # suspect, and in no row
        assert annotations.points_stage(image(missing, NATIVE), files=files, origins=()) is None
    found = annotations.annotation('2', NATIVE, files)
    assert found['box'] is None and found['native_shape'] == NATIVE
    np.testing.assert_array_equal(found['points'], ROWS['2'][2])


def test_origins_keep_rows_of_the_table_alone(tmp_path):
    files = [table(tmp_path / 'three.csv'), landmarks(tmp_path / 'dha.csv', '9')]
    assert annotations.names(files) == ['1', '2', '9']
    assert annotations.names(files, ('clicked_by_hand',)) == ['1', '9']
    assert annotations.names(files, ('first_set', 'clicked_by_hand')) == ['1', '2', '9']
    options = {'files': files, 'origins': ('clicked_by_hand',)}
    assert annotations.points_stage(image('2', NATIVE), **options) is None
    assert annotations.points_stage(image('1', NATIVE), **options) is not None
    with pytest.raises(UserError, match='the origin drawn; found clicked_by_hand, first_set'):
        annotations.names(files, ('first_set', 'drawn'))
    with pytest.raises(UserError, match='the origin first_set; found no such table'):
        annotations.names(files[1:], ('first_set',))


def test_of_an_image_in_several_files_the_first_counts(tmp_path):
    three = table(tmp_path / 'three.csv')
    first = coco(tmp_path / 'coco.json', '1')
    fewer = table(tmp_path / 'fewer.csv', ['2'])
    atlas = landmarks(tmp_path / 'dha.csv', '1')
    for file, count in ((three, 3), (first, 21), (atlas, 37)):
        others = [each for each in (first, three, atlas, fewer) if each != file]
        found = annotations.annotation('1', NATIVE, [file, *others])
        assert len(found['points']) == count
    assert annotations.names([fewer, first, three]) == ['2', '1']
    # A row that `origins` leaves out does not stand in the way of another file's.
    found = annotations.annotation('1', NATIVE, [three, first], ('first_set',))
    assert len(found['points']) == 21
    np.testing.assert_array_equal(found['keypoints'], keypoints.from_coco(found['points']))


def test_tables_without_key_points_are_refused(tmp_path):
    path = tmp_path / 'boxes.csv'
    path.write_text('id,width,height,class,xmin,ymin,xmax,ymax\n1,9,9,MCP,1,2,3,4\n')
    with pytest.raises(UserError, match=r'boxes\.csv: a table of boxes; give key points'):
        annotations.names([path])
    with pytest.raises(UserError, match=r'none\.csv: cannot be read'):
        annotations.names([tmp_path / 'none.csv'])


def test_outlines_in_the_images_own_pixels(tmp_path):
    files = [outlines(tmp_path / 'drawn')]
    whole = annotations.outlines_stage(image('1', NATIVE), files=files)
    assert whole['hand_mask'].dtype == np.uint8 and 'native_shape' not in whole
    np.testing.assert_array_equal(whole['hand_mask'], OUTLINE)
    half = annotations.outlines_stage(image('1', (150, 100)), files=files)
    np.testing.assert_array_equal(half['hand_mask'], OUTLINE[::2, ::2])
    assert 'native_shape' not in half
    square = annotations.outlines_stage(image('1', (100, 100)), files=files)
    assert square['native_shape'] == NATIVE
    assert square['hand_mask'].shape == (100, 100)
    np.testing.assert_array_equal(np.flatnonzero(square['hand_mask'].any(1)), np.arange(20, 80))
    np.testing.assert_array_equal(np.flatnonzero(square['hand_mask'].any(0)), np.arange(20, 80))
    assert annotations.outlines_stage(image('4', NATIVE), files=files) is None


def test_of_several_outlines_the_first_counts_and_empty_ones_are_named(tmp_path):
    drawn = outlines(tmp_path / 'drawn', ['1'])
    smaller = outlines(tmp_path / 'smaller', ['1', '2'], [[0, 0], [9, 0], [9, 9]])
    empty = outlines(tmp_path / 'empty', ['3'], [[500, 500], [510, 500], [510, 510]])
    files = [drawn, smaller, empty]
    first = annotations.outlines_stage(image('1', NATIVE), files=files)
    np.testing.assert_array_equal(first['hand_mask'], OUTLINE)
    other = annotations.outlines_stage(image('2', NATIVE), files=files)
    assert 0 < other['hand_mask'].sum() < 81
    with pytest.raises(UserError, match='image 3: its drawn mask is empty'):
        annotations.outlines_stage(image('3', NATIVE), files=files)


def test_resized_masks_keep_what_is_half_covered():
    mask = np.zeros((6, 8), bool)
    mask[2:5, 2:8] = True
    np.testing.assert_array_equal(resize.resize_mask(mask, (6, 8)), mask.astype(np.uint8))
    enlarged = resize.resize_mask(mask * 7, (12, 16))  # any number but 0 belongs to it
    np.testing.assert_array_equal(enlarged, np.kron(mask, np.ones((2, 2))))


def test_plans_find_folders_and_know_what_is_in_them(tmp_path):
    outlines(tmp_path / 'drawn')
    (before,) = step('outlines', tmp_path, files=('drawn',))  # below the data's folder
    assert before.options['files'] == (tmp_path / 'drawn',)
    (again,) = step('outlines', tmp_path, files=(str(tmp_path / 'drawn'),))
    assert again.described == before.described
    file = tmp_path / 'drawn' / '1.json'
    content = file.read_bytes()
    file.write_bytes(content + b'\n')
    (changed,) = step('outlines', tmp_path, files=('drawn',))
    file.write_bytes(content)
    file.rename(tmp_path / 'drawn' / '5.json')
    (renamed,) = step('outlines', tmp_path, files=('drawn',))
    digests = {str(each.described['files']) for each in (before, changed, renamed)}
    assert len(digests) == 3
    with pytest.raises(ConfigError, match=r'outlines\.files: .*none: no such file or folder'):
        step('outlines', tmp_path, files=('none',))
    with pytest.raises(ConfigError, match=r'outlines\.files is empty: give the folders or COCO'):
        step('outlines', tmp_path)
    with pytest.raises(ConfigError, match=r'points\.files: .*drawn: no such file$'):
        step('points', tmp_path, files=('drawn',))  # it reads files alone


def test_origins_are_part_of_what_a_step_is(tmp_path):
    table(tmp_path / 'three.csv')
    (every,) = step('points', tmp_path, files=('three.csv',))
    (some,) = step('points', tmp_path, files=('three.csv',), origins=('first_set',))
    assert every.described != some.described
    done = [plan.apply_steps(image(name, NATIVE), [some]) for name in '12']
    assert done[0] is None and done[1] is not None


def test_records_with_drawn_points_and_masks(tmp_path, monkeypatch):
    """Squashed images get their aspect back, and points and mask move with it."""
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(records_lib, 'POOL_SECONDS', 1e9)
    (tmp_path / 'images').mkdir()
    for name in '1234':
        squashed = Image.fromarray((OUTLINE * 200).astype(np.uint8)).resize((90, 90))
        squashed.save(tmp_path / 'images' / f'{name}.png')
    labels = 'id,boneage,male\n' + ''.join(f'{name},100,True\n' for name in '1234')
    (tmp_path / 'labels.csv').write_text(labels)
    table(tmp_path / 'three.csv')
    outlines(tmp_path / 'drawn')
    config = c.build(
        c.base(),
        f'source=image_folder,images={tmp_path}/images,labels={tmp_path}/labels.csv,size=(150,100),'
        f'stages=(points,outlines),data.stage_options.points.files=("{tmp_path}/three.csv",),'
        f'data.stage_options.outlines.files=("{tmp_path}/drawn",)',
        {},
    ).data
    opened = prepared.open(records_lib.get_records(config))
    found = {}
    for split, labels in opened.labels.items():
        found |= dict(zip(labels['ids'], opened.splits[split], strict=True))
    assert sorted(found) == ['1', '2']  # neither the suspect nor the one that nobody annotated
    for name, record in found.items():
        wanted = (np.array(ROWS[name][2]) + 0.5) / 2 - 0.5
        np.testing.assert_allclose(record['keypoints'], wanted, atol=0.01)
        drawn = record['hand_mask'][..., 0] > 0
        bright = record['image'][..., 0] > 100
        assert (drawn & bright).sum() / (drawn | bright).sum() > 0.95
        assert drawn.sum() == pytest.approx(OUTLINE.sum() / 4, rel=0.03)
