"""Tables of three points and of joint boxes: read, scaled to an image, and bad rows named."""

import os
import pathlib

import numpy as np
import pytest

from tfds_rsna.annotations import csv_rows, joint_boxes, three_points
from tfds_rsna.errors import UserError

needs_data = pytest.mark.skipif(
    not os.environ.get('BONEAGE_DATA'), reason='BONEAGE_DATA names no folder of annotations'
)
POINTS = ','.join(three_points.COLUMNS)
HAND = '41,300,150,200,10,250,40,100,120,clicked_by_hand,False'
BOXES = 'id,width,height,class,xmin,ymin,xmax,ymax'


def table(folder, header, *lines):
    path = folder / 'table.csv'
    path.write_text('\n'.join((header, *lines)) + '\n')
    return path


def test_three_points(tmp_path):
    doubted = '42,300,150,200,10,250,40,100,120,first_set,True'
    at_the_edge = '43,300,150,300,0,0,150,100,120,first_set,False'
    found = three_points.read(table(tmp_path, POINTS, HAND, doubted, at_the_edge))
    assert list(found.hands) == ['41', '43'] and found.suspects == ('42',)
    hand = found.hands['41']
    assert hand.points.dtype == np.float32 and hand.size == (150, 300)
    assert hand.origin == 'clicked_by_hand'
    # (row, column): tip of the middle finger, of the thumb, capitate
    np.testing.assert_array_equal(hand.points, [[10, 200], [40, 250], [120, 100]])


def test_columns_may_come_in_any_order_with_others(tmp_path):
    names = POINTS.split(',')[::-1]
    cells = HAND.split(',')[::-1]
    path = table(tmp_path, ','.join(['note', *names]), ','.join(['x', *cells]))
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())  # as spreadsheets write it
    np.testing.assert_array_equal(three_points.read(path).hands['41'].points[0], [10, 200])


def test_points_and_boxes_follow_their_image(tmp_path):
    hand = three_points.read(table(tmp_path, POINTS, HAND)).hands['41'].scaled((75, 100))
    assert hand.size == (75, 100) and hand.origin == 'clicked_by_hand'
    np.testing.assert_allclose(hand.points[0], [10.5 / 2 - 0.5, 200.5 / 3 - 0.5], rtol=1e-6)
    boxes = joint_boxes.read(table(tmp_path, BOXES, '41,300,150,MCP,30,20,60,50'))['41']
    scaled = boxes.scaled((75, 100))
    assert scaled.size == (75, 100) and scaled.names == ('MCP',)
    corners = [20.5 / 2 - 0.5, 30.5 / 3 - 0.5, 50.5 / 2 - 0.5, 60.5 / 3 - 0.5]
    np.testing.assert_allclose(scaled.boxes, [corners], rtol=1e-6)


@pytest.mark.parametrize('column', ['class', 'name'])
def test_joint_boxes(column, tmp_path):
    path = table(
        tmp_path,
        BOXES.replace('class', column),
        '7,300,150,MCP,30,20,60,50',
        '8,100,90,Ulna,5,6,7,8',
        '7,300,150,Radius,-4,100,60,155',  # over the edge
        '7,300,150,DIP,30,20,36,20',  # a slip of the mouse
        '9,50,50,DIP,3,3,3,3',
    )
    found = joint_boxes.read(path)
    assert list(found) == ['7', '8', '9']
    assert found['7'].names == ('MCP', 'Radius') and found['7'].size == (150, 300)
    assert found['7'].boxes.dtype == np.float32
    np.testing.assert_array_equal(found['7'].boxes, [[20, 30, 50, 60], [100, -4, 155, 60]])
    assert found['9'].boxes.shape == (0, 4) and found['9'].scaled((5, 5)).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    'line, message',
    [
        (HAND.replace('41', '42').replace('200', 'nan'), "line 3: middle_tip_x is 'nan'"),
        (HAND.replace('41', '42').replace('120', 'x'), "line 3: capitate_y is 'x'; expected a"),
        (HAND.replace('41', '42').replace('250', '301'), r'line 3: thumb_tip \(301, 40\) is outs'),
        (HAND.replace('41', '42').replace('200', '-1'), r'middle_tip \(-1, 10\) is outside the im'),
        (
            HAND.replace('41', '42').replace('300', '3.5'),
            "line 3: width is '3.5'; expected a count",
        ),
        (HAND.replace('41', '42').replace('False', 'no'), "line 3: suspect is 'no'; expected True"),
        (HAND.replace('41', '42').replace('False', ''), 'line 3: suspect is empty'),
        ('42,300,150', 'line 3: middle_tip_x is empty'),
        (HAND, 'line 3: image 41 is in .*line 2 too; leave one out'),
    ],
)
def test_bad_rows_of_three_points_are_named(line, message, tmp_path):
    with pytest.raises(UserError, match=rf'table\.csv, {message}|{message}'):
        three_points.read(table(tmp_path, POINTS, HAND, line))


@pytest.mark.parametrize(
    'line, message',
    [
        ('7,300,150,MCP,30,inf,60,50', "line 2: ymin is 'inf'; expected a finite number"),
        ('7,300,150,MCP,60,20,30,50', 'line 2: the box x 60 to 30, y 20 to 50 is reversed'),
        ('7,300,150,MCP,301,20,305,50', 'line 2: the box x 301 to 305.* outside the image of 300x'),
        ('7,0,150,MCP,30,20,60,50', "line 2: width is '0'; expected a count"),
        ('7,300,150,,30,20,60,50', 'line 2: class is empty'),
        (
            '7,300,150,MCP,3,2,6,5\n7,150,300,MCP,3,2,6,5',
            'line 3: image 7 is 150x300 here and 300x150',
        ),
    ],
)
def test_bad_rows_of_boxes_are_named(line, message, tmp_path):
    with pytest.raises(UserError, match=rf'table\.csv, {message}'):
        joint_boxes.read(table(tmp_path, BOXES, line))


@pytest.mark.parametrize('read', [three_points.read, joint_boxes.read])
def test_files_that_are_no_such_table(read, tmp_path):
    with pytest.raises(UserError, match=r'none\.csv: cannot be read .*No such file'):
        read(tmp_path / 'none.csv')
    with pytest.raises(UserError, match=r'no column .*found id, width, height\); give the CSV'):
        read(table(tmp_path, 'id,width,height', '1,2,3'))
    with pytest.raises(UserError, match='found nothing'):
        read(table(tmp_path, ''))
    with pytest.raises(UserError, match='a header and no rows'):
        read(table(tmp_path, POINTS if read is three_points.read else BOXES))
    (tmp_path / 'table.csv').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(UserError, match='cannot be read'):
        read(tmp_path / 'table.csv')


def test_headers(tmp_path):
    assert csv_rows.header(table(tmp_path, 'id, x0', '1,2')) == ('id', 'x0')
    (tmp_path / 'table.csv').write_text('')
    assert csv_rows.header(tmp_path / 'table.csv') == ()


@needs_data
def test_the_published_tables():
    folder = pathlib.Path(os.environ['BONEAGE_DATA'], 'annotations')
    sizes = {}
    for row in csv_rows.read(folder / 'rsna_native_sizes.csv', ('id', 'width', 'height'), 'sizes'):
        sizes[row.cells['id']] = row.size()
    points = three_points.read(folder / 'rsna_three_keypoints.csv')
    assert len(points.hands) == 4450 and points.suspects == ('1779', '3157', '3899')
    joints = joint_boxes.read(folder / 'rsna_hand_joint_boxes.csv')
    assert len(joints) == 852 and sum(len(hand.names) for hand in joints.values()) == 17883
    ossified = joint_boxes.read(folder / 'rsna_ossification_boxes_train.csv')
    assert len(ossified) == 239 and sum(len(hand.names) for hand in ossified.values()) == 4060
    for found in (points.hands, joints, ossified):
        assert all(hand.size == sizes[name] for name, hand in found.items())
    # Rows and columns are not swapped: fingertips are at the boxes of distal phalanges.
    both = sorted(set(points.hands) & set(joints))
    inside = []
    for name in both:
        ends = np.array(joints[name].names) == 'DistalPhalanx'
        low, high = np.split(joints[name].boxes[ends], 2, axis=1)
        margin = 0.2 * (high - low)
        tips = points.hands[name].points[:2, None]
        inside.append(((tips >= low - margin) & (tips <= high + margin)).all(-1).any(-1).all())
    assert len(both) > 300 and np.mean(inside) > 0.97  # 99.1%


def test_commas_and_names_that_move_columns_are_refused(tmp_path):
    moved = '41,300,150,200,5,10,250,40,100,120,clicked_by_hand,False'
    for header, line, found in (
        (POINTS, moved, 'line 2: more cells than columns'),
        (f'{POINTS},width', f'{HAND},10', 'column width occurs twice'),
        (POINTS, f'"{HAND}', 'cannot be read'),
    ):
        with pytest.raises(UserError, match=found):
            three_points.read(table(tmp_path, header, line))
