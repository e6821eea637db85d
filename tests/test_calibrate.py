"""A site's own line for each sex: what is fitted, what it is worth, what is refused."""

import csv

import numpy as np
import pytest
from PIL import Image

from boneage_jax.data import splits
from boneage_jax.errors import SplitError
from boneage_jax.inference import calibrate, calibration, intervals, predict, scale
from boneage_jax.runs import predictor
from tfds_rsna.errors import UserError


def site(count=60, seed=0):
    """(prediction, age, male): boys are read 10 months younger than predicted, girls by a slope of
    0.9.
    """
    generator = np.random.default_rng(seed)
    male, prediction = np.arange(count) % 2 == 0, generator.uniform(40, 200, count)
    age = np.where(male, prediction - 10, 0.9 * prediction + 4) + generator.normal(0, 4, count)
    return prediction, age, male


def write(path, prediction, age, male, split=None):
    with path.open('w', newline='') as file:
        rows = csv.writer(file)
        rows.writerow(['id', 'male', 'prediction', 'age'] + ['split'] * (split is not None))
        rows.writerows(
            [f'k{i}', bool(m), p, a, *([split] if split else [])]
            for i, (p, a, m) in enumerate(zip(prediction, age, male))
        )
    return path


def test_each_image_is_judged_by_the_line_of_the_others():
    prediction, age, male = site()
    fitted, report, left_out = calibration.fit(prediction, age, male, 'run')
    for i in (0, 1, 17):
        others = (np.arange(len(age)) != i) & (male == male[i])
        slope, intercept = np.polyfit(prediction[others], age[others], 1)
        assert left_out[i] == pytest.approx(intercept + slope * prediction[i], abs=1e-6)
    assert fitted.lines['male'] == pytest.approx((-10, 1.0), abs=4) and fitted.lines['female'][
        1
    ] == pytest.approx(0.9, abs=0.05)
    assert report['male']['before']['bias']['value'] == pytest.approx(10, abs=2)
    assert (
        abs(report['male']['after']['bias']['value']) < 1
        and report['overall']['mae_difference']['upper'] < 0
    )
    np.testing.assert_allclose(
        np.abs(left_out - age).mean(), report['overall']['after']['mae']['value']
    )
    covered = np.abs(left_out - age) <= np.where(male, fitted.half['male'], fitted.half['female'])
    assert 0.88 <= covered.mean() <= 1


def test_too_few_images_are_refused_with_their_numbers():
    prediction, age, male = site()
    few = male | (np.cumsum(~male) <= 7)
    with pytest.raises(UserError, match='7 female, 30 male; each sex needs 20'):
        calibration.fit(prediction[few], age[few], male[few], 'run')
    fitted, report, _ = calibration.fit(prediction[male], age[male], male[male], 'run')
    assert list(fitted.lines) == ['male'] and list(report) == ['overall', 'male']
    with pytest.raises(UserError, match='no line for female images'):
        fitted.apply([100.0, 100.0], [True, False])
    with pytest.raises(UserError, match='all 30 male images have the same predicted age'):
        calibration.fit(np.full(30, 90.0), age[male], male[male], 'run')


@pytest.mark.parametrize('name', splits.REPORTED)
def test_a_reported_split_calibrates_nothing(name, tmp_path):
    path = write(tmp_path / 'ages.csv', *site(), split=name)
    with pytest.raises(SplitError, match=f'the calibration would be chosen by the {name} split'):
        calibrate.read(path, name)
    with pytest.raises(UserError, match=f'no image of the split validation; it has {name}'):
        calibrate.read(path, 'validation')
    assert len(calibrate.read(write(path, *site(), split='validation'), 'validation')['id']) == 60


def test_images_without_an_age_do_not_count_and_columns_must_be_there(tmp_path):
    path = write(tmp_path / 'ages.csv', *site(4))
    path.write_text(path.read_text() + 'k9,True,100,\nk10,,100,90\n')
    assert calibrate.read(path, 'validation')['id'].tolist() == ['k0', 'k1', 'k2', 'k3']
    path.write_text('id,male,prediction\n1,True,100\n')
    with pytest.raises(
        UserError, match='column age missing; found id, male, prediction. .* with --labels'
    ):
        calibrate.read(path, 'validation')


def test_predict_takes_a_calibration_of_its_own_network_only(
    tmp_path, finished_run, unchecked_images
):
    run = finished_run('configs/prsnet.py:tiny,row=baseline')
    report = calibrate.calibrate(
        run, tmp_path / 'site.json', predictions=write(tmp_path / 'ages.csv', *site())
    )
    assert (
        report['overall']['images'] == 60
        and (tmp_path / 'site_images.csv').read_text().count('\n') == 61
    )
    with pytest.raises(UserError, match='site.json exists'):
        calibrate.calibrate(run, tmp_path / 'site.json', predictions=tmp_path / 'ages.csv')
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(
        tmp_path / 'image.png'
    )

    def ages(output, **options):
        return predict.predict(
            run, tmp_path / 'image.png', tmp_path / output, sex='male', **options
        )[0]

    plain, own = ages('plain.csv'), ages('own.csv', calibration=tmp_path / 'site.json')
    fitted = calibration.read(
        tmp_path / 'site.json', calibration.identify(run, predictor.step_of(run))
    )
    assert own['prediction'] == pytest.approx(
        fitted.apply([plain['prediction']], [True])[0], abs=1e-6
    )
    assert own['upper'] - own['prediction'] == pytest.approx(fitted.half['male'])
    text = (tmp_path / 'site.json').read_text()
    (tmp_path / 'site.json').write_text(text.replace(fitted.run, 'another-8'))
    with pytest.raises(UserError, match='was made for another network'):
        ages('third.csv', calibration=tmp_path / 'site.json')


def test_a_sites_intervals_keep_the_scales_of_the_network(tmp_path):
    prediction, age, male = site(400)
    spread = np.where(np.arange(400) % 4 < 2, 3.0, 12.0)  # half of each sex
    age = age + (spread - 3) * np.random.default_rng(1).normal(size=400)
    flat = scale.Scale({}, {}, {})
    by_spread = scale.Scale({'spread': 1.0}, {'spread': (3.0, 12.0)}, {'spread': 6.0})
    typical = {'female': (1.0, 1.0, 1.0), 'male': (1.0, 1.0, 1.0)}
    scaled = intervals.Scaled({'female': flat, 'male': by_spread}, {}, typical)
    fitted, _, left_out = calibration.fit(
        prediction, age, male, 'run', scaled=scaled, signals={'spread': spread}
    )
    half = fitted.intervals().widths([True, True, False, False], {'spread': [3.0, 12.0] * 2})
    assert half[1] == pytest.approx(4 * half[0]) and half[2] == half[3] == fitted.half['female']
    widths = fitted.intervals().widths(male, {'spread': spread})
    assert np.mean(np.abs(left_out - age) <= widths) == pytest.approx(0.905, abs=0.006)
    calibration.write(tmp_path / 'site.json', fitted, {}, {})
    assert calibration.read(tmp_path / 'site.json', 'run') == fitted
    for bad in ({}, {'spread': np.where(spread > 3, spread, np.nan)}):
        plain, _, _ = calibration.fit(prediction, age, male, 'run', scaled=scaled, signals=bad)
        assert plain.scaled is None


def test_ages_that_are_no_months_calibrate_nothing(tmp_path):
    prediction, age, male = site()
    path = tmp_path / 'ages.csv'
    with pytest.raises(UserError, match='look like years beside predictions in months'):
        calibrate.read(write(path, prediction, age / 12, male), 'validation')
    with pytest.raises(UserError, match='60 of 60 ages are outside of 0 to 240 months'):
        calibrate.read(write(path, prediction, 30.4 * age, male), 'validation')
    age[3] = -99
    with pytest.raises(UserError, match='1 of 60 ages .* the first: -99'):
        calibrate.read(write(path, prediction, age, male), 'validation')
