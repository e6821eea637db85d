"""Whole runs: every config, what they leave behind, stopping and resuming in real processes."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import PRSNET

from boneage_jax import config as c
from boneage_jax.errors import ConfigError, DivergedError
from boneage_jax.runs import predictions
from boneage_jax.runtime import checkpoint
from boneage_jax.training import loop
from tfds_rsna.parallel import lock

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Rows that stand for their config where all of them would take minutes; '' = the config as it is.
STAND_INS = {
    'prsnet': ['baseline'],
    'keypoints': ['heatmaps'],
    'triplet': ['male triplet'],
    'age_classes': ['custom-3'],
    'regions': ['classification-male-B'],
    'transformation': [''],
    'classical': ['male linear', 'female logistic'],
    'attention': [],
    'unet': [],
}  # test_transfer and test_unet run their own, test_predict the whole PRSNet


def config_rows(path):
    """The rows that a sweep of a config trains by default."""
    return [row.name for row in c.load_module(path).sweep() if not row.optional]


ROWS = [
    (path, row)
    for path in sorted((ROOT / 'configs').glob('*.py'))
    for row in STAND_INS.get(path.stem, config_rows(path))
]
LONG = 'tiny,row=baseline,epochs=30,eval_every_epochs=15,checkpoint_every_steps=7'  # 120 steps


def baseline(arg):
    return c.load(f'{ROOT}/configs/prsnet.py:tiny,row=baseline,{arg}')[1]


def read_predictions(workdir):
    with (workdir / 'predictions.csv').open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize('path, row', ROWS, ids=lambda x: getattr(x, 'stem', x))
def test_every_row_of_every_config_runs_as_tiny(path, row, finished_run):
    spec = f'configs/{path.stem}.py:tiny'
    if row:
        spec += f',row={row}'
    workdir = finished_run(spec)
    report = json.loads((workdir / 'metrics.json').read_text())
    assert report['splits']['validation']['role'] == 'selects'
    assert report['splits']['holdout']['role'] == 'reported'
    for split in report['splits'].values():
        for measure in split['overall'].values():
            assert measure['lower'] <= measure['value'] <= measure['upper']
    rows = read_predictions(workdir)
    splits = json.loads((workdir / 'splits.json').read_text())
    for name in ('validation', 'holdout'):
        assert [r['id'] for r in rows if r['split'] == name] == splits[name]
        assert splits['id_spaces'][name] == [['hand_phantom:0', len(splits[name])]]
    drawn = {p.name for p in (workdir / 'figures').glob('*.png')}
    held_out = [r for r in rows if r['split'] == 'holdout']
    if 'prediction' in rows[0]:
        measure = 'mae'
        values = [abs(float(r['prediction']) - float(r['age'])) for r in held_out]
        assert drawn >= {'predictions_holdout.png', 'error_by_age_holdout.png'}
        assert predictions.kind_of(workdir) in ('age', 'age_classes')
    else:
        measure = next(name for name in ('iou', 'error_percent') if name in rows[0])
        values = [float(r[measure]) for r in held_out]
        assert 'training.png' in drawn
    reported = report['splits']['holdout']['overall'][measure]['value']
    assert np.mean(values) == pytest.approx(reported, abs=1e-3)

    before = (workdir / 'metrics.json').stat().st_mtime_ns
    assert loop.train(c.load(spec)[1], workdir) == report  # finished: nothing is done again
    assert (workdir / 'metrics.json').stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match='another configuration:\n  seed: 0 -> 9'):
        loop.train(c.load(f'{spec},seed=9')[1], workdir)
    # What changes no result may change.
    loop.train(c.load(f'{spec},log_every_steps=9,checkpoint_every_steps=9')[1], workdir)


def test_placements_give_the_same_run(tmp_path):
    for placement in ('host', 'device'):
        loop.train(baseline(f'epochs=1,placement={placement}'), tmp_path / placement)
    host, device = (read_predictions(tmp_path / placement) for placement in ('host', 'device'))
    assert [row['id'] for row in host] == [row['id'] for row in device]
    # The batches are the same bits; compiled into the gather, their arithmetic may round another
    # way.
    np.testing.assert_allclose(
        *([float(row['prediction']) for row in rows] for rows in (host, device)), atol=0.05
    )


def test_patience_stops_and_the_best_epoch_is_reported(tmp_path):
    report = loop.train(baseline('epochs=12,patience=1,learning_rate=1e-9'), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    evaluations = [line for line in lines if line['kind'] == 'eval']
    values = {line['step']: line['mae'] for line in evaluations}
    assert len(values) < 12 and report['step'] < max(
        values
    )  # one evaluation too many, then it stopped
    assert values[report['step']] == pytest.approx(min(values.values()), rel=1e-6)


def test_init_from_starts_where_another_run_ended(tmp_path, finished_run):
    first = finished_run(PRSNET)
    config = baseline(f'epochs=1,learning_rate=1e-12,init_from={first}')
    second = loop.train(config, tmp_path / 'second')

    def value(report):
        return report['splits']['validation']['overall']['mae']['value']

    before = value(json.loads((first / 'metrics.json').read_text()))
    assert value(second) == pytest.approx(before, abs=5)  # only batch statistics moved on
    with pytest.raises(ConfigError, match='no run lies there'):
        loop.train(baseline(f'init_from={tmp_path / "none"}'), tmp_path / 'third')


def test_loss_that_is_not_finite_names_step_and_images_and_spares_the_checkpoint(tmp_path):
    with pytest.raises(
        DivergedError,
        match=r'step \d+: .*images of that batch: \d+, \d+, \d+, \d+; .*learning_rate',
    ):
        loop.train(
            baseline(
                'epochs=40,learning_rate=1e30,eval_every_epochs=40,checkpoint_every_steps=1,log_every_steps=1'
            ),
            tmp_path,
        )
    saved = newest(tmp_path)
    assert saved is None or all(
        np.isfinite(x).all() for k, x in arrays(tmp_path, saved).items() if 'params.' in k
    )


def arrays(workdir, step):
    with checkpoint.Checkpoints(workdir) as checkpoints:
        return checkpoints.read(step)


def start(workdir, arg=LONG, limit='unlimited', **options):
    command = [
        'bash',
        '-c',
        f'ulimit -f {limit}; exec "$@"',
        'bash',
        sys.executable,
        '-m',
        'boneage_jax.main',
        f'--config=configs/prsnet.py:{arg}',
        f'--workdir={workdir}',
    ]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def finish(process):
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def wait_for_step(process, workdir, step):
    path, deadline = workdir / 'metrics.jsonl', time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count('"kind": "train"') >= step:
            return
        time.sleep(0.01)
    pytest.fail(f'step {step} was not reached: {process.communicate()[0]}')


def newest(workdir):
    return max(
        (int(p.name) for p in (workdir / 'checkpoints').glob('[0-9]*') if p.name.isdigit()),
        default=None,
    )


def test_stopped_and_killed_runs_resume_bit_identically(tmp_path):
    """One run is never stopped.

    Another is asked to stop, started on a full disk, killed, and resumed to its end.
    """
    broken = tmp_path / 'broken'
    process = start(broken)
    wait_for_step(process, broken, 20)
    with pytest.raises(lock.LockedError, match=f'in use by process {process.pid}'):
        loop.train(c.load(f'configs/prsnet.py:{LONG}')[1], broken)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    stopped = newest(broken)
    assert code == 0 and f'saved step {stopped}' in output and 20 <= stopped < 120, output

    code, output = finish(
        start(broken, limit='100')
    )  # stands in for a full disk: no file may exceed 100 kB
    assert code == 1 and 'no space left to write the checkpoint' in output, output
    assert f'The checkpoint of step {stopped} is whole' in output and newest(broken) == stopped

    process = start(broken)
    wait_for_step(process, broken, stopped + 20)
    process.kill()
    finish(process)
    killed = newest(broken)
    assert stopped < killed < 120 and not (broken / 'metrics.json').exists()
    lost = [
        json.loads(line)['step'] for line in (broken / 'metrics.jsonl').read_text().splitlines()
    ]
    assert max(lost) - killed <= 7  # at most the steps since the last save

    code, output = finish(start(broken))
    assert code == 0 and f'Resuming {broken} at step {killed}' in output, output
    assert 'holdout (reported, 8 images): MAE' in output and str(broken) in output

    loop.train(c.load(f'configs/prsnet.py:{LONG}')[1], tmp_path / 'whole')
    one, two = (arrays(tmp_path / name, 120) for name in ('whole', 'broken'))
    assert one.keys() == two.keys() and len(one) > 50
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert (tmp_path / 'whole' / 'predictions.csv').read_text() == (
        broken / 'predictions.csv'
    ).read_text()
    steps = [
        json.loads(line)['step']
        for line in (broken / 'metrics.jsonl').read_text().splitlines()
        if '"train"' in line
    ]
    assert steps == list(range(1, 121))  # the lost part was dropped from the log and written again


def test_errors_end_in_one_message(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != 'BONEAGE_DATA'}
    code, output = finish(start(tmp_path / 'run', 'rsna100', env=environment))
    assert code == 1 and 'Traceback' not in output
    assert 'set BONEAGE_DATA or pass --data_dir' in output and 'configs/prsnet.py:phantom' in output
