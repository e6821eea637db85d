"""Conformal intervals: the right order statistic, by sex, and what they hold."""

import json

import numpy as np
import pytest

from boneage_jax.inference import intervals


def table(errors, male, split='validation', age=100.0):
    errors, male = np.asarray(errors, float), np.asarray(male, bool)
    return {
        'split': np.full(len(errors), split),
        'male': male,
        'age': np.full(len(errors), age),
        'prediction': age + errors,
    }


def join(*tables):
    return {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}


@pytest.mark.parametrize(
    'count, rank', [(9, 9), (10, 10), (18, 18), (19, 18), (99, 90), (100, 91), (1000, 901)]
)
def test_half_width_is_the_order_statistic(count, rank):
    errors = np.random.default_rng(0).permutation(np.arange(1, count + 1)) * np.resize(
        [1, -1], count
    )
    fitted = intervals.fit(join(table(errors, [True] * count), table([500.0] * 9, [False] * 9)))
    assert fitted.half == {'male': rank, 'female': 500.0} and fitted.pooled == ()
    assert fitted.counts == {'male': count, 'female': 9}


def test_bounds_go_by_sex_and_stop_at_birth():
    fitted = intervals.Intervals(0.9, {'male': 20.0, 'female': 10.0}, {'male': 50, 'female': 50})
    lower, upper = fitted.bounds([100.0, 100.0, 5.0, -30.0], [True, False, True, False])
    assert lower.tolist() == [80, 90, 0, 0] and upper.tolist() == [120, 110, 25, 0]


def test_a_sex_with_few_images_takes_the_interval_of_all_and_it_is_said():
    fitted = intervals.fit(
        join(table(np.arange(1, 12), [True] * 11), table([40.0] * 8, [False] * 8))
    )
    assert fitted.pooled == ('female',) and fitted.half == {'male': 11.0, 'female': 40.0}
    assert (
        'Girls: 8 validation images are too few' in fitted.lines()[1]
        and '(9 are needed)' in fitted.lines()[1]
    )
    with pytest.raises(
        ValueError, match='8 validation images are too few for a 90% interval; at least 9'
    ):
        intervals.fit(table([1.0] * 8, [True] * 8))
    with pytest.raises(ValueError, match='level=90'):
        intervals.fit(table([1.0] * 9, [True] * 9), level=90)


def test_other_splits_do_not_widen_it():
    validation, holdout = (
        table(np.arange(1, 20), [True] * 19),
        table([300.0] * 50, [True] * 50, 'holdout'),
    )
    assert intervals.fit(join(validation, holdout)).half['male'] == 18


def test_coverage_counts_by_sex_with_wilsons_interval():
    fitted = intervals.Intervals(0.9, {'male': 20.0, 'female': 10.0}, {'male': 50, 'female': 50})
    holdout = table([15.0] * 90 + [25.0] * 10 + [-15.0] * 5, [True] * 100 + [False] * 5, 'test')
    shares = intervals.coverage(fitted, join(holdout, table([0.0] * 7, [True] * 7)), 'test')
    assert shares['male'] == pytest.approx(
        {
            'value': 0.9,
            'lower': 0.82563,
            'upper': 0.94477,
            'count': 100,
            'width': 40,
            'constant_width': 40,
        },
        abs=1e-4,
    )
    assert (
        shares['female']['value'] == 0
        and shares['female']['lower'] == 0
        and shares['female']['upper'] < 0.5
    )
    assert shares['overall']['count'] == 105 and shares['overall']['value'] == pytest.approx(
        90 / 105
    )
    assert 'female' not in intervals.coverage(fitted, table([0.0], [True]), 'validation')


def test_it_holds_what_it_promises_on_new_images():
    """Over many draws of 50 validation images the mean coverage is rank / (n + 1), whatever the
    errors look like.
    """
    generator, shares = np.random.default_rng(0), []
    for _ in range(400):
        errors = generator.standard_cauchy(550)
        predictions = join(
            table(errors[:50], [True] * 50, age=1e9),
            table(errors[50:], [True] * 500, 'test', age=1e9),
        )
        shares.append(
            intervals.coverage(intervals.fit(predictions), predictions, 'test')['male']['value']
        )
    assert np.mean(shares) == pytest.approx(46 / 51, abs=0.007)


def unsure(count, seed, split='validation', sure=None):
    """Errors that are normal with the deviation that `spread` says: 4 or 16 months, boys half."""
    generator = np.random.default_rng(seed)
    spread = np.where(generator.random(count) < 0.7, 4.0, 16.0)
    images = table(spread * generator.normal(size=count), np.arange(count) % 2 == 0, split)
    images['id'] = np.arange(count).astype(str)
    return images | {'spread': spread if sure is None else np.full(count, sure)}


def test_intervals_scale_with_the_spread_and_hold_their_share_in_every_group():
    predictions = join(unsure(2000, 0), unsure(20000, 1, 'test'))
    fitted = intervals.fit(predictions)
    for sex in ('male', 'female'):
        assert fitted.scaled.scales[sex].weights['spread'] == pytest.approx(1, abs=0.1)
        # A scale of 1 is at the geometric mean of the spreads, 4 * 4 ** 0.3; 1.645 deviations.
        assert fitted.scaled.factor[sex] == pytest.approx(1.645 * 6.06, rel=0.08)
    half = fitted.widths([True, True], {'spread': [4.0, 16.0]})
    assert half == pytest.approx([1.645 * 4, 1.645 * 16], rel=0.1)
    lower, upper = fitted.bounds([100.0], [True], {'spread': [4.0]})
    assert upper - 100 == pytest.approx(half[:1]) and 100 - lower == pytest.approx(half[:1])

    shares = intervals.coverage(fitted, predictions, 'test')
    for share in shares.values():
        assert share['value'] == pytest.approx(0.9, abs=0.015)
    # By hand: 1.645 * (0.7 * 4 + 0.3 * 16) = 12.5 against the 90% quantile of the mixture, 15.5.
    ratio = shares['overall']['width'] / shares['overall']['constant_width']
    assert ratio == pytest.approx(0.805, abs=0.04)
    groups = intervals.conditional_coverage(fitted, predictions, 'test')
    assert list(groups) == ['by_sex', 'by_stage', 'by_width']
    for group in groups['by_width'].values():
        assert group['value'] == pytest.approx(0.9, abs=0.02)
    assert groups['by_width']['widest']['width'] > 3 * groups['by_width']['narrowest']['width']
    constant = intervals.Intervals(0.9, fitted.half, fitted.counts)
    assert 'by_width' not in intervals.conditional_coverage(constant, predictions, 'test')


def test_a_spread_that_says_nothing_leaves_intervals_of_one_width():
    validation = unsure(400, 0)
    generator = np.random.default_rng(5)
    validation['spread'] = generator.permutation(validation['spread'])
    fitted = intervals.fit(validation)
    for sex in ('male', 'female'):
        if fitted.scaled and fitted.scaled.scales[sex].weights:
            assert fitted.scaled.scales[sex].weights['spread'] < 0.2
    assert intervals.fit(unsure(400, 0, sure=5.0)).scaled is None
    assert intervals.fit(unsure(80, 0)).scaled is None


@pytest.mark.parametrize('value', [np.nan, np.inf, 0.0, -1.0])
def test_a_spread_that_is_no_positive_number(value, capsys):
    validation = unsure(400, 0)
    fitted = intervals.fit(validation)
    half = fitted.widths([True, True], {'spread': [value, 4.0]})
    assert half[0] == fitted.half['male'] and half[1] < half[0]
    assert fitted.widths([True], {}).tolist() == [fitted.half['male']]
    validation['spread'][7] = value
    assert intervals.fit(validation).scaled is None
    said = capsys.readouterr().err
    assert f'no positive number for 1 of 400 validation images, first 7: {value}' in said


def test_a_spread_beyond_those_of_validation_is_held_at_their_limits():
    fitted = intervals.fit(unsure(400, 0))
    half = fitted.widths([True] * 4, {'spread': [0.01, 4.0, 16.0, 1e6]})
    assert half[0] == half[1] < half[2] == half[3]


def test_coverage_by_flag():
    fitted = intervals.Intervals(0.9, {'male': 20.0, 'female': 10.0}, {'male': 50, 'female': 50})
    images = table([15.0, 25.0, 15.0, 5.0], [True] * 4, 'test')
    images['flags'] = np.array(['', 'inverted;cut_off', 'cut_off', ''])
    groups = intervals.conditional_coverage(fitted, images, 'test')['by_flag']
    shares = {name: (group['value'], group['count']) for name, group in groups.items()}
    assert shares == {'none': (1, 2), 'any': (0.5, 2), 'cut_off': (0.5, 2), 'inverted': (0, 1)}


def test_a_file_holds_them_and_files_of_earlier_releases_are_read():
    images = join(unsure(400, 0), unsure(100, 1, 'holdout'))
    fitted = intervals.fit(images)
    covered = {'holdout': intervals.coverage(fitted, images, 'holdout')}
    text = intervals.document(fitted, covered)
    assert intervals.from_document(text) == (fitted, covered)
    saved = json.loads(text)
    with pytest.raises(ValueError, match='no scale'):
        saved['scaled']['scales']['male']['weights'] = {'spread': float('nan')}
        intervals.from_document(json.dumps(saved))
    del saved['scaled'], saved['split']  # as release 0.2 wrote it
    old, _ = intervals.from_document(json.dumps(saved))
    assert old.scaled is None and old.half == fitted.half
    lower, upper = old.bounds([100.0] * 2, [True, False], {'spread': [4.0, 16.0]})
    assert (upper - lower).tolist() == pytest.approx([2 * fitted.half[s] for s in old.half][::-1])
