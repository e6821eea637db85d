"""A trained network wherever it is: in a run's workdir, in a file, or shipped with the code.

A file is what `export` writes. Everything that a run's workdir tells about its network is in its
metadata, so that it opens like a run. This module reads what is said about a network, never its
arrays, and loads no JAX.
"""

import dataclasses
import hashlib
import json
import pathlib

from boneage_jax import renamed
from boneage_jax.runs import shipped
from boneage_jax.runtime import files, tensors
from tfds_rsna.errors import UserError

# Of the metadata. 1 (no `format_version`) has config, task, step and trained_on; 2 has neither
# intervals nor arrays beside the network's.
VERSION = 3
WHERE = 'the workdir of a training, a file of `boneage export`, or a shipped network'
INTERVALS = 'intervals'  # the metadata's key of what `inference/intervals.py` writes
STAGE_NETWORKS = 'stage_networks'  # that of the digests of the networks that stages ask


@dataclasses.dataclass(frozen=True)
class Exported:
    """What a file tells about its network.

    Attributes:
        path: of the file.
        config: the run's config.json, under the names of today.
        task: the run's task.json.
        step: of the checkpoint.
        kind: what it predicts, one of `tasks.KINDS`; '' in files of earlier releases.
        trained_on: hashes of the images that it was trained on, see `training_ids`.
        selected_by: of those that its checkpoint was selected by; none in earlier releases' files.
        metadata: all of it, `{key: text}`; `runs/export.py` says what else is in it.
    """

    path: pathlib.Path
    config: dict
    task: dict
    step: int
    kind: str
    trained_on: frozenset[str]
    selected_by: frozenset[str]
    metadata: dict[str, str]


def find(place: pathlib.Path | str) -> pathlib.Path:
    """Where a trained network is: a workdir, or a file (`is_file` tells which).

    What is on disk under that path comes first, then the shipped network of that name. A path of
    nothing is given back as it is: whoever opens it complains. `hf:` names a folder for a model hub
    or a file there, see `weight_files.find`, which raises UserError where there is none.
    """
    if str(place).startswith('hf:'):
        # Imported here: its package brings JAX.
        from boneage_jax.models import weight_files

        return weight_files.find(str(place), files.cache_folder() / 'weights')
    path = pathlib.Path(place).expanduser()
    if path.exists():
        return path
    return shipped.find(str(place)) or path


def is_file(path: pathlib.Path) -> bool:
    """Whether `path`, as `find` gives it, is a file and not a workdir."""
    return path.is_file() or (path.suffix == tensors.SUFFIX and not path.is_dir())


def read(path: pathlib.Path) -> Exported:
    """What a file tells about its network.

    Raises UserError, naming the file, where it is not there, damaged, foreign, or of a newer
    release.
    """
    if path.suffix != tensors.SUFFIX:
        raise UserError(f'{path}: a file, but no {tensors.SUFFIX}; give {WHERE}')
    metadata = tensors.metadata(path)
    if metadata.get('format') != tensors.FORMAT:
        found = metadata.get('format', 'no format')
        raise UserError(
            f'{path}: weights alone, without the configuration of a network of ours (its metadata '
            f'says {found!r}); give {WHERE}. Weights from elsewhere go into init_from'
        )
    try:
        version = int(metadata.get('format_version', 1))
        if version > VERSION:
            raise UserError(
                f'{path}: written by a newer release (format_version {version}, this one reads '
                f'{VERSION}); update boneage_jax'
            )
        return Exported(
            path,
            renamed.config(json.loads(metadata['config'])),
            json.loads(metadata['task']),
            int(metadata['step']),
            metadata.get('kind', ''),
            frozenset(json.loads(metadata['trained_on'])),
            frozenset(json.loads(metadata.get('selected_by', '[]'))),
            metadata,
        )
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f'{path}: its metadata is damaged or incomplete ({error!r}); export it again'
        ) from error


def text(exported: Exported, key: str) -> str:
    """What the file's `about` says under a key (`terms`, `data`); '' where it says nothing."""
    try:
        return str(json.loads(exported.metadata.get('about', '{}')).get(key, ''))
    except (ValueError, AttributeError):
        return ''


def changed_networks(exported: Exported) -> list[str]:
    """The shipped networks that prepare images for this one, and are not those of its training.

    The file names them, and each release brings its own.
    """
    changed = []
    for name, sha256 in json.loads(exported.metadata.get(STAGE_NETWORKS, '{}')).items():
        path = shipped.find(name)
        if path is None or digest(path) != sha256:
            changed.append(name)
    return changed


def read_config(path: pathlib.Path) -> dict:
    """The configuration of the network at `path`, as `find` gives it, under the names of today.

    Plain nested dicts, as the run wrote them: knobs that a newer release added are missing.

    Raises UserError where there is none.
    """
    if is_file(path):
        return read(path).config
    try:
        return renamed.config(json.loads((path / 'config.json').read_text()))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f'{path}: no run lies there ({error}); give {WHERE}') from error


def digest(path: pathlib.Path) -> str:
    """sha256 of a file's content, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
