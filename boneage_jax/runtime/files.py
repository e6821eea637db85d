"""Files that are written whole or not at all, room on the disk, and where the cache is."""

import contextlib
import csv
import io
import json
import os
import pathlib
import shutil

from tfds_rsna.errors import UserError


def cache_folder() -> pathlib.Path:
    """Where records, features and compiled programs are kept: $BONEAGE_CACHE, or ~/.cache."""
    folder = os.environ.get('BONEAGE_CACHE')
    if folder:
        return pathlib.Path(folder)
    return pathlib.Path.home() / '.cache' / 'boneage_jax'


@contextlib.contextmanager
def replacing(path):
    """`with replacing(path) as temporary:` write `temporary`; then it takes the place of `path`.

    After an error `temporary` is removed, and `path` is what it was.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + '.tmp')
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path, text: str):
    """Writes `text` to `path`, all of it or nothing: a temporary file, on disk, then renamed."""
    with replacing(path) as temporary, temporary.open('w', newline='') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path, value):
    """Writes `value` as JSON, all of it or nothing."""
    write_atomic(path, json.dumps(value, indent=1) + '\n')


def write_table(path, columns, rows):
    """Writes a CSV of `rows` (sequences in the order of `columns`), all of it or nothing."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([columns, *rows])
    write_atomic(path, text.getvalue())


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
