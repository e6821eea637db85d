"""Intervals by image on their way through a run: predict, export, score, report."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from boneage_jax import config as c
from boneage_jax.analysis import score
from boneage_jax.inference import export, intervals, predict
from boneage_jax.report import collect, runs
from tfds_rsna.hand_phantom.render import phantom

SPEC = 'configs/strong.py:tiny'


@pytest.fixture(scope='module')
def run(finished_run, tmp_path_factory):
    """A tiny run that predicts distributions, with a table of errors as wide as their spread."""
    place = tmp_path_factory.mktemp('scaled') / 'run'
    shutil.copytree(finished_run(SPEC), place)
    generator = np.random.default_rng(0)
    lines = ['id,split,male,age,prediction,spread']
    for split, count in (('validation', 400), ('holdout', 400)):
        for i in range(count):
            spread = generator.choice([20.0, 80.0])
            error = spread * generator.normal()
            lines.append(f'{split}{i},{split},{i % 2 == 0},500,{500 + error:.3f},{spread:.3f}')
    (place / 'predictions.csv').write_text('\n'.join(lines) + '\n')
    return place


def test_an_image_has_the_width_of_its_own_spread(run, tmp_path, unchecked_images):
    (tmp_path / 'hands').mkdir()
    for i in range(2):
        drawn = Image.fromarray(phantom(7, i, (90, 70))['image'])
        drawn.save(tmp_path / 'hands' / f'hand{i}.png')
    path = tmp_path / 'a.safetensors'
    export.export(run, path, embeddings=False)
    fitted, covered = intervals.of_network(run)
    assert intervals.of_network(path) == (fitted, covered) and fitted.scaled
    for place in (run, path):
        rows = predict.predict(
            place, tmp_path / 'hands', tmp_path / f'{place.name}.csv', sex='male'
        )
        for row in rows:
            half = fitted.widths([True], {'spread': [row['spread']]})[0]
            assert row['upper'] == pytest.approx(row['prediction'] + half, abs=1e-4)
            assert row['lower'] == pytest.approx(max(row['prediction'] - half, 0), abs=1e-4)
        header = (tmp_path / f'{place.name}.csv').read_text().splitlines()[0]
        assert header == 'id,file,male,prediction,years,lower,upper,status,flags,spread'


def test_the_metrics_of_a_score_and_the_report_have_the_coverage(run, tmp_path):
    config = c.load(SPEC)[1]
    score.score(run, config, tmp_path / 'scored')
    found = json.loads((tmp_path / 'scored' / 'metrics.json').read_text())['splits']['holdout']
    overall = found['intervals']['overall']
    assert overall['count'] == found['images'] and 0 <= overall['value'] <= 1
    assert set(found['intervals']) >= {'overall', 'by_sex', 'by_stage', 'by_width'}
    html = str(
        runs._coverage(
            collect.Run(run, None, {'kind': 'age', 'splits': {'holdout': {}}}, []), 'holdout'
        )
    )
    assert 'what 90% prediction intervals hold' in html and 'narrowest' in html
