"""Which ids can mean the same image: an id is compared with another within one id space only.

Each source declares its space. The copies of RSNA's images, at whatever size and in whatever
folder, share 'rsna'. Phantoms have one for each seed of their series. A user's own folder has one
by its path, unless `data.image_folder.id_space` names it, so that a folder of RSNA's images can say
`rsna`. Prepared records keep the space of the images that they were made of.
"""

import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from tfds_rsna import prepared
from tfds_rsna.errors import UserError

UNDECLARED = ''  # of ids that say nothing of their space: they are compared with all
RSNA = 'rsna'
MINED = 'mined-'  # before the id of an image that mining added: it is the source's image still
_KEY = 'id_space'  # in the metadata of prepared records

Runs = list[list]  # [[space, how many ids], ...], in order


def of(data: Mapping) -> str:
    """The id space of `config.data`, or of the `data` of a config.json."""
    source = data['source']
    if source == 'rsna_bone_age':
        return RSNA
    if source == 'hand_phantom':
        return _of_phantoms(data.get('phantom', {}).get('seed', 0))
    if source == 'prepared':
        return of_folder(data.get('folder', ''))
    options = data.get('image_folder', {})
    named = options.get(_KEY, '')
    if named:
        return named
    place = pathlib.Path(options.get('images', '')).expanduser().resolve()
    return f'image_folder:{place}'


def of_folder(folder: str | pathlib.Path) -> str:
    """The id space of a folder of prepared records, by its metadata; else one by its own path.

    Older records do not name one: it is derived from the source that they describe. Their mined
    images are of RSNA, as mining's own configs have it.
    """
    folder = pathlib.Path(folder).expanduser()
    try:
        metadata = prepared.read_metadata(folder)
    except (UserError, OSError, ValueError):
        metadata = {}
    source = metadata.get('source', {})
    if _KEY in metadata:
        return metadata[_KEY]
    if source.get('builder') == 'rsna_bone_age' or {'accepted', 'seed_masks'} & set(metadata):
        return RSNA
    if source.get('builder') == 'hand_phantom':
        return _of_phantoms(source.get('seed', 0))
    return f'prepared:{folder.resolve()}'


def metadata(data: Mapping) -> dict[str, str]:
    """What prepared records of `config.data` say of their ids, for `of_folder` to read."""
    return {_KEY: of(data)}


def _of_phantoms(seed):
    return f'hand_phantom:{seed}'


def plain(image: object) -> str:
    """An image's id in its source: 'mined-1377' -> '1377'."""
    return str(image).removeprefix(MINED)


def runs(spaces: Iterable[str]) -> Runs:
    """The spaces of a list of ids, as a file keeps them: `[['rsna', 10000], ...]`."""
    return [[space, len(list(same))] for space, same in itertools.groupby(spaces)]


def expand(runs: Runs) -> list[str]:
    """The inverse of `runs`."""
    spaces = []
    for space, count in runs:
        spaces += [space] * count
    return spaces


class IdSet:
    """Ids with their spaces; `add` some, ask which of others are among them."""

    def __init__(self):
        self._spaces = {}  # id -> the spaces in which it is one of them

    def add(self, ids: Iterable[object], spaces: Sequence[str] | str) -> None:
        """Adds ids, of one space or of one each."""
        for image, space in _pairs(ids, spaces):
            self._spaces.setdefault(plain(image), set()).add(space)

    def update(self, other: 'IdSet') -> None:
        """Adds all of another set."""
        for image, spaces in other._spaces.items():
            self._spaces.setdefault(image, set()).update(spaces)

    def among(self, ids: Iterable[object], spaces: Sequence[str] | str) -> list[str]:
        """Those of `ids`, as they are given, that are in the set, in order.

        An id of an undeclared space, here or in the set, is the same in any.
        """
        found = []
        for image, space in _pairs(ids, spaces):
            known = self._spaces.get(plain(image), ())
            if space in known or UNDECLARED in known or (known and space == UNDECLARED):
                found.append(str(image))
        return found

    def items(self) -> list[tuple[str, str]]:
        """(space, id) of all, sorted."""
        return sorted((space, image) for image, known in self._spaces.items() for space in known)


def _pairs(ids, spaces):
    ids = list(ids)
    if isinstance(spaces, str):
        spaces = [spaces] * len(ids)
    return zip(ids, spaces, strict=True)
