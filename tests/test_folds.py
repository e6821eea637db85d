"""Cross-validation: parts are disjoint, complete and alike; every image is predicted by networks
that have not seen it; what is refused.
"""

import csv
import json
import pathlib
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from boneage_jax import config as c
from boneage_jax import ensemble as ensemble_command
from boneage_jax.analysis import cross_validation, ensemble, sweep
from boneage_jax.data import folds as folds_lib
from boneage_jax.data import source, splits
from boneage_jax.errors import ConfigError, SplitError
from boneage_jax.inference import predict
from boneage_jax.report import collect, runs
from boneage_jax.runs import folds as folds_of_runs
from boneage_jax.runs import predictions, training_ids
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.stages import records
from boneage_jax.training import evaluate
from tfds_rsna.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
SPEC = f'{ROOT}/configs/classical.py:tiny,phantom.count=48,validation=8,holdout=8'
ROW = 'female linear'
FOLDS = 2
HEADS = ('both-fc', 'both-attention')


def labels(count=400, *, groups=False, seed=0):
    generator = np.random.default_rng(seed)
    found = {
        'ids': [str(i) for i in generator.permutation(10000)[:count]],
        'months': generator.integers(1, 229, count).astype(np.float32),
        'male': generator.random(count) < 0.54,
    }
    if groups:
        found['groups'] = [f'child {i // 3}' if i < count // 2 else '' for i in range(count)]
    return found


def derived(given, fold, **options):
    options = {'validation': 40, 'holdout': 40, 'seed': 3, 'folds': 5} | options
    cut = splits.derive({'train': given}, fold=fold, **options)
    return {name: {given['ids'][i] for i in positions} for name, (_, positions) in cut.items()}


def test_parts_are_disjoint_and_complete_and_the_holdout_is_that_without_folds():
    given = labels()
    without = derived(given, 0, folds=0)
    cuts = [derived(given, fold) for fold in range(5)]
    parts = [cut['fold'] for cut in cuts]
    assert sorted(map(len, parts)) == [72] * 5
    assert set.union(*parts) == without['train'] | without['validation']
    for cut in cuts:
        assert cut['holdout'] == without['holdout']
        assert len(cut['validation']) == 40
        assert sum(map(len, cut.values())) == 400 and set.union(*cut.values()) == {*given['ids']}
    assert list(cuts[0]) == ['train', 'validation', 'fold', 'holdout']


def test_parts_do_not_depend_on_the_order_of_the_files_but_on_the_seed():
    given = labels(groups=True)
    order = np.random.default_rng(5).permutation(400)
    turned = {key: np.asarray(column)[order] for key, column in given.items()}
    assert derived(given, 2) == derived(turned, 2)
    assert derived(given, 2)['fold'] != derived(given, 2, seed=4)['fold']


def test_parts_are_stratified_by_sex_and_age():
    given = labels(4000)
    part = folds_lib.divide(given, 5, seed=0)
    months = given['months']
    for number in range(5):
        own = part == number
        assert abs(given['male'][own].mean() - given['male'].mean()) < 0.002
        for sex in (False, True):
            here = np.percentile(months[own & (given['male'] == sex)], [10, 25, 50, 75, 90])
            everywhere = np.percentile(months[given['male'] == sex], [10, 25, 50, 75, 90])
            assert np.abs(here - everywhere).max() < 2.5  # a simple draw of 400 is off by about 6


def test_a_group_is_in_one_split_and_parts_are_of_like_size():
    given = labels(groups=True)
    group_of = dict(zip(given['ids'], given['groups']))
    for fold in range(5):
        cut = derived(given, fold)
        seen = {}
        for name, ids in cut.items():
            for image in ids:
                if group_of[image]:
                    assert seen.setdefault(group_of[image], name) == name
    assert np.ptp(np.bincount(folds_lib.divide(given, 5, seed=0))) <= 3


def test_an_official_validation_split_selects_in_every_fold():
    given = {'train': labels(100), 'validation': labels(20, seed=1), 'test': labels(10, seed=2)}
    options = {'validation': 5, 'holdout': 5, 'seed': 0, 'folds': 4}
    cuts = [splits.derive(given, fold=fold, **options) for fold in range(4)]
    for cut in cuts:
        sizes = {name: (source, len(positions)) for name, (source, positions) in cut.items()}
        assert sizes == {
            'train': ('train', 75),
            'validation': ('validation', 20),
            'fold': ('train', 25),
            'test': ('test', 10),
        }
    every = np.concatenate([cut['fold'][1] for cut in cuts])
    assert sorted(every) == list(range(100))


def test_too_few_images_or_groups_are_refused():
    with pytest.raises(SplitError, match='data.folds=30: the 40 images .* set data.folds=20'):
        derived(labels(50), 0, folds=30, validation=5, holdout=10)
    of_three = labels(30) | {'groups': [f'c{i % 3}' for i in range(30)]}
    with pytest.raises(SplitError, match='the 30 images outside the holdout of 3 groups'):
        folds_lib.divide(of_three, 2, seed=0)
    with pytest.raises(SplitError, match='18 images .* data.validation=10, .* set .*=3'):
        derived(labels(50), 0, folds=2, validation=10, holdout=14)
    shrunk = derived(labels(50), 0, folds=2, validation=1000, holdout=1000, shrink=True)
    assert {name: len(ids) for name, ids in shrunk.items()} == {
        'train': 10,
        'validation': 10,
        'fold': 20,
        'holdout': 10,
    }


@pytest.mark.parametrize(
    ('arg', 'message'),
    [
        ('data.folds=1', 'data.folds=1: expected 2 or more, or 0'),
        ('data.folds=5,data.fold=5', 'data.fold=5: expected a part from 0 to 4'),
        ('data.fold=1', 'data.fold=1: expected 0, without data.folds'),
        ('data.folds=-2', 'data.folds=-2: expected 2 or more'),
    ],
)
def test_impossible_folds_are_refused(arg, message):
    with pytest.raises(ConfigError, match=message):
        c.load(f'{SPEC},{arg}')


def test_a_sweep_sets_the_folds_itself(tmp_path):
    with pytest.raises(ConfigError, match='--folds=1: expected 2 or more'):
        sweep.Sweep(SPEC, tmp_path, folds=1)
    for overrides in (('--config.data.folds=5',), ('--config.fold=1',)):
        with pytest.raises(ConfigError, match='is set by the sweep: .* give --folds'):
            sweep.Sweep(SPEC, tmp_path, overrides)


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
    """The folder of a sweep of one row of classical regressions, one seed and two folds."""
    folder = tmp_path_factory.mktemp('folds')
    sweep.sweep(SPEC, folder, rows=[ROW], folds=FOLDS)
    return folder


def joined(folder):
    return folder / 'female-linear' / 'seed0'


def members(folder):
    return [joined(folder) / f'fold{fold}' for fold in range(FOLDS)]


def test_each_image_is_predicted_by_the_run_that_has_not_seen_it(swept):
    whole = predictions.read(joined(swept) / 'predictions.csv')
    assert predictions.splits(whole) == ['fold', 'holdout']
    fold = predictions.of_split(whole, 'fold')
    predicted = dict(zip(fold['id'].tolist(), fold['prediction']))
    assert len(predicted) == len(fold['id'])
    by_hand = []
    seen = set()
    for run in members(swept):
        own = predictions.of_split(predictions.read(run / 'predictions.csv'), 'fold')
        ids = set(own['id'].tolist())
        found = [predicted[image] for image in own['id'].tolist()]
        np.testing.assert_array_equal(found, own['prediction'])
        by_hand += np.abs(own['prediction'] - own['age']).tolist()
        known = json.loads((run / 'splits.json').read_text())
        assert ids == {*known['fold']} and not {*known['train'], *known['validation']} & ids
        assert {*known['train'], *known['validation'], *ids} == set(predicted)
        assert not seen & ids
        seen |= ids
    assert seen == set(predicted)

    with (swept / 'table.csv').open(newline='') as file:
        [of_fold, of_holdout] = csv.DictReader(file)
    assert [of_fold['split'], of_holdout['split']] == ['fold', 'holdout']
    assert float(of_fold['ours']) == pytest.approx(np.mean(by_hand), abs=2e-3)
    holdouts = []
    for run in members(swept):
        holdouts.append(predictions.of_split(predictions.read(run / 'predictions.csv'), 'holdout'))
    mean = np.mean([table['prediction'] for table in holdouts], axis=0)
    error = np.abs(mean - holdouts[0]['age']).mean()
    assert float(of_holdout['ours']) == pytest.approx(error, abs=2e-3)
    assert of_fold['seeds'] == '1' and of_fold['data'] == 'hand_phantom 64x64'


def test_what_is_finished_is_not_done_again_and_other_folds_need_another_folder(swept):
    files = [joined(swept) / 'metrics.json', *joined(swept).glob('fold*/*.json')]
    times = [path.stat().st_mtime_ns for path in files]
    sweep.sweep(SPEC, swept, rows=[ROW], folds=FOLDS)
    assert times == [path.stat().st_mtime_ns for path in files] and len(files) == 1 + 3 * FOLDS
    for folds in (0, 3):
        with pytest.raises(ConfigError, match=f'holds runs of --folds=2, not of --folds={folds}'):
            sweep.sweep(SPEC, swept, rows=[ROW], folds=folds)
    [found] = [run for run in collect.find([swept])[0] if run.name == 'female-linear/seed0']
    assert runs.describe(found) == 'cross-validation of 2 folds, hand_phantom 64x64'


def test_a_cross_validation_is_a_member_of_its_seeds_mean(swept, tmp_path):
    for number in range(2):
        shutil.copytree(joined(swept), tmp_path / f'seed{number}')
    written = ensemble.write([tmp_path / 'seed0', tmp_path / 'seed1'], tmp_path / 'mean')
    alone = json.loads((tmp_path / 'seed0' / 'metrics.json').read_text())
    for split in ('fold', 'holdout'):
        mae = [report['splits'][split]['overall']['mae']['value'] for report in (written, alone)]
        assert mae[0] == pytest.approx(mae[1], abs=2e-3)
    several = [tmp_path / f'seed{seed}' / f'fold{fold}' for fold in range(2) for seed in range(2)]
    cross_validation.write(several, tmp_path / 'all')  # both seeds of each fold
    all_of_them = predictions.read(tmp_path / 'all' / 'predictions.csv')
    one = predictions.read(joined(swept) / 'predictions.csv')
    np.testing.assert_allclose(all_of_them['prediction'], one['prediction'], atol=1e-3)


def test_leaks_and_missing_folds_are_refused(swept, tmp_path):
    one, two = members(swept)
    with pytest.raises(UserError, match='images of .* are not in'):
        ensemble.load([one, two])  # a plain mean would count what a member trained on
    arguments = ['ensemble', f'--workdirs={one},{two}', f'--output={tmp_path / "mean"}']
    ensemble_command.main(arguments)
    assert json.loads((tmp_path / 'mean' / 'metrics.json').read_text())['folds'] == FOLDS

    path = tmp_path / 'leaking'
    shutil.copytree(one, path)
    ids = json.loads((path / 'splits.json').read_text())
    ids['train'][0] = ids['fold'][0]
    (path / 'splits.json').write_text(json.dumps(ids))
    with pytest.raises(UserError, match='trained on, or was selected by, 1 of its .* fold images'):
        cross_validation.write([path, two], tmp_path / 'refused')
    opened = records.open_splits(c.load(f'{SPEC},row={ROW},data.folds=2,data.fold=1')[1])
    with pytest.raises(ConfigError, match='of the .* fold images were trained on there'):
        workdir_lib.check_no_leakage(one, opened)


def test_a_mean_over_folds_needs_all_of_one_division():
    def data(fold, **changes):
        return {'folds': 3, 'fold': fold, 'source': 'rsna_bone_age', 'split_seed': 0} | changes

    three = {f'f{fold}': data(fold) for fold in range(3)}
    assert folds_of_runs.by_fold(three) == {0: ['f0'], 1: ['f1'], 2: ['f2']}
    assert folds_of_runs.by_fold({'a': {}, 'b': {'folds': 0, 'fold': 0}}) == {}
    assert folds_of_runs.by_fold({'a': data(1), 'b': data(1)}) == {}  # seeds of one fold
    for changed, message in (
        ({'f2': data(1)}, 'fold 2 of data.folds=3 missing among f0, f1, f2'),
        ({'f2': data(2, folds=5)}, 'data.folds is 3 in f0, but 5 in f2'),
        ({'f2': data(2, split_seed=1)}, 'data.split_seed is 0 in f0, but 1 in f2'),
        ({'g2': data(2)}, 'as many runs of each fold are needed; found .*, fold 2: 2'),
    ):
        with pytest.raises(UserError, match=message):
            folds_of_runs.by_fold(three | changed)


def as_fold(run, workdir, fold, errors):
    """A copy of a run as fold `fold` of two, its predictions off by `errors` `[N]`."""
    shutil.copytree(run, workdir)
    config = json.loads((run / 'config.json').read_text())
    config['data'] |= {'folds': 2, 'fold': fold}
    (workdir / 'config.json').write_text(json.dumps(config))
    every = np.arange(len(errors))
    months = 100.0 + every
    scored = {}
    for split, name in (('fold', f'f{fold}-'), ('holdout', 'h')):
        ids = [f'{name}{i}' for i in every]
        labels = source.Split(split, None, every, ids, months, np.ones(len(every), bool))
        scored[split] = (labels, {'prediction': months + errors})
    evaluate.write_predictions(workdir, scored)
    return workdir


def test_new_images_get_the_mean_of_all_folds(finished_run, tmp_path, capsys, unchecked_images):
    images = tmp_path / 'images'
    images.mkdir()
    for number in range(3):
        drawn = np.random.default_rng(number).integers(0, 256, (70, 60), np.uint8)
        Image.fromarray(drawn).save(images / f'{number}.png')
    folds = []
    alone = []
    for fold, row in enumerate(HEADS):
        run = finished_run(f'configs/attention.py:tiny,row={row}')
        rows = predict.predict(run, images, tmp_path / f'{fold}.csv', sex='male')
        alone.append([row['prediction'] for row in rows])
        errors = np.arange(10.0) * (-1) ** fold + 10 * fold
        folds.append(as_fold(run, tmp_path / f'fold{fold}', fold, errors))
    assert np.abs(np.subtract(*alone)).min() > 1e-3  # or the mean would show nothing
    capsys.readouterr()
    rows = predict.predict(folds, images, tmp_path / 'mean.csv', sex='male')
    mean = [row['prediction'] for row in rows]
    np.testing.assert_allclose(mean, np.mean(alone, axis=0), rtol=1e-6)
    # Errors of 0 to 9 and of 10 to 1 months: the 19th of 20 is 9.
    assert rows[0]['upper'] - mean[0] == pytest.approx(9.0, abs=2e-3)
    said = capsys.readouterr().err
    assert 'from the errors on fold' in said
    assert 'On holdout they hold 100.0% of 10 images' in said  # all off by 5, the mean of two
    with pytest.raises(UserError, match='--calibration=.* is of one network'):
        predict.predict(folds, images, tmp_path / 'o.csv', sex='male', calibration=tmp_path / 'c')
    with pytest.raises(UserError, match='data.folds is 2 in .*, but 0 in'):
        predict.predict([folds[0], run], images, tmp_path / 'o.csv', sex='male')


def test_images_that_some_fold_trained_on_are_named(swept, capsys):
    config = types.SimpleNamespace(data=types.SimpleNamespace(source='image_folder'))
    every = training_ids.of_run(joined(swept))
    own = json.loads((members(swept)[0] / 'splits.json').read_text())
    image = next(i for i in own['fold'] if every.among([i], ''))  # fold 1 trained on it
    listed = [types.SimpleNamespace(id=image), types.SimpleNamespace(id=own['holdout'][0])]
    predict._warn_of_training_images(members(swept)[:1], config, listed)
    assert capsys.readouterr().err == ''
    predict._warn_of_training_images(members(swept), config, listed)
    said = capsys.readouterr().err
    assert '1 of 2 images have the ids of images that one or more of these runs were' in said
    assert f'trained on ({image})' in said
