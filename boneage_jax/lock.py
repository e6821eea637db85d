"""One process at a time: an advisory lock on a file, released by the kernel however the process ends."""

import contextlib
import fcntl
import os
import pathlib
import socket


class Locked(RuntimeError):
    """Another process holds the lock; the message names it."""


@contextlib.contextmanager
def exclusive(path, *, wait, on_wait=None):
    """Holds the lock file `path`. `wait=False` raises Locked at once where another process has it.

    `on_wait()` is called once before waiting, to say why nothing happens.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or 'another process'
            if not wait:
                raise Locked(f'{path.parent} is in use by {owner}; wait for it, stop it, or choose another folder'
                             ) from None
            if on_wait:
                on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
        yield
