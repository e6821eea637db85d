"""Work on all cores: results in order, memory flat, no process left however the caller ends."""

import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker

from tfds_rsna.errors import UserError

AHEAD = 4  # jobs in flight for each worker
_POLL_SECONDS = 1.0
_engines: list[Callable] = []


def cores() -> int:
    """How many cores this process may use: containers often give fewer than the machine has."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def engine(other: Callable[[Callable, Iterable], Iterator]) -> Iterator[None]:
    """Inside this `with`, `ordered(function, jobs)` is `other(function, jobs)`."""
    _engines.append(other)
    try:
        yield
    finally:
        _engines.remove(other)


def ordered(
    function: Callable,
    jobs: Iterable,
    *,
    workers: int | None = None,
    initializer: Callable[..., None] | None = None,
    initargs: tuple = (),
) -> Iterator:
    """Yields `function(job)` of every job, in the order of the jobs, from `workers` processes.

    At most `AHEAD * workers` jobs are taken in advance of the result that is asked for. An
    exception of a worker arrives as itself. Closing the generator drops the jobs that have not
    begun.

    Args:
        function: at the top level of a module, like `initializer`: a spawned process imports it.
        jobs: picklable; may be endless.
        workers: None takes `cores()`; 1 works in this process.
        initializer, initargs: called once in each worker before its first job.

    Raises:
        UserError: a worker was killed from outside, which is mostly the system's answer to a lack
        of memory.
    """
    if _engines and not initializer:
        yield from _engines[-1](function, jobs)
        return
    workers = workers or cores()
    if workers == 1:
        if initializer:
            initializer(*initargs)
        yield from map(function, jobs)
        return
    # spawn, not fork: the caller may hold JAX's threads, which a forked child would deadlock on
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context('spawn'), _start, (os.getpid(), initializer, initargs)
    )
    jobs = iter(jobs)
    waiting = collections.deque()
    try:
        while True:
            for job in itertools.islice(jobs, AHEAD * workers - len(waiting)):
                waiting.append(_submit(pool, function, job))
            if not waiting:
                return
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            'a worker process was killed, probably because memory ran out; free some, or let fewer '
            'cores work (taskset --cpu-list 0 ...)'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, function: Callable, job):
    """Submits a job with SIGINT blocked in this thread.

    A worker that this starts inherits that from its first moment on. So Ctrl-C in a terminal, which
    goes to all processes, is the caller's alone to answer.
    """
    # Its own start would unblock the signal again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_call, function, job)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_failed: list[Exception] = []  # what a worker's initializer raised


def _start(parent: int, initializer: Callable[..., None] | None, initargs: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        if initializer:
            initializer(*initargs)
    except Exception as error:
        # The first job raises it; from here it would reach the caller as a broken pool.
        _failed.append(error)


def _end_with(parent: int) -> None:
    """Ends this worker when its parent is gone: else it would wait for jobs for ever."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def _call(function: Callable, job):
    if _failed:
        raise _failed[0]
    return function(job)
