"""Files that name images by their ids."""

import pathlib

from boneage_jax.errors import ConfigError
from boneage_jax.runtime import log
from boneage_jax.stages import plan
from tfds_rsna import table_files
from tfds_rsna.problems import DataError

_SEPARATORS = ',;\t'


def read(file: str | pathlib.Path, data_dir, key: str) -> frozenset[str]:
    """The ids in a file of one id a line, or in the column `id` of a table.

    Lines that begin with # are comments. A table is an .xlsx, or text whose lines have several
    cells. Raises ConfigError, which names `key`, where there is no such file or no id in it;
    DataError where it is no text, or a table without that column.
    """
    path = plan.find_file(file, data_dir, key)
    content = path.read_bytes()
    if path.suffix.lower() == '.xlsx':
        ids = _of_table(content, path)
    else:
        text, note = table_files.decode_text(content, str(path))
        lines = [line.strip(' \t"') for line in text.splitlines()]
        ids = frozenset(line for line in lines if line and not line.startswith('#'))
        if any(mark in line for line in ids for mark in _SEPARATORS):
            ids = _of_table(content, path)
        elif note:
            log.info(f'{path}: {note}')
    if not ids:
        raise ConfigError(f'{path}: no ids in it; {key} names a file of one id a line')
    return ids


def _of_table(content, path):
    table = table_files.read_table(content, str(path), lambda header: 'id' in header)
    if 'id' not in table[0]:
        named = ', '.join(table[0])
        raise DataError(f"{path}: a table needs a column 'id' for its images (columns: {named})")
    if table.note:
        log.info(f'{path}: {table.note}')
    return frozenset(row['id'].strip() for row in table if row['id'].strip())
