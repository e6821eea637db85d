"""The platform that a program is traced for: this machine's, or another one's.

A few things depend on it while they are traced: what a CPU computes otherwise (models/cpu.py), and
the type that `config.dtype='auto'` computes in. They ask here, so that a program for an accelerator
can be compiled on a machine that has none.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_platform = contextvars.ContextVar('platform', default=None)


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """What is traced within is for `platform`, as 'cuda' or 'tpu', whatever runs here."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def platform() -> str:
    """The platform that is traced for: 'cpu', 'gpu', 'tpu', or what `compiling_for` names."""
    return _platform.get() or jax.default_backend()
