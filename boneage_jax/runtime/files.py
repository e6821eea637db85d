"""Files that are written whole or not at all, and where the cache is."""

import csv
import io
import json
import os
import pathlib


def cache_folder():
    """Where records, features and compiled programs are kept: $BONEAGE_CACHE, or a folder in the
    home.
    """
    return pathlib.Path(
        os.environ.get('BONEAGE_CACHE') or pathlib.Path.home() / '.cache' / 'boneage_jax'
    )


def write_atomic(path, text):
    """Writes `text` to `path`, all of it or nothing: a temporary file, on disk, then renamed."""
    temporary = path.with_name(path.name + '.tmp')
    with temporary.open('w', newline='') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def write_table(path, columns, rows):
    """A CSV of `rows` (sequences in the order of `columns`), all of it or nothing."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([columns, *rows])
    write_atomic(path, text.getvalue())


def write_rows(path, columns, lines, *, digits=4, exact=()):
    """A CSV of `lines` (dicts that have `columns`): floats with `digits` decimals, those of the
    columns `exact` in full.
    """
    write_table(
        path,
        columns,
        [
            [
                f'{line[key]:.{digits}f}'
                if isinstance(line[key], float) and key not in exact
                else line[key]
                for key in columns
            ]
            for line in lines
        ],
    )


def write_json(path, value):
    write_atomic(path, json.dumps(value, indent=1) + '\n')
