"""The survey's sheets: what a config's stages make of its images, before any training."""

import numpy as np
import pytest
from PIL import Image

from boneage_jax import config as c
from boneage_jax import presets, survey
from boneage_jax.analysis import survey as survey_lib
from boneage_jax.errors import ConfigError


def config(stages):
    presets_of = {'phantom': presets.phantom((96, 72), count=12, held_out=2)}
    return c.build(c.base(), f'phantom,stages=({stages})', presets_of, ())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'cache'))


def test_sheets_show_masks_on_the_images_and_then_the_regions(tmp_path):
    paths = survey_lib.contact_sheets(config('mask,region'), tmp_path / 'out', count=5)
    assert [path.name for path in paths] == ['found.png', 'prepared.png']
    found, prepared = (np.asarray(Image.open(path).convert('RGB'), int) for path in paths)
    assert found.shape == prepared.shape
    coloured = np.ptp(found, axis=2) > 60
    for i in range(5):  # five pictures in a row, an outline in colour on each
        assert coloured[:150, 150 * i : 150 * (i + 1)].sum() > 50
    assert np.abs(found - prepared).max() > 60


def test_without_stages_there_is_nothing_to_show(tmp_path):
    with pytest.raises(ConfigError, match='data.stages is empty'):
        survey_lib.contact_sheets(config(''), tmp_path / 'out')


def test_the_command(tmp_path, capsys):
    survey.main(
        [
            'survey',
            '--config=configs/prsnet.py:tiny,stages=(mask,crop)',
            '--sheets',
            '--images=3',
            f'--output={tmp_path}',
        ]
    )
    assert '3 images:' in capsys.readouterr().err
    assert (tmp_path / 'found.png').exists()
