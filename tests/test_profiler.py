"""The profiler trace of some steps."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from boneage_jax.runtime import profiler as profiler_lib


def run(steps, folder, first=1, last=6, **options):
    """The steps that were traced, of `first` to `last`."""
    traced = profiler_lib.Profiler(steps, folder, **options)
    running = []
    for step in range(first, last + 1):
        traced.before(step)
        running += [step] if traced._running else []
        traced.after(step, jnp.float32(step))
    traced.close()
    return running


@pytest.fixture
def profiler(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: calls.append('start'))
    monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append('stop'))
    return calls


@pytest.mark.parametrize(
    'steps, first, expected',
    [
        ('2:4', 1, [2, 3, 4]),
        ('2:4', 4, [4]),
        ('2:4', 5, []),
        ('5:9', 1, [5, 6]),
        ('3:3', 1, [3]),
        ('', 1, []),
    ],
)
def test_the_steps_asked_for(profiler, steps, first, expected, tmp_path):
    assert run(steps, tmp_path, first) == expected
    assert profiler == (['start', 'stop'] if expected else [])


def test_other_hosts_trace_nothing(profiler, tmp_path):
    assert run('2:4', tmp_path, active=False) == [] and profiler == []


def test_a_real_trace(tmp_path, capsys):
    step = jax.jit(lambda x: x @ x)
    traced = profiler_lib.Profiler('1:1', tmp_path)
    traced.before(1)
    traced.after(1, step(jnp.ones((8, 8))))
    (path,) = tmp_path.rglob('*.trace.json.gz')
    assert json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
    assert str(tmp_path) in capsys.readouterr().err
