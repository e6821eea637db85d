"""Sweeps: which runs there are, what holds up what, and the table of the finished ones."""

import csv
import gc
import json
import pathlib
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest

from boneage_jax import config as c
from boneage_jax import sweep as sweep_command
from boneage_jax.analysis import ensemble, sweep
from boneage_jax.data import source
from boneage_jax.errors import ConfigError
from boneage_jax.runtime import files
from boneage_jax.training import evaluate, loop
from tfds_rsna.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
PRSNET = f'{ROOT}/configs/prsnet.py:tiny'
IMAGES = 30


def tiny_sweep(workdir, arg='', **options):
    return sweep.Sweep(PRSNET + arg, workdir, **options)


def finish(run, errors, *, ids=None, about=None):
    """Leaves in `run.workdir` what a finished run leaves; its holdout predictions are off by
    `errors` `[N]`.
    """
    generator, names = np.random.default_rng(5), ids or [f'h{i}' for i in range(IMAGES)]
    months, male = generator.integers(10, 220, IMAGES).astype(float), generator.random(IMAGES) < 0.5
    every = np.arange(IMAGES)
    holdout = source.Split('holdout', None, every, names, months, male)
    validation = source.Split('validation', None, every, [f'v{i}' for i in every], months, male)
    predictions = {
        'validation': (validation, {'prediction': months + 1.0}),
        'holdout': (holdout, {'prediction': months + errors}),
    }
    run.workdir.mkdir(parents=True)
    files.write_json(run.workdir / 'config.json', json.loads(run.config.to_json()))
    files.write_json(
        run.workdir / 'splits.json',
        {'train': ['a'], 'validation': validation.ids, 'holdout': names},
    )
    evaluate.write_predictions(run.workdir, predictions)
    about = {
        'minutes': 4.0,
        'commit': 'abc',
        'device': '1 cpu',
        'processor': '2 x Some CPU',
        **(about or {}),
    }
    return evaluate.write_metrics(run.workdir, predictions, ensemble.TASK, np.array([100.0]), about)


def read_table(workdir):
    with (workdir / 'table.csv').open(newline='') as file:
        return {row['row']: row for row in csv.DictReader(file)}


def pretend(monkeypatch, act):
    """`train.train` replaced by `act(config, workdir)`; -> the list of workdirs it was called with,
    as row/seed.
    """
    called = []

    def train_instead(config, workdir, data_dir):
        called.append(f'{workdir.parent.name}/{workdir.name}')
        return act(config, workdir)

    monkeypatch.setattr(loop, 'train', train_instead)
    return called


def finishing(swept):
    """Stands in for training: the run of that workdir is finished at once."""

    def act(config, workdir):
        row = swept.find(workdir.parent.name)
        return finish(swept.run(row, int(workdir.name[4:])), float(len(row.name)))

    return act


def test_real_runs_leave_a_table_and_are_not_done_again(tmp_path, capsys):
    swept = sweep.Sweep(f'{ROOT}/configs/classical.py:tiny', tmp_path)
    runs = [swept.run(row, seed) for seed in (0, 1) for row in swept.rows[:2]]
    assert sweep.train_all(swept, runs)
    row = read_table(tmp_path)[swept.rows[0].name]
    reports = [
        json.loads((run.workdir / 'metrics.json').read_text())
        for run in runs
        if run.row is swept.rows[0]
    ]
    values = [report['splits']['holdout']['overall']['mae']['value'] for report in reports]
    assert len(values) == 2 and float(row['ours']) == pytest.approx(np.mean(values), abs=1e-4)
    assert row | {'seeds': '2', 'split': 'holdout', 'data': 'hand_phantom 64x64'} == row
    assert float(row['paper']) == swept.rows[0].paper_value
    assert f'[1/{len(runs)}] {swept.rows[0].name}, seed 0' in capsys.readouterr().err
    times = [(run.workdir / 'metrics.json').stat().st_mtime_ns for run in runs]
    assert sweep.train_all(swept, runs)
    assert times == [(run.workdir / 'metrics.json').stat().st_mtime_ns for run in runs]


def test_a_finished_network_leaves_nothing_in_memory(tmp_path):
    swept = tiny_sweep(tmp_path, ',epochs=1,placement=device')
    gc.collect()
    before = len(jax.live_arrays())
    sweep.train_all(swept, [swept.run(swept.find('baseline'), 0)])
    assert len(jax.live_arrays()) <= before  # nor the images that lay on the device


def test_ours_is_the_mean_of_seeds_and_differences_are_of_the_same_images(tmp_path):
    swept, generator = tiny_sweep(tmp_path), np.random.default_rng(1)
    errors = {}
    for name, spread in (('baseline', 12), ('full', 6)):
        for seed in (0, 1, 2):
            errors[name, seed] = generator.normal(0, spread, IMAGES)
            finish(
                swept.run(swept.find(name), seed), errors[name, seed], about={'minutes': 3.0 + seed}
            )
    sweep.write_table(swept)
    table = read_table(tmp_path)
    assert list(table) == ['baseline', 'baseline, ensemble of 3', 'full', 'full, ensemble of 3']
    of_images = {
        name: np.mean([np.abs(errors[name, seed]) for seed in (0, 1, 2)], axis=0)
        for name in ('baseline', 'full')
    }
    full, mean = table['full'], table['full, ensemble of 3']
    assert float(full['ours']) == pytest.approx(of_images['full'].mean(), abs=1e-3)
    assert float(full['delta']) == pytest.approx(
        (of_images['full'] - of_images['baseline']).mean(), abs=2e-3
    )
    assert float(full['delta_lower']) < float(full['delta']) < float(full['delta_upper']) < 0
    assert float(full['lower']) < float(full['ours']) < float(full['upper'])
    averaged = np.abs(np.mean([errors['full', seed] for seed in (0, 1, 2)], axis=0)).mean()
    assert (
        float(mean['ours']) == pytest.approx(averaged, abs=1e-3)
        and averaged < of_images['full'].mean()
    )
    assert (full['paper'], mean['paper'], full['minutes'], full['seeds']) == (
        '4.49',
        '',
        '4.0',
        '3',
    )
    assert table['baseline']['delta'] == ''
    text = (tmp_path / 'table.md').read_text()
    for words in (
        '1 cpu (2 x Some CPU)',
        '30 holdout images of hand_phantom 64x64',
        'on the 200 test images',
        "the paper's setting is rsna_bone_age 512x512, ours hand_phantom 64x64",
    ):
        assert words in text
    assert 'validation' not in {row['split'] for row in table.values()}


def test_images_in_another_order_are_paired_and_other_images_refused(tmp_path):
    swept = tiny_sweep(tmp_path)
    finish(swept.run(swept.find('baseline'), 0), np.arange(IMAGES))
    full = swept.run(swept.find('full'), 0)
    finish(full, np.arange(IMAGES) - 2.0)
    path = full.workdir / 'predictions.csv'
    head, *rows = path.read_text().splitlines()
    path.write_text('\n'.join([head, *rows[::-1]]) + '\n')
    for name in ('without relation', 'without selection'):
        finish(swept.run(swept.find(name), 0), 3.0, ids=[f'x{i}' for i in range(IMAGES)])
    sweep.write_table(swept)
    table = read_table(tmp_path)
    expected = np.abs(np.arange(IMAGES) - 2.0) - np.arange(IMAGES)
    assert float(table['full']['delta']) == pytest.approx(expected.mean(), abs=1e-3)
    assert float(table['full']['delta_upper']) < -1  # unpaired, it would reach above 0
    assert table['without relation']['delta'] == '' and float(
        table['without relation']['ours']
    ) == pytest.approx(3)
    text = (tmp_path / 'table.md').read_text()  # one note for both rows of these other images
    assert (
        text.count('no difference to') == 1
        and 'without relation, without selection: no difference to baseline; '
        'holdout: 30 of the 30 images of baseline are not in without relation, the first: h0'
        in text
    )


def test_rows_are_compared_with_the_reference_that_they_name(tmp_path):
    """Networks of one sex, each with that sex's own reference; `reference` replaces them all."""
    spec = f'{ROOT}/configs/triplet.py:tiny'
    swept = sweep.Sweep(spec, tmp_path)
    for row in swept.rows[:4]:
        ids = [f'{row.name.split()[0]}{i}' for i in range(IMAGES)]
        finish(swept.run(row, 0), 3.0 if 'plain' in row.name else 1.0, ids=ids)
    sweep.write_table(swept)
    table = read_table(tmp_path)
    assert {name: row['reference'] for name, row in table.items()} == {
        'male plain': '',
        'male triplet': 'male plain',
        'female plain': '',
        'female triplet': 'female plain',
    }
    assert [float(table[f'{sex} triplet']['delta']) for sex in ('male', 'female')] == [-2, -2]
    text = (tmp_path / 'table.md').read_text()
    assert (
        '| beside ' in text
        and '| female plain | -2.00 (-2.00 to -2.00) ' in text
        and 'no difference to' not in text
    )

    sweep.write_table(sweep.Sweep(spec, tmp_path, reference='male-plain'))
    text = (tmp_path / 'table.md').read_text()
    assert (
        read_table(tmp_path)['male triplet']['reference'] == 'male plain'
        and '| minus male plain (95% interval) ' in text
    )
    assert 'female plain, female triplet: no difference to male plain' in text
    with pytest.raises(ConfigError, match="unknown row 'nobody'"):
        sweep.Sweep(spec, tmp_path, reference='nobody')


@pytest.mark.parametrize(
    'break_it, message',
    [
        (lambda run: (run.workdir / 'predictions.csv').unlink(), 'predictions.csv'),
        (
            lambda run: (run.workdir / 'predictions.csv').write_text(
                (run.workdir / 'predictions.csv')
                .read_text()
                .replace('h3,holdout,True,', 'h3,holdout,True,9')
                .replace('h3,holdout,False,', 'h3,holdout,False,9')
            ),
            'not of the same run',
        ),
        (
            lambda run: (run.workdir / 'metrics.json').write_text(
                '{"splits": {"holdout": {"role": "reported", "overall": {}}}}'
            ),
            'metrics.json has no mae of holdout',
        ),
    ],
)
def test_a_broken_run_leaves_its_row_out_and_the_others_in(tmp_path, break_it, message):
    swept = tiny_sweep(tmp_path)
    for name in ('baseline', 'full'):
        finish(swept.run(swept.find(name), 0), 3.0)
    break_it(swept.run(swept.find('full'), 0))
    sweep.write_table(swept)
    text = (tmp_path / 'table.md').read_text()
    assert list(read_table(tmp_path)) == ['baseline']
    assert 'full is left out: ' in text and message in text


def test_failures_hold_up_nothing_and_are_named(tmp_path, monkeypatch, capsys):
    swept = tiny_sweep(tmp_path)

    def act(config, workdir):
        if workdir.parent.name == 'without-relation':
            raise UserError('its images are gone')
        if workdir.parent.name == 'without-selection':
            raise RuntimeError('RESOURCE_EXHAUSTED')
        return finishing(swept)(config, workdir)

    called = pretend(monkeypatch, act)
    runs = [swept.run(row, 0) for row in swept.default_rows]
    with pytest.raises(
        UserError,
        match='2 of 4 runs failed(.|\n)*without relation, seed 0: .*its images are gone(.|\n)*'
        'without selection, seed 0: RuntimeError: RESOURCE_EXHAUSTED',
    ):
        sweep.train_all(swept, runs)
    assert called == [
        'baseline/seed0',
        'without-relation/seed0',
        'without-selection/seed0',
        'full/seed0',
    ]
    assert list(read_table(tmp_path)) == ['baseline', 'full']
    assert (
        'Not finished: without relation, seed 0 (UserError: its images are gone).'
        in (tmp_path / 'table.md').read_text()
    )
    assert 'Traceback' in capsys.readouterr().err  # of the fault of the program
    called.clear()
    monkeypatch.undo()
    called = pretend(monkeypatch, finishing(swept))
    assert sweep.train_all(swept, runs)  # the same again tries the failed ones only
    assert called == ['without-relation/seed0', 'without-selection/seed0']
    assert 'Not finished' not in (tmp_path / 'table.md').read_text()


def test_asked_to_stop_it_starts_no_other_run(tmp_path, monkeypatch):
    swept = tiny_sweep(tmp_path)
    done = finishing(swept)
    called = pretend(
        monkeypatch,
        lambda config, workdir: (
            None if workdir.parent.name == 'without-relation' else done(config, workdir)
        ),
    )
    assert not sweep.train_all(swept, [swept.run(row, 0) for row in swept.default_rows])
    assert called == ['baseline/seed0', 'without-relation/seed0']
    assert list(read_table(tmp_path)) == ['baseline']


def test_a_run_of_another_configuration_is_not_in_the_table(tmp_path, monkeypatch):
    old, swept = tiny_sweep(tmp_path, ',epochs=9'), tiny_sweep(tmp_path)
    finish(old.run(old.find('full'), 0), 1.0)
    finish(swept.run(swept.find('baseline'), 0), 3.0)
    sweep.write_table(swept)
    assert list(read_table(tmp_path)) == ['baseline']
    assert 'Not finished: full, seed 0' in (tmp_path / 'table.md').read_text()
    assert 'epochs: 9 -> 2' in (tmp_path / 'table.md').read_text()


def test_what_the_sweep_sets_may_not_be_set_twice(tmp_path):
    for arg, overrides, flag in (
        (',row=full', (), '--rows'),
        (',seed=3', (), '--seeds'),
        ('', ('--config.seed=3',), '--seeds'),
    ):
        with pytest.raises(ConfigError, match=f'take it out of the config and give {flag}'):
            tiny_sweep(tmp_path, arg, overrides=overrides)
    with pytest.raises(ConfigError, match="unknown row 'fool'; known: baseline, without relation"):
        tiny_sweep(tmp_path).find('fool')
    config = tmp_path / 'twins.py'
    config.write_text(
        'from boneage_jax.config import Row\n'
        'def sweep():\n    yield Row("a b", {})\n    yield Row("A-b", {})\n'
    )
    with pytest.raises(ConfigError, match="rows 'a b' and 'A-b' would share a folder"):
        sweep.Sweep(str(config), tmp_path)


def test_printed_commands_are_those_of_the_unfinished_runs(tmp_path, capsys):
    swept = tiny_sweep(tmp_path, overrides=('--config.optimizer.grad_clip_norm=2',))
    finish(swept.run(swept.find('full'), 0), 2.0)
    sweep_command.main(
        [
            'sweep',
            f'--config={PRSNET}',
            f'--workdir={tmp_path}',
            '--seeds=2',
            '--rows=full,without-relation',
            '--print_commands',
            '--data_dir=/some images',
            '--config.optimizer.grad_clip_norm=2',
        ]
    )
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [words[:3] for words in commands] == [['python', '-m', 'boneage_jax.main']] * 3
    assert [words[4] for words in commands] == [
        f'--workdir={tmp_path}/{place}'
        for place in ('without-relation/seed0', 'full/seed1', 'without-relation/seed1')
    ]
    first = swept.run(swept.find('without relation'), 0)
    config = c.from_command_line(commands[0][3].removeprefix('--config='), [commands[0][5]])
    assert (
        config.to_json() == first.config.to_json()
        and config.optimizer.grad_clip_norm == 2
        and not config.model.relation
    )
    assert commands[0][6] == '--data_dir=/some images'
    assert list(read_table(tmp_path)) == ['full']
    sweep_command.main(
        [
            'sweep',
            f'--config={PRSNET},epochs=9',
            f'--workdir={tmp_path}',
            '--rows=full',
            '--print_commands',
        ]
    )
    printed = capsys.readouterr()
    assert printed.out == '' and 'No command for full, seed 0' in printed.err
    assert 'epochs: 2 -> 9' in printed.err


def test_a_failed_sweep_ends_with_status_1_and_one_message(tmp_path):
    command = [
        sys.executable,
        '-m',
        'boneage_jax.sweep',
        f'--config={PRSNET},batch_size=7',
        f'--workdir={tmp_path}',
        '--rows=baseline',
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert (
        '1 of 1 runs failed' in result.stderr
        and 'batch_size=7 does not divide over 4 devices' in result.stderr
    )
