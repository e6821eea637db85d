"""Masks, key points and registration evaluated against annotated hands."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from boneage_jax import config as c
from boneage_jax.analysis import evaluate_hands
from boneage_jax.errors import ConfigError
from boneage_jax.preprocess import keypoints, transform
from boneage_jax.runs import predictor
from boneage_jax.stages import networks, plan, registration
from tfds_rsna.annotations import hand_landmarks
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom.render import phantom

SIZE = (208, 160)


@pytest.fixture(scope='module')
def hands():
    return {str(900 + i): phantom(3, i, SIZE) for i in (4, 5, 9)}


@pytest.fixture
def site(hands, tmp_path, monkeypatch):
    """A folder of images with labels, and their key points in COCO's manner."""
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'cache'))
    (tmp_path / 'images').mkdir()
    images = []
    annotations = []
    for i, (name, hand) in enumerate(hands.items()):
        Image.fromarray(hand['image']).save(tmp_path / 'images' / f'{name}.png')
        points = hand['coco_keypoints']
        low = points.min(0) - 3
        high = points.max(0) + 3
        images.append({'id': i, 'file_name': f'{name}.png', 'height': SIZE[0], 'width': SIZE[1]})
        annotations.append(
            {
                'image_id': i,
                'bbox': [*map(float, (low[1], low[0], *(high - low)[::-1]))],
                'keypoints': [float(v) for r, col in points for v in (col, r, 2)],
            }
        )
    (tmp_path / 'truth.json').write_text(json.dumps({'images': images, 'annotations': annotations}))
    (tmp_path / 'labels.csv').write_text(
        'id,boneage,male\n' + ''.join(f'{name},100,True\n' for name in hands)
    )
    return tmp_path


def config(site, chosen, **options):
    given = (
        f'source=image_folder,images={site}/images,labels={site}/labels.csv,size=(64,64),'
        f'stages=({chosen})'
    )
    return c.build(
        c.base(),
        ','.join([given, *(f'data.stage_options.{k}={v}' for k, v in options.items())]),
        {},
    )


def test_classical_masks_are_measured(site, capsys):
    report = evaluate_hands.evaluate_hands(
        config(site, 'mask,contrast,crop'), [site / 'truth.json'], site / 'out'
    )
    assert report['images'] == 3 and report['left_out_as_seen'] == 0
    assert report['overall']['near']['value'] == 1 and report['overall']['box_iou']['value'] > 0.6
    assert (
        report['overall']['registered_by_mask']['value'] == 1
        and 'error_percent' not in report['overall']
    )
    said = capsys.readouterr().err
    assert '3 images (0 left out: seen in training); means, 95% intervals:' in said
    for name in report['overall']:
        assert f'  {name} ' in said
    assert 'median' in said and 'sheet.png: the worst and a sample' in said
    with (site / 'out' / 'hands.csv').open() as file:
        assert [row['id'] for row in csv.DictReader(file)] == ['904', '905', '909']
    with Image.open(site / 'out' / 'sheet.png') as sheet:
        assert sheet.size[0] > 500
    with pytest.raises(ConfigError, match='holds results already'):
        evaluate_hands.evaluate_hands(config(site, 'mask'), [site / 'truth.json'], site / 'out')
    with pytest.raises(ConfigError, match='finds a mask or key points'):
        evaluate_hands.evaluate_hands(config(site, ''), [site / 'truth.json'], site / 'none')
    with pytest.raises(ConfigError, match='no such file'):
        evaluate_hands.evaluate_hands(config(site, 'mask'), ['elsewhere.json'], site / 'none')


def test_masks_are_compared_with_drawn_ones_of_the_ids_that_are_named(site, hands):
    (site / 'drawn').mkdir()
    for name, hand in hands.items():
        Image.fromarray(hand['hand_mask'] * np.uint8(255)).save(site / 'drawn' / f'{name}.png')
    (site / 'ids.txt').write_text('# two\n904\n909\n77\n')
    report = evaluate_hands.evaluate_hands(
        config(site, 'mask'), [site / 'drawn'], site / 'out', ids=str(site / 'ids.txt')
    )
    assert report['images'] == 2 and list(report['overall']) == ['iou', 'dice', 'agreeable']
    with (site / 'out' / 'hands.csv').open() as file:
        rows = {row['id']: row for row in csv.DictReader(file)}
    assert set(rows) == {'904', '909'}
    for row in rows.values():
        iou = float(row['iou'])
        assert 0.8 < iou < 1 and float(row['dice']) == pytest.approx(2 * iou / (1 + iou), abs=1e-4)
    with pytest.raises(ConfigError, match='finds a mask'):
        evaluate_hands.evaluate_hands(config(site, ''), [site / 'drawn'], site / 'none')


def test_a_mask_holds_a_hand_where_tips_are_near_and_the_capitate_is_inside():
    mask = np.zeros((160, 160), bool)
    mask[10:150, 20:40] = True

    def found(tip_row, capitate_row):
        points = [[tip_row, 30], [20, 42.5], [capitate_row, 30]]
        return evaluate_hands._points_at_skin(mask, points, 100.0)

    near = found(7.5, 100)
    assert near['tip_beyond'] == pytest.approx(2) and near['thumb_beyond'] == pytest.approx(3)
    assert not near['holds']  # the thumb
    assert found(4, 100)['tip_beyond'] == pytest.approx(5.5)
    assert found(15, 100)['tip_beyond'] == pytest.approx(-5.5)
    mask[10:150, 40:42] = True
    assert found(7.5, 100)['holds'] and not found(6, 100)['holds'] and not found(7.5, 151)['holds']
    nothing = evaluate_hands._points_at_skin(np.zeros_like(mask), np.ones((3, 2)), 100.0)
    assert nothing == {'tip_beyond': 100.0, 'thumb_beyond': 100.0, 'holds': False}


class Oracle:
    """A key-point network that is off by `ERROR` pixels of its own, in a direction that the image
    decides.
    """

    ERROR = 3.0
    SIZE = (104, 80)

    def __init__(self, workdir):
        self.truth = json.loads((workdir / 'truth.json').read_text())

    def __call__(self, images):
        points = np.array([self.truth[str(int(image.sum()))] for image in images], np.float32)
        return np.asarray(keypoints.normalise(points, self.SIZE)), {}


def test_points_seen_again_are_the_median_of_their_views(hands, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, '_input', lambda run: (Oracle.SIZE, 'pad'))
    truth = {}
    looks = []
    examples = []
    generator = np.random.default_rng(0)
    for hand in hands.values():
        example = {
            'image': hand['image'],
            'keypoints': hand['keypoints'] + 2,
        }  # a little off, as a first look is
        seen = networks.look_again(example, 'run', views=6)
        assert seen['image'].shape == (6, *Oracle.SIZE, 1)
        for image, onto in zip(seen['image'], seen['transform']):
            wrong = 0.4 * generator.normal(size=(3, 2))
            truth[str(int(image.sum()))] = (
                transform.apply(onto, hand['keypoints']) + wrong
            ).tolist()
        looks.append(seen)
        examples.append(hand)
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    found = networks.points_again(Oracle(tmp_path), looks, run='run', views=6, tips='found')
    for example, answer in zip(examples, found, strict=True):
        off = np.abs(answer['keypoints'] - example['keypoints']).max(1)
        assert (
            off[0] < 1.5 and off[2] < 1.5 and off[1] == 2
        )  # of 208 rows; mirrored views came back right, the thumb stayed
    first = examples[0]['keypoints']
    moved = networks._taken(first, first + [[1, 1], [1, 1], [40, 40]])
    np.testing.assert_array_equal(moved, first + [[1, 1], [0, 0], [0, 0]])
    nowhere = {'image': examples[0]['image'], 'keypoints': np.zeros((3, 2), np.float32)}
    assert networks.look_again(nowhere, 'run', views=6) == {}


def test_what_networks_hardly_see_is_flagged(monkeypatch):
    monkeypatch.setattr(networks, '_input', lambda run: ((40, 40), 'pad'))
    looks = [{'image': np.zeros((40, 40, 1), np.uint8), 'shape': np.array([40, 40])}] * 3
    logits = np.full((3, 40, 40), -5.0)
    logits[:2, 5:30, 2:18] = 5  # a hand on two images
    logits[0, 5:30, 22:36] = 5  # and a second hand
    logits[1, 35:38, 35:38] = 5  # and a marker
    logits[1, 10:15, 8:12] = -5  # and no carpus
    found = networks.masks(lambda images: (logits, {}), looks, threshold=0.5, run='run')
    assert [each['flags'] for each in found] == ['second_hand', '', 'no_hand']
    assert {each['hand_mask'].shape for each in found} == {(120, 120)}
    areas = [each['hand_mask'].sum() / 9 for each in found]
    # Corners are rounded off; the carpus is back.
    assert 398 < areas[0] <= 400 and 398 < areas[1] <= 400 and areas[2] == 0


def test_outlines_go_where_the_network_is_undecided(monkeypatch):
    monkeypatch.setattr(networks, '_input', lambda run: ((40, 40), 'pad'))
    looks = [{'image': np.zeros((40, 40, 1), np.uint8), 'shape': np.array([40, 40])}] * 2
    logits = np.full((2, 40, 40), -3.0)
    logits[:, 5:30, 5:30] = 3
    logits[0, 30, 5:30] = -1  # the edge is nearer to row 30 than to row 29: 0.75 of the way
    logits[1, 29, 5:30] = 1  # and nearer to row 29 than to row 30
    found = networks.masks(lambda images: (logits, {}), looks, threshold=0.5, run='run')
    ends = [np.flatnonzero(each['hand_mask'][:, 50]).max() / 3 for each in found]
    assert ends[0] - ends[1] == pytest.approx(0.5, abs=0.34)


def test_points_that_networks_hardly_see_are_flagged(monkeypatch):
    monkeypatch.setattr(networks, '_input', lambda run: ((40, 40), 'pad'))
    looks = [{'image': np.zeros((40, 40, 1), np.uint8), 'shape': np.array([40, 40])}] * 3

    heights = np.array([[0.1, 0.1, 0.1], [0.1, 0.1, 0.01], [0.1, 0.1, 0.1]])
    answer = networks.points(
        lambda images: (np.full((3, 3, 2), 0.5), {'heights': heights}),
        looks,
        run='run',
        least=0.03,
        tips='found',
    )
    assert [each['flags'] for each in answer] == ['', 'points_doubtful', '']
    assert np.isfinite(answer[0]['keypoints']).all() and np.isnan(answer[1]['keypoints']).any(
        1
    ).tolist() == [False, False, True]
    again = networks.look_again(
        {'image': np.zeros((40, 40), np.uint8), 'keypoints': answer[1]['keypoints']}, 'run', views=2
    )
    assert again == {}  # nothing is seen again of what was not found


@pytest.mark.parametrize('learnt', ['bone', 'skin'])
def test_tips_learnt_at_the_skin_are_moved_to_the_bone(hands, monkeypatch, learnt):
    monkeypatch.setattr(networks, '_input', lambda run: (SIZE, 'pad'))
    monkeypatch.setattr(networks, '_learnt_tips', lambda run: learnt)
    truth = np.stack([hand['keypoints'] for hand in hands.values()])
    looks = [
        {'image': hand['image'][..., None], 'shape': np.array(SIZE)} for hand in hands.values()
    ]
    seen = keypoints.bone_to_skin(truth) if learnt == 'skin' else truth

    def network(images):
        return np.asarray(keypoints.normalise(seen, SIZE)), {}

    options = {'run': 'run', 'least': 0.03}
    moved = networks.points(network, looks, tips='bone', **options)
    for answer, points in zip(moved, truth, strict=True):
        np.testing.assert_allclose(answer['keypoints'], points, atol=1e-2)
    found = networks.points(network, looks, tips='found', **options)
    for answer, points in zip(found, seen, strict=True):
        np.testing.assert_allclose(answer['keypoints'], points, atol=1e-2)
    with pytest.raises(ConfigError, match="tips='nail': expected 'bone' or 'found'"):
        networks.points(network, looks, tips='nail', **options)


def test_images_that_a_network_was_trained_on_are_left_out(site, monkeypatch):
    run = site / 'run'
    run.mkdir()
    for name, content in {
        'config.json': {
            'data': {
                'source': 'image_folder',
                'image_folder': {'images': 'elsewhere', 'id_space': 'rsna'},
                'stages': [],
                'size': [104, 80],
                'resize': 'pad',
            }
        },
        'splits.json': {'train': ['904'], 'validation': ['mined-905'], 'holdout': ['909']},
        'metrics.json': {},
    }.items():
        (run / name).write_text(json.dumps(content))
    seen = evaluate_hands.seen_by(run)
    assert seen.among(['904', '905', '909'], 'rsna') == ['904', '905']
    assert seen.among(['904', '905', '909'], 'another') == []

    class Middle:
        def __init__(self, workdir):
            del workdir

        def __call__(self, images):
            return np.full((len(images), 3, 2), 0.5, np.float32), {}

    monkeypatch.setattr(predictor, 'Predictor', Middle)
    plan._predictor.cache_clear()
    reports = []
    for space in ('', 'rsna'):  # of this folder alone; as the run's images
        data = config(site, 'keypoints,register', **{'keypoints.run': run}).unlock()
        data.data.image_folder.id_space = space
        reports.append(
            evaluate_hands.evaluate_hands(data, [site / 'truth.json'], site / f'out{space}')
        )
    assert [report['images'] for report in reports] == [3, 1]
    report = reports[1]
    assert report['left_out_as_seen'] == 2
    assert (
        report['overall']['error_percent']['value'] > 20
        and report['overall']['registered_by_none']['value'] == 1
    )


def test_measures_of_an_image():
    mask = np.zeros((100, 80), np.uint8)
    mask[10:90, 20:60] = 1
    points = np.array([[12, 40], [40, 58], [80, 40], [50, 61]], np.float32)
    truth = {
        'points': points,
        'keypoints': points[:3],
        'box': np.array([10, 20, 90, 60], np.float32),
    }
    row = evaluate_hands.measure(
        {'id': '1', 'image': mask * 200, 'hand_mask': mask, 'keypoints': points[:3] + [[3, 4]]},
        truth,
    )
    assert (
        not row['inside'] and not row['near'] and row['points_outside'] == 1 and row['box_iou'] == 1
    )
    assert row['error_percent'] == pytest.approx(100 * 5 / 68, rel=1e-4)
    assert (
        row['registered'] == 'mask'
        and 'fingertip inside the hand' in row['doubts']
        and not row['within']
    )
    truth['points'] = points[:3]
    assert evaluate_hands.measure({'id': '1', 'image': mask, 'hand_mask': mask}, truth)['inside']
    nothing = {'id': '1', 'image': mask, 'keypoints': np.full((3, 2), np.nan)}
    assert evaluate_hands.measure(nothing, truth)['error_percent'] == 100


def test_landmarks_of_the_dha(tmp_path):
    path = tmp_path / 'landmarks.csv'
    values = np.arange(74, dtype=float).reshape(37, 2)  # x, y
    line = '3143,' + ','.join(map(str, values.ravel()))
    path.write_text('id,' + ','.join(f'x{i},y{i}' for i in range(37)) + '\n' + line + '\n')
    found = hand_landmarks.read(path)['3143']
    np.testing.assert_array_equal(found, values[:, ::-1])
    three = keypoints.from_dha(found)
    np.testing.assert_array_equal(three, [found[28], found[20], (found[10] + found[15]) / 2])
    swapped = 'id,' + ','.join(f'y{i},x{i}' for i in range(37))
    path.write_text(line + '\n')  # as its authors give it
    assert list(hand_landmarks.read(path)) == ['3143']
    for content, message in (
        (f'{line}\n{line}\n', 'line 2: image 3143 stands there twice'),
        ('1,2,3\n', 'line 1: .* found 2'),
        (f'{swapped}\n{line}\n', 'the columns are id, y0, x0, .*expected are id, x0, y0'),
        (f'"{line}\n{line}\n', 'cannot be read'),
        (line.replace('3143', ''), 'line 1: no id'),
        ('1,' + 'x,' * 73 + 'x\n', 'could not convert'),
        ('', 'no landmarks in it'),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            hand_landmarks.read(path)
    with pytest.raises(UserError, match='cannot be read'):
        hand_landmarks.read(tmp_path / 'none.csv')


def test_registration_by_a_check_is_that_of_the_stage(hands):
    hand = next(iter(hands.values()))
    row = evaluate_hands.measure(
        {'id': '1', 'image': hand['image'], 'keypoints': hand['keypoints']},
        {'points': hand['coco_keypoints'], 'keypoints': hand['keypoints'], 'box': None},
    )
    assert row['tip_off'] < 0.01 and row['capitate_off'] < 0.01 and row['within']
    assert (
        row['registered']
        == registration.registered(
            {'image': hand['image'], 'keypoints': hand['keypoints'], 'id': '1'}
        )['registered']
    )
