"""Two processes with two devices each train the run that one process with four devices trains."""

import csv
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]


def start(workdir, devices, **distributed):
    environment = os.environ | distributed | {'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'}
    return subprocess.Popen(
        [sys.executable, '-m', 'boneage_jax.main', '--config=configs/prsnet.py:tiny,row=baseline', f'--workdir={workdir}'],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(processes):
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), '\n'.join(outputs)
    return outputs


def free_port():
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [(line['kind'], line['step'], line['loss']) for line in lines]


def predictions(workdir):
    with (workdir / 'predictions.csv').open() as file:
        return [(row['id'], row['split'], float(row['prediction'])) for row in csv.DictReader(file)]


def test_two_processes_train_as_one(tmp_path):
    finish([start(tmp_path / 'one', 4)])
    coordinator = f'127.0.0.1:{free_port()}'
    two = finish([start(tmp_path / 'two', 2, BONEAGE_COORDINATOR=coordinator, BONEAGE_PROCESSES='2',
                        BONEAGE_PROCESS=str(i)) for i in range(2)])
    assert 'holdout (reported' in two[0] and 'holdout (reported' not in two[1]  # one host reports
    a, b = losses(tmp_path / 'one'), losses(tmp_path / 'two')
    assert [x[:2] for x in a] == [x[:2] for x in b] and len(a) == 10
    # Sums are taken in another order: float tolerance, which every step widens a little.
    np.testing.assert_allclose([x[2] for x in a], [x[2] for x in b], rtol=1e-3)
    a, b = predictions(tmp_path / 'one'), predictions(tmp_path / 'two')
    assert [x[:2] for x in a] == [x[:2] for x in b] and len(a) == 16
    np.testing.assert_allclose([x[2] for x in a], [x[2] for x in b], atol=0.2)
