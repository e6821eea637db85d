"""Masks that people drew: the same from every kind of file, and bad files are named."""

import base64
import io
import json
import os
import pathlib
import zlib

import numpy as np
import pytest
from PIL import Image
from skimage import draw as draw_lib

from tfds_rsna.annotations import mask_files, mask_shapes

SIZE = (40, 30)
BOX = np.zeros(SIZE, bool)
BOX[10:30, 5:20] = True  # a mask that polygons and bitmaps draw alike
RING = [[5, 10], [20, 10], [20, 30], [5, 30]]  # x, y of its corners
HOLED = BOX.copy()
HOLED[15:20, 8:12] = False


def png(array, mode='L'):
    stream = io.BytesIO()
    Image.fromarray(array.astype(np.uint8) * 255).convert(mode).save(stream, 'PNG')
    return stream.getvalue()


def write(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def images(folder):
    folder.mkdir()
    for name, scale in (('1', 1), ('2', 255)):
        Image.fromarray(BOX.astype(np.uint8) * scale).save(folder / f'{name}.png')


def labelme(folder):
    cut = BOX[10:30, 5:20]
    shapes = {
        '1': [
            {'label': 'hand', 'shape_type': 'polygon', 'points': RING},
            {'label': 'marker', 'points': [[0, 0], [3, 0], [3, 3]]},
        ],
        '2': [
            {
                'label': 'left hand',
                'shape_type': 'mask',
                'points': [[5, 10], [19, 29]],
                'mask': base64.b64encode(png(cut, '1')).decode(),
            }
        ],
    }
    for name, found in shapes.items():
        about = {'imagePath': f'..\\images\\{name}.png', 'imageHeight': 40, 'imageWidth': 30}
        write(folder / f'image{name}.json', about | {'shapes': found})


def supervisely(folder):
    rgba = np.zeros((20, 15, 4), np.uint8)
    rgba[..., 3] = 255
    stream = io.BytesIO()
    Image.fromarray(rgba).save(stream, 'PNG')
    bitmap = {
        'origin': [5, 10],
        'data': base64.b64encode(zlib.compress(stream.getvalue())).decode(),
    }
    things = {
        '1': {
            'classTitle': 'palm',
            'geometryType': 'polygon',
            'points': {'exterior': RING, 'interior': []},
        },
        '2': {'classTitle': 'palm', 'geometryType': 'bitmap', 'bitmap': bitmap},
    }
    for name, thing in things.items():
        write(
            folder / 'project' / 'ann' / f'{name}.png.json',
            {'size': {'height': 40, 'width': 30}, 'objects': [thing]},
        )


def flat_supervisely(folder):
    """The same documents in one folder, with masks of half the size beside them."""
    supervisely(folder)
    for file in sorted((folder / 'project' / 'ann').iterdir()):
        name = file.name.split('.')[0]
        file.rename(folder / f'{name}.json')
        Image.fromarray(BOX[::2, ::2]).save(folder / f'{name}.png')
    (folder / 'project' / 'ann').rmdir()


def mixed(folder):
    """One document of each tool, whose labels differ."""
    flat_supervisely(folder)
    labelme(folder / 'other')
    (folder / '2.json').unlink()
    (folder / 'other' / 'image2.json').rename(folder / 'image2.json')


def coco(folder):
    # Column by column, of 0 first.
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, BOX.T.ravel().astype(int), 2])))
    found = [
        {'image_id': 1, 'category_id': 7, 'segmentation': [np.ravel(RING).tolist()]},
        {
            'image_id': 2,
            'category_id': 7,
            'segmentation': {'size': [40, 30], 'counts': runs.tolist()},
        },
        {'image_id': 2, 'category_id': 8, 'segmentation': [[0, 0, 3, 0, 3, 3]]},
    ]
    write(
        folder / 'instances.json',
        {
            'images': [
                {'id': i, 'file_name': f'{i}.png', 'height': 40, 'width': 30} for i in (1, 2)
            ],
            'annotations': found,
            'categories': [{'id': 7, 'name': 'Hand'}, {'id': 8, 'name': 'marker'}],
        },
    )


@pytest.mark.parametrize('make', [images, labelme, supervisely, flat_supervisely, mixed, coco])
def test_every_kind_of_file_gives_the_same_mask(make, tmp_path):
    make(tmp_path / 'x')
    found = mask_files.read(tmp_path / 'x' / 'instances.json' if make is coco else tmp_path / 'x')
    assert sorted(found) == ['1', '2']
    for draw in found.values():
        np.testing.assert_array_equal(draw(), BOX)


def test_compressed_run_lengths():
    """The string is pycocotools 2.0's of this mask; runs differ by more than a digit holds."""
    y, x = np.mgrid[:12, :10]
    mask = (y - 5) ** 2 + (x - 4) ** 2 < 14
    mask[1, 8] = True
    rle = {'size': [12, 10], 'counts': '?562O00000001NOLa0'}
    np.testing.assert_array_equal(mask_files._run_lengths(rle, (12, 10)), mask)
    with pytest.raises(ValueError, match='runs of 120 pixels for 12x10'):
        mask_files._run_lengths(rle, (10, 12))


def test_holes_of_supervisely_polygons(tmp_path):
    ring = {'exterior': RING, 'interior': [[[8, 15], [12, 15], [12, 20], [8, 20]]]}
    write(
        tmp_path / 'ann' / '1.png.json',
        {
            'size': {'height': 40, 'width': 30},
            'objects': [{'classTitle': 'hand', 'geometryType': 'polygon', 'points': ring}],
        },
    )
    np.testing.assert_array_equal(mask_files.read(tmp_path)['1'](), HOLED)


def test_polygons_cover_the_pixels_whose_centres_they_hold():
    """Any ring, over the edges of the image and across itself, as scikit-image draws it."""
    rng = np.random.default_rng(0)
    for count in range(3, 40):
        ring = rng.uniform(-10, 50, (count, 2))
        expected = np.zeros(SIZE, bool)
        expected[draw_lib.polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, SIZE)] = True
        np.testing.assert_array_equal(mask_shapes.polygon(ring.tolist())(SIZE), expected)
    for ring, message in (
        ([[0, 0], [1, 1]], 'of 2 points'),
        ([[0, 0], [1, 1], [1, np.nan]], 'fin'),
    ):
        with pytest.raises(ValueError, match=message):
            mask_shapes.polygon(ring)(SIZE)


def test_labels_without_a_hand_are_refused(tmp_path):
    labelme(tmp_path)
    document = json.loads((tmp_path / 'image1.json').read_text())
    for name in ('image1.json', 'image2.json'):
        write(
            tmp_path / name,
            document | {'shapes': [{'label': x, 'points': RING} for x in ('bone', 'marker')]},
        )
    with pytest.raises(
        mask_files.UserError, match='labels bone, marker: none has "hand" in its name'
    ):
        mask_files.read(tmp_path)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda p: None, 'no such file or folder'),
        (lambda p: p.mkdir(), r'no mask images \(.png'),
        (lambda p: write(p, {'info': {}}), "not a COCO instances JSON .*'images'"),
        (lambda p: write(p / 'a.json', {'version': 1}), 'not a labelme or Supervisely annotation'),
        (lambda p: write(p / 'a.json', [1]), 'a.json: not a labelme .* neither shapes nor objects'),
        (
            lambda p: write(p / 'a.json', {'objects': [], 'shapes': None}),
            'a.json: not a labelme or Supervisely annotation',
        ),
        (lambda p: write(p / 'a.json', {'objects': []}), "a.json: not a labelme .*'size'"),
        (lambda p: (mixed(p), labelme(p)), '1.json: image 1 has a mask in'),
        (lambda p: (p.mkdir(), (p / 'a.json').write_text('{')), 'not a JSON file'),
        (
            lambda p: (images(p), Image.fromarray(BOX).save(p / '1.tif')),
            '1.tif: image 1 has a mask in .*1.png too',
        ),
    ],
)
def test_refusals_name_the_file(make, message, tmp_path):
    make(tmp_path / 'x')
    with pytest.raises(mask_files.UserError, match=f'(?s)x.*{message}|{message}'):
        mask_files.read(tmp_path / 'x')


def test_damaged_masks_are_named_when_drawn(tmp_path):
    images(tmp_path / 'x')
    (tmp_path / 'x' / '1.png').write_bytes(b'\x89PNG cut')
    with pytest.raises(ValueError, match='1.png'):
        mask_files.read(tmp_path / 'x')['1']()
    supervisely(tmp_path / 's')
    file = tmp_path / 's' / 'project' / 'ann' / '2.png.json'
    document = json.loads(file.read_text())
    document['objects'][0]['bitmap']['data'] = 'AAAA'
    write(file, document)
    with pytest.raises(mask_files.UserError, match='2.png.json: a damaged mask'):
        mask_files.read(tmp_path / 's')['2']()


@pytest.mark.skipif(
    not os.environ.get('BONEAGE_DATA'), reason='BONEAGE_DATA names no folder of real outlines'
)
def test_real_outlines_agree_with_the_masks_beside_them():
    folder = pathlib.Path(os.environ['BONEAGE_DATA'], 'hand_masks')
    drawn = mask_files.read(folder)
    assert len(drawn) == 100
    for name, draw in drawn.items():
        mask = draw()
        rows, columns = json.loads((folder / f'{name}.json').read_text())['size'].values()
        assert mask.shape == (rows, columns)
        beside = np.asarray(Image.open(folder / f'{name}.png').convert('L')) > 0
        halved = Image.fromarray(mask.astype(np.uint8) * 255)
        halved = halved.resize(beside.shape[::-1], Image.Resampling.BOX)
        halved = np.asarray(halved) >= 128
        assert (halved & beside).sum() / (halved | beside).sum() > 0.99, name
