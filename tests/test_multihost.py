"""The same run at any number of processes and devices; a host that dies; who writes what.

Processes x devices are 1 x 4, 2 x 2 and 4 x 1.

Run as a script this file is one of the processes. The network is tiny (one convolution, batch
normalisation, an embedding under the triplet loss): what is tested is the loop around it.
"""

import csv
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from boneage_jax import cli
from boneage_jax import config as c
from boneage_jax.runs import predictor
from boneage_jax.runs import state as state_lib
from boneage_jax.runtime import checkpoint, sharding
from boneage_jax.training import finalize, loop

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAST_BEFORE_DEATH = 4  # the step whose checkpoint the dying host still helps to write


class Tiny(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 8, (8, 8), 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.embedding = nnx.Linear(200, 16, rngs=rngs)
        self.age = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, image, male, *, rngs=None):
        embeddings = self.embedding(nnx.relu(self.norm(self.conv(image))).reshape(len(image), -1))
        return self.age(nnx.relu(embeddings))[:, 0], {'embeddings': embeddings}


def run(workdir, arg=''):
    """One training run with the tiny network in this process, as `boneage_jax.main` does it,
    without its pictures.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, 'build_model', lambda config: Tiny(nnx.Rngs(config.seed)))
        patch.setattr(loop.GradientTrainer, '_draw_inputs', lambda self: None)
        patch.setattr(finalize.figures, 'from_run', lambda workdir: None)
        with sharding.abort_on_error():
            loop.train(c.load(f'configs/triplet.py:tiny,row=both triplet{arg}')[1], workdir)


def written_below(folder):
    """A list that grows by each file that this process opens to write, renames, makes or removes
    below `folder`.
    """
    found, writes = [], os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event, arguments):
        if (
            event == 'open' and isinstance(arguments[2], int) and arguments[2] & writes
        ) or event in ('os.rename', 'os.mkdir', 'os.remove', 'os.rmdir', 'os.truncate'):
            there = event == 'os.mkdir' and os.path.isdir(arguments[0])
            if str(arguments[0]).startswith(str(folder)) and not there:
                found.append(f'{event} {arguments[0]}')

    sys.addaudithook(hook)
    return found


def process(folder, jobs):
    """What each of several processes does: joins the others, then one run after another."""
    written = written_below(folder)
    sharding.initialize_distributed()
    if jobs == 'waits':
        with sharding.abort_on_error():
            sharding.barrier('all are here')
            if sharding.is_main():
                os.kill(os.getpid(), signal.SIGKILL)
            sharding.barrier('a step')
    for job in jobs.split('+'):
        if job == 'dies':
            save = checkpoint.Checkpoints.save

            def save_and_die(self, step, *rest, save=save):
                save(self, step, *rest)
                if step == LAST_BEFORE_DEATH and not sharding.is_main():
                    os.kill(os.getpid(), signal.SIGKILL)

            checkpoint.Checkpoints.save = save_and_die
        run(
            folder / job,
            {'two': '', 'dies': ',sharding=fsdp', 'resumed': ''}[job.partition('=')[0]],
        )
        print('wrote', json.dumps(written), flush=True)


def spawn(folder, processes, devices, jobs):
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        coordinator = f'127.0.0.1:{sock.getsockname()[1]}'
    flags = os.environ['XLA_FLAGS'].replace('device_count=4', f'device_count={devices}')
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), jobs],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ
            | {
                'XLA_FLAGS': flags,
                'BONEAGE_COORDINATOR': coordinator,
                'BONEAGE_PROCESSES': str(processes),
                'BONEAGE_PROCESS': str(i),
                'BONEAGE_HEARTBEAT': '20',
                'PYTHONPATH': str(ROOT),
            },
        )
        for i in range(processes)
    ]
    try:
        return [(one.communicate(timeout=200)[0], one.returncode) for one in started]
    finally:
        for one in started:
            one.kill()


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Folder of the runs `one` (1 x 4), `two` (2 x 2), `dies` (2 x 2, then 4 x 1), and what the
    processes said.
    """
    folder = tmp_path_factory.mktemp('hosts')
    run(folder / 'one')
    said = {'pair': spawn(folder, 2, 2, 'two+dies')}
    (folder / 'dies').rename(folder / 'resumed')
    said['four'] = spawn(folder, 4, 1, 'resumed')
    return folder, said


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [(line['kind'], line['step']) for line in lines], [
        [line['loss'], line['triplet_loss']] for line in lines
    ]


def predictions(workdir):
    with (workdir / 'predictions.csv').open() as file:
        rows = list(csv.DictReader(file))
    return [(row['id'], row['split']) for row in rows], [float(row['prediction']) for row in rows]


@pytest.mark.parametrize('name', ['two', 'resumed'])
def test_hosts_train_as_one(runs, name):
    """`resumed`: its first half trained on 2 x 2 with sharded parameters, its second on 4 x 1 with
    whole ones.
    """
    folder, said = runs
    (steps, a), (other, b) = losses(folder / 'one'), losses(folder / name)
    assert steps == other and len(steps) == 10, said
    np.testing.assert_allclose(
        a, b, rtol=1e-3
    )  # sums are taken in another order, which every step widens a little
    (images, a), (other, b) = predictions(folder / 'one'), predictions(folder / name)
    assert images == other and len(images) == 16
    np.testing.assert_allclose(a, b, atol=0.05)  # months


def test_one_host_writes_the_shared_files(runs):
    _, said = runs
    for host, (text, code) in enumerate(said['four']):
        assert code == 0, text
        written = json.loads(text.rpartition('wrote ')[2].splitlines()[0])
        shared = [path for path in written if '/checkpoints' not in path]
        assert bool(shared) == (host == 0), shared
        assert ('holdout (reported' in text) == (host == 0)


def test_a_host_that_dies_ends_the_others_with_a_message(runs):
    _, said = runs
    (text, code), (_, killed) = said['pair']
    assert (code, killed) == (1, -signal.SIGKILL), text
    assert 'One that dies ends the run within about 20 s' in text and 'lost another host' in text
    assert 'The same command goes on from the last save, on any number of hosts.' in text
    assert f'at step {LAST_BEFORE_DEATH}.' in said['four'][0][0]  # Resuming


def test_the_first_host_too_may_die(tmp_path):
    """It carries JAX's coordination service: either that one's client ends the others, or our own
    message does.
    """
    (_, killed), (text, code) = spawn(tmp_path, 2, 1, 'waits')
    assert killed == -signal.SIGKILL and code not in (0, killed), text
    assert 'lost another host' in text or 'another task died' in text


def test_shares_of_parameters():
    mesh = sharding.make_mesh()
    place = sharding.fsdp_sharding(mesh)
    for shape, axes in {
        (200, 16): ('data',),
        (3, 3, 64, 128): (None, None, None, 'data'),
        (16, 16): (),
        (1023, 3): (),
    }.items():
        assert place(jnp.zeros(shape)).spec == jax.sharding.PartitionSpec(*axes)
    x = np.arange(4096.0).reshape(64, 64)
    placed = sharding.place({'a': x}, {'a': place(x)})['a']
    assert placed.addressable_shards[0].data.shape == (16, 64)
    np.testing.assert_array_equal(placed, x)
    state = state_lib.State(None, {'a': placed}, {}, {}, {'a': placed}, {})
    _, whole = sharding.state_sharding(state, mesh, 'fsdp')
    gradient = jax.jit(jax.grad(lambda parameters: jnp.sum(whole(parameters)['a'] ** 2)))(
        {'a': placed}
    )['a']
    assert gradient.sharding.is_equivalent_to(place(x), 2), (
        'each device keeps the sum of its share: a reduce-scatter'
    )
    np.testing.assert_array_equal(gradient, 2 * x)


def test_missing_and_wrong_places_are_named(monkeypatch):
    with pytest.raises(ValueError, match='missing: BONEAGE_PROCESSES, BONEAGE_PROCESS$'):
        sharding.initialize_distributed({'BONEAGE_COORDINATOR': 'a:1'})
    monkeypatch.setattr(
        jax.distributed,
        'initialize',
        lambda **place: (_ for _ in ()).throw(RuntimeError('no answer')),
    )
    monkeypatch.setattr(jax.config, 'update', lambda *_: None)
    with pytest.raises(ValueError, match='did not find each other .*=auto.*no answer'):
        sharding.initialize_distributed({'BONEAGE_COORDINATOR': 'auto'})


if __name__ == '__main__':
    cli.exit_on_user_error(lambda argv: process(pathlib.Path(argv[1]), argv[2]))(sys.argv)
