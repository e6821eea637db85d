"""Derived splits: disjoint, complete, stratified, whatever the files' order; official ones stay."""

import numpy as np
import pytest

from boneage_jax.data import splits
from boneage_jax.errors import SplitError


def labels(count=400, seed=0):
    rng = np.random.default_rng(seed)
    return {
        'ids': [str(i) for i in rng.permutation(10000)[:count]],
        'months': rng.integers(1, 229, count).astype(np.float32),
        'male': rng.random(count) < 0.54,
    }


def ids_of(given, name, source, derived):
    assert derived[name][0] == source
    return {given[source]['ids'][i] for i in derived[name][1]}


def test_derived_splits_cover_everything_once():
    given = {'train': labels()}
    derived = splits.derive(given, validation=50, holdout=30, seed=1)
    parts = [ids_of(given, name, 'train', derived) for name in ('train', 'validation', 'holdout')]
    assert [len(p) for p in parts] == [320, 50, 30]
    assert set.union(*parts) == set(given['train']['ids']) and sum(map(len, parts)) == 400


def test_order_of_files_does_not_matter_but_the_seed_does():
    one = {'train': labels()}
    order = np.random.default_rng(5).permutation(400)
    two = {
        'train': {
            'ids': [one['train']['ids'][i] for i in order],
            'months': one['train']['months'][order],
            'male': one['train']['male'][order],
        }
    }
    derive = lambda given, seed: {  # noqa: E731
        name: ids_of(
            given, name, 'train', splits.derive(given, validation=40, holdout=40, seed=seed)
        )
        for name in ('train', 'validation', 'holdout')
    }
    assert derive(one, 3) == derive(two, 3)
    assert derive(one, 3)['holdout'] != derive(one, 4)['holdout']


def test_stratified_by_sex_and_age():
    given = {'train': labels(4000)}
    derived = splits.derive(given, validation=500, holdout=500, seed=0)
    months, male = given['train']['months'], given['train']['male']
    for name in ('validation', 'holdout'):
        rows = derived[name][1]
        assert abs(male[rows].mean() - male.mean()) < 0.005
        for sex in (False, True):
            # Stratified: quartiles agree within 2 months; a simple random draw of 250 is off by
            # about 6.
            quartiles = lambda x: np.percentile(x, [25, 50, 75])  # noqa: E731
            assert (
                np.abs(
                    quartiles(months[rows][male[rows] == sex]) - quartiles(months[male == sex])
                ).max()
                < 2.5
            )


def test_official_splits_stay_and_can_be_declined():
    given = {'train': labels(200), 'validation': labels(40, 1), 'test': labels(20, 2)}
    official = splits.derive(given, validation=50, holdout=50, seed=0)
    assert {k: (v[0], len(v[1])) for k, v in official.items()} == {
        'train': ('train', 200),
        'validation': ('validation', 40),
        'test': ('test', 20),
    }
    own = splits.derive(given, validation=50, holdout=50, seed=0, official=False)
    assert {k: (v[0], len(v[1])) for k, v in own.items()} == {
        'train': ('train', 100),
        'validation': ('train', 50),
        'holdout': ('train', 50),
        'test': ('test', 20),
    }


def test_a_holdout_is_drawn_where_there_is_no_test_split():
    given = {'train': labels(200), 'validation': labels(40, 1)}
    derived = splits.derive(given, validation=50, holdout=50, seed=0)
    assert {k: (v[0], len(v[1])) for k, v in derived.items()} == {
        'train': ('train', 150),
        'validation': ('validation', 40),
        'holdout': ('train', 50),
    }


def test_images_of_one_patient_stay_together():
    given = {'train': labels(300)}
    groups = [
        f'patient {i // 3}' if i < 240 else '' for i in range(300)
    ]  # the last sixty are nobody's
    derived = splits.derive(
        {'train': given['train'] | {'groups': groups}}, validation=40, holdout=40, seed=0
    )
    where = {i: name for name, (_, positions) in derived.items() for i in positions}
    assert len(where) == 300
    for patient in range(80):
        assert len({where[3 * patient + k] for k in range(3)}) == 1
    plain = splits.derive(given, validation=40, holdout=40, seed=0)
    assert set(plain['holdout'][1]) <= set(derived['holdout'][1])
    assert {where[i] for i in range(240, 300)} == {'train', 'validation', 'holdout'}


def test_too_few_images():
    with pytest.raises(
        SplitError, match='100 training images are too few for validation=40 and holdout=20'
    ):
        splits.derive({'train': labels(100)}, validation=40, holdout=20, seed=0)


@pytest.mark.parametrize('count, share', [(10, 2), (30, 6), (1999, 399), (2000, 400), (3999, 799)])
def test_small_sets_are_split_by_shares(count, share, capsys):
    given = {'train': labels(count)}
    derived = splits.derive(given, validation=1000, holdout=1000, seed=0, shrink=True)
    sizes = {name: len(positions) for name, (_, positions) in derived.items()}
    assert sizes == {'train': count - 2 * share, 'validation': share, 'holdout': share}
    said = capsys.readouterr().err
    assert f'{count} images are too few for data.validation=1000' in said
    assert f'a fifth is set aside for each, {share} images' in said


def test_sets_that_are_large_enough_are_split_as_asked(capsys):
    given = {'train': labels(4000)}
    shrunk = splits.derive(given, validation=1000, holdout=1000, seed=0, shrink=True)
    plain = splits.derive(given, validation=1000, holdout=1000, seed=0)
    assert all(np.array_equal(shrunk[name][1], plain[name][1]) for name in plain)
    assert not capsys.readouterr().err
    with pytest.raises(SplitError, match=r'set data.validation=1 and data.holdout=1, or add'):
        splits.derive({'train': labels(9)}, validation=1000, holdout=1000, seed=0, shrink=True)


def test_shares_of_a_small_set_leave_groups_to_train_on():
    given = labels(30) | {'groups': [f'patient {i // 3}' for i in range(30)]}
    derived = splits.derive({'train': given}, validation=1000, holdout=1000, seed=0, shrink=True)
    assert {name: len(rows) for name, (_, rows) in derived.items()} == {
        'train': 18,
        'validation': 6,
        'holdout': 6,
    }
    with pytest.raises(SplitError, match='no training images are left'):
        splits.derive({'train': given | {'groups': ['one'] * 30}}, validation=6, holdout=6, seed=0)
