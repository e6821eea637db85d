"""The ids of the images that a run was trained on, with their id spaces, as its files tell them."""

import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from boneage_jax import renamed
from boneage_jax.data import id_spaces
from boneage_jax.data.source import Split
from boneage_jax.runs import exported
from tfds_rsna.errors import UserError

SPACES = 'id_spaces'  # the key of splits.json, beside the splits, and of an export's metadata
_EXPORTED = {'train': 'trained_on', 'validation': 'selected_by'}  # the metadata's keys


def document(splits: Mapping[str, Split]) -> dict:
    """The content of splits.json: `{split: [id, ...], 'id_spaces': {split: runs}}`."""
    content = {}
    spaces = {}
    for name, split in splits.items():
        known = split.spaces or [id_spaces.UNDECLARED] * len(split)
        # Each once: an epoch may show them several times (data.train_repeats).
        images = list(dict.fromkeys(zip(split.ids, known, strict=True)))
        content[name] = [image for image, _ in images]
        spaces[name] = id_spaces.runs(space for _, space in images)
    return content | {SPACES: spaces}


def of_run(workdir: str | pathlib.Path, names: Sequence[str] = ('train',)) -> id_spaces.IdSet:
    """The images of some splits of a run or of an ensemble; a split that it lacks has none.

    Raises UserError where its splits.json cannot be read, or has no training images.
    """
    workdir = pathlib.Path(workdir).expanduser()
    saved = _read(workdir)
    found = id_spaces.IdSet()
    for name in names:
        found.add(saved.get(name, ()), _spaces(workdir, saved, name))
    return found


def spaces(workdir: str | pathlib.Path, name: str) -> dict[str, str]:
    """`{id: its space}` of one split of a run; raises UserError as `of_run`."""
    workdir = pathlib.Path(workdir).expanduser()
    saved = _read(workdir)
    return dict(zip(saved.get(name, ()), _spaces(workdir, saved, name), strict=True))


def fingerprints(workdir: str | pathlib.Path) -> dict[str, list[str]]:
    """What a file that travels tells of a run's images in the place of ids, for `ExportedIds`.

    `trained_on` and `selected_by` are hashes of images, `id_spaces` those of their spaces. Raises
    UserError as `of_run`.
    """
    found = {}
    spaces = set()
    for split, key in _EXPORTED.items():
        images = of_run(workdir, (split,)).items()
        spaces.update(space for space, _ in images)
        found[key] = [fingerprint(image, space) for space, image in images]
    return found | {SPACES: [_hash(space) for space in sorted(spaces)]}


def fingerprint(image: object, space: str) -> str:
    """The same for the same image's id of the same space, however it came into a run."""
    return _image_hash(image, _hash(space))


class ExportedIds:
    """The images of a file's metadata, asked as an `id_spaces.IdSet` is."""

    def __init__(self, metadata: Mapping[str, str], names: Sequence[str] = ('train',)):
        """Those of some splits, of 'train' and 'validation'.

        A file without their hashes (ImageNet weights) has none.
        """
        self._hashes = set()
        for name in names:
            self._hashes.update(json.loads(metadata.get(_EXPORTED[name], '[]')))
        self._spaces = None
        self._own = id_spaces.UNDECLARED
        if SPACES in metadata:
            self._spaces = json.loads(metadata[SPACES])
        elif self._hashes:
            self._own = _space_of_older(metadata)

    def among(self, ids: Iterable[object], spaces: Sequence[str] | str) -> list[str]:
        """Those of `ids`, as they are given, that the file knows, in order."""
        ids = list(ids)
        if isinstance(spaces, str):
            spaces = [spaces] * len(ids)
        knows = self._knows_of_older if self._spaces is None else self._knows
        pairs = zip(ids, spaces, strict=True)
        return [str(image) for image, space in pairs if knows(image, space)]

    def _knows(self, image, space):
        hashes = {_hash(space), _hash(id_spaces.UNDECLARED)}
        if space == id_spaces.UNDECLARED:
            hashes.update(self._spaces)
        return any(_image_hash(image, hashed) in self._hashes for hashed in hashes)

    def _knows_of_older(self, image, space):
        """Of an export of an earlier release: hashes of the ids alone."""
        undeclared = id_spaces.UNDECLARED
        plain = id_spaces.plain(image)
        if space in (id_spaces.RSNA, undeclared) and _hash(id_spaces.MINED + plain) in self._hashes:
            return True
        same = space == self._own or undeclared in (space, self._own)
        return same and _hash(plain) in self._hashes


def of(
    place: str | pathlib.Path, names: Sequence[str] = ('train',)
) -> id_spaces.IdSet | ExportedIds:
    """The images of some splits that a network was made of.

    Args:
        place: a workdir, an exported file, or the name of a shipped network.
        names: of 'train' and 'validation' (what it was selected by).

    Raises:
        UserError: there is no such network, or it does not tell its images.
    """
    place = exported.find(place)
    if exported.is_file(place):
        return ExportedIds(exported.read(place).metadata, names)
    return of_run(place, names)


def _space_of_older(metadata):
    """The id space of an export that does not tell it; paths in its config are of elsewhere."""
    data = renamed.config(json.loads(metadata['config']))['data']
    if data['source'] in ('rsna_bone_age', 'hand_phantom'):
        return id_spaces.of(data)
    return id_spaces.UNDECLARED


def _image_hash(image, hashed_space):
    return _hash(f'{hashed_space}/{id_spaces.plain(image)}')


def _hash(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read(workdir):
    path = workdir / 'splits.json'
    try:
        saved = json.loads(path.read_text())
        if isinstance(saved['train'], list):
            return saved
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: cannot be read ({error!r}); is its run finished?') from error
    raise UserError(f'{path}: its training images are no list; is it the file of a run?')


def _spaces(workdir, saved, name):
    """The space of each id of a split.

    A run of an earlier release did not write them: they are that of its config's data, and RSNA
    for mined images. An ensemble of one has no config; its ids are compared with all.
    """
    if SPACES in saved:
        return id_spaces.expand(saved[SPACES].get(name, ()))
    config = workdir / 'config.json'
    own = id_spaces.UNDECLARED
    if config.exists():
        own = id_spaces.of(renamed.config(json.loads(config.read_text()))['data'])
    derived = []
    for image in saved.get(name, ()):
        mined = str(image).startswith(id_spaces.MINED)
        derived.append(id_spaces.RSNA if mined else own)
    return derived
