"""An exported network opens like the run that it came from: as a file, and shipped by its name."""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import safetensors.numpy
from conftest import KEYPOINTS, PRSNET
from PIL import Image

from boneage_jax import config as c
from boneage_jax import export as export_command
from boneage_jax import tasks
from boneage_jax.analysis import evaluate_hands
from boneage_jax.data import id_spaces
from boneage_jax.errors import ConfigError
from boneage_jax.inference import calibration, predict
from boneage_jax.models import weight_files
from boneage_jax.runs import export, exported, initialize, shipped, training_ids, workdir
from boneage_jax.runs import predictor as predictor_lib
from boneage_jax.runs import state as state_lib
from boneage_jax.runtime import checkpoint, tensors
from boneage_jax.stages import networks, plan
from boneage_jax.stages import records as records_lib
from tfds_rsna import prepared
from tfds_rsna.errors import UserError

UNET = 'configs/unet.py:tiny'
# What comes with the code may be so large in all, bytes.
# Bytes of the files; of bone_age 8 MB are the network's, 1 MB the reduced embeddings'.
LIMITS = {('hand_mask', 'hand_points'): 4e6, ('bone_age',): 9e6}
KEYS = {
    'about',
    'arrays_sha256',
    'commit',
    'config',
    'dtype',
    'figures',
    'format',
    'format_version',
    'id_spaces',
    'kind',
    'selected_by',
    'stage_networks',
    'step',
    'task',
    'train_images',
    'train_sha256',
    'trained_on',
    'version',
}


def exported_to(folder, run, name='a', **options):
    path = folder / f'{name}.safetensors'
    export.export(run, path, **options)
    return path


@pytest.fixture
def shipped_networks(tmp_path, monkeypatch, finished_run):
    """A folder of weights with a mask and a key-point network, as if they came with the code."""
    folder = tmp_path / 'weights'
    folder.mkdir()
    monkeypatch.setattr(shipped, 'FOLDER', folder)
    exported_to(folder, finished_run(UNET), 'hand_mask', dtype='float16')
    exported_to(folder, finished_run(KEYPOINTS), 'hand_points', dtype='float16')
    return folder


def images_for(predictor, count=5):
    generator = np.random.default_rng(0)
    size = predictor.config.data.size
    male = generator.random(count) < 0.5
    return generator.integers(0, 256, (count, *size, 1), np.uint8), male


@pytest.mark.parametrize('spec', [PRSNET, UNET, KEYPOINTS])
def test_it_predicts_as_the_run_does(finished_run, tmp_path, spec):
    run = finished_run(spec)
    ours = predictor_lib.Predictor(run)
    images, male = images_for(ours)
    expected = ours(images, male)

    exact = predictor_lib.Predictor(exported_to(tmp_path, run))
    assert exact.step == ours.step == predictor_lib.step_of(tmp_path / 'a.safetensors')
    assert json.loads(exact.config.to_json()) == json.loads(ours.config.to_json())
    assert exact.task.kind == ours.task.kind and exact.needs_sex == ours.needs_sex
    jax.tree.map(np.testing.assert_array_equal, exact(images, male), expected)
    if ours.task.months:
        months = [each.task.months(expected[0]) for each in (exact, ours)]
        np.testing.assert_array_equal(*months)

    half = predictor_lib.Predictor(exported_to(tmp_path, run, 'half', dtype='float16'))
    found = np.asarray(half(images, male)[0])
    spread = np.abs(expected[0]).max()
    np.testing.assert_allclose(found, expected[0], atol=0.02 * spread)
    assert (found != expected[0]).any()
    sizes = [(tmp_path / f'{name}.safetensors').stat().st_size for name in ('half', 'a')]
    assert sizes[0] < 0.75 * sizes[1]


def test_the_metadata_says_all_of_it(finished_run, tmp_path):
    run = finished_run(PRSNET)
    about = {'data': 'phantoms', 'terms': 'research', 'description': 'a test'}
    (tmp_path / 'about.json').write_text(json.dumps(about))
    (tmp_path / 'figures.json').write_text('{"mae": 9.1}')
    path = tmp_path / 'a.safetensors'
    export_command.main(
        [
            'export',
            f'--workdir={run}',
            f'--output={path}',
            '--dtype=float16',
            '--noembeddings',
            f'--about={tmp_path / "about.json"}',
        ]
    )
    header = exported.read(path)
    metadata = header.metadata
    assert set(metadata) == KEYS and metadata['format_version'] == str(exported.VERSION)
    assert header.config == json.loads((run / 'config.json').read_text())
    assert header.task == json.loads((run / 'task.json').read_text())
    report = workdir.read_metrics(run)
    assert (header.kind, metadata['dtype'], header.step) == ('age', 'float16', report['step'])
    assert json.loads(metadata['about']) == about
    figures = json.loads(metadata['figures'])
    mae = report['splits']['holdout']['overall']['mae']['value']
    assert figures['splits']['holdout']['overall']['mae']['value'] == pytest.approx(mae, rel=1e-5)
    assert not {'records', 'labels', 'leaks'} & set(figures)

    splits = json.loads((run / 'splits.json').read_text())
    assert int(metadata['train_images']) == len(splits['train']) == len(header.trained_on)
    for name, hashes in (('train', header.trained_on), ('validation', header.selected_by)):
        space = 'hand_phantom:0'
        assert hashes == {training_ids.fingerprint(image, space) for image in splits[name]}
    assert metadata['commit'] == (workdir.provenance()['commit'] or '')

    given = exported_to(tmp_path, run, 'b', figures=tmp_path / 'figures.json')
    assert json.loads(exported.read(given).metadata['figures']) == {'mae': 9.1}
    digests = [exported.read(each).metadata['train_sha256'] for each in (path, given)]
    assert digests[0] == digests[1] and len(digests[0]) == 64


@pytest.mark.parametrize(
    'options, words',
    [
        ({'dtype': 'int8'}, '--dtype=int8: expected one of float32, float16'),
        ({'about': 'none.json'}, '--about=.*none.json: cannot be read as JSON'),
        ({'figures': 'list.json'}, r'--figures=.*list.json: expected an object.*found \[1\]'),
    ],
)
def test_exports_that_are_refused(finished_run, tmp_path, options, words):
    (tmp_path / 'list.json').write_text('[1]')
    given = {key: tmp_path / value if key != 'dtype' else value for key, value in options.items()}
    with pytest.raises(UserError, match=words):
        exported_to(tmp_path, finished_run(PRSNET), **given)
    assert not list(tmp_path.glob('*.safetensors*'))


def test_a_run_that_diverged_is_not_exported(finished_run, tmp_path, monkeypatch):
    broken = {'head.bias': np.array([np.nan], np.float32)}
    monkeypatch.setattr(checkpoint.Checkpoints, 'read_parameters', lambda self: (3, broken))
    with pytest.raises(UserError, match='head.bias of step 3 is not finite'):
        exported_to(tmp_path, finished_run(PRSNET))


def test_what_does_not_fit_float16_stays_float32():
    small = np.array([1e-6, 1.0], np.float32)
    arrays = {
        'norm.var': small,
        'norm.mean': small,
        'stem.kernel': np.array([1e-9, 0.1, -3.0], np.float32),
        'wide.norm.var': np.array([0.25, 300.0, 0.0], np.float32),
        'wide.kernel': np.array([7e4], np.float32),
    }
    halved, kept = export._halved(arrays)
    assert kept == ['norm.var', 'wide.kernel']
    for name, array in arrays.items():
        assert halved[name].dtype == (np.float32 if name in kept else np.float16)
        np.testing.assert_allclose(halved[name], array, rtol=1e-3, atol=1e-7)


def test_paths_of_a_machine_stay_there(shipped_networks, finished_run, tmp_path):
    run = shutil.copytree(finished_run(UNET), tmp_path / 'run')
    config = json.loads((run / 'config.json').read_text())
    config['init_from'] = '/home/somebody/runs/a'
    config['config_file'] = '../private/unet.py'
    config['data']['extra_train_folders'] = ['/home/somebody/.cache/records', 'here/records']
    config['data']['image_folder']['images'] = '~/images/'
    config['data']['stages'] = ['unet', 'crop']
    for stage in ('unet', 'keypoints'):
        config['data']['stage_options'][stage]['run'] = f'/home/somebody/{stage}'
    (run / 'config.json').write_text(json.dumps(config))
    # what the stages' networks see depends on them: one that stays behind is refused
    with pytest.raises(UserError, match='stage unet with the network of /home/somebody/unet'):
        exported_to(tmp_path, run)
    mask = shipped.find('hand_mask')
    config['data']['stage_options']['unet']['run'] = str(mask)
    (run / 'config.json').write_text(json.dumps(config))
    path = exported_to(tmp_path, run)
    found = exported.read(path).config
    assert (found['init_from'], found['config_file']) == ('a', 'unet.py')
    assert found['data']['extra_train_folders'] == ['records', 'here/records']
    assert found['data']['image_folder']['images'] == 'images'
    assert found['data']['stage_options']['unet']['run'] == 'hand_mask'
    assert found['data']['stage_options']['keypoints']['run'] == 'keypoints'
    networks = json.loads(exported.read(path).metadata['stage_networks'])
    assert networks == {'hand_mask': exported.digest(mask)}
    assert predictor_lib.Predictor(path).config.data.stages == ('unet', 'crop')


def test_damaged_and_foreign_files_are_named(finished_run, tmp_path):
    path = exported_to(tmp_path, finished_run(PRSNET))
    content = path.read_bytes()
    arrays = safetensors.numpy.load_file(path)
    metadata = weight_files.metadata(path)

    def refused(words, opened=path):
        with pytest.raises(UserError, match=words) as error:
            predictor_lib.Predictor(opened)
        assert str(opened) in str(error.value)

    path.write_bytes(content[: len(content) // 2])
    refused('cut short or damaged')
    path.write_bytes(b'{}')
    refused('cut short or damaged')
    flipped = bytearray(content)
    flipped[-1] ^= 1
    path.write_bytes(flipped)
    refused('its arrays are not those that were written')
    path.write_bytes(b'version https://git-lfs.github.com/spec/v1\noid sha256:1\n')
    refused('a pointer of git-lfs')

    safetensors.numpy.save_file(arrays, path)
    refused("metadata says 'no format'.*Weights from elsewhere go into init_from")
    safetensors.numpy.save_file(arrays, path, metadata | {'format_version': '99'})
    refused('newer release .format_version 99, this one reads 3.; update boneage_jax')
    for change in ({'config': '{'}, {'step': 'last'}, {'task': '['}, {'trained_on': '5'}):
        safetensors.numpy.save_file(arrays, path, metadata | change)
        refused('metadata is damaged or incomplete.*export it again')
    del metadata['step']
    safetensors.numpy.save_file(arrays, path, metadata)
    refused("incomplete .KeyError.'step'")

    fewer = {name: array for name, array in arrays.items() if not name.startswith('head')}
    tensors.write(path, fewer, metadata | {'step': '1'})
    refused('does not fit this model')
    np.savez(tmp_path / 'a.npz', **arrays)
    refused('a file, but no .safetensors', tmp_path / 'a.npz')
    refused('no such file of weights', tmp_path / 'none.safetensors')


def test_a_file_of_an_earlier_release_opens(finished_run, tmp_path):
    run = finished_run(PRSNET)
    path = exported_to(tmp_path, run)
    metadata = weight_files.metadata(path)
    then = {name: metadata[name] for name in ('config', 'task', 'format', 'step')}
    train = json.loads((run / 'splits.json').read_text())['train']
    hashes = [hashlib.sha256(image.encode()).hexdigest()[:12] for image in train]
    then['trained_on'] = json.dumps(hashes)  # of ids alone
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, then)
    ours = predictor_lib.Predictor(run)
    images, male = images_for(ours)
    expected = ours(images, male)
    jax.tree.map(
        np.testing.assert_array_equal, predictor_lib.Predictor(path)(images, male), expected
    )
    assert exported.read(path).kind == ''
    _leaks(run, path)


def test_a_name_a_file_or_a_workdir(shipped_networks, finished_run, tmp_path, monkeypatch):
    run = finished_run(UNET)
    monkeypatch.chdir(tmp_path)
    file = shipped_networks / 'hand_mask.safetensors'
    assert exported.find('hand_mask') == file and shipped.names() == ['hand_mask', 'hand_points']
    named = predictor_lib.Predictor('hand_mask')
    images, _ = images_for(named)
    np.testing.assert_array_equal(named(images)[0], predictor_lib.Predictor(file)(images)[0])
    assert exported.find(run) == run and not exported.is_file(run)
    with pytest.raises(UserError, match=r'hand_msk: no run lies.*\(hand_mask, hand_points\)'):
        predictor_lib.Predictor('hand_msk')
    shutil.copytree(run, tmp_path / 'hand_mask')
    assert exported.find('hand_mask') == pathlib.Path('hand_mask')  # what is on disk comes first


def stages_of(*chosen, **runs):
    """`config.data` of phantoms that go through stages, their networks at `runs`."""
    options = [f'data.stage_options.{stage}.run={run}' for stage, run in runs.items()]
    return c.build(
        c.base(),
        ','.join(
            [
                f'stages=({",".join(chosen)})',
                'source=hand_phantom,count=3,data.phantom.size=(104,80),size=(52,40)',
                'data.stage_options.register.size=(104,80)',
                *options,
            ]
        ),
        {},
    ).data


def test_stages_work_without_training(shipped_networks, tmp_path, monkeypatch):
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'cache'))
    data = stages_of('unet', 'keypoints', 'refine', 'register', 'resize')
    opened = prepared.open(records_lib.get_records(data))
    assert len(opened.splits['train']) == 3
    assert all(record['image'].shape == (52, 40, 1) for record in opened.splits['train'])
    steps = plan.make_plan(data)
    files = [shipped_networks / f'{name}.safetensors' for name in ('hand_mask', 'hand_points')]
    assert [step.options['run'] for step in steps[:3]] == [str(files[i]) for i in (0, 1, 1)]
    for step, file in zip(steps, files):
        assert step.described['weights'] == exported.digest(file)[:12]
        assert step.described['options'].keys() & {'run'} == set()  # where it lies is no matter
    assert networks._input(str(files[1])) == ((48, 40), 'pad')


def test_a_network_of_ones_own_takes_its_place(shipped_networks, finished_run, tmp_path):
    run = finished_run(UNET)
    file = exported_to(tmp_path, run, 'own')
    fingerprints = set()
    for own in ('', file, run, 'hand_mask'):
        (step,) = plan.make_plan(stages_of('unet', unet=own))
        fingerprints.add(step.described['weights'])
    assert len(fingerprints) == 3  # '' and 'hand_mask' are one network
    with pytest.raises(
        ConfigError, match="hand_points.*predicts 'keypoints', the stage unet needs .*segmentation"
    ):
        plan.make_plan(stages_of('unet', unet='hand_points'))
    with pytest.raises(ConfigError, match=r'hand_msk.*no finished run.*\(hand_mask, hand_points'):
        plan.make_plan(stages_of('unet', unet='hand_msk'))
    with pytest.raises(UserError, match=r'none.safetensors: no such file of weights'):
        plan.make_plan(stages_of('unet', unet=tmp_path / 'none.safetensors'))


def test_a_file_saw_images_after_stages_too(finished_run, tmp_path):
    run = shutil.copytree(finished_run(UNET), tmp_path / 'run')
    config = json.loads((run / 'config.json').read_text())
    config['data'] |= {'source': 'rsna_bone_age', 'stages': ['aspect', 'mask', 'contrast']}
    (run / 'config.json').write_text(json.dumps(config))
    file = exported_to(tmp_path, run)
    words = r"saw images after the stages \['mask', 'contrast'\], here \[\] come before unet"
    with pytest.raises(ConfigError, match=words):
        plan.make_plan(stages_of('unet', unet=file))
    assert len(plan.make_plan(stages_of('mask', 'contrast', 'unet', unet=file))) == 3


@pytest.mark.parametrize('stage, name', [('unet', 'hand_mask'), ('keypoints', 'hand_points')])
def test_a_checkout_without_weights_says_so(tmp_path, monkeypatch, stage, name):
    monkeypatch.setattr(shipped, 'FOLDER', tmp_path / 'none')
    assert shipped.names() == []
    with pytest.raises(
        ConfigError,
        match=f'this checkout has no shipped network {name} .*none.*stage_options.{stage}.run=WORK',
    ):
        plan.make_plan(stages_of(stage))
    with pytest.raises(ConfigError, match='data.stage_options.align.run is empty'):
        plan.make_plan(stages_of('align'))


def test_planning_loads_no_jax(shipped_networks):
    """Worker processes plan, and ask how large a network's images are, without it."""
    file = shipped_networks / 'hand_mask.safetensors'
    code = [
        'import sys',
        'sys.modules["jax"] = None  # importing it is an error',
        'from boneage_jax import config as c',
        'from boneage_jax.stages import networks, plan',
        f'data = c.build(c.base(), "stages=(unet,),data.stage_options.unet.run={file}", {{}}).data',
        '(step,) = plan.make_plan(data)',
        'print(networks._input(step.options["run"]))',
    ]
    done = subprocess.run([sys.executable, '-c', '\n'.join(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "((40, 40), 'pad')"


def test_images_that_a_file_was_trained_on_are_known(finished_run, tmp_path):
    run = shutil.copytree(finished_run(KEYPOINTS), tmp_path / 'run')
    splits = {'train': ['904', 'mined-7'], 'validation': ['905'], 'holdout': ['909']}
    (run / 'splits.json').write_text(json.dumps(splits))
    wanted = ['7', '904', '905', '909']
    path = exported_to(tmp_path, run, 'phantoms')
    for place in (run, path):  # phantoms have ids of their own
        assert evaluate_hands.seen_by(place).among(wanted, 'rsna') == ['7']
        assert evaluate_hands.seen_by(place).among(wanted, 'hand_phantom:0') == ['904', '905']
        assert evaluate_hands.seen_by(place).among(wanted, '') == ['7', '904', '905']
    config = json.loads((run / 'config.json').read_text())
    config['data']['source'] = 'rsna_bone_age'
    (run / 'config.json').write_text(json.dumps(config))
    for place in (run, exported_to(tmp_path, run, 'real')):
        assert evaluate_hands.seen_by(place).among(wanted, 'rsna') == ['7', '904', '905']
        assert evaluate_hands.seen_by(place).among(wanted, 'hand_phantom:0') == []


def test_a_run_starts_from_a_shipped_network(finished_run, tmp_path, monkeypatch):
    run = finished_run(PRSNET)
    monkeypatch.setattr(shipped, 'FOLDER', tmp_path)
    path = exported_to(tmp_path, run, 'age')
    for options in ('init_from=age', 'init_from=age,init_map=backbone'):
        config = c.load(f'{PRSNET},{options}')[1]
        _, *arrays = state_lib.partition(predictor_lib.build_model(config), ())
        state = state_lib.State(None, *arrays, None, None)
        initialize.check(config, state)
        started = initialize.start(state, config, _splits(run))
        with checkpoint.Checkpoints(run) as checkpoints:
            _, saved = checkpoints.read_parameters()
        stem = started.params['backbone']['stem']['kernel']
        np.testing.assert_array_equal(stem, saved['backbone.stem.kernel'])
        same = (started.params['head']['kernel'] == saved['head.kernel']).all()
        assert bool(same) is ('init_map' not in options)
    _leaks(run, path)
    _leaks(run, 'age')


def _leaks(run, place):
    """A run that holds out what the network at `place` was trained on is refused."""
    splits = _splits(run)
    workdir.check_no_leakage(place, splits)
    splits['validation'].ids.append(splits['train'].ids[0])
    splits['validation'].spaces.append('hand_phantom:0')
    with pytest.raises(ConfigError, match='1 of the 9 validation images were trained on there'):
        workdir.check_no_leakage(place, splits)
    splits['validation'].spaces[-1] = 'hand_phantom:1'  # another image under the same name
    workdir.check_no_leakage(place, splits)


def _splits(run):
    """{split: its ids and their spaces} of a run."""
    ids = json.loads((run / 'splits.json').read_text())
    splits = {}
    for name, spaces in ids.pop('id_spaces').items():
        spaces = id_spaces.expand(spaces)
        splits[name] = types.SimpleNamespace(ids=ids[name], spaces=spaces)
    return splits


def test_predict_takes_a_file(finished_run, tmp_path, capsys, unchecked_images):
    run = shutil.copytree(finished_run(PRSNET), tmp_path / 'run')
    config = json.loads((run / 'config.json').read_text())
    config['data']['source'] = 'rsna_bone_age'  # the numbers of phantoms are nobody's
    (run / 'config.json').write_text(json.dumps(config))
    path = exported_to(tmp_path, run)
    trained = json.loads((run / 'splits.json').read_text())['train'][0]
    generator = np.random.default_rng(0)
    for name in ('new', trained):
        image = Image.fromarray(generator.integers(0, 256, (90, 70), np.uint8))
        (tmp_path / 'images').mkdir(exist_ok=True)
        image.save(tmp_path / 'images' / f'{name}.png')
    ages = []
    for place in (run, path):
        capsys.readouterr()
        rows = predict.predict(
            place, tmp_path / 'images', tmp_path / f'{len(ages)}.csv', sex='male'
        )
        ages.append({row['id']: row['prediction'] for row in rows})
        assert f'1 of 2 images have the ids of images that this run was trained on ({trained})' in (
            capsys.readouterr().err
        )
    assert ages[0] == ages[1] and len(ages[0]) == 2
    assert rows[0]['lower'] is None
    name = calibration.identify(path, 3)
    assert name.endswith('-3') and name != calibration.identify(run, 3)


def test_shipped_networks_are_small_and_say_what_they_are():
    """Those of this checkout; it may have none."""
    if not shipped.names():
        pytest.skip('no network comes with this checkout')
    for names, limit in LIMITS.items():
        sizes = [shipped.find(name).stat().st_size for name in names if shipped.find(name)]
        assert sum(sizes) <= limit
    for name in shipped.names():
        path = shipped.find(name)
        header = exported.read(path)
        tensors.read(path)  # whole
        about = json.loads(header.metadata['about'])
        assert {'data', 'terms'} <= set(about) and json.loads(header.metadata['figures'])
        assert header.kind in tasks.KINDS and int(header.metadata['train_images']) > 0
        assert not header.metadata['commit'].endswith('+'), 'exported from files that differ'
        values = [*c.flat(header.config).values(), *about.values()]
        assert not [value for value in values if str(value).startswith(('/', '~'))]
