"""The trained networks that come with the code, by name: `boneage_jax/weights/NAME.safetensors`."""

import pathlib

from boneage_jax.runtime import tensors
from tfds_rsna.errors import UserError

FOLDER = pathlib.Path(__file__).resolve().parents[1] / 'weights'
AGES = 'bone_age'  # the network that `predict` uses where none is named


def names() -> list[str]:
    """The names of the networks that are there."""
    return sorted(path.stem for path in FOLDER.glob(f'*{tensors.SUFFIX}'))


def find(name: str) -> pathlib.Path | None:
    """The file of a network; None where none of that name is there."""
    return FOLDER / f'{name}{tensors.SUFFIX}' if name in names() else None


def name_of(path: pathlib.Path) -> str:
    """The name of the shipped network in the file `path`; '' where that is another file."""
    path = pathlib.Path(path)
    return path.stem if path.parent == FOLDER and path.stem in names() else ''


def ages() -> pathlib.Path:
    """The file of the network that predicts ages where none is named; UserError without one."""
    path = find(AGES)
    if path is None:
        raise UserError(
            f'no --workdir is given, and the network {AGES} that would be used then does not come '
            f'with this version of the code (it has: {listed()}); give --workdir, the folder of a '
            'trained run or a file of `boneage export`'
        )
    return path


def listed() -> str:
    """The names in words, for messages."""
    return ', '.join(names()) or 'none'
