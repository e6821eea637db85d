"""Conformal intervals: the right order statistic, by sex, and what they hold."""

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
        {'value': 0.9, 'lower': 0.82563, 'upper': 0.94477, 'count': 100}, abs=1e-4
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
