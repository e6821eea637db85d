"""Which file belongs to which row of a user's label table."""

import posixpath
import re
from collections.abc import Callable, Sequence

from tfds_rsna.io.archive import Entry
from tfds_rsna.labels import Label
from tfds_rsna.problems import Problems

IMAGE = re.compile(
    r'\.(png|jpe?g|jpe|jfif|jfi|tiff?|bmp|dib|dcm|dicom|dc3|ima)(\.gz)?$', re.IGNORECASE
)
# DICOM exports often have no extension (IM000001), or one of digits only.
BARE = re.compile(r'(^|/)[^/.]+$|\.\d+$')


def pair(
    labels: Sequence[Label],
    entries: Sequence[Entry],
    table: str,
    place: str,
    problems: Problems,
    is_image: Callable[[Entry], bool] | None = None,
) -> list[tuple[Label, Entry]]:
    """Pairs rows with images, in the order of the table.

    A row names its image by its image column where one is given, else by its id. That may be the
    path below the folder or the mere name, each with or without extension; the first of these that
    fits anything counts.

    Args:
        labels: the good rows of the table.
        entries: the files that were found; others than images are left aside.
        table: the table's file, for messages.
        place: the folder or zip of images, for messages.
        problems: takes rows that fit no image or several, images that two rows name, and images
            that no row names.
        is_image: tells of a file that has the name of an image and no row whether it is one.
    """
    images = [entry for entry in entries if IMAGE.search(entry.name) or BARE.search(entry.name)]
    indices = [_index(images, key) for key in (str, _stem, posixpath.basename, _name_stem)]
    pairs = []
    takers = {}
    for label in labels:
        wanted = label.image or label.id
        hits = next((index[wanted] for index in indices if wanted in index), [])
        if not hits:
            reason = f'no image {wanted!r} in {place}'
            problems.add('label without an image', label.id, table, reason)
        elif len(hits) > 1:
            paths = ', '.join(hit.path for hit in hits[:3])
            problems.add('label that fits several images', label.id, table, paths)
        elif hits[0].path in takers:
            reason = f'is the image of {takers[hits[0].path]!r} already'
            problems.add('image that several rows name', label.id, hits[0].path, reason)
        else:
            takers[hits[0].path] = label.id
            pairs.append((label, hits[0]))
    _note_unlabelled(images, takers, table, problems, is_image or (lambda _: True))
    return pairs


def _note_unlabelled(
    images: Sequence[Entry],
    takers: dict[str, str],
    table: str,
    problems: Problems,
    is_image: Callable[[Entry], bool],
) -> None:
    """Notes the images that no row names, those of bad rows excepted."""
    bad_rows = problems.ids()
    for entry in images:
        names = {entry.path, _stem(entry.path), entry.name, _stem(entry.name)}
        unlabelled = entry.path not in takers and not names & bad_rows
        if unlabelled and IMAGE.search(entry.name) and is_image(entry):
            reason = f'no row for it in {table}'
            problems.add('image without a label', _stem(entry.name), entry.path, reason)


def _stem(path: str) -> str:
    return IMAGE.sub('', path)


def _name_stem(path: str) -> str:
    return _stem(posixpath.basename(path))


def _index(images: Sequence[Entry], key: Callable[[str], str]) -> dict[str, list[Entry]]:
    index: dict[str, list[Entry]] = {}
    for entry in images:
        index.setdefault(key(entry.path), []).append(entry)
    return index
