"""Means over runs: what is averaged, what is refused and by what name, what an ensemble's folder
holds.
"""

import csv
import json

import numpy as np
import pytest

from boneage_jax.analysis import ensemble
from boneage_jax.runs import predictions
from boneage_jax.runtime import files
from boneage_jax.training import evaluate
from tfds_rsna.errors import UserError

IMAGES = 24


def images(errors, ids=None, seed=3):
    """A table of IMAGES images, as `predictions.read` gives it, whose predictions are off by
    `errors`.
    """
    generator = np.random.default_rng(seed)
    months = generator.integers(10, 220, IMAGES).astype(float)
    return {
        'id': np.array(ids or [f'h{i}' for i in range(IMAGES)]),
        'split': np.full(IMAGES, 'holdout'),
        'male': generator.random(IMAGES) < 0.5,
        'age': months,
        'prediction': months + errors,
    }


def finished(workdir, errors, train=('a', 'b', 'c')):
    """A run's workdir as `train` leaves it, its holdout predictions off by `errors`."""
    workdir.mkdir(parents=True)
    tables = {
        'validation': images(errors, [f'v{i}' for i in range(IMAGES)]),
        'holdout': images(errors),
    }
    ids = {'train': list(train)}
    scored = {}
    for split, table in tables.items():
        ids[split] = table['id'].tolist()
        scored[split] = (
            ensemble.labels_of(split, table),
            {'prediction': table['prediction']},
        )
    evaluate.write_predictions(workdir, scored)
    evaluate.write_metrics(workdir, scored, ensemble.TASK, np.array([100.0, 120.0]), {})
    files.write_json(workdir / 'splits.json', ids)
    return workdir


def members(tmp_path, count=3):
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 8, IMAGES)
    return [
        finished(tmp_path / f'run{i}', shared + generator.normal(0, 8, IMAGES))
        for i in range(count)
    ]


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_mean_is_taken_image_by_image_whatever_the_order():
    turned = images(6.0)
    back = predictions.rows(turned, slice(None, None, -1))
    mean = ensemble.combine({'a': {'holdout': images(np.arange(IMAGES))}, 'b': {'holdout': back}})[
        'holdout'
    ]
    np.testing.assert_allclose(ensemble.errors_of(mean), (np.arange(IMAGES) + 6.0) / 2)
    assert mean['id'].tolist() == images(0.0)['id'].tolist()


def test_an_ensemble_reads_like_a_run(tmp_path):
    runs = members(tmp_path)
    report = ensemble.write(runs, tmp_path / 'mean')
    assert json.loads((tmp_path / 'mean' / 'metrics.json').read_text()) == report
    assert report['members'] == [str(run) for run in runs]
    read = [ensemble.read(run)['holdout'] for run in (*runs, tmp_path / 'mean')]
    np.testing.assert_allclose(
        read[-1]['prediction'], np.mean([f['prediction'] for f in read[:-1]], axis=0), atol=1e-3
    )
    mae = report['splits']['holdout']['overall']['mae']['value']
    assert mae == pytest.approx(np.abs(ensemble.errors_of(read[-1])).mean(), abs=1e-3)
    assert report['splits']['holdout']['median_mae']['median'] == 110
    with (tmp_path / 'mean' / 'error_correlation_holdout.csv').open() as file:
        rows = list(csv.reader(file))
    assert (
        rows[0] == ['member', 'run0', 'run1', 'run2']
        and [row[0] for row in rows[1:]] == rows[0][1:]
    )
    expected = np.corrcoef([ensemble.errors_of(f) for f in read[:-1]])
    np.testing.assert_allclose(
        np.asarray([row[1:] for row in rows[1:]], float), expected, atol=1e-3
    )
    assert {p.name for p in (tmp_path / 'mean' / 'figures').iterdir()} == {
        *(
            f'{name}_{split}.png'
            for name in ('predictions', 'error_by_age', 'bland_altman')
            for split in ('holdout', 'validation')
        ),
        'error_correlation_holdout.png',
    }  # nothing of validation beside what every run draws: it is not reported
    another = finished(tmp_path / 'another', 2.0, train=['d'])
    nested = tmp_path / 'nested'
    ensemble.write(
        [tmp_path / 'mean', another], nested
    )  # an ensemble may be a member: it knows what it trained on
    assert json.loads((nested / 'splits.json').read_text())['train'] == ['a', 'b', 'c', 'd']


def test_label_fingerprints_and_the_leak_check_are_carried_over(tmp_path, monkeypatch):
    leaks = {'same_id': 0, 'same_picture': 0, 'near_picture': 2}
    a, b = (
        {
            'labels': {
                'holdout': {'images': 24, 'sha256': 'a'},
                'train': {'images': 3, 'sha256': x},
            },
            'leaks': leaks,
        }
        for x in 'bc'
    )
    both = {
        'labels': {'holdout': a['labels']['holdout']},
        'leaks': leaks,
        'members_differ': {
            'labels of train': {'run0': a['labels']['train'], 'run1': b['labels']['train']}
        },
    }
    assert ensemble.carried({'run0': a, 'run1': b}) == both
    older = ensemble.carried({'a': a, 'older': {}})
    assert 'labels' not in older and older['members_differ']['leaks: near_picture'] == {
        'a': 2,
        'older': None,
    }
    assert ensemble.carried({'a': {}, 'b': {}}) == {}
    for name in ('figures.from_run', '_report'):
        monkeypatch.setattr(
            f'boneage_jax.analysis.ensemble.{name}', lambda *_: None
        )  # drawn in another test
    runs = members(tmp_path, 2)
    for run, of in zip(runs, (a, b)):
        files.write_json(run / 'metrics.json', json.loads((run / 'metrics.json').read_text()) | of)
    assert ensemble.write(runs, tmp_path / 'mean').items() >= both.items()


def test_an_image_that_one_member_lacks_is_refused_by_name(tmp_path):
    a, b = members(tmp_path, 2)
    change(b / 'predictions.csv', 'h7,holdout', 'x7,holdout')
    with pytest.raises(
        UserError,
        match=r'holdout, (girls|boys): 1 of the \d+ images of run0 are not in run1, the first: h7',
    ):
        ensemble.load([a, b])


def test_other_labels_are_refused_by_name(tmp_path):
    a, b = members(tmp_path, 2)
    row = next(
        line for line in (b / 'predictions.csv').read_text().splitlines() if line.startswith('h5,')
    )
    fields = row.split(',')
    change(b / 'predictions.csv', row, ','.join([*fields[:3], '1.0', fields[4]]))
    with pytest.raises(
        UserError,
        match=r'holdout, image h5: age is .* in run0, but 1.0 in run1: not the same labels',
    ):
        ensemble.load([a, b])


def test_a_member_that_trained_on_a_reported_image_is_refused(tmp_path):
    a = finished(tmp_path / 'a', 3.0)
    b = finished(tmp_path / 'b', 4.0, train=['a', 'h2', 'h9'])
    with pytest.raises(UserError, match='b trained on 2 of the 24 holdout images, the first: h2'):
        ensemble.write([a, b], tmp_path / 'mean')
    assert not (tmp_path / 'mean').exists()


@pytest.mark.parametrize(
    'break_it, message',
    [
        (
            lambda a, b: (b / 'splits.json').unlink(),
            'b: no splits.json; members are workdirs of finished runs',
        ),
        (lambda a, b: (b / 'metrics.json').unlink(), 'b: no metrics.json'),
        (
            lambda a, b: (b / 'splits.json').write_text('{'),
            r'splits.json: cannot be read .*; is its run finished\?',
        ),
        (
            lambda a, b: change(b / 'predictions.csv', 'h1,', 'h0,'),
            'image h0 is in holdout twice',
        ),
        (
            lambda a, b: change(b / 'predictions.csv', ',prediction', ',iou'),
            'column prediction missing; found .*iou',
        ),
        (
            lambda a, b: (b / 'predictions.csv').write_text(
                ''.join(
                    line
                    for line in (b / 'predictions.csv').read_text().splitlines(True)
                    if ',validation,' not in line
                )
            ),
            'a predicts validation, holdout, but b holdout: not the same splits',
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(tmp_path, break_it, message):
    a, b = finished(tmp_path / 'a', 3.0), finished(tmp_path / 'b', 4.0)
    break_it(a, b)
    with pytest.raises(UserError, match=message):
        ensemble.write([a, b], tmp_path / 'mean')
    assert not (tmp_path / 'mean').exists()


def test_one_member_or_the_same_twice_is_no_ensemble(tmp_path):
    a, b = members(tmp_path, 2)
    with pytest.raises(UserError, match='needs two members or more'):
        ensemble.write([a], tmp_path / 'mean')
    with pytest.raises(UserError, match='the same run twice'):
        ensemble.write([a, b, tmp_path / 'run1' / '..' / 'run0'], tmp_path / 'mean')
    with pytest.raises(UserError, match='holds a run'):
        ensemble.write([a, b], a)


def test_globs_are_expanded(tmp_path):
    runs = members(tmp_path, 3)
    assert ensemble.expand([str(runs[2]), str(tmp_path / 'run*')]) == [
        str(runs[i]) for i in (2, 0, 1)
    ]
    with pytest.raises(UserError, match='nothing matches'):
        ensemble.expand([str(tmp_path / 'walk*')])


def test_errors_without_spread_have_no_correlation():
    runs = {'a': {'holdout': images(0.1)}, 'b': {'holdout': images(np.arange(IMAGES))}}
    assert ensemble.error_correlation(runs, 'holdout') is None


def part(whole, male, errors):
    chosen = predictions.of_sex(whole, male)
    return chosen | {'prediction': chosen['age'] + errors}


def test_networks_of_one_sex_join():
    both, other = images(1.0), images(7.0)
    boys, girls = part(both, True, 3.0), part(both, False, 5.0)
    mean = ensemble.combine({'b': {'holdout': boys}, 'g': {'holdout': girls}})['holdout']
    assert sorted(mean['id']) == sorted(both['id'])
    assert mean['id'][: len(boys['id'])].tolist() == boys['id'].tolist()
    np.testing.assert_allclose(ensemble.errors_of(mean), np.where(mean['male'], 3.0, 5.0))
    members = {
        'both': {'holdout': both},
        'b': {'holdout': boys},
        'g': {'holdout': girls},
        'other': {'holdout': other},
    }
    mean = ensemble.combine(members)['holdout']
    assert mean['id'].tolist() == both['id'].tolist()
    expected = np.where(both['male'], (1 + 3 + 7) / 3, (1 + 5 + 7) / 3)
    np.testing.assert_allclose(ensemble.errors_of(mean), expected)


def test_members_of_a_sex_must_have_the_same_images_of_it():
    both = images(1.0)
    boys, girls = part(both, True, 3.0), part(both, False, 5.0)
    fewer = predictions.rows(boys, slice(1, None))
    with pytest.raises(
        UserError,
        match=f'holdout, boys: 1 of the {len(boys["id"])} images of b are not in c, '
        f'the first: {boys["id"][0]}',
    ):
        ensemble.combine({'g': {'holdout': girls}, 'b': {'holdout': boys}, 'c': {'holdout': fewer}})
    turned = girls | {'male': ~girls['male']}
    with pytest.raises(
        UserError, match=f'image {girls["id"][0]}: male is True in t, but not in every member'
    ):
        ensemble.combine({'g': {'holdout': girls}, 't': {'holdout': turned}})


def test_errors_correlate_over_the_images_that_two_members_share(tmp_path):
    generator = np.random.default_rng(2)
    both = images(generator.normal(0, 8, IMAGES))
    boys, girls = (
        part(both, sex, generator.normal(0, 8, (both['male'] == sex).sum()))
        for sex in (True, False)
    )
    matrix = ensemble.error_correlation(
        {n: {'holdout': f} for n, f in (('both', both), ('b', boys), ('g', girls))}, 'holdout'
    )
    assert matrix[0, 1] == pytest.approx(
        np.corrcoef(ensemble.errors_of(both)[both['male']], ensemble.errors_of(boys))[0, 1]
    )
    assert np.isnan(matrix[1, 2]) and matrix[2, 0] == matrix[0, 2]
    (tmp_path / 'figures').mkdir()
    ensemble.write_correlation(matrix, ['both', 'b', 'g'], 'holdout', tmp_path)
    with (tmp_path / 'error_correlation_holdout.csv').open() as file:
        assert [row[-1] for row in csv.reader(file)][1:3] == [f'{matrix[0, 2]:.4f}', '']
