"""`predict` without a workdir: the shipped network answers as the run that it came from."""

import csv
import json
import shutil

import numpy as np
import pytest
from conftest import PRSNET, ROOT
from PIL import Image

from boneage_jax import config as c
from boneage_jax import export as export_command
from boneage_jax import predict as predict_command
from boneage_jax.analysis import embeddings, ensemble, interpret, own_images, robustness, score
from boneage_jax.inference import calibrate, export, intervals, neighbours, predict
from boneage_jax.runs import export as export_lib
from boneage_jax.runs import exported, shipped, training_ids
from boneage_jax.runs.predictor import Predictor
from boneage_jax.runtime import tensors
from boneage_jax.stages import records
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom.render import phantom

# 26 training images: neighbours need 20, intervals 9 of validation.
AGES = f'{PRSNET},epochs=1,count=50,validation=12,holdout=12'
ABOUT = {'data': 'phantoms', 'terms': 'Research alone,\n as the data has it.'}


@pytest.fixture(scope='module')
def run(finished_run):
    return finished_run(AGES)


@pytest.fixture(scope='module')
def weights(run, tmp_path_factory):
    """A folder of weights with the run's network as `bone_age`, as the command exports it."""
    folder = tmp_path_factory.mktemp('weights')
    (folder / 'about.json').write_text(json.dumps(ABOUT))
    export_command.main(
        [
            'export',
            f'--workdir={run}',
            f'--output={folder / "bone_age.safetensors"}',
            '--dtype=float16',
            f'--about={folder / "about.json"}',
            '--measure_rounding',
            '--max_megabytes=8',
        ]
    )
    return folder


@pytest.fixture
def shipped_ages(weights, monkeypatch):
    monkeypatch.setattr(shipped, 'FOLDER', weights)
    return weights / 'bone_age.safetensors'


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Three phantoms in files, with a table of their sexes and ages."""
    folder = tmp_path_factory.mktemp('own')
    rows = ['id,male,boneage']
    for i in range(3):
        name = f'hand{i}'
        drawn = phantom(7, i, (90, 70))
        Image.fromarray(drawn['image']).save(folder / f'{name}.png')
        rows.append(f'{name},{bool(drawn["male"])},{float(drawn["months"]):.1f}')
    (folder / 'own.csv').write_text('\n'.join(rows) + '\n')
    return folder


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_one_image_and_no_workdir(run, shipped_ages, images, capsys):
    hand = images / 'hand0.png'
    predict_command.main(['predict', f'--input={hand}', '--sex=female'])
    said = capsys.readouterr()
    assert 'hand0 (girl)' in said.out and '90% interval' in said.out
    (line,) = [line for line in said.err.splitlines() if 'Predicted with bone_age' in line]
    assert 'for research, no medical device. Research alone, as the data has it.' in line
    assert '--output=ages.csv writes a table' in said.err
    (ours,) = predict.predict(None, hand, None, sex='female')
    (theirs,) = predict.predict(run, hand, None, sex='female')
    assert ours['prediction'] == pytest.approx(theirs['prediction'], abs=0.5)
    assert ours['prediction'] != theirs['prediction']  # it is rounded to float16
    half = ours['upper'] - ours['prediction']
    assert half == pytest.approx(theirs['upper'] - theirs['prediction'], abs=1e-6) and half > 0
    assert 'Predicted with' not in capsys.readouterr().err.partition('1 image')[2]


def test_a_folder_with_a_table_and_distances(run, shipped_ages, images, tmp_path):
    output = tmp_path / 'ages.csv'
    predict_command.main(
        [
            'predict',
            f'--input={images}',
            f'--labels={images / "own.csv"}',
            f'--output={output}',
            '--distance',
        ]
    )
    rows = read(output)
    columns = ['id', 'file', 'male', 'prediction', 'years', 'lower', 'upper', 'status', 'flags']
    assert list(rows[0]) == [*columns, 'distance_quantile', 'age'] and len(rows) == 3
    expected = predict.predict(run, images, None, labels=images / 'own.csv')
    for row, other in zip(rows, expected):
        assert float(row['prediction']) == pytest.approx(other['prediction'], abs=0.5)
        assert float(row['age']) == pytest.approx(other['age'], abs=0.01)
        assert 0 <= float(row['distance_quantile']) <= 1
    with pytest.raises(UserError, match='a workdir holds no reduced embeddings'):
        predict.predict(run, images, None, labels=images / 'own.csv', distance=True)


def test_intervals_travel_with_the_network(run, shipped_ages):
    ours, coverage = intervals.of_network('bone_age')
    theirs, expected = intervals.of_network(run)
    assert ours == theirs and coverage == expected and list(coverage) == ['holdout']
    header = exported.read(shipped_ages)
    damaged = json.loads(header.metadata['intervals']) | {'half': {'male': 3}}
    path = shipped_ages.with_name('damaged.safetensors')
    arrays, metadata = tensors.read(shipped_ages)
    tensors.write(path, arrays, metadata | {'intervals': json.dumps(damaged)})
    with pytest.raises(UserError, match="damaged.safetensors: its intervals are damaged .*'female"):
        intervals.of_network(path)
    path.unlink()


def test_embeddings_are_those_of_the_runs_training_images(run, shipped_ages):
    reference = neighbours.read('bone_age')
    predictor = Predictor('bone_age')
    splits = records.open_splits(predictor.config)
    train = splits['train']
    vectors = np.concatenate([aux['embeddings'] for *_, aux in predictor.over(train)])
    assert (reference.months == train.months.astype(np.float16)).all()
    assert reference.male.tolist() == train.male.tolist()
    new = np.concatenate([aux['embeddings'] for *_, aux in predictor.over(splits['validation'])])
    by_hand = np.linalg.norm(new[:, None] - vectors[None], axis=2)
    scale = by_hand.max()
    found = reference.nearest(new, 3)
    np.testing.assert_allclose(found.distance, np.sort(by_hand)[:, :3], atol=0.01 * scale)
    quantiles = reference.quantile(new)
    figures = json.loads(exported.read(shipped_ages).metadata['figures'])['neighbours']
    assert figures['train_images'] == 26 and figures['validation_images'] == 12
    assert figures['validation_beyond_95_percent'] == pytest.approx((quantiles > 0.95).mean())


def test_what_rounding_costs_is_measured(run, shipped_ages):
    figures = json.loads(exported.read(shipped_ages).metadata['figures'])
    assert figures['splits']['holdout']['images'] == 12  # the run's own are there too
    predictor = Predictor('bone_age')
    table = {row['id']: row for row in read(run / 'predictions.csv')}
    for name, split in records.open_splits(predictor.config).items():
        if name == 'train':
            continue
        before = np.array([float(table[image]['prediction']) for image in split.ids])
        after = []
        for _, _, prediction, _ in predictor.over(split, tta=True):
            after.append(predictor.task.months(prediction))
        after = np.concatenate(after)
        found = figures['float16'][name]
        mae = [np.abs(months - split.months).mean() for months in (before, after)]
        assert found['mae_float32'] == pytest.approx(mae[0], abs=0.01)
        assert found['mae_difference']['value'] == pytest.approx(mae[1] - mae[0], abs=0.01)
        assert found['largest_change'] == pytest.approx(np.abs(after - before).max(), abs=0.01)
        assert 0 < found['largest_change'] < 0.5 and found['images'] == 12


def test_without_the_file_it_says_so(tmp_path, monkeypatch, images):
    monkeypatch.setattr(shipped, 'FOLDER', tmp_path)
    with pytest.raises(UserError, match=r'no --workdir is given, and the network bone_age.*none'):
        predict_command.main(['predict', f'--input={images}', '--sex=male'])


def test_a_file_that_is_too_large_is_not_written(run, tmp_path):
    path = tmp_path / 'a.safetensors'
    with pytest.raises(UserError, match=r'would be 0\.\d+ MB, more than the 0.05 MB of --max_m'):
        export_lib.export(run, path, dtype='float16', max_megabytes=0.05)
    assert not list(tmp_path.iterdir())


def test_exports_without_the_images(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'empty'))
    export.export(run, tmp_path / 'a.safetensors')
    assert 'No embeddings are in the file: the images of' in capsys.readouterr().err
    with pytest.raises(UserError, match='holds no embeddings of its training images'):
        neighbours.read(tmp_path / 'a.safetensors')
    with pytest.raises(UserError, match='--measure_rounding: the images of .* are not prepared'):
        export.export(run, tmp_path / 'b.safetensors', dtype='float16', measure_rounding=True)
    with pytest.raises(UserError, match='nothing is rounded with --dtype=float32'):
        export.export(run, tmp_path / 'b.safetensors', measure_rounding=True)
    assert not (tmp_path / 'b.safetensors').exists()


def test_other_images_than_the_runs_are_not_taken_for_them(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / 'run')
    splits = json.loads((other / 'splits.json').read_text())
    splits['train'][0] = '12345'
    (other / 'splits.json').write_text(json.dumps(splits))
    export.export(other, tmp_path / 'a.safetensors')
    assert 'the train images of' in capsys.readouterr().err


def test_commands_on_the_runs_images_take_it(run, shipped_ages, tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, 'KINDS', {'flip': robustness.KINDS['flip']})
    table = [row for row in read(run / 'predictions.csv') if row['split'] == 'validation']
    mae = np.mean([abs(float(row['prediction']) - float(row['age'])) for row in table])
    lines = robustness.measure_robustness('bone_age', tmp_path / 'robustness')
    untouched = [line for line in lines if line['strength'] == 0]
    assert untouched[0]['mae'] == pytest.approx(mae, abs=0.1) and untouched[0]['images'] == 12

    monkeypatch.chdir(ROOT)
    report = score.score('bone_age', c.load(AGES)[1], tmp_path / 'score')
    scored = report['splits']['validation']['overall']['mae']['value']
    assert scored == pytest.approx(mae, abs=0.1)
    ours, images = embeddings.of_run('bone_age', 'train')
    theirs, others = embeddings.of_run(run, 'train')
    assert images.ids == others.ids and (ours != theirs).any()
    np.testing.assert_allclose(ours, theirs, atol=0.02 * np.abs(theirs).max())
    with pytest.raises(UserError, match='bone_age: this run selects no parts'):
        interpret.interpret('bone_age', tmp_path / 'interpret')


def test_what_is_missing_is_said(run, shipped_ages, images, tmp_path):
    predictor = Predictor('bone_age')
    splits = own_images.open_splits('bone_age', predictor.config)
    assert {name: len(split) for name, split in splits.items()} == {
        'train': 26,
        'validation': 12,
        'holdout': 12,
    }
    with pytest.raises(UserError, match='bone_age holds a network, not its predictions of images'):
        ensemble.load(['bone_age', run])
    with pytest.raises(UserError, match='too few images to calibrate with: 0 female, 3 male'):
        calibrate.calibrate(
            'bone_age', tmp_path / 'c.json', place=images, labels=images / 'own.csv'
        )
    predictor.config.unlock()
    predictor.config.data.source = 'image_folder'
    with pytest.raises(UserError, match='bone_age holds the network, not the images .*data_dir'):
        own_images.open_splits('bone_age', predictor.config)
    assert own_images.open_splits(run, Predictor(run).config)['train'].ids == splits['train'].ids
    held_out = training_ids.of('bone_age', ('validation',))
    assert len(held_out.among(splits['validation'].ids, 'hand_phantom:0')) == 12


def test_a_stage_network_is_named_and_its_change_is_told(shipped_ages, tmp_path, capsys, images):
    mask = shipped_ages.with_name('hand_mask.safetensors')
    tensors.write(mask, {'kernel': np.ones(2, np.float32)}, {'format': 'a test'})
    copy = shutil.copyfile(mask, tmp_path / 'copy.safetensors')
    options = {'unet': {'run': str(copy)}, 'crop': {}}
    config = {'data': {'stages': ['unet', 'crop'], 'stage_options': options}}
    assert export_lib.stage_networks(config, 'runs/a') == {'unet': 'hand_mask'}
    options['unet']['run'] = ''
    assert export_lib.stage_networks(config, 'runs/a') == {'unet': 'hand_mask'}
    options['unet']['run'] = str(tmp_path)
    with pytest.raises(UserError, match='runs/a: .* stage unet with the network of .*cannot carry'):
        export_lib.stage_networks(config, 'runs/a')

    arrays, metadata = tensors.read(shipped_ages)
    for sha256, changed in ((exported.digest(mask), False), ('0' * 64, True)):
        path = tmp_path / f'{changed}.safetensors'
        networks = json.dumps({'hand_mask': sha256})
        tensors.write(path, arrays, metadata | {'stage_networks': networks})
        assert exported.changed_networks(exported.read(path)) == ['hand_mask'] * changed
        predict.predict(path, images / 'hand0.png', None, sex='male')
        said = capsys.readouterr().err
        assert ('prepared by another hand_mask than the one' in said) is changed
    mask.unlink()
