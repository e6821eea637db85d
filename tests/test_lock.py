"""One process at a time, also where one is killed and where the file system knows no locks."""

import errno
import fcntl
import subprocess
import sys

import pytest

from tfds_rsna.errors import UserError
from tfds_rsna.parallel import lock

HOLD = """
import sys
from tfds_rsna.parallel import lock
with lock.exclusive(sys.argv[1], wait=True):
    print('held', flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/x/.lock until it is killed."""
    process = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(tmp_path / 'x/.lock')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == 'held\n'
        yield process
        process.kill()


def test_held_by_another(holder, tmp_path):
    with (
        pytest.raises(lock.LockedError, match=f'in use by process {holder.pid} on') as error,
        lock.exclusive(tmp_path / 'x/.lock', wait=False),
    ):
        pass
    assert isinstance(error.value, UserError)
    said = []

    def on_wait():
        said.append('waiting')
        holder.kill()

    # The kernel frees the lock of a process that died.
    with lock.exclusive(tmp_path / 'x/.lock', wait=True, on_wait=on_wait) as held:
        assert held and said == ['waiting']


def test_file_systems_without_locks(monkeypatch, tmp_path):
    for number, expected in ((errno.ENOLCK, False), (errno.EOPNOTSUPP, False), (errno.EIO, None)):

        def refuse(file, how, number=number):
            raise OSError(number, 'refused')

        monkeypatch.setattr(fcntl, 'flock', refuse)
        if expected is None:
            with (
                pytest.raises(OSError, match='refused'),
                lock.exclusive(tmp_path / '.lock', wait=False),
            ):
                pass
        else:
            with lock.exclusive(tmp_path / '.lock', wait=False) as held:
                assert held is expected


def test_folders_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with (
        pytest.raises(UserError, match='file/x: cannot be written'),
        lock.exclusive(tmp_path / 'file/x/.lock', wait=True),
    ):
        pass
