"""Reported metrics against hand counts, known intervals and bad input."""

import json
import time

import numpy as np
import pytest

from boneage_jax.tasks import metrics


def test_stage_bounds():
    months = [0, 9.9, 10, 23, 24, 83.9, 84, 155, 156, 179, 180, 228]
    girls = ['infancy'] * 2 + ['toddler'] * 2 + ['pre-puberty'] * 2 + ['early and mid puberty'] * 2
    girls += ['late puberty'] * 2 + ['post-puberty'] * 2
    assert list(metrics.puberty_stage(months, np.zeros(12, bool))) == girls
    months = [13.9, 14, 35, 36, 107, 108, 167, 168, 191, 192]
    boys = ['infancy'] + ['toddler'] * 2 + ['pre-puberty'] * 2 + ['early and mid puberty'] * 2
    boys += ['late puberty'] * 2 + ['post-puberty']
    assert list(metrics.puberty_stage(months, np.ones(10, bool))) == boys
    # The same age lies in different stages: girls are earlier.
    assert list(metrics.puberty_stage([160, 160], [False, True])) == [
        'late puberty',
        'early and mid puberty',
    ]


def test_values_counted_by_hand():
    age = np.array([100.0, 100.0, 100.0, 50.0])
    prediction = age + (error := np.array([12.0, -24.0, 0.0, 30.0]))
    out = metrics.age_metrics(prediction, age, [True, True, False, False])
    overall = {name: entry['value'] for name, entry in out['overall'].items()}
    assert overall == pytest.approx(
        {
            'mae': 16.5,
            'rmse': np.sqrt(405),
            'bias': 4.5,
            'within_12_months': 0.5,
            'within_24_months': 0.75,
            'agreement_lower': 4.5 - 1.96 * np.std(error, ddof=1),
            'agreement_upper': 4.5 + 1.96 * np.std(error, ddof=1),
        }
    )
    assert (
        out['by_sex']['male']['mae']['value'] == 18 and out['by_sex']['male']['mae']['count'] == 2
    )
    assert {name: m['mae']['count'] for name, m in out['by_stage'].items()} == {
        'pre-puberty': 3,
        'early and mid puberty': 1,
    }
    assert out['by_stage']['early and mid puberty']['mae']['value'] == 0
    for m in out['overall'].values():
        assert m['lower'] <= m['value'] <= m['upper'] and m['count'] == 4


def test_images_are_also_grouped_by_where_they_come_from():
    age = np.array([100.0, 100.0, 50.0])
    out = metrics.age_metrics(
        age + [6.0, 2.0, -3.0], age, [True, False, True], source=['b', '', 'b']
    )
    assert {name: m['mae']['value'] for name, m in out['by_source'].items()} == {
        'not known': 2.0,
        'b': 4.5,
    }
    assert 'by_source' not in metrics.age_metrics(
        age, age, [True, False, True], source=['', '', '']
    )
    with pytest.raises(ValueError, match='3 ages, 2 sources'):
        metrics.age_metrics(age, age, [True, False, True], source=['b', 'c'])


def test_absent_sex_is_left_out_and_everything_is_json():
    out = metrics.age_metrics([60.0], [66.0], [True])
    assert list(out['by_sex']) == ['male'] and list(out['by_stage']) == ['pre-puberty']
    assert out['overall']['mae'] == {'value': 6.0, 'lower': 6.0, 'upper': 6.0, 'count': 1}
    assert json.loads(json.dumps(out, allow_nan=False)) == out


def test_interval_is_that_of_the_normal_approximation_and_reproducible():
    errors = np.random.default_rng(0).normal(1.0, 10.0, 1000)
    lower, upper = metrics.bootstrap(errors, seed=1)
    half = 1.96 * errors.std() / np.sqrt(1000)
    assert (lower, upper) == pytest.approx((errors.mean() - half, errors.mean() + half), abs=0.1)
    assert (lower, upper) == metrics.bootstrap(errors, seed=1) != metrics.bootstrap(errors, seed=2)
    wide = metrics.bootstrap(errors[:250], seed=1)
    assert (
        1.6 < (wide[1] - wide[0]) / (upper - lower) < 2.5
    )  # a quarter of the images, twice the width


def test_chunks_change_nothing(monkeypatch):
    errors = np.random.default_rng(0).normal(0.0, 10.0, (50, 2))
    whole = metrics.bootstrap(errors, resamples=101)
    monkeypatch.setattr(metrics, '_CHUNK', 50 * 7)
    np.testing.assert_allclose(metrics.bootstrap(errors, resamples=101), whole)


def test_a_thousand_images_under_a_second():
    generator = np.random.default_rng(0)
    age = generator.uniform(1, 228, 1000)
    start = time.process_time()
    metrics.age_metrics(age + generator.normal(0, 8, 1000), age, generator.random(1000) < 0.5)
    assert time.process_time() - start < 1


def test_paired_difference_is_tighter_than_unpaired():
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 10, 500)
    a, b = hard, hard * 1.05
    delta, lower, upper = metrics.paired_difference(a, b)
    assert delta == pytest.approx(np.abs(a).mean() - np.abs(b).mean()) and lower < delta < upper < 0
    alone = metrics.bootstrap(np.abs(a))
    assert upper - lower < 0.2 * (alone[1] - alone[0])


def test_median_baseline():
    out = metrics.median_baseline([10.0, 20.0, 90.0], [30.0, 0.0])
    assert out == {'median': 20.0, 'value': 15.0, 'lower': 10.0, 'upper': 20.0, 'count': 2}


@pytest.mark.parametrize(
    'prediction, age, male, words',
    [
        ([], [], [], 'prediction: no images'),
        ([1.0, 2.0], [1.0], [True], 'unequal lengths: 2 predictions, 1 ages, 1 sexes'),
        ([1.0, 2.0], [1.0, 2.0], [True], '1 sexes'),
        (
            [1.0, np.nan],
            [1.0, 2.0],
            [True, False],
            'prediction is not finite for 1 of 2 images, the first: b',
        ),
        (
            [1.0, 2.0],
            [np.inf, 2.0],
            [True, False],
            'age is not finite for 1 of 2 images, the first: a',
        ),
        ([[1.0], [2.0]], [1.0, 2.0], [True, False], 'shape \\(2, 1\\)'),
        ([1.0, 2.0], [1.0, 2.0], [1, 7], 'found 7|found np.int64\\(7\\)'),
        ([1.0, 2.0], [1.0, -2.0], [1, 0], 'found -2.0'),
    ],
)
def test_bad_input_is_named(prediction, age, male, words):
    with pytest.raises(ValueError, match=words):
        metrics.age_metrics(prediction, age, male, ids=['a', 'b'])


def test_paired_difference_needs_the_same_images():
    with pytest.raises(ValueError, match='2 and 1 errors'):
        metrics.paired_difference([1.0, 2.0], [1.0])
