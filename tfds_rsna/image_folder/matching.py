"""Which file belongs to which row of a user's label table."""

import functools
import posixpath
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Mapping, Sequence

from tfds_rsna.columns import may_name_files, names_files, names_images
from tfds_rsna.io.archive import Entry
from tfds_rsna.labels import Label
from tfds_rsna.problems import DataError, Problems

IMAGE = re.compile(
    r'\.(png|jpe?g|jpe|jfif|jfi|tiff?|bmp|dib|dcm|dicom|dc3|ima)(\.gz)?$', re.IGNORECASE
)
# DICOM exports often have no extension (IM000001), or one of digits only.
BARE = re.compile(r'(^|/)[^/.]+$|\.\d+$')
# What a row may write behind a name: images are converted, and tables keep the old ending.
_ENDING = re.compile(
    r'\.(png|jpe?g|jpe|jfif|jfi|jp2|tiff?|bmp|dib|gif|webp|dcm|dicom|dc3|ima)(\.gz)?$',
    re.IGNORECASE,
)
_ANY_ENDING = re.compile(r'\.(?!\d+$)\w{1,12}$')
_UNSEEN = re.compile('[\u200b\u200c\u200d\u200e\u200f\u2060\ufeff]')
_NOUGHTS = re.compile(r'^0+(?=\d)')  # 00101, of which a spreadsheet makes 101
_SHOWN = 3


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
    fits anything counts. Rows that name none so are tried again among the images left, whatever the
    case, the way accents and spaces are written, another extension, folders that are not there
    (Windows' too), leading zeros, and a `.0` behind a number. An image of which two rows say
    different ages or sexes has none of them.

    Args:
        labels: the good rows of the table.
        entries: the files that were found. One whose name is not that of an image counts where a
            row names it, with or without its extension, and it is an image.
        table: the table's file, for messages.
        place: the folder or zip of images, for messages.
        problems: takes rows that fit no image or several, images that two rows name, and images
            that no row names.
        is_image: tells of a file whether it is one; all are where it is None.
    """
    is_image = is_image or (lambda _: True)
    rows = {_plain(_wanted(label)).rpartition('/')[2] for label in labels}
    rows |= {_numbered(name) for name in rows}
    images = []
    for entry in entries:
        named = IMAGE.search(entry.name) or BARE.search(entry.name)
        if named or (_may_be_named(entry, rows) and is_image(entry)):
            images.append(entry)
    hits = _exact(labels, images)
    for spell, spell_file in _SPELLINGS:
        taken = {entry.path for found in hits.values() for entry in found}
        free = [entry for entry in images if entry.path not in taken]
        left = [label for label in labels if label.id not in hits]
        hits |= _loose(left, free, spell, spell_file)

    takers: dict[str, list[Label]] = {}
    for label in labels:
        found = hits.get(label.id, [])
        if len(found) == 1:
            takers.setdefault(found[0].path, []).append(label)
    disputed = {path for path, of_image in takers.items() if _contradict(of_image)}
    rivals = _rivals([label for label in labels if label.id not in hits], images, takers)
    pairs = []
    for label in labels:
        found = hits.get(label.id, [])
        of_image = takers[found[0].path] if len(found) == 1 else []
        if label.id in rivals:
            path, taker = rivals[label.id]
            reason = f'is the image of {taker.id!r}, of which that row says something else'
            problems.add('image that several rows name', label.id, path, reason)
        elif not found:
            reason = f'no image {_wanted(label)!r} in {place}'
            problems.add('label without an image', label.id, table, reason)
        elif len(found) > 1:
            paths = ', '.join(hit.path for hit in found[:3])
            problems.add('label that fits several images', label.id, table, paths)
        elif found[0].path in disputed:
            ids = ', '.join(repr(other.id) for other in of_image[:3])
            reason = f'{ids} say different things of it, and none is taken'
            problems.add('image that several rows name', label.id, found[0].path, reason)
        elif of_image[0] is not label:
            reason = f'is the image of {of_image[0].id!r} already'
            problems.add('image that several rows name', label.id, found[0].path, reason)
        else:
            pairs.append((label, found[0]))
    _note_unlabelled(images, set(takers), table, problems, is_image)
    return pairs


def file_column(
    rows: Sequence[Mapping[str, str]], id_column: str, entries: Sequence[Entry]
) -> str | None:
    """The column beside the ids that names the files.

    Its header says so and all it holds are names of images, or of `entries` without their endings.
    One that names none of `entries` is no help, and None.
    """
    images = {_plain(entry.name) for entry in entries}
    for column in rows[0]:
        cells = [row[column] for row in rows if row[column]]
        if column == id_column or not may_name_files(column) or not cells:
            continue
        named = {_plain(cell).rpartition('/')[2] for cell in cells}
        has_endings = all(map(_ENDING.search, cells))
        if (has_endings and named & images) or (names_files(column) and named <= images):
            return column
    return None


def refuse_other_ids(
    rows: Sequence[Mapping[str, str]], id_column: str, entries: Sequence[Entry], table: str
) -> None:
    """DataError where another column of ids names at least as many of the images, and others."""
    images = {_numbered(entry.name) for entry in entries}

    def named(column):
        return [_numbered(row[column]).rpartition('/')[2] for row in rows]

    own = named(id_column)
    for column in rows[0]:
        if column == id_column or not names_images(column):
            continue
        other = named(column)
        count = len(images.intersection(other))
        if count and count >= len(images.intersection(own)) and other != own:
            raise DataError(
                f'{table}: {id_column!r} names {len(images.intersection(own))} of {len(images)} '
                f'images and {column!r} {count}; name the column that is meant: '
                'data.image_folder.id_column=...'
            )


def examples(labels: Sequence[Label], entries: Sequence[Entry]) -> str:
    """What rows and images are called, for a message where none fits: the first of both."""
    images = [entry.path for entry in entries if IMAGE.search(entry.name)]
    images = images or [entry.path for entry in entries]
    rows = [_wanted(label) for label in labels]
    return (
        f'no row names an image: the rows name {_first(rows)}, the images are {_first(images)}. '
        'Name the column with the names of the files: data.image_folder.id_column=... or '
        'data.image_folder.image_column=...'
    )


def renamed(pairs: Sequence[tuple[Label, Entry]]) -> list[str]:
    """A line on the rows that name their image otherwise than its file is called, if any do."""
    odd = []
    for label, entry in pairs:
        wanted = _wanted(label)
        if wanted not in {key(entry.path) for key in _EXACT}:
            odd.append(f'{wanted} -> {entry.path}')
    if not odd:
        return []
    return [f'{len(odd)} rows name an image by another spelling: {_first(odd)}']


def _first(names: Sequence[str]) -> str:
    more = ', ...' if len(names) > _SHOWN else ''
    return (', '.join(names[:_SHOWN]) or 'nothing') + more


def _wanted(label: Label) -> str:
    return label.image or label.id


def _exact(labels: Sequence[Label], images: Sequence[Entry]) -> dict[str, list[Entry]]:
    """{id: images} of the rows whose text is an image's path or name as it is."""
    indices = [_index(images, key) for key in _EXACT]
    found = {}
    for label in labels:
        wanted = _wanted(label)
        hits = next((index[wanted] for index in indices if wanted in index), None)
        if hits:
            found[label.id] = hits
    return found


def _loose(
    labels: Sequence[Label],
    images: Sequence[Entry],
    spell: Callable[[str], str],
    spell_file: Callable[[str], str],
) -> dict[str, list[Entry]]:
    """{id: images} of the rows that `spell` writes as `spell_file` writes an image.

    One of the two paths must end in the other: b/7.png is no image of a row a/7.png.
    """
    if not labels:
        return {}
    by_path = _index(images, lambda path: spell_file(_unzipped(path)))
    by_tail: dict[str, list[Entry]] = {}
    for entry in images:
        for tail in _tails(spell_file(entry.path)):
            by_tail.setdefault(tail, []).append(entry)

    found = {}
    for label in labels:
        wanted = spell(_wanted(label))
        hits = by_tail.get(wanted)
        hits = hits or next((by_path[tail] for tail in _tails(wanted) if tail in by_path), None)
        if hits:
            found[label.id] = hits
    return found


def _rivals(
    labels: Sequence[Label], images: Sequence[Entry], takers: Mapping[str, Sequence[Label]]
) -> dict[str, tuple[str, Label]]:
    """{id: (path, row)} of rows without an image whose name, spelled otherwise, is that of another
    row's image, of which they say something else.
    """
    taken = [entry for entry in images if entry.path in takers]
    found = {}
    for spell, spell_file in _SPELLINGS:
        found = _loose(labels, taken, spell, spell_file) | found
    rivals = {}
    for label in labels:
        entries = found.get(label.id, [])
        taker = takers[entries[0].path][0] if len(entries) == 1 else label
        if _contradict([label, taker]):
            rivals[label.id] = (entries[0].path, taker)
    return rivals


def _contradict(rows: Sequence[Label]) -> bool:
    """Whether rows of an image give it different ages or sexes."""
    ages = {row.months for row in rows} - {None}
    sexes = {row.male for row in rows} - {None}
    return len(ages) > 1 or len(sexes) > 1


@functools.lru_cache(1 << 16)
def _plain(text: str) -> str:
    """A path in small letters, one form of accents and spaces, with '/', without its ending."""
    text = _UNSEEN.sub('', unicodedata.normalize('NFC', text)).replace('\\', '/')
    if '://' in text:
        text = urllib.parse.unquote(re.sub(r'[?#].*$', '', text))
    text = ' '.join(text.split()).strip('"\'').casefold()
    text = re.sub(r'^(file://)?/*([a-z]:)?/*(\./)*', '', text)
    return _ENDING.sub('', text).strip()


def _may_be_named(entry: Entry, rows: set[str]) -> bool:
    """Whether a file of any extension has a name that is among `rows`, with the extension or not.

    `rows` are names as `_plain` and `_numbered` write them.
    """
    name = _numbered(entry.name)
    return not entry.is_zip and bool(rows & {name, _numbered(_ANY_ENDING.sub('', name))})


@functools.lru_cache(1 << 16)
def _numbered(text: str) -> str:
    """`_plain`, of a name that is a number without leading zeros and without `.0` behind it."""
    *folders, name = _plain(text).split('/')
    if re.fullmatch(r'\d+(\.0+)?', name):
        name = _NOUGHTS.sub('', name.split('.')[0])
    return '/'.join([*folders, name])


def _stripped(text: str) -> str:
    """`_numbered`, of the path of a file without any extension that is no number."""
    return _numbered(text if IMAGE.search(text) else _ANY_ENDING.sub('', text))


def _unzipped(path: str) -> str:
    """A path without the zips that it leads through, which no table names."""
    return '/'.join(part for part in path.split('/') if not part.lower().endswith('.zip'))


def _tails(path: str) -> list[str]:
    """'a/left/7' -> itself, 'left/7', '7'."""
    parts = path.split('/')
    return ['/'.join(parts[start:]) for start in range(len(parts))]


def _note_unlabelled(
    images: Sequence[Entry],
    takers: set[str],
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


# How a row and a file are written to be compared, from the closest on.
_SPELLINGS = ((_plain, _plain), (_numbered, _numbered), (_numbered, _stripped))
_EXACT: tuple[Callable[[str], str], ...] = (str, _stem, posixpath.basename, _name_stem)


def _index(images: Sequence[Entry], key: Callable[[str], str]) -> dict[str, list[Entry]]:
    index: dict[str, list[Entry]] = {}
    for entry in images:
        index.setdefault(key(entry.path), []).append(entry)
    return index
