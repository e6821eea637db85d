"""Preparing under Apache Beam leaves the same files, bit for bit, as preparing with processes."""

import functools
import pathlib

import pytest

from boneage_jax import config as c
from boneage_jax.stages import records
from tfds_rsna.errors import UserError
from tfds_rsna.parallel import beam, pools


def double(job):
    if job == 13:
        raise UserError('image 13 is broken')
    return [job] * 2


def test_an_engine_takes_over_inside_its_block_only():
    calls = []

    def other(function, jobs):
        calls.append(list(jobs))
        return map(function, reversed(calls[-1]))

    with pools.engine(other):
        assert list(pools.ordered(double, [1, 2])) == [[2, 2], [1, 1]]
    assert list(pools.ordered(double, [1, 2], workers=1)) == [[1, 1], [2, 2]] and calls == [[1, 2]]


def test_without_beam_the_lock_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__('sys').modules, 'apache_beam', None)
    with pytest.raises(UserError, match='requirements-beam.lock'):
        list(beam.ordered(double, [1], folder=str(tmp_path), options=[]))


@pytest.fixture
def engine(tmp_path):
    pytest.importorskip('apache_beam', reason="needs the extra 'beam'")
    return functools.partial(beam.ordered, folder=str(tmp_path), options=['--runner=DirectRunner'])


@pytest.mark.filterwarnings('ignore')  # Beam's own
def test_order_errors_and_nothing_left(engine, tmp_path):
    assert list(engine(double, range(12))) == [[i, i] for i in range(12)]
    with pytest.raises(UserError, match='^image 13 is broken$'):
        list(engine(double, [12, 13]))
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('processes, stages', [(1, ',stages=(mask)'), (2, '')])
def test_the_same_records(engine, processes, stages, tmp_path, monkeypatch):
    """Phantoms drawn, masks found, images prepared: by Beam as without it.

    Beam works in this process, or in two of its own.
    """
    if processes > 1:
        engine.keywords['options'] += [
            '--direct_running_mode=multi_processing',
            f'--direct_num_workers={processes}',
        ]
    config = c.build(
        c.base(),
        f'source=hand_phantom,phantom.count=20,phantom.size=(64,64),size=(40,40){stages}',
        {},
    )
    written = {}
    for name, how in {'processes': None, 'beam': engine}.items():
        monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / name))
        records._open_split.cache_clear()
        if how:
            with pools.engine(how):
                records.get_records(config.data)
        else:
            records.get_records(config.data)
        written[name] = {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in sorted(pathlib.Path(tmp_path / name).rglob('*.array_record*'))
        }
    assert len(written['beam']) >= 2 and written['beam'] == written['processes']
