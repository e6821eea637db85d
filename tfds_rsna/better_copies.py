"""Folders of better copies: the same images, larger; and the sizes that images once had."""

import pathlib
import re
from collections.abc import Sequence

from tfds_rsna.image_folder import matching
from tfds_rsna.io.archive import Archive, Entry
from tfds_rsna.problems import DataError
from tfds_rsna.table_files import read_table

_ANY_ZIP = re.compile('')
_COLUMNS = ('id', 'width', 'height')


def find(archive: Archive, folders: Sequence[pathlib.Path]) -> dict[str, Entry]:
    """The images in `folders` (zips in them included) by their names without ending.

    An image in several folders is taken from the first of them.

    Raises:
        DataError: a folder that is missing or has no image, or an id twice in one folder.
    """
    copies = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(
                f'{folder}: no such folder; data.better_copies names folders with larger copies of '
                'images, each file named by its id'
            )
        found = {}
        for entry in archive.entries(folder, _ANY_ZIP):
            if not matching.IMAGE.search(entry.name):
                continue
            name = matching.IMAGE.sub('', entry.name)
            if name in found:
                raise DataError(
                    f'{folder}: {entry.path} and {found[name].path} are both image {name}; leave '
                    'one out'
                )
            found[name] = entry
        if not found:
            raise DataError(f'{folder}: no image there (PNG, JPEG, TIFF or DICOM)')
        copies = found | copies
    return copies


def read_sizes(path: pathlib.Path) -> dict[str, tuple[int, int]]:
    """{id: (width, height)} of a table with these columns, in native pixels.

    Raises:
        DataError: a file that is missing, lacks a column, has an id twice or a size that is no
            whole number above 0; names file and row.
    """
    if not path.is_file():
        raise DataError(
            f'{path}: no such file; data.native_sizes names a table with the columns id, width, '
            'height'
        )
    rows = read_table(path.read_bytes(), str(path), set(_COLUMNS).issubset)
    missing = [column for column in _COLUMNS if column not in rows[0]]
    if missing:
        raise DataError(
            f'{path}: no column {", ".join(missing)} among {", ".join(rows[0])}; native sizes need '
            'id, width and height'
        )
    sizes = {}
    for number, row in enumerate(rows, start=2):
        name = row['id']
        if not name:
            raise DataError(f'{path}, row {number}: no id')
        if name in sizes:
            raise DataError(f'{path}, row {number}: image {name} stands there twice')
        try:
            size = (_pixels(row['width']), _pixels(row['height']))
        except ValueError as error:
            raise DataError(f'{path}, row {number}: {error}') from error
        if min(size) < 1:
            raise DataError(f'{path}, row {number}: a size of {size[0]}x{size[1]} pixels')
        sizes[name] = size
    return sizes


def _pixels(text: str) -> int:
    if '_' in text:  # Python's own way to group digits
        raise ValueError(f'{text!r} is no whole number')
    return int(text)
