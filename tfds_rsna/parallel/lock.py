"""One process at a time: an advisory lock on a file, which the kernel frees however one ends."""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Callable, Iterator

from tfds_rsna.errors import UserError

# What some network file systems answer.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


class LockedError(UserError):
    """Another process holds the lock; the message names it."""


@contextlib.contextmanager
def exclusive(
    path: str | pathlib.Path, *, wait: bool, on_wait: Callable[[], None] | None = None
) -> Iterator[bool]:
    """Holds the lock file `path`; its folder is made where it is missing.

    Args:
        path: the lock file. It stays when the lock is released, so that no two processes lock
        different files.
        wait: False raises LockedError at once where another process has the lock.
        on_wait: called once before waiting, to tell the user why nothing happens.

    Yields:
        Whether the lock is held: False on a file system without locks, where nothing guards the
        caller.

    Raises:
        LockedError: see `wait`.
        UserError: the folder cannot be made or written.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open('a+')
    except OSError as error:
        raise UserError(
            f'{path.parent}: cannot be written ({error.strerror}); mend that, or choose another '
            'folder'
        ) from error
    with file:
        held = _lock(file, path, wait, on_wait)
        if held:
            # The name is for people; a full disk must not keep anyone from the lock itself.
            owner = f'process {os.getpid()} on {socket.gethostname()}\n'
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), owner.encode())
        yield held


def _lock(file, path: pathlib.Path, wait: bool, on_wait: Callable[[], None] | None) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or 'another process'
        if not wait:
            raise LockedError(
                f'{path.parent} is in use by {owner}; wait for it, stop it, or choose another '
                'folder'
            ) from None
        if on_wait:
            on_wait()
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True
