"""The phantom: what must be in its images, and what must not."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import tfds_rsna
from tfds_rsna import streamed_builder
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom import raster, schedule
from tfds_rsna.hand_phantom.anatomy import BONE_NAMES, hand
from tfds_rsna.hand_phantom.render import phantom
from tfds_rsna.hand_phantom.short_bones import CARPALS
from tfds_rsna.problems import DataError

EPIPHYSES = [row for row, name in enumerate(BONE_NAMES) if name.endswith('_epiphysis')]
CARPAL_ROWS = [BONE_NAMES.index(name) for name in CARPALS]


def generator(*entropy):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


@pytest.fixture(scope='module')
def images():
    return [phantom(5, index, (128, 128)) for index in range(300)]


def test_same_seed_and_index_same_image():
    first, again, other = phantom(3, 4, (96, 80)), phantom(3, 4, (96, 80)), phantom(3, 5, (96, 80))
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    assert first['image'].shape == first['hand_mask'].shape == (96, 80)
    assert (first['image'] != other['image']).mean() > 0.2
    assert (phantom(4, 4, (96, 80))['image'] != first['image']).mean() > 0.2


def test_same_image_at_two_sizes():
    small, large = phantom(0, 7, (128, 128)), phantom(0, 7, (384, 384))
    for key in ('keypoints', 'coco_keypoints', 'bone_boxes'):
        scaled = (small[key] + 0.5) * 3 - 0.5
        np.testing.assert_allclose(scaled, large[key], atol=0.02, equal_nan=True)
    assert (small['months'], small['male']) == (large['months'], large['male'])
    shrunk = large['image'].reshape(128, 3, 128, 3).mean((1, 3))
    assert np.abs(shrunk - small['image']).mean() < 3
    overlap = large['hand_mask'].reshape(128, 3, 128, 3).mean((1, 3)) > 0.5
    assert (overlap == small['hand_mask']).mean() > 0.998


def test_keypoints_and_boxes_lie_in_the_hand(images):
    for example in images[:60]:
        mask, coco = example['hand_mask'], example['coco_keypoints']
        assert set(np.unique(mask)) == {0, 1}
        rows, columns = np.rint(coco).astype(int).T
        assert mask[rows, columns].all()
        row, column = np.rint(example['keypoints'][2]).astype(int)
        assert mask[row, column]
        np.testing.assert_array_equal(example['keypoints'][:2], coco[[12, 4]])
        boxes = dict(zip(BONE_NAMES, example['bone_boxes']))
        top, left, bottom, right = boxes['pp3']
        middle = coco[9:11].mean(0)
        assert top < middle[0] < bottom and left < middle[1] < right
        for name, box in boxes.items():
            assert np.isnan(box).all() or (box[2] > box[0] and box[3] > box[1]), name
            if name.endswith('growth_plate') or name == 'carpus':
                assert np.isfinite(box).all(), name


def test_bones_are_brighter_than_the_flesh_beside_them():
    bright = 0
    for index in range(12):
        example = phantom(1, index, (256, 256))
        knuckle, middle = example['coco_keypoints'][[9, 10]]
        centre, along = (knuckle + middle) / 2, (middle - knuckle) / np.hypot(*(middle - knuckle))
        across = np.array([-along[1], along[0]]) * np.hypot(*(middle - knuckle)) * 0.155
        spots = np.rint([centre, centre + across, centre - across]).astype(int)
        values = example['image'].astype(float)[spots[:, 0], spots[:, 1]]
        inverted = example['image'][0].mean() > example['image'][example['hand_mask'] > 0].mean()
        bright += (values[0] < min(values[1:])) if inverted else (values[0] > max(values[1:]))
    assert bright >= 11


def test_left_hands_have_the_thumb_on_the_right_and_a_few_are_right_hands(images):
    def thumb_side(example):  # > 0: the thumb is clockwise of the middle finger
        wrist, thumb, middle = example['coco_keypoints'][[0, 4, 12]]
        a, b = middle - wrist, thumb - wrist
        return b[1] * -a[0] - a[1] * -b[0]

    left = np.array([thumb_side(example) > 0 for example in images])
    assert 0.90 < left.mean() < 1
    tips = np.array([example['keypoints'][:2, 1] for example in images])[left]
    assert (tips[:, 1] > tips[:, 0]).mean() > 0.97


def test_centres_appear_on_schedule_and_girls_earlier():
    for name, by_sex in schedule.SCHEDULE.items():
        boys, girls = by_sex[True], by_sex[False]
        assert girls.appears < boys.appears < boys.begin <= boys.end, name
        assert girls.end < boys.end, name
        assert not schedule.stage(name, boys.appears - 1, True).present
        assert schedule.stage(name, boys.appears, True).present
        if name.endswith('epiphysis'):
            assert schedule.stage(name, boys.begin, True).fusion == 0
            assert schedule.stage(name, boys.end, True).fusion == 1

    def ossified(months, male):
        drawn = [hand(months, male, generator(9, k)) for k in range(3)]
        return np.mean([len({s.bone for s in d.strips}) + len(d.blobs) for d in drawn])

    counts = {
        male: [ossified(m, male) for m in (2, 12, 30, 60, 100, 170)] for male in (True, False)
    }
    assert counts[True] == sorted(counts[True]) and counts[False] == sorted(counts[False])
    assert all(girls > boys for girls, boys in zip(counts[False][1:4], counts[True][1:4]))


def test_growth_plates_close():
    """The dark line behind the epiphysis of the middle finger's first phalanx fades with fusion."""

    def depth(months):
        drawn, view = hand(months, True, generator(11)), raster.View(480, 0, 1, (256, 500))
        base, end = view.points(drawn.joints[[9, 10]])
        line = base + np.linspace(0.05, 0.35, 60)[:, None] * (end - base)
        columns, rows = np.rint(line).astype(int).T
        profile = raster.bone(drawn, view, (512, 512))[rows, columns]
        return 1 - profile.min() / profile.max()

    assert depth(150) > 0.9  # open: a row without bone
    assert depth(215) < 0.7


def test_ages_are_distributed_as_in_the_rsna_training_set():
    rng = generator(1)
    months, male = np.array([schedule.draw(rng) for _ in range(6000)]).T
    assert (
        122 < months.mean() < 132
        and 38 < months.std() < 45
        and months.min() >= 1
        and months.max() <= 228
    )
    assert 0.51 < male.mean() < 0.57 and (months == np.rint(months)).all()
    assert months.mean() < np.median(months)  # skewed towards the young


def explained(columns, target, folds=5):
    """Cross-validated share of the variance that a linear model of the columns explains."""
    columns = (columns - columns.mean(0)) / np.maximum(columns.std(0), 1e-9)
    design = np.column_stack([np.ones(len(columns)), columns])
    guess = np.empty(len(target))
    for fold in range(folds):
        held = np.arange(len(target)) % folds == fold
        guess[held] = design[held] @ np.linalg.lstsq(design[~held], target[~held], rcond=None)[0]
    return 1 - ((guess - target) ** 2).mean() / target.var()


def test_nothing_but_the_bones_tells_the_age(images):
    months = np.array([example['months'] for example in images])

    def cues(example):
        image, mask = example['image'].astype(float), example['hand_mask'] > 0
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        frame = np.abs(np.diff(image[:, 5:-5].mean(1)))[:12].max()
        box = np.ptp(example['coco_keypoints'], axis=0)
        return [
            image.mean(),
            image.std(),
            image[mask].mean(),
            mask.mean(),
            np.median(image[~mask]),
            edge.mean(),
            edge.std(),
            frame,
            *box,
        ]

    table = np.array([cues(example) for example in images])
    table = np.column_stack([table, table**2])
    assert explained(table, months) < 0.1

    def area(example, rows):
        """The summed boxes of some bones, relative to the hand."""
        boxes = example['bone_boxes'][rows]
        sides = boxes[:, 2:] - boxes[:, :2]
        return np.nansum(np.prod(sides, axis=1)) / example['hand_mask'].sum()

    areas = np.array([[area(example, EPIPHYSES), area(example, CARPAL_ROWS)] for example in images])
    assert explained(np.column_stack([areas, areas**2]), months) > 0.6


def test_an_image_is_drawn_quickly():
    phantom(0, 0, (512, 512))

    def best(size):
        taken = []
        for index in range(4):
            start = time.process_time()
            phantom(0, index, size)
            taken.append(time.process_time() - start)
        return min(taken)

    assert best((512, 512)) < 0.15 and best((128, 128)) < 0.06


def test_builder_round_trip(tmp_path):
    builder = tfds_rsna.HandPhantom(data_dir=tmp_path, count=4, size=(48, 40), seed=2)
    builder.download_and_prepare()
    records = builder.as_data_source('train')
    assert [record['id'] for record in records] == ['0', '1', '2', '3']
    record, example = records[3], phantom(2, 3, (48, 40))
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(record['image']))), example['image']
    )
    mask = np.asarray(Image.open(io.BytesIO(record['hand_mask'])))
    np.testing.assert_array_equal(mask, example['hand_mask'] * np.uint8(255))
    for key in ('keypoints', 'coco_keypoints', 'bone_boxes'):
        np.testing.assert_array_equal(record[key], example[key])
    assert (record['months'], record['male']) == (example['months'], example['male'])
    assert (record['width'], record['height']) == (40, 48)
    with pytest.raises(DataError, match='count: 4, now 5'):
        tfds_rsna.HandPhantom(
            data_dir=tmp_path, count=5, size=(48, 40), seed=2
        ).download_and_prepare()


def test_a_dataset_of_an_earlier_release_opens_and_an_unknown_one_is_named(tmp_path):
    def build():
        return tfds_rsna.HandPhantom(data_dir=tmp_path, count=2, size=(32, 32))

    build().download_and_prepare()
    path = next(tmp_path.glob('hand_phantom/*/features.json'))
    today = path.read_text()
    folder = path.parent
    ids = [record['id'] for record in streamed_builder.open_split(folder, 'train')]
    assert today.count('tfds_rsna.streamed_builder.Str') and ids[0]
    for earlier in ('tfds_rsna.streamed.Str', 'tfds_rsna.builder.Str'):
        path.write_text(today.replace('tfds_rsna.streamed_builder.Str', earlier))
        found = [record['id'] for record in streamed_builder.open_split(folder, 'train')]
        assert found == ids
    path.write_text(today.replace('tfds_rsna.streamed_builder.Str', 'somewhere.else.Str'))
    with pytest.raises(DataError, match=f'{folder}: .*somewhere.else.Str.*Delete this folder'):
        streamed_builder.open_split(folder, 'train')
    path.with_name('dataset_info.json').write_text('{"name": ')
    with pytest.raises(DataError, match=f'{tmp_path}: a dataset that cannot be opened.*Delete'):
        build()


BUILD = """
import sys
import tfds_rsna
if __name__ == '__main__':
    data_dir, count = sys.argv[1:]
    build = tfds_rsna.HandPhantom(data_dir=data_dir, count=int(count), size=(32, 32))
    build.download_and_prepare()
"""


def test_killed_build_starts_again(tmp_path):
    script = tmp_path / 'build.py'
    script.write_text(BUILD)
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / 'ds'), '60'],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    home = tmp_path / 'ds' / 'hand_phantom'
    deadline = time.monotonic() + 15
    while not list(home.glob('incomplete.*/*')) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(home.glob('incomplete.*')) and not (home / '1.1.0').exists()
    builder = tfds_rsna.HandPhantom(data_dir=tmp_path / 'ds', count=3, size=(32, 32))
    builder.download_and_prepare()
    assert len(builder.as_data_source('train')) == 3 and not list(home.glob('incomplete.*'))


@pytest.mark.parametrize(
    'wrong', [lambda: phantom(0, 0, (8, 8)), lambda: tfds_rsna.HandPhantom(count=0)]
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match='hand_phantom: (size|count)'):
        wrong()


def test_descriptions():
    describe = tfds_rsna.HandPhantom.describe
    plain = describe()
    assert (
        plain == describe(count=4000, size=[512, 512], seed=0)
        and json.loads(json.dumps(plain)) == plain
    )
    assert plain not in [describe(count=4001), describe(size=(512, 256)), describe(seed=1)]
    for options in ({'count': 0}, {'size': (8, 64)}, {'seed': -1}):
        with pytest.raises(UserError, match='hand_phantom: (count|size|seed)'):
            describe(**options)
        with pytest.raises(UserError, match='hand_phantom: (count|size|seed)'):
            tfds_rsna.HandPhantom(**options)
