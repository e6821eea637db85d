"""Images in, ages out: the very ages that the run's own evaluation gave, and every refusal in plain
words.
"""

import csv
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from dicom_writer import dicom
from PIL import Image

from boneage_jax import config as c
from boneage_jax import figures
from boneage_jax.errors import UnreadableError
from boneage_jax.figures import overlays
from boneage_jax.inference import images as images_lib
from boneage_jax.inference import pictures, predict
from boneage_jax.runs import predictor as predictor_lib
from boneage_jax.training import loop
from tfds_rsna.hand_phantom.render import phantom

pytestmark = pytest.mark.usefixtures('unchecked_images')  # they show noise

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = (
    'tiny,source=image_folder,epochs=1,validation=10,holdout=10,flip_tta=true,turn_tta=6.0,precise_bn_batches=0,size=(64,56),'
    'data.image_folder.images={0}/images,data.image_folder.labels={0}/labels.csv'
)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with 40 images of several sizes, their labels, and a tiny run of the full PRSNet on
    them, `run`.
    """
    folder, generator = tmp_path_factory.mktemp('predict'), np.random.default_rng(0)
    (folder / 'images').mkdir()
    rows = ['id,boneage,male']
    for i in range(40):
        small = Image.fromarray(generator.integers(0, 256, (6, 5), np.uint8))
        small.resize((60 + i, 99 - i), Image.Resampling.BILINEAR).save(
            folder / 'images' / f'f{i:02}.png'
        )
        rows.append(f'f{i:02},{12 + 5 * i},{i % 2 == 0}')
    (folder / 'labels.csv').write_text('\n'.join(rows) + '\n')
    loop.train(c.load(f'{ROOT}/configs/prsnet.py:{TINY.format(folder)}')[1], folder / 'run')
    return folder


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def copied(trained, tmp_path, **changes):
    """A copy of the run with other values in config.json."""
    run = shutil.copytree(trained / 'run', tmp_path / 'copy')
    config = json.loads((run / 'config.json').read_text())
    for key, value in changes.items():
        node, *leaf = key.split('_', 1)
        config[node] = value if not leaf else config[node] | {leaf[0]: value}
    (run / 'config.json').write_text(json.dumps(config))
    return run


def test_ages_are_those_of_the_runs_own_evaluation(trained, tmp_path, capsys):
    output = tmp_path / 'new' / 'ages.csv'
    predict.predict(trained / 'run', trained / 'images', output, labels=trained / 'labels.csv')
    rows = read(output)
    assert (
        list(rows[0])
        == [
            'id',
            'file',
            'male',
            'prediction',
            'years',
            'lower',
            'upper',
            'status',
            'flags',
            'age',
        ]
        and len(rows) == 40
    )
    ours = {row['id']: row for row in rows}
    evaluated = read(trained / 'run' / 'predictions.csv')
    assert len(evaluated) == 20 and len({row['prediction'] for row in evaluated}) > 10
    errors = sorted(
        abs(float(row['prediction']) - float(row['age']))
        for row in evaluated
        if row['split'] == 'validation'
    )
    for row in evaluated:
        mine = ours[row['id']]
        assert float(mine['prediction']) == pytest.approx(float(row['prediction']), abs=0.02)
        assert (mine['male'], float(mine['age'])) == (row['male'], float(row['age']))
        assert float(mine['upper']) - float(mine['prediction']) == pytest.approx(
            errors[9], abs=0.02
        )  # of 10 images
        assert mine['years'] == pictures.in_years(float(mine['prediction']))
        assert mine['file'] == str(trained / 'images' / f'{row["id"]}.png')
    said = capsys.readouterr().err
    assert 'On holdout they hold' in said and 'Girls: 5 validation images are too few' in said
    assert '20 of 40 images have the ids of images that this run was trained on' in said
    assert 'images whose age is known; bias' in said and str(output) in said
    assert list(output.parent.iterdir()) == [output]


def test_one_bad_image_among_many_and_the_command_itself(trained, tmp_path):
    examples = shutil.copytree(trained / 'images', tmp_path / 'images')
    whole = (examples / 'f03.png').read_bytes()
    (examples / 'f03.png').write_bytes(whole[: len(whole) // 2])
    command = [
        sys.executable,
        '-m',
        'boneage_jax.predict',
        f'--workdir={trained / "run"}',
        f'--input={examples}',
        '--sex=female',
        '--accept_all',
        f'--output={tmp_path / "ages.csv"}',
        f'--overlays={tmp_path / "pictures"}',
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr
    assert '1 of 40 images were not predicted' in done.stderr and 'cut short' in done.stderr, (
        done.stderr
    )
    with pytest.raises(ValueError, match='ages.csv exists; give another --output, or --overwrite'):
        predict.predict(trained / 'run', examples, tmp_path / 'ages.csv', sex='female')
    rows = read(tmp_path / 'ages.csv')
    assert len(rows) == 39 and 'f03' not in {row['id'] for row in rows} and 'age' not in rows[0]
    assert {row['male'] for row in rows} == {'False'}
    assert [row['id'] for row in read(tmp_path / 'ages_rejected.csv')] == ['f03']
    assert {path.stem for path in (tmp_path / 'pictures').iterdir()} == {row['id'] for row in rows}


def test_headers_give_the_sex_and_flags_reach_the_table(trained, tmp_path, capsys):
    image = np.asarray(Image.open(trained / 'images' / 'f00.png'))
    folder = tmp_path / 'cd'
    folder.mkdir()
    (folder / 'girl').write_bytes(dicom(image, PatientSex='F'))
    (folder / 'boy').write_bytes(dicom(image, PatientSex='M'))
    bad_window = {'WindowCenter': 9000, 'WindowWidth': 10}
    (folder / 'dark').write_bytes(dicom(image, PatientSex='M', **bad_window))
    (folder / 'readme.txt').write_text('a viewer')
    predict.predict(trained / 'run', folder, tmp_path / 'o.csv')
    rows = {row['id']: row for row in read(tmp_path / 'o.csv')}
    assert {name: row['male'] for name, row in rows.items()} == {
        'girl': 'False',
        'boy': 'True',
        'dark': 'True',
    }
    assert rows['girl']['flags'] == '' and rows['dark']['flags'] == 'window_ignored;stretched'
    said = capsys.readouterr()
    assert "PatientSex of the file's own header is taken for 3 of 3 images" in said.err
    assert '1 file left out: readme.txt (no image)' in said.err
    assert 'Flag window_ignored: 1 of 3 images: dark.' in said.err
    assert 'flags: window_ignored, stretched' in said.out

    predict.predict(trained / 'run', folder, tmp_path / 'o.csv', sex='male', overwrite=True)
    rows = {row['id']: row for row in read(tmp_path / 'o.csv')}
    assert rows['girl']['male'] == 'True'
    assert rows['girl']['flags'] == 'sex_contradicts_header'
    assert 'is the other sex for 1 of 3 images' in capsys.readouterr().err


def test_refused_images_stop_no_other_and_are_named(trained, tmp_path):
    run = copied(trained, tmp_path, data_stages=['mask', 'contrast'])
    folder = tmp_path / 'films'
    folder.mkdir()
    image = np.asarray(Image.open(trained / 'images' / 'f00.png'))
    hand = phantom(3, 1, (256, 200))['image']
    noise = np.random.default_rng(0).integers(0, 256, (90, 70), np.uint8)
    for name, array in {
        'hand': hand,
        'noise': noise,
        'blank': hand * 0,
        'tiny': hand[120:129, 60:140],
    }.items():
        Image.fromarray(array).save(folder / f'{name}.png')
    (folder / 'chest.dcm').write_bytes(dicom(image, BodyPartExamined='CHEST'))
    (folder / 'bad.zip').write_bytes(b'PK')
    with pytest.raises(UnreadableError, match='of 6 images were not predicted'):
        predict.predict(run, folder, tmp_path / 'o.csv', sex='male')
    rows = {row['id']: row for row in read(tmp_path / 'o.csv')}
    rejected = {row['file']: row['reason'] for row in read(tmp_path / 'o_rejected.csv')}
    assert 'hand' in rows and 'mask_doubtful' not in rows['hand']['flags']
    assert 'noise.png' in rejected or 'mask_doubtful' in rows['noise']['flags']
    assert 'blank' in rejected['blank.png'] and '16 pixels or more' in rejected['tiny.png']
    assert 'CHEST' in rejected['chest.dcm'] and 'not a whole zip' in rejected['bad.zip']


def test_the_sex_is_asked_for_by_the_images_name(trained, tmp_path):
    run, example, output = trained / 'run', trained / 'images' / 'f00.png', tmp_path / 'o.csv'
    with pytest.raises(
        ValueError, match='sex of 1 of 1 images is not known, .*: f00. Give --labels=CSV .* --sex'
    ):
        predict.predict(run, example, output)
    labels = tmp_path / 'some.csv'
    labels.write_text('id,sex\nf01,M\nf02,F\n')
    with pytest.raises(
        ValueError, match='38 of 40 images.*f00, f03, f04, f05, f06 and so on. Mend .*some'
    ):
        predict.predict(run, trained / 'images', output, labels=labels)
    assert not output.exists()
    rows = predict.predict(run, trained / 'images', output, labels=labels, sex='female')
    assert [row['id'] for row in rows if row['male']] == ['f01']
    rows = predict.predict(run, example, output, sex='male', overwrite=True)
    assert rows[0]['file'] == str(example) and rows[0]['male'] and len(read(output)) == 1
    with pytest.raises(ValueError, match="--sex=boy: expected 'male' or 'female'"):
        predict.predict(run, example, tmp_path / 'p.csv', sex='boy')


def test_a_boys_network_predicts_no_girls(trained, tmp_path):
    run, examples, output = (
        copied(trained, tmp_path, data_sex='male'),
        trained / 'images',
        tmp_path / 'o.csv',
    )
    with pytest.raises(
        ValueError,
        match='20 of 40 images are not male, and this network was trained on male images alone: '
        'f01, f03, f05, f07, f09 and so on',
    ):
        predict.predict(run, examples, output, labels=trained / 'labels.csv')
    assert not output.exists()
    assert predict.predict(run, examples / 'f01.png', output, sex='male')[0]['male']
    run = copied(trained, tmp_path / 'blind', data_sex='male')
    with pytest.raises(ValueError, match='sex of 1 of 1 images is not known'):
        predict.predict(run, examples / 'f00.png', tmp_path / 'p.csv')


def test_a_run_that_is_not_finished_predicts_without_intervals(trained, tmp_path, capsys):
    run = copied(trained, tmp_path)
    for name in ('predictions.csv', 'metrics.json'):
        (run / name).unlink()
    rows = predict.predict(run, trained / 'images' / 'f00.png', tmp_path / 'o.csv', sex='male')
    assert rows[0]['lower'] is None and read(tmp_path / 'o.csv')[0]['upper'] == ''
    assert 'No intervals' in capsys.readouterr().err


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'trainer': 'classical'}, "trainer='classical', which keeps no network"),
        ({'model_width': 4}, 'does not fit this model'),
    ],
)
def test_other_runs_are_refused(trained, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        predict.predict(
            copied(trained, tmp_path, **changes), trained / 'images', tmp_path / 'o.csv', sex='male'
        )


def test_a_run_that_predicts_no_ages_is_refused(trained, tmp_path):
    run = copied(trained, tmp_path, task={'name': 'segmentation', 'jaccard': 'global'})
    (run / 'task.json').write_text('{}')
    with pytest.raises(ValueError, match="task 'segmentation', which predicts no ages"):
        predict.predict(run, trained / 'images', tmp_path / 'o.csv', sex='male')


def test_where_no_run_lies(trained, tmp_path):
    with pytest.raises(ValueError, match='no run lies there'):
        predict.predict(tmp_path / 'none', trained / 'images', tmp_path / 'o.csv', sex='male')
    run = copied(trained, tmp_path)
    shutil.rmtree(run / 'checkpoints')
    with pytest.raises(ValueError, match='no checkpoint'):
        predict.predict(run, trained / 'images', tmp_path / 'o.csv', sex='male')
    assert not (tmp_path / 'none').exists()


def test_a_predictor_gives_what_the_model_gives_at_any_number_of_images(trained):
    predictor = predictor_lib.Predictor(trained / 'run', batch_size=4)
    images = np.random.default_rng(1).integers(0, 256, (7, 64, 56, 1), np.uint8)
    male = np.array([True, False] * 3 + [True])
    prediction, aux = predictor(images, male)
    assert (
        prediction.shape == (7,)
        and aux['part_boxes'].shape == (7, 3, 4)
        and len(aux['relation_maps']) == 3
    )
    for i in (0, 6):
        alone, _ = predictor(images[i : i + 1], male[i : i + 1])
        np.testing.assert_allclose(alone, prediction[i : i + 1], atol=1e-5)
    assert np.abs(predictor(images, ~male)[0] - prediction).min() > 1e-6 and predictor.needs_sex
    assert predictor._sizes == {4}  # one program did for all of them
    for arguments, words in (
        ((images[:, :60], male), r'uint8 \[N, 64, 56, 1\]'),
        ((images / 255, male), 'found float64'),
        ((images, male[:3]), '7 values'),
        ((images,), 'reads the sex'),
    ):
        with pytest.raises(ValueError, match=words):
            predictor(*arguments)


def test_whether_the_sex_is_read_is_seen_in_the_program():
    one = np.ones(2, np.float32)
    assert predictor_lib._reads_last(lambda image, male: (image * (1 + male), {}), one, one)
    assert not predictor_lib._reads_last(
        lambda image, male: (image * 2, {'other': male + 1}), one, one
    )


@pytest.mark.parametrize('fit', ['pad', 'stretch'])
def test_places_on_what_is_seen_lie_on_the_image(fit):
    image = np.zeros((300, 200), np.uint8)
    image[120:180, 40:100] = 255
    [seen] = images_lib.see(
        [image], c.load(f'{ROOT}/configs/prsnet.py:size=(60,60),resize={fit}')[1].data
    )
    rows, columns = np.nonzero(seen['image'][..., 0] > 127)
    corners = np.array([[rows.min(), columns.min(), 1], [rows.max() + 1, columns.max() + 1, 1]])
    np.testing.assert_allclose(corners @ seen['matrix'].T, [[120, 40], [180, 100]], atol=1e-3)


def test_boxes_and_maps_are_drawn_on_the_image(tmp_path, monkeypatch):
    kept, draw = [], overlays._draw
    monkeypatch.setattr(overlays, '_draw', lambda *a: kept.append(draw(*a)) or kept[0])
    matrix = [[0, 2, 10], [-2, 0, 100]]  # a quarter turn
    path = figures.overlay(
        np.zeros((120, 80), np.uint8),
        'f00: 3 years\n36 months',
        tmp_path / 'f.png',
        boxes=[[1, 2, 3, 6], [0, 0, 9, 9]],
        valid=[True, False],
        size=(40, 30),
        matrix=matrix,
        maps={'relation, res3': np.eye(4)},
    )
    with Image.open(path) as image:
        assert image.format == 'PNG'
    example, relation = kept[0].axes
    assert [patch.get_xy().tolist()[:4] for patch in example.patches] == [
        [[98, 14], [98, 22], [94, 22], [94, 14]]
    ]
    assert example.get_xlim() == relation.get_xlim() == (0, 80) and example.get_ylim() == (120, 0)
    corner = (relation.images[0].get_transform() - relation.transData).transform(
        (6, 3)
    )  # x, y of row 3, column 6
    np.testing.assert_allclose(corner, [94, 22])


@pytest.mark.parametrize(
    'months, text',
    [
        (136.2, '11 years 4 months'),
        (12.6, '1 year 1 month'),
        (0.2, '0 years 0 months'),
        (-7.0, '0 years 0 months'),
        (143.7, '12 years 0 months'),
    ],
)
def test_years_in_words(months, text):
    assert pictures.in_years(months) == text
