"""The ids of the images that a run was trained on, with their id spaces, as its files tell them."""

import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from boneage_jax import renamed
from boneage_jax.data import id_spaces
from boneage_jax.data.source import Split
from tfds_rsna.errors import UserError

SPACES = 'id_spaces'  # the key of splits.json, beside the splits, and the mark of an export


def document(splits: Mapping[str, Split]) -> dict:
    """The content of splits.json: `{split: [id, ...], 'id_spaces': {split: runs}}`."""
    content = {}
    spaces = {}
    for name, split in splits.items():
        content[name] = list(split.ids)
        known = split.spaces or [id_spaces.UNDECLARED] * len(split)
        spaces[name] = id_spaces.runs(known)
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


def fingerprints(workdir: str | pathlib.Path) -> list[str]:
    """Hashes of a run's training images, for a file that travels and must not tell ids."""
    return [fingerprint(image, space) for space, image in of_run(workdir).items()]


def fingerprint(image: object, space: str) -> str:
    """The same for the same image's id of the same space, however it came into a run."""
    return _hash(f'{space}/{id_spaces.plain(image)}')


def among_exported(
    metadata: Mapping[str, str], ids: Iterable[object], spaces: Sequence[str]
) -> list[str]:
    """Those of `ids` that the run of an exported file was trained on.

    Args:
        metadata: of the file. One without `trained_on` (ImageNet weights) saw none.
        ids: to look for.
        spaces: of each of them.
    """
    trained = set(json.loads(metadata.get('trained_on', '[]')))
    pairs = list(zip(ids, spaces, strict=True))
    if SPACES in metadata:
        return [image for image, space in pairs if fingerprint(image, space) in trained]
    if not trained:
        return []
    # An export of an earlier release: hashes of the ids alone.
    own = id_spaces.of(renamed.config(json.loads(metadata['config']))['data'])
    found = []
    for image, space in pairs:
        plain = id_spaces.plain(image)
        mined = space == id_spaces.RSNA and _hash(id_spaces.MINED + plain) in trained
        if mined or (space in (own, id_spaces.UNDECLARED) and _hash(plain) in trained):
            found.append(image)
    return found


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
