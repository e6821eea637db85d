"""A finished run scored on the images of another config."""

import csv
import json
import shutil

import pytest

from boneage_jax import config as c
from boneage_jax.analysis import score
from boneage_jax.errors import ConfigError


def test_a_run_is_scored_on_other_images(tmp_path, finished_run):
    spec = 'configs/keypoints.py:tiny,row=heatmaps'
    run = shutil.copytree(finished_run(spec), tmp_path / 'run')
    own = json.loads((run / 'metrics.json').read_text())
    same = score.score(run, c.load(spec)[1], tmp_path / 'same')
    assert same['splits']['holdout']['overall']['error_percent']['value'] == pytest.approx(
        own['splits']['holdout']['overall']['error_percent']['value'], rel=1e-3
    )
    with (tmp_path / 'same' / 'predictions.csv').open() as file:
        assert {row['split'] for row in csv.DictReader(file)} == {'validation', 'holdout'}
    other = score.score(run, c.load(spec + ',data.phantom.seed=5')[1], tmp_path / 'other')
    assert other['splits']['holdout'] != same['splits']['holdout']
    assert json.loads((tmp_path / 'other' / 'metrics.json').read_text()) == other
    with pytest.raises(ConfigError, match='holds results already'):
        score.score(run, c.load(spec)[1], tmp_path / 'same')
    with pytest.raises(ConfigError, match=r'data.size=\(40, 48\)'):
        score.score(run, c.load(spec + ',data.size=(40,48)')[1], tmp_path / 'third')
    with pytest.raises(ConfigError, match="the task 'keypoints', the config is for 'segmentation'"):
        score.score(run, c.load('configs/unet.py:tiny,data.size=(48,40)')[1], tmp_path / 'third')
    with pytest.raises(
        ConfigError, match='images were trained on there'
    ):  # another draw of the same images
        score.score(run, c.load(spec + ',split_seed=7')[1], tmp_path / 'third')
    written = json.loads((run / 'config.json').read_text())
    (run / 'config.json').write_text(
        json.dumps(written | {'data': written['data'] | {'sex': 'female'}})
    )
    with pytest.raises(
        ConfigError,
        match='data.sex=both: .*run was trained on female images alone; give data.sex=female',
    ):
        score.score(run, c.load(spec)[1], tmp_path / 'third')
