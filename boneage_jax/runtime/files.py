"""Files that are written whole or not at all, room on the disk, and where the cache is."""

import contextlib
import csv
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile

from tfds_rsna.errors import UserError


def cache_folder() -> pathlib.Path:
    """Where records, features and compiled programs are kept: $BONEAGE_CACHE, or ~/.cache."""
    folder = os.environ.get('BONEAGE_CACHE')
    if folder:
        return pathlib.Path(folder).expanduser()
    return pathlib.Path.home() / '.cache' / 'boneage_jax'


@contextlib.contextmanager
def replacing(path):
    """`with replacing(path) as temporary:` write `temporary`; then it takes the place of `path`.

    After an error `temporary` is removed, and `path` is what it was. A link stays one: the file
    that it leads to is replaced. A device or a pipe (/dev/stdout) is written into.
    """
    path = pathlib.Path(path)
    if is_special(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = pathlib.Path(folder) / path.name
            yield temporary
            with temporary.open('rb') as source, _sink(path) as sink:
                shutil.copyfileobj(source, sink)
        return
    if path.is_symlink():
        path = pathlib.Path(os.path.realpath(path))
    temporary = _free_name(path)
    try:
        yield temporary
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_special(path) -> bool:
    """Whether `path` is a device, a pipe or a socket, which is written into and never replaced."""
    path = pathlib.Path(path)
    # /dev/stdout may lead to a regular file, which then is the shell's.
    is_stream = re.match(r'/dev/(std(out|err)$|fd/)|/proc/', str(path.absolute()))
    return path.exists() and not path.is_dir() and bool(is_stream or not path.is_file())


def _sink(path):
    """A special file, open for writing; a standard stream as this process has it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a stream that is no file
            if os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                stream.flush()
                return os.fdopen(os.dup(stream.fileno()), 'wb')
    return path.open('wb')


def _free_name(path: pathlib.Path) -> pathlib.Path:
    """A name beside `path` that no file has, for the time of writing."""
    names = itertools.chain([''], map(str, itertools.count(2)))
    candidates = (path.with_name(f'{path.name}.tmp{number}') for number in names)
    return next(name for name in candidates if not os.path.lexists(name))


def write_atomic(path, text: str):
    """Writes `text` to `path`, all of it or nothing: a temporary file, on disk, then renamed.

    It is UTF-8; what that cannot hold (the bytes of a file's name) is written as \\udce4.
    """
    how = {'newline': '', 'encoding': 'utf-8', 'errors': 'backslashreplace'}
    with replacing(path) as temporary, temporary.open('w', **how) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path, value):
    """Writes `value` as JSON, all of it or nothing."""
    write_atomic(path, json.dumps(value, indent=1) + '\n')


def write_table(path, columns, rows):
    """Writes a CSV of `rows` (sequences in the order of `columns`), all of it or nothing."""
    write_atomic(path, table_text(columns, rows))


def table_text(columns, rows) -> str:
    """The CSV of `rows` (sequences in the order of `columns`)."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([columns, *rows])
    return text.getvalue()


def write_rows(path, columns, lines, *, digits=4, exact=()):
    """Writes a CSV of `lines` (dicts that have `columns`), all of it or nothing.

    Floats get `digits` decimals, those of the columns `exact` all that they have.
    """

    def cell(line, name):
        value = line[name]
        if isinstance(value, float) and name not in exact:
            return f'{value:.{digits}f}'
        return value

    rows = []
    for line in lines:
        rows.append([cell(line, name) for name in columns])
    write_table(path, columns, rows)


def check_free_space(folder, needed_bytes, what: str, advice: str):
    """Raises UserError where the disk of `folder` (which exists) has less than `needed_bytes` free.

    Args:
        folder: where the files will be written.
        needed_bytes: how much at most.
        what: what needs it, in the plural, as 'the records'.
        advice: what to do, as 'free some space or set BONEAGE_CACHE to another disk'.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise UserError(
            f'{folder}: {what} need up to {needed_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are '
            f'free; {advice}'
        )
