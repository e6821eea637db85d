"""Which ids are the same image: within an id space, whatever the folder, and in older runs too."""

import hashlib
import json

import numpy as np
import pytest
import test_ensemble

from boneage_jax import config as c
from boneage_jax.analysis import ensemble
from boneage_jax.data import duplicates, id_spaces, source
from boneage_jax.errors import ConfigError, LeakageError
from boneage_jax.runs import training_ids, workdir
from boneage_jax.stages import records
from tfds_rsna import prepared
from tfds_rsna.errors import UserError

SPEC = 'configs/prsnet.py:tiny,row=baseline'


def data(**options):
    return c.build(c.base(), ','.join(f'{key}={value}' for key, value in options.items()), {}).data


def split(name, ids, spaces=()):
    return source.Split(
        name,
        None,
        np.arange(len(ids)),
        ids,
        np.full(len(ids), 100, np.float32),
        np.zeros(len(ids), bool),
        spaces=spaces,
    )


def test_each_source_declares_its_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = f'image_folder:{tmp_path}/mine'
    for options, expected in (
        ({}, 'rsna'),
        ({'data.folder': 'rsna100'}, 'rsna'),
        ({'data.folder': 'rsna_half'}, 'rsna'),
        ({'source': 'hand_phantom', 'data.phantom.seed': 3}, 'hand_phantom:3'),
        ({'source': 'hand_phantom', 'data.phantom.count': 9}, 'hand_phantom:0'),
        ({'source': 'image_folder', 'images': 'mine'}, own),
        ({'source': 'image_folder', 'images': f'{tmp_path}/x/../mine'}, own),
        ({'source': 'image_folder', 'images': 'mine', 'id_space': 'rsna'}, 'rsna'),
    ):
        found = data(**options)
        assert id_spaces.of(found) == expected, options
        assert id_spaces.of(json.loads(found.to_json())) == expected, options


def written(folder, metadata, ids=('1', '2'), size=(16, 16)):
    images = []
    for name in ids:
        images.append(
            {
                'id': name,
                'image': np.zeros((*size, 1), np.uint8),
                'months': 100.0,
                'male': True,
                'width': 16,
                'height': 16,
            }
        )
    prepared.write(folder, {'train': images}, metadata=metadata)
    return folder


def test_prepared_records_keep_the_space_of_their_images(tmp_path):
    for number, (metadata, expected) in enumerate(
        (
            ({'id_space': 'hand_phantom:5'}, 'hand_phantom:5'),
            ({'source': {'builder': 'rsna_bone_age'}}, 'rsna'),  # of an earlier release
            ({'source': {'builder': 'hand_phantom', 'seed': 2}}, 'hand_phantom:2'),
            ({'accepted': {}}, 'rsna'),
            ({'seed_masks': 'masks'}, 'rsna'),
            ({}, f'prepared:{tmp_path}/5'),
        )
    ):
        folder = written(tmp_path / str(number), metadata)
        assert id_spaces.of_folder(folder) == expected, metadata
        assert id_spaces.of(data(source='prepared', **{'data.folder': folder})) == expected


def test_records_are_written_with_their_space(tmp_path, monkeypatch):
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path))
    config = c.load(SPEC + ',data.phantom.seed=4')[1]
    splits = records.open_splits(config)
    assert set(splits['train'].spaces) == {'hand_phantom:4'}
    assert prepared.read_metadata(splits['train'].folder)['id_space'] == 'hand_phantom:4'
    mined = written(
        tmp_path / 'mined',
        {'accepted': {}},
        ('mined-1', 'mined-2'),
        tuple(config.data.size),
    )
    with config.unlocked():
        config.data.extra_train_folders = (str(mined),)
    spaces = records.open_splits(config)['train'].spaces
    assert id_spaces.runs(spaces) == [['hand_phantom:4', len(spaces) - 2], ['rsna', 2]]


def test_ids_are_compared_within_their_space():
    known = id_spaces.IdSet()
    known.add(['1', '2'], 'rsna')
    known.add(['1', 'mined-7', 'x'], ['hand_phantom:0', 'rsna', ''])
    ids = ['1', '2', '7', 'x', '9']
    assert known.among(ids, 'rsna') == ['1', '2', '7', 'x']
    assert known.among(ids, 'hand_phantom:0') == ['1', 'x']
    assert known.among(ids, 'hand_phantom:1') == ['x']  # what declares no space is anywhere
    assert known.among(ids, '') == ['1', '2', '7', 'x']
    assert known.among(['1', '2'], ['hand_phantom:0'] * 2) == ['1']
    assert known.among([7], 'rsna') == ['7']
    runs = id_spaces.runs(['a', 'a', 'b', 'a'])
    assert runs == [['a', 2], ['b', 1], ['a', 1]]
    assert id_spaces.expand(runs) == ['a', 'a', 'b', 'a']


def run_of(folder, content, config=None):
    folder.mkdir()
    (folder / 'splits.json').write_text(json.dumps(content))
    if config is not None:
        (folder / 'config.json').write_text(config.to_json())
    return folder


def test_a_start_from_a_run_of_another_folder_is_refused(tmp_path):
    """`data.folder` differs, and so does the source: the images are the same all the same."""
    small = c.build(c.base(), 'data.folder=rsna100', {})
    trained = {'train': split('train', ['1', '2', '3'], ['rsna'] * 3)}
    other = run_of(tmp_path / 'new', training_ids.document(trained), small)
    older = run_of(tmp_path / 'older', {'train': ['1', '2', '3']}, small)
    for folder in (other, older):
        for spaces, leaks in ((['rsna'] * 2, True), (['hand_phantom:0'] * 2, False)):
            held = {'holdout': split('holdout', ['3', '4'], spaces)}
            if leaks:
                with pytest.raises(
                    ConfigError, match=r'1 of the 2 holdout .* trained on there \(first: 3\)'
                ):
                    workdir.check_no_leakage(folder, held)
            else:
                workdir.check_no_leakage(folder, held)
    with pytest.raises(ConfigError, match='no run lies there'):
        workdir.check_no_leakage(tmp_path / 'none', {})


def test_mined_images_are_their_source_s(tmp_path):
    """A U-Net of phantoms that grew by mining has seen RSNA's 12, and not phantom 12's twin."""
    phantoms = c.load('configs/unet.py:tiny')[1]
    older = run_of(tmp_path / 'older', {'train': ['1', '2', 'mined-12']}, phantoms)
    for spaces, leaked in (('rsna', ['12']), ('hand_phantom:0', ['1', '2'])):
        assert training_ids.of_run(older).among(['1', '2', '12'], spaces) == leaked
    splits = {
        'train': split('train', ['1', 'mined-12'], ['hand_phantom:0', 'rsna']),
        'holdout': split('holdout', ['12'], ['hand_phantom:0']),
    }
    duplicates.refuse_same_ids(splits)
    splits['holdout'] = split('holdout', ['12'], ['rsna'])
    with pytest.raises(LeakageError, match='1 images stand in train and in holdout'):
        duplicates.refuse_same_ids(splits)


def test_exports_of_earlier_releases(tmp_path):
    def hashed(text):
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    config = c.build(c.base(), 'data.folder=rsna100', {})
    old = {
        'config': config.to_json(),
        'trained_on': json.dumps([hashed('1'), hashed('mined-2')]),
    }
    ids = ['1', '2', '3']
    seen = training_ids.ExportedIds(old)
    assert seen.among(ids, ['rsna'] * 3) == seen.among(ids, '') == ['1', '2']
    assert seen.among(ids, 'hand_phantom:0') == []
    assert training_ids.ExportedIds({}).among(ids, 'rsna') == []
    # Of prepared records that were on another machine nobody knows whose ids they are.
    config = c.build(c.base(), 'data.source=prepared,data.folder=seeds', {})
    seen = training_ids.ExportedIds(old | {'config': config.to_json()})
    assert seen.among(ids, 'rsna') == ['1', '2'] and seen.among(ids, 'hand_phantom:0') == ['1']


def test_exports_tell_spaces_and_no_ids(tmp_path):
    ids = ['1', '2', '3']
    config = c.build(c.base(), 'data.folder=rsna100', {})
    run = run_of(tmp_path / 'run', {'train': ['1', 'mined-2'], 'validation': ['3']}, config)
    new = {key: json.dumps(value) for key, value in training_ids.fingerprints(run).items()}
    assert 'rsna' not in str(new) and 'mined' not in str(new)
    seen = training_ids.ExportedIds(new)
    assert seen.among(ids, 'rsna') == seen.among(ids, '') == ['1', '2']
    assert seen.among(ids, 'hand_phantom:0') == []
    assert training_ids.ExportedIds(new, ('train', 'validation')).among(ids, 'rsna') == ids
    undeclared = training_ids.fingerprint('4', '')  # as an ensemble's of earlier releases
    seen = training_ids.ExportedIds({'trained_on': json.dumps([undeclared]), 'id_spaces': '[]'})
    assert seen.among(['4'], 'rsna') == ['4']


def test_an_ensemble_looks_within_spaces(tmp_path, monkeypatch):
    """Run b trained on what a holds out, under another folder's name; phantoms of another seed
    have the same ids and are no leak.
    """
    monkeypatch.setattr(ensemble.figures, 'from_run', lambda output: None)  # slow, and no part
    monkeypatch.setattr(ensemble, '_report', lambda *of_a_split: None)
    a, b = (test_ensemble.finished(tmp_path / name, 3.0) for name in 'ab')
    saved = json.loads((a / 'splits.json').read_text())
    counts = {name: len(ids) for name, ids in saved.items()}
    saved['id_spaces'] = {name: [['hand_phantom:0', count]] for name, count in counts.items()}
    (a / 'splits.json').write_text(json.dumps(saved))
    held = saved['holdout'][0]
    saved['train'].append(held)
    for space, leaks in (('hand_phantom:9', False), ('hand_phantom:0', True)):
        saved['id_spaces']['train'] = [['hand_phantom:0', counts['train']], [space, 1]]
        (b / 'splits.json').write_text(json.dumps(saved))
        if leaks:
            with pytest.raises(UserError, match=f'b trained on 1 of .* the first: {held}'):
                ensemble.load([a, b])
        else:
            ensemble.write([a, b], tmp_path / 'mean')
    mean = json.loads((tmp_path / 'mean' / 'splits.json').read_text())
    assert mean['train'] == ['a', 'b', 'c', held]
    assert mean['id_spaces']['train'] == [['hand_phantom:0', 3], ['hand_phantom:9', 1]]
    assert mean['id_spaces']['holdout'] == [['hand_phantom:0', counts['holdout']]]


def test_a_damaged_splits_file_is_named(tmp_path):
    run = run_of(tmp_path / 'run', {'train': 'x'})
    with pytest.raises(UserError, match='splits.json: its training images are no list'):
        training_ids.of_run(run)
    (run / 'splits.json').write_text('{')
    with pytest.raises(UserError, match='splits.json: cannot be read'):
        training_ids.of_run(run)
