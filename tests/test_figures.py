"""Figures show the numbers of the files they were drawn from, and bad files are named."""

import json

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from boneage_jax import figures
from boneage_jax.figures import ages, style


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(style.STYLE, 'figure.dpi', 60)


def write_run(folder, count=40, splits=('validation', 'holdout'), interval=0.0):
    generator = np.random.default_rng(0)
    age = generator.uniform(1, 228, (len(splits), count))
    prediction = age + generator.normal(2, 8, age.shape)
    rows = ['id,split,male,age,prediction' + (',lower,upper' if interval else '')]
    for i, split in enumerate(splits):
        for j in range(count):
            a, p = age[i, j], prediction[i, j]
            bounds = f',{p - interval},{p + interval}' if interval else ''
            rows.append(f'{i}{j},{split},{j % 2 == 0},{a},{p}{bounds}')
    (folder / 'predictions.csv').write_text('\n'.join(rows) + '\n')
    lines = [
        {
            'kind': 'train',
            'step': s,
            'epoch': s / 10,
            'loss': 40 / s,
            'learning_rate': 0.1,
            'images_per_second': 9.0,
        }
        for s in range(1, 31)
    ]
    lines += [
        {'kind': 'eval', 'step': 10 * e, 'epoch': e, 'split': 'validation', 'mae': mae, 'loss': mae}
        for e, mae in ((1, 20.0), (2, 11.5), (3, 13.0))
    ]
    (folder / 'metrics.jsonl').write_text('\n'.join(json.dumps(line) for line in lines) + '\n')
    return age, prediction


def texts(figure):
    found = [axes.get_title() for axes in figure.axes]
    found += [text.get_text() for axes in figure.axes for text in axes.texts]
    return ' | '.join(
        found
        + [
            text.get_text()
            for axes in figure.axes
            if axes.get_legend()
            for text in axes.get_legend().get_texts()
        ]
    )


@pytest.fixture
def drawn(monkeypatch):
    """Figures by file name, caught on their way to the disk."""
    kept, save = {}, style.save

    def keep(draw, path, *arguments):
        return save(lambda *a: kept.setdefault(path.name, draw(*a)), path, *arguments)

    monkeypatch.setattr(style, 'save', keep)
    return kept


def test_a_run_gives_every_figure_whole(tmp_path):
    write_run(tmp_path)
    before = dict(matplotlib.rcParams)
    paths = figures.from_run(tmp_path)
    assert [path.name for path in paths] == [
        'predictions_validation.png',
        'error_by_age_validation.png',
        'bland_altman_validation.png',
        'predictions_holdout.png',
        'error_by_age_holdout.png',
        'bland_altman_holdout.png',
        'training.png',
    ]
    assert {path.parent for path in paths} == {tmp_path / 'figures'}
    assert sorted((tmp_path / 'figures').iterdir()) == sorted(paths)  # no temporary file is left
    for path in paths:
        with Image.open(path) as image:
            image.load()
            assert np.asarray(image.convert('L')).std() > 5
    assert dict(matplotlib.rcParams) == before


def test_the_numbers_drawn_are_those_of_the_files(tmp_path, drawn):
    age, prediction = write_run(tmp_path)
    figures.from_run(tmp_path)
    figure = drawn['predictions_holdout.png']
    points = np.concatenate(
        [
            collection.get_offsets()
            for collection in figure.axes[0].collections
            if len(collection.get_offsets()) and len(collection.get_paths()) == 1
        ]
    )
    points = points[np.isfinite(points).all(1) & (points != 0).any(1)]
    expected = np.stack([age[1], prediction[1]], 1)
    np.testing.assert_allclose(points[np.lexsort(points.T)], expected[np.lexsort(expected.T)])
    mae = np.abs(prediction - age)[1].mean()
    assert f'Holdout: MAE {mae:.2f} months' in texts(figure) and 'girls (n = 20' in texts(figure)
    assert f'bias {(prediction - age)[1].mean():+.2f}' in texts(drawn['error_by_age_holdout.png'])
    assert 'best: 11.50 at epoch 2' in texts(drawn['training.png'])


def test_axes_carry_units(tmp_path, drawn):
    write_run(tmp_path, splits=('holdout',))
    figures.from_run(tmp_path)
    labels = [
        label
        for figure in drawn.values()
        for axes in figure.axes
        for label in (axes.get_xlabel(), axes.get_ylabel())
        if label
    ]
    assert len(labels) == 11
    assert all('months' in label or label in ('epoch', 'loss') for label in labels)


def test_binned_means_and_gaps():
    age = np.array([1.0] * 6 + [13.0] * 2 + [30.0] * 5)
    values = np.array([2.0] * 6 + [9.0] * 2 + [1.0, 2.0, 3.0, 4.0, 5.0])
    middle, count, mean, lower, upper = ages._binned(age, values, np.array([0, 12, 24, 36]))
    np.testing.assert_array_equal(middle, [6, 18, 30])
    np.testing.assert_array_equal(count, [6, 2, 5])
    np.testing.assert_array_equal(mean, [2, np.nan, 3])  # two images are too few for a mean
    assert lower[0] == upper[0] == 2 and 1 < lower[2] < 3 < upper[2] < 5


def test_intervals_and_their_coverage(tmp_path, drawn):
    age, prediction = write_run(tmp_path, splits=('holdout',), interval=8.0)
    figures.from_run(tmp_path)
    share = (np.abs(prediction - age) <= 8).mean()
    assert f'intervals hold {100 * share:.0f} % of images' in texts(
        drawn['predictions_holdout.png']
    )


@pytest.mark.parametrize('count', [1, 3])
def test_few_images_of_one_sex_and_no_evaluation_yet(tmp_path, drawn, count):
    (tmp_path / 'predictions.csv').write_text(
        'id,split,male,age,prediction\n'
        + ''.join(f'{i},test,true,{i + 1},-5\n' for i in range(count))
    )
    (tmp_path / 'metrics.jsonl').write_text(
        '{"kind": "train", "step": 1, "epoch": 0.1, "loss": -2.0}\n{"kind": "ev'
    )
    assert len(figures.from_run(tmp_path)) == 4
    assert 'girls' not in texts(drawn['predictions_test.png'])
    assert 'no evaluation' in texts(drawn['training.png'])


def test_girls_and_boys_differ_without_colour():
    grey = [np.dot(to_rgb(style['color']), (0.299, 0.587, 0.114)) for style in style.SEXES.values()]
    assert abs(grey[0] - grey[1]) > 0.2
    assert len({style['marker'] for style in style.SEXES.values()}) == 2


HEADER = 'id,split,male,age,prediction\n'


@pytest.mark.parametrize(
    'content, words',
    [
        ('', 'columns id, split, male, age, prediction missing; found nothing'),
        ('id,split,male,prediction\n1,a,True,3\n', 'column age missing; found id, split'),
        (HEADER, 'holds no predictions'),
        (HEADER + '1,a,True,3,4\n2,a,perhaps,3,4\n', 'line 3: .*perhaps'),
        (HEADER + '1,a,True,3\n', 'line 2'),
        (HEADER + '1,a,True,3,nan\n', 'line 2: .*not finite'),
    ],
)
def test_bad_predictions_are_named(tmp_path, content, words):
    write_run(tmp_path)
    (tmp_path / 'predictions.csv').write_text(content)
    with pytest.raises(ValueError, match=f'predictions.csv.*{words}'):
        figures.from_run(tmp_path)
    assert not (tmp_path / 'figures').exists()


@pytest.mark.parametrize(
    'content, words',
    [
        ('', 'no training line'),
        ('{"kind": "train"}\n{}\n', 'line 1'),
    ],
)
def test_bad_logs_are_named(tmp_path, content, words):
    write_run(tmp_path)
    (tmp_path / 'metrics.jsonl').write_text(content)
    with pytest.raises(ValueError, match=f'metrics.jsonl.*{words}'):
        figures.from_run(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='predictions.csv'):
        figures.from_run(tmp_path)


def test_a_failed_write_keeps_the_old_figure(tmp_path, monkeypatch):
    path = figures.image_sheet(np.zeros((1, 8, 8, 1), np.uint8), ['a'], tmp_path / 'sheet.png')
    old = path.read_bytes()

    def fail(self, path, **arguments):
        path.write_bytes(b'half')
        raise OSError('No space left on device')

    monkeypatch.setattr(ages.Figure, 'savefig', fail)
    with pytest.raises(OSError, match='No space'):
        figures.image_sheet(np.zeros((2, 8, 8, 1), np.uint8), ['a', 'b'], path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_image_sheet_shows_the_full_range(tmp_path, dtype):
    images = np.full((5, 30, 20, 1), 0.5)
    images[0], images[1] = 0, 1
    images = (images * 255).astype(np.uint8) if dtype == 'uint8' else images.astype(np.float32)
    path = figures.image_sheet(images, range(5), tmp_path / 'sheets' / 'sheet.png', columns=3)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert('L'))
    height, width = pixels.shape
    greys = [int(pixels[int(height * 0.22), int(width * x)]) for x in (1 / 6, 3 / 6, 5 / 6)]
    assert greys[0] == 0 and greys[1] == 255 and 124 <= greys[2] <= 131
    assert pixels[int(height * 0.7), int(width * 5 / 6)] == 255  # the sixth place stays empty


@pytest.mark.parametrize(
    'shape, captions, words',
    [
        ((2, 8, 8), 2, 'found shape'),
        ((0, 8, 8, 1), 0, 'found shape'),
        ((2, 8, 8, 1), 3, '2 images but 3 captions'),
    ],
)
def test_bad_sheets_are_refused(tmp_path, shape, captions, words):
    with pytest.raises(ValueError, match=words):
        figures.image_sheet(np.zeros(shape), ['x'] * captions, tmp_path / 'sheet.png')


def test_parts_are_drawn_where_they_are(tmp_path, drawn):
    images = np.zeros((2, 40, 30, 1), np.uint8)
    boxes = np.array([[[2, 3, 12, 9], [-5, 10, 15, 40]], [[0, 0, 8, 8], [1, 1, 2, 2]]], np.float32)
    maps = np.linspace(0.2, 0.8, 2 * 5 * 4).reshape(2, 5, 4)
    path = figures.parts(
        images, maps, boxes, ['a', 'b'], tmp_path / 'parts.png', np.array([[1, 1], [1, 0]], bool)
    )
    with Image.open(path) as image:
        assert image.format == 'PNG'
    cells = np.reshape(drawn['parts.png'].axes, (3, 2))
    corners = [[p.get_bbox().extents.tolist() for p in axes.patches] for axes in cells[2]]
    assert corners == [
        [[10, -5, 40, 15], [3, 2, 9, 12]],
        [[0, 0, 8, 8]],
    ]  # x, y; the best last, on top
    assert [t.get_text() for t in cells[2, 0].texts] == ['2', '1']
    assert [axes.get_xlabel() for axes in cells[2]] == ['a', 'b']
    assert cells[1, 0].images[0].get_clim() == cells[1, 1].images[0].get_clim() == (0.2, 0.8)
    assert cells[2, 0].get_xlim() == (0, 30) and cells[2, 0].get_ylim() == (
        40,
        0,
    )  # a box beyond does not widen it
    figures.parts(images, None, boxes, ['a', 'b'], tmp_path / 'two_rows.png')
    assert len(drawn['two_rows.png'].axes) == 4
    with pytest.raises(ValueError, match='needs images .*1 captions'):
        figures.parts(images, maps, boxes, ['a'], path)


def test_anchors_are_drawn_at_the_middle_of_every_level(tmp_path, drawn):
    centres = [(8, 8), (8, 24), (24, 8), (16, 16)]
    boxes = np.array(
        [[r - h, c - w, r + h, c + w] for r, c in centres for h, w in ((4, 6), (5, 3))], np.float32
    )
    figures.anchors(
        np.zeros((32, 32, 1)), boxes, np.array([0] * 6 + [1] * 2), tmp_path / 'anchors.png'
    )
    left, right = drawn['anchors.png'].axes
    assert [len(axes.patches) for axes in (left, right)] == [2, 2]
    assert [len(axes.collections[0].get_offsets()) for axes in (left, right)] == [6, 2]
    assert right.patches[0].get_bbox().extents.tolist() == [10, 12, 22, 20]
    assert (left.get_title(), right.get_title()) == (
        'res3: 6 anchors, 2 a place',
        'res4: 2 anchors, 2 a place',
    )
