"""The grid of regional nets: which nets a cell is the mean of, what is missing, tables and figures
of finished rows.
"""

import csv
import json
import pathlib

import numpy as np
import pytest

from boneage_jax.analysis import ensemble, regional_table, sweep
from boneage_jax.runs import predictions
from boneage_jax.runtime import files
from boneage_jax.training import evaluate
from tfds_rsna.errors import UserError

IMAGES = 60
ROOT = pathlib.Path(__file__).resolve().parents[1]
SPEC = f'{ROOT}/configs/regions.py:tiny'


def finish(run, splits=('holdout',)):
    """Leaves in `run.workdir` what a finished run of that row leaves: errors of 4 to 20 months, the
    larger the later the region.
    """
    draw = np.random.default_rng(5)
    months = draw.integers(30, 220, IMAGES).astype(float)
    male = draw.random(IMAGES) < 0.5
    spread = 4.0 * ('ABC'.index(run.row.name[-1]) + 1)
    noise = np.random.default_rng(sum(map(ord, run.row.name))).normal(0, spread, IMAGES)
    sex = run.config.data.sex
    ids = {'train': ['a']}
    scored = {}
    for split in ('validation', *splits):
        images = {
            'id': np.array([f'{split[0]}{i}' for i in range(IMAGES)]),
            'male': male,
            'age': months,
            'prediction': months + noise,
        }
        if sex != 'both':
            images = predictions.of_sex(images, sex == 'male')
        labels = ensemble.labels_of(split, images)
        ids[split] = labels.ids
        scored[split] = (labels, {'prediction': images['prediction']})
    run.workdir.mkdir(parents=True)
    files.write_json(run.workdir / 'config.json', json.loads(run.config.to_json()))
    files.write_json(run.workdir / 'splits.json', ids)
    evaluate.write_predictions(run.workdir, scored)
    evaluate.write_metrics(run.workdir, scored, ensemble.TASK, np.array([100.0]), {})


def swept(workdir, names, **options):
    found = sweep.Sweep(SPEC, workdir)
    for name in names:
        finish(found.run(found.find(name), 0), **options)
    return found


def read(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def test_cells_are_the_paper_s():
    module = sweep.Sweep(SPEC, None).module
    cells = regional_table.cells(module)
    assert len(cells) == 18 + 6 + 3 + 1
    assert cells['regression', 'male', 'all'] == [
        ('regression', 'male', region) for region in 'ABC'
    ]
    assert set(cells['all', 'all', 'B']) == {
        (form, sex, 'B') for form in module.FORMS for sex in ('male', 'female')
    }
    assert len(cells['all', 'all', 'all']) == 12 and not [
        key for key in cells['all', 'all', 'all'] if key[1] == 'both'
    ]
    assert set(module.PAPER) <= set(cells)


def test_a_whole_grid(tmp_path):
    names = [row.name for row in sweep.Sweep(SPEC, tmp_path).rows[:18]]
    found = swept(tmp_path, names, splits=('test',))
    lines = {
        (line['split'], line['form'], line['sex'], line['region']): line
        for line in regional_table.write(found, tmp_path / 'grid')
    }
    assert len(lines) == 28
    one, mean = lines['test', 'regression', 'male', 'C'], lines['test', 'regression', 'male', 'all']
    assert (
        one['members'] == 1
        and mean['members'] == 3
        and mean['ours'] < one['ours']
        and one['images'] < IMAGES
    )
    overall = lines['test', 'all', 'all', 'all']
    assert (overall['images'], overall['members'], overall['paper']) == (IMAGES, 12, 4.97)
    assert (
        mean['paper'] is None
        and regional_table.paper_of(found.module, 'holdout')['regression', 'male', 'all'] == 6.30
    )  # never mixed
    members = [
        ensemble.read(tmp_path / name / 'seed0')['test']
        for name in map(sweep.slug, names)
        if '-both-' not in name
    ]
    total = {}
    for member in members:
        for image, error in zip(member['id'], ensemble.errors_of(member)):
            total.setdefault(image, []).append(error)
    assert overall['ours'] == pytest.approx(
        np.mean([abs(np.mean(errors)) for errors in total.values()]), abs=1e-3
    )
    text = (tmp_path / 'grid' / 'table.md').read_text()
    assert (
        text.count('[4.97]') == 1
        and '[7.52]' not in text
        and 'Not finished' not in text
        and 'validation |' not in text
    )
    stages = read(tmp_path / 'grid' / 'stages.csv')
    assert {row['stage'] for row in stages} == set(regional_table.STAGES) and {
        row['region'] for row in stages
    } == {*'ABC', 'all'}
    late = next(
        row
        for row in stages
        if (row['sex'], row['stage'], row['region']) == ('male', 'late puberty', 'A')
    )
    assert (late['from_months'], late['to_months']) == ('168', '192')
    assert late['members'] == 'regression-male-A; classification-male-A'
    drawn = {path.name for path in (tmp_path / 'grid').rglob('*.png')}
    assert drawn == {f'{name}_test.png' for name in ('grid', 'stages', 'error_correlation')}


def test_what_is_missing_is_empty_and_named(tmp_path):
    found = swept(tmp_path, ['regression-male-A', 'regression-female-A', 'classification-both-B'])
    lines = regional_table.write(found, tmp_path / 'grid')
    assert [(line['form'], line['sex'], line['region'], line['paper']) for line in lines] == [
        ('regression', 'male', 'A', None),
        ('regression', 'female', 'A', 7.12),
        ('classification', 'both', 'B', None),
    ]
    path = tmp_path / 'grid' / 'table.md'
    text = path.read_text()
    path.write_text('edited')
    with pytest.raises(UserError, match='grid holds results already .table.md.*, or --overwrite'):
        regional_table.write(found, tmp_path / 'grid')
    assert path.read_text() == 'edited'
    regional_table.write(found, tmp_path / 'grid', overwrite=True)
    assert path.read_text() == text
    assert (
        'Not finished, its cells are empty: regression-male-B, seed 0; ' in text
        and '– [7.52]' in text
    )
    assert {row['region'] for row in read(tmp_path / 'grid' / 'stages.csv')} == {'A'}


def test_nothing_finished_says_what_to_do(tmp_path):
    with pytest.raises(
        UserError,
        match='no row of .*/configs/regions.py:tiny is finished with seed 0; '
        'train them first: python',
    ):
        regional_table.write(sweep.Sweep(SPEC, tmp_path), tmp_path / 'grid')
    with pytest.raises(UserError, match='no grid of regional nets; give configs/regions.py'):
        regional_table.write(
            sweep.Sweep(f'{ROOT}/configs/prsnet.py:tiny', tmp_path), tmp_path / 'grid'
        )
