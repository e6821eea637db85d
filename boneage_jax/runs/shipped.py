"""The trained networks that come with the code, by name: `boneage_jax/weights/NAME.safetensors`."""

import pathlib

from boneage_jax.runtime import tensors

FOLDER = pathlib.Path(__file__).resolve().parents[1] / 'weights'


def names() -> list[str]:
    """The names of the networks that are there."""
    return sorted(path.stem for path in FOLDER.glob(f'*{tensors.SUFFIX}'))


def find(name: str) -> pathlib.Path | None:
    """The file of a network; None where none of that name is there."""
    return FOLDER / f'{name}{tensors.SUFFIX}' if name in names() else None


def listed() -> str:
    """The names in words, for messages."""
    return ', '.join(names()) or 'none'
