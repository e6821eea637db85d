"""Results in order from real processes, and nothing left of them, however the caller ends."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tfds_rsna.errors import UserError
from tfds_rsna.io.decoding import ImageError
from tfds_rsna.parallel import pools

SCRIPT = """
import os, signal, sys, time
# A shell starts background jobs with it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
import test_pools
from tfds_rsna.parallel import pools
if __name__ == '__main__':
    for pid in pools.ordered(test_pools.pid_slowly, iter(int, 1), workers=2):
        print(pid, flush=True)
"""


def work(job):
    """Here and in the workers; the jobs of the first take longest, so the last would come first."""
    if job == 'image':
        raise ImageError('bad.png: no image')
    if job == 'die':
        os._exit(9)
    if isinstance(job, str):
        return job, _told
    time.sleep(0.05 if job == 0 else 0)
    return job * job


def pid_slowly(job):
    time.sleep(0.05)
    return os.getpid()


def tell(text):
    global _told
    if text == 'fail':
        raise ImageError('told.png: no image')
    _told = text


def test_order_and_bounded_look_ahead():
    taken = []

    def jobs():
        for job in range(40):
            taken.append(job)
            yield job

    results = pools.ordered(work, jobs(), workers=2)
    assert next(results) == 0 and len(taken) <= 2 * pools.AHEAD
    assert [next(results) for _ in range(20)] == [job * job for job in range(1, 21)]
    assert len(taken) <= 20 + 2 * pools.AHEAD
    results.close()
    assert len(taken) < 40


@pytest.mark.parametrize('workers', [1, 2])
def test_exceptions_and_initializers(workers):
    results = pools.ordered(
        work, ['a', 'image'], workers=workers, initializer=tell, initargs=('hello',)
    )
    assert next(results) == ('a', 'hello')
    with pytest.raises(ImageError, match='bad.png: no image'):
        next(results)
    with pytest.raises(ImageError, match='told.png'):
        next(pools.ordered(work, ['a'], workers=workers, initializer=tell, initargs=('fail',)))


def test_killed_worker():
    with pytest.raises(UserError, match='memory'):
        list(pools.ordered(work, ['die', 1, 2], workers=2))


def test_no_jobs_and_cores():
    assert list(pools.ordered(work, [], workers=2)) == []
    assert 1 <= pools.cores() <= os.cpu_count()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left(number, tmp_path):
    script = tmp_path / 'work.py'
    script.write_text(SCRIPT.format(tests=str(pathlib.Path(__file__).parent)))
    with open(tmp_path / 'stderr', 'w') as stderr:
        parent = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            cwd=pathlib.Path(__file__).parents[1],
            env=os.environ | {'PYTHONPATH': '.'},
        )
    with parent:
        workers = set()
        while len(workers) < 2:
            workers.add(int(parent.stdout.readline()))
        if number == signal.SIGINT:
            os.killpg(parent.pid, number)  # as a terminal sends Ctrl-C: to all of them
        else:
            parent.send_signal(number)
        parent.stdout.close()
        parent.wait(10)
    end = time.monotonic() + 3
    while time.monotonic() < end and any(map(alive, workers)):
        time.sleep(0.1)
    assert not [pid for pid in workers if alive(pid)]
    said = (tmp_path / 'stderr').read_text()
    assert said.count('Traceback') == (number == signal.SIGINT) and 'SpawnProcess' not in said, said


def test_interrupted_while_workers_start(tmp_path):
    script = tmp_path / 'work.py'
    script.write_text(
        SCRIPT.format(tests=str(pathlib.Path(__file__).parent)).replace(
            '    for pid',
            """\
    print('ready', flush=True)
    for pid""",
        )
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=pathlib.Path(__file__).parents[1],
        env=os.environ | {'PYTHONPATH': '.'},
    )
    with parent:
        assert parent.stdout.readline() == 'ready\n'
        time.sleep(0.15)  # the workers are importing by now
        os.killpg(parent.pid, signal.SIGINT)
        said = parent.communicate(timeout=60)[1]
    assert said.count('Traceback') == 1 and 'KeyboardInterrupt' in said, said


def alive(pid):
    """Whether a process runs (one that has ended and only waits to be reaped does not)."""
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False
