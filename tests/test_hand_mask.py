"""Hand masks: phantoms with a known mask, real images' faults, crops, stages, rules of review."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import hand_mask as benchmark
from boneage_jax.figures.extraction import extraction
from boneage_jax.preprocess import hand_mask, mask_checks, silhouette
from boneage_jax.stages import appearance, catalog, plan
from boneage_jax.stages import hand_mask as mask_stages
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom.render import phantom

SEED = 7
INDEX = (4, 5, 9)
OPTIONS = catalog.STAGES['mask'].options
WHOLE = OPTIONS | {'on_doubt': 'whole'}


@pytest.fixture(scope='module')
def images():
    return [phantom(SEED, index, (150, 120)) for index in INDEX]


@pytest.fixture(scope='module')
def found(images):
    return [hand_mask.classical_steps(example['image']) for example in images]


def test_phantoms(images, found):
    scores = [
        mask_checks.iou(steps.mask, example['hand_mask'])
        for steps, example in zip(found, images, strict=True)
    ]
    assert np.median(scores) > 0.93 and min(scores) > 0.85
    for steps, example in zip(found, images, strict=True):
        assert not mask_checks.violations(steps.mask) and steps.score >= silhouette.DOUBTFUL
        rows, columns = np.rint(example['coco_keypoints']).astype(int).T
        assert steps.mask[rows, columns].mean() > 0.9


def test_steps_are_what_they_say(images, found):
    steps = found[0]
    fine = steps.image.shape
    assert max(fine) == hand_mask.FINE[0]
    assert steps.gradient.shape == steps.markers.shape == steps.segments.shape == fine
    assert steps.mask.shape == images[0]['image'].shape and steps.mask.dtype == bool
    assert set(np.unique(steps.markers)) == {0, 1, 2} and set(np.unique(steps.segments)) == {1, 2}
    decided = steps.markers > 0
    assert (steps.segments[decided] == steps.markers[decided]).all()
    assert np.allclose(hand_mask.classical(images[0]['image']), steps.mask)


def test_inverted_image(images, found):
    steps = hand_mask.classical_steps(255 - images[0]['image'])
    assert steps.inverted and not found[0].inverted
    assert mask_checks.iou(steps.mask, images[0]['hand_mask']) > 0.9
    example = {'image': 255 - images[0]['image'], 'id': '1'}
    annotated = plan.merge_annotations(example, mask_stages.watershed_mask(example, **OPTIONS))
    assert (annotated['image'] == images[0]['image']).all()
    as_it_is = mask_stages.watershed_mask(example, **(OPTIONS | {'positive': False}))
    assert not as_it_is['inverted']


def frame(image):
    image[:6] = 240
    image[-3:] = 240
    image[:, :4] = 5
    image[:, -5:] = 5


def marker(image):
    image[8:22, 3:9] = 255
    image[17:22, 3:16] = 255


def halves(image):
    image[:, image.shape[1] // 2 :] = np.clip(
        image[:, image.shape[1] // 2 :].astype(int) + 12, 0, 255
    )


def pale(image):
    image[:] = (120 + image.astype(float) * 0.5).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize('spoil', [frame, marker, halves, pale])
def test_what_images_have_about_them(images, found, spoil):
    image = images[1]['image'].copy()
    spoil(image)
    steps = hand_mask.classical_steps(image)
    assert mask_checks.iou(steps.mask, images[1]['hand_mask']) > 0.85
    if spoil is marker:
        assert not steps.mask[8:22, 3:9].any()


def test_large_and_small_images_have_the_same_mask(images, found):
    example = Image.fromarray(images[2]['image'])
    for size in ((360, 450), (80, 100)):
        large = hand_mask.classical(np.asarray(example.resize(size, Image.Resampling.BICUBIC)))
        assert large.shape == size[::-1]
        back = np.asarray(Image.fromarray(large).resize(example.size, Image.Resampling.NEAREST))
        assert mask_checks.iou(back, found[2].mask) > 0.9


@pytest.mark.parametrize('grey', [0, 130, 255])
def test_an_empty_image_has_no_mask_and_is_refused(grey):
    image = np.full((60, 80), grey, np.uint8)
    assert not hand_mask.classical(image).any()
    with pytest.raises(
        UserError, match='image 9: no hand that could be trusted .area: the mask is empty'
    ):
        mask_stages.watershed_mask({'id': '9', 'image': image}, **OPTIONS)
    whole = mask_stages.watershed_mask({'id': '9', 'image': image}, **WHOLE)
    assert whole['hand_mask'].all() and whole['flags'] == 'mask_doubtful'
    assert 'empty' in '; '.join(hand_mask.doubts(hand_mask.classical_steps(image)))


def test_noise_is_doubted():
    image = np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8)
    found = mask_stages.watershed_mask({'id': '9', 'image': image}, **WHOLE)
    assert found['flags'] == 'mask_doubtful' and found['hand_mask'].all()
    with pytest.raises(UserError, match='image 9: no hand that could be trusted'):
        mask_stages.watershed_mask({'id': '9', 'image': image}, on_doubt='error', positive=True)
    with pytest.raises(UserError, match="on_doubt='flgs'; known: 'flag'"):
        mask_stages.watershed_mask({'id': '9', 'image': image}, on_doubt='flgs', positive=True)


@pytest.mark.parametrize(
    'image', [np.zeros((40, 40)), np.zeros((40, 40, 1), np.uint8), np.zeros((8, 40), np.uint8)]
)
def test_what_is_no_image(image):
    with pytest.raises(UserError, match='image 3: hand mask: image .* give a uint8 image'):
        mask_stages.watershed_mask({'id': '3', 'image': image}, **OPTIONS)


def test_largest_component():
    mask = np.zeros((9, 9), bool)
    mask[1:4, 1:4] = True
    mask[4, 4] = True
    mask[7:, 7:] = True
    largest = hand_mask.largest_component(mask)
    assert largest.sum() == 10 and largest[4, 4] and not largest[8, 8]  # corners touch
    assert not hand_mask.largest_component(np.zeros((3, 3), bool)).any()


def test_crop_moves_points_and_boxes():
    mask = np.zeros((40, 30), np.uint8)
    mask[10:30, 5:15] = 1
    image = np.arange(1200).reshape(40, 30).astype(np.uint8) | 1
    example = {
        'id': '1',
        'image': image,
        'hand_mask': mask,
        'keypoints': np.array([[12, 7], [29, 14]], np.float32),
        'bone_boxes': np.array([[11, 6, 20, 9], [np.nan] * 4], np.float32),
        'male': True,
    }
    done = appearance.crop(example, margin=0.1, mask=False)
    assert (
        (done['image'] == image[8:32, 3:17]).all()
        and done['hand_mask'].shape == (24, 14)
        and done['male']
    )
    for (r, c), (row, column) in zip(
        example['keypoints'].astype(int), done['keypoints'].astype(int), strict=True
    ):
        assert done['image'][row, column] == image[r, c]
    assert done['bone_boxes'][0].tolist() == [3, 3, 12, 6] and np.isnan(done['bone_boxes'][1]).all()
    assert done['keypoints'].dtype == np.float32 and example['image'].shape == (40, 30)
    masked = appearance.crop(example, margin=0.1, mask=True)
    assert (masked['image'] > 0).sum() == 200
    assert (hand_mask.crop(image, mask, 0) == image[10:30, 5:15]).all()
    assert hand_mask.crop(image, mask, 5).shape == image.shape, 'a margin stops at the border'
    with pytest.raises(UserError, match='image 1: crop: the mask is empty'):
        appearance.crop(example | {'hand_mask': 0 * mask}, margin=0.1, mask=True)
    with pytest.raises(UserError, match='image 1 has no hand_mask'):
        appearance.crop({'id': '1', 'image': image}, margin=0.1, mask=True)


def blob(**changes):
    """A mask that passes every rule, spoilt in one way."""
    r, c = np.mgrid[:100, :100]
    mask = np.hypot(r - 60, c - 50) < 20
    for column in (34, 44, 54, 64):
        mask |= (np.abs(c - column) < 3) & (r > 20) & (r < 60)
    if 'shift' in changes:
        mask = np.roll(mask, changes['shift'], 1)
    return mask


def spoilt(name):
    mask = blob()
    if name == 'area':
        mask = np.zeros((400, 400), bool)
        mask[:100, :100] = blob()
    elif name == 'border':
        mask[:] = False
        mask[:9] = True
        mask[60:70, :20] = True
        mask[:60, :9] = True
        mask[:, 95:] = True
    elif name == 'sides':
        mask[50:65] = True
        mask[:, 45:60] = True
    elif name == 'components':
        mask[80:95, 80:95] = True
    elif name == 'holes':
        mask[55:65, 45:55] = False
    elif name == 'smoothness':
        mask &= np.random.default_rng(0).random(mask.shape) > 0.3
    elif name == 'solidity':
        mask[:] = False
        mask[20:80, 20:80] = True
    return mask


@pytest.mark.parametrize('name', [name for name in mask_checks.LIMITS if name != 'agreement'])
def test_every_rule_refuses_what_it_is_for(name):
    assert mask_checks.violations(blob()) == []
    refused = mask_checks.violations(spoilt(name))
    assert name in [reason.split(':')[0] for reason in refused], (
        refused,
        mask_checks.measures(spoilt(name)),
    )


def test_agreement_limits_and_empty_masks():
    assert mask_checks.violations(blob(), blob()) == []
    assert [reason[:9] for reason in mask_checks.violations(blob(), blob(shift=5))] == ['agreement']
    assert mask_checks.violations(blob(), blob(shift=5), {'agreement': (0.3, 1.0)}) == []
    assert mask_checks.violations(np.zeros((50, 50)), blob()[:50, :50]) == [
        'area: the mask is empty'
    ]
    assert mask_checks.iou(np.zeros((3, 3)), np.zeros((3, 3))) == 1
    with pytest.raises(ValueError, match='no such rule: agreeement'):
        mask_checks.violations(blob(), limits={'agreeement': (0, 1)})


def test_measures_hardly_depend_on_the_size():
    small = mask_checks.measures(blob())
    large = mask_checks.measures(np.kron(blob(), np.ones((7, 7), bool)))
    assert all(large[name] == pytest.approx(value, abs=0.06) for name, value in small.items())


def test_figure_of_the_steps(images, tmp_path):
    path = extraction(images[0]['image'], tmp_path / 'figures' / 'extraction.png')
    assert path.stat().st_size > 10_000 and [p.name for p in path.parent.iterdir()] == [
        'extraction.png'
    ]


def test_benchmark(images, tmp_path):
    Image.fromarray(images[0]['image']).save(tmp_path / '1.png')
    result = benchmark.main(
        [
            '--images',
            str(tmp_path),
            '--side',
            '100',
            '--repeats',
            '1',
            '--output',
            str(tmp_path / 'out.json'),
        ]
    )
    assert [row['images'] for row in result['rows']] == [1] * 8
    assert all(row['best'] > 0 and 'min for 12,611 images' in row['note'] for row in result['rows'])
    with pytest.raises(SystemExit, match='no images there'):
        benchmark.main(['--images', str(tmp_path / 'none')])


@pytest.mark.skipif('BONEAGE_DATA' not in os.environ, reason='BONEAGE_DATA: folder of real images')
def test_native_images():
    """The 8 native images: nothing refused, and no mask that is a frame or a marker."""
    for path in sorted(Path(os.environ['BONEAGE_DATA'], 'rsna_native').glob('*.png')):
        steps = hand_mask.classical_steps(np.asarray(Image.open(path).convert('L')))
        assert not mask_checks.violations(steps.mask), path.name
        assert 0.12 < steps.mask.mean() < 0.5 and not steps.inverted
