"""A person's own images, from a small folder to ages in a table: nothing wrong in silence."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from boneage_jax import config as c
from boneage_jax.inference import calibrate, predict
from boneage_jax.training import loop
from tfds_rsna.errors import UserError

pytestmark = pytest.mark.usefixtures('unchecked_images')  # they show noise

PRSNET = 'configs/prsnet.py:tiny,row=baseline'


@pytest.fixture
def images(tmp_path):
    """images(name, ...) -> the folder with images of these names (or bytes)."""

    def images(*names):
        folder = tmp_path / 'images'
        folder.mkdir(exist_ok=True)
        for number, name in enumerate(names):
            drawn = np.random.default_rng(number).integers(0, 256, (70, 60), np.uint8)
            with open(os.path.join(os.fsencode(folder), os.fsencode(name)), 'wb') as file:
                Image.fromarray(drawn).save(file, 'PNG')
        return folder

    return images


def read(path):
    with path.open(encoding='utf-8') as file:
        return {row['id']: row for row in csv.DictReader(file)}


def test_a_table_is_read_as_it_says_and_it_is_said(images, finished_run, tmp_path, capsys):
    labels = tmp_path / 'labels.csv'
    labels.write_text('id,"sex (0=male, 1=female)",age,bone_age\n101.0,0,150,96\n102.0,1,9,120\n')
    folder = images('101.png', '102.png')
    predict.predict(finished_run(PRSNET), folder, tmp_path / 'ages.csv', labels=labels)
    rows = read(tmp_path / 'ages.csv')
    assert [(rows[name]['male'], float(rows[name]['age'])) for name in ('101', '102')] == [
        ('True', 96),
        ('False', 120),
    ]
    said = capsys.readouterr().err
    assert "labels.csv: 'id' for the id, 'bone_age' for the age in months" in said
    assert '2 of 2 rows name one of 2 images' in said


def test_a_table_of_girls_needs_no_column_of_the_sex(images, finished_run, tmp_path):
    labels = tmp_path / 'labels.csv'
    labels.write_text('id,boneage\n101,96\n')
    run = finished_run(PRSNET)
    folder = images('101.png', 'b.png')
    output = tmp_path / 'ages.csv'
    with pytest.raises(UserError, match='sex of 2 of 2 images is not known'):
        predict.predict(run, folder, output, labels=labels)
    rows = predict.predict(run, folder, output, labels=labels, sex='female')
    assert [(row['male'], row['age']) for row in rows] == [(False, 96.0), (False, None)]
    labels.write_text('id,boneage\nx101,96\n')
    with pytest.raises(UserError, match='the rows name x101, the images are 101.png, b.png'):
        predict.predict(run, folder, output, labels=labels, sex='female', overwrite=True)


def test_the_numbers_of_phantoms_are_nobodys(images, finished_run, tmp_path, capsys):
    run = finished_run(PRSNET)
    trained = json.loads((run / 'splits.json').read_text())['train'][:3]
    folder = images(*(f'{name}.png' for name in trained))
    rows = predict.predict(run, folder, tmp_path / 'ages.csv', sex='male')
    assert [row['id'] for row in rows] == sorted(trained)
    assert 'trained on' not in capsys.readouterr().err


def test_a_name_that_is_no_text_and_standard_output(images, finished_run, tmp_path, capfd):
    folder = images(b'h\xe4nd.png', 'b.png')
    run = finished_run(PRSNET)
    predict.predict(run, folder, tmp_path / 'ages.csv', sex='male', overlays=tmp_path / 'drawn')
    assert set(read(tmp_path / 'ages.csv')) == {'b', 'h\u00e4nd'}
    assert len(list((tmp_path / 'drawn').iterdir())) == 2
    capfd.readouterr()
    link = tmp_path / 'link.csv'
    link.symlink_to('/dev/null')
    predict.predict(run, folder, link, sex='male')
    assert link.is_symlink() and sorted(path.name for path in tmp_path.iterdir()) == [
        'ages.csv',
        'drawn',
        'images',
        'link.csv',
    ]


def test_a_users_files_stay(images, finished_run, tmp_path):
    folder = images('a.png')
    run = finished_run(PRSNET)
    output = tmp_path / 'ages.csv'
    mine = tmp_path / 'ages_rejected.csv'
    mine.write_text('patient,reason\n7,moved\n')
    with pytest.raises(UserError, match='ages_rejected.csv exists, .* is no such list; move it'):
        predict.predict(run, folder, output, sex='male')
    assert mine.read_text().startswith('patient') and not output.exists()
    mine.write_text('id,file,reason\nf03,f03.png,damaged\n')  # of an earlier call
    predict.predict(run, folder, output, sex='male')
    assert not mine.exists()

    labels = tmp_path / 'labels.csv'
    labels.write_text('id,male\na,True\n')
    with pytest.raises(UserError, match='labels.csv is read by this command'):
        predict.predict(run, folder, labels, labels=labels, overwrite=True)
    with pytest.raises(UserError, match='a.png is an image that is read; give another folder'):
        predict.predict(run, folder, output, sex='male', overlays=folder, overwrite=True)
    assert labels.read_text() == 'id,male\na,True\n'

    (tmp_path / 'site_images.csv').write_text('mine')
    with pytest.raises(UserError, match='site_images.csv exists'):
        calibrate.calibrate(run, tmp_path / 'site.json', predictions=output)


def test_a_workdir_of_something_else_is_left_alone(tmp_path):
    config = c.load(PRSNET)[1]
    for name, text in (('config.json', '{"name": "mine"}'), ('predictions.csv', 'mine')):
        folder = tmp_path / name.partition('.')[0]
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(UserError, match=f'{name} exists and is not of a run'):
            loop.train(config, folder)
        assert (folder / name).read_text() == text and not (folder / 'checkpoints').exists()


def test_thirty_images_are_enough(images, tmp_path, monkeypatch, capsys):
    """The README's command, as it splits at its defaults, and the ages of a table of years."""
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'cache'))
    folder = images(*(f'{100 + i}.png' for i in range(30)))
    folder = shutil.move(folder, tmp_path / 'Clinic, ward 2')
    lines = [f'{100 + i},{5 + i / 3:.2f},{"MF"[i % 2]}' for i in range(30)]
    (tmp_path / 'labels.csv').write_text('\n'.join(['study,age,sex', *lines]) + '\n')
    config = c.load(
        f'{PRSNET},epochs=1,validation=1000,holdout=1000,source=image_folder,images={folder},'
        f'labels={tmp_path}/labels.csv,id_column=study,months_column=age,age_unit=years,'
        'male_column=sex'
    )[1]
    report = loop.train(config, tmp_path / 'run')
    assert {name: found['images'] for name, found in report['splits'].items()} == {
        'validation': 6,
        'holdout': 6,
    }
    said = capsys.readouterr().err
    assert 'a fifth is set aside for each, 6 images' in said
    assert "'study' for the id, 'age' for the age in years, 'sex' for the sex; 30 of 30" in said
