"""Files of arrays, `.safetensors`: written whole, read without running anything, found whole.

A file is a header (names, types, shapes, and texts by key, its metadata) and the arrays' bytes.
"""

import contextlib
import hashlib
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
import safetensors
import safetensors.numpy

from boneage_jax.runtime import files
from tfds_rsna.errors import UserError

SUFFIX = '.safetensors'
FORMAT = 'boneage_jax'  # the metadata's `format` in our own exports
DIGEST = 'arrays_sha256'  # the metadata's key with `digest` of the arrays
BESIDE = 'beside/'  # how the names of arrays begin that are not parameters of the network


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]):
    """Writes arrays and metadata, all of it or nothing; the metadata gets the arrays' digest."""
    # The library writes memory as it lies: a transposed array would come back as another.
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {**metadata, DIGEST: digest(arrays)}
    with files.replacing(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata=metadata)


def metadata(path: pathlib.Path) -> dict[str, str]:
    """`{key: text}` that a file carries beside its arrays, which are not read.

    Raises UserError, naming the file, where there is none, or it is damaged or of another kind.
    """
    with _opened(path) as file:
        return file.metadata() or {}


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(`{name: array}`, `{key: text}` metadata) of a file. Half precision comes as float32.

    Of our own exports these are the network's arrays alone; `read_beside` gives the others.

    Raises UserError, naming the file, where there is none, it is damaged or of another kind, or its
    arrays are not those that its metadata has the digest of.
    """
    arrays, about = _read(path)
    return {name: array for name, array in arrays.items() if not name.startswith(BESIDE)}, about


def read_beside(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file that are not the network's, without `BESIDE` in their names.

    Half precision comes as float32. Raises UserError as `read`.
    """
    arrays, _ = _read(path)
    found = {}
    for name, array in arrays.items():
        if name.startswith(BESIDE):
            found[name.removeprefix(BESIDE)] = array
    return found


def _read(path):
    """(all arrays, metadata) of a file."""
    with _opened(path) as file:
        about = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dict
    if DIGEST in about and digest(arrays) != about[DIGEST]:
        raise UserError(
            f'{path}: damaged: its arrays are not those that were written (their sha256 is not '
            f'{about[DIGEST][:12]}...). Fetch it again'
        )
    for name, array in arrays.items():
        if array.dtype == np.float16:
            arrays[name] = array.astype(np.float32)
    return arrays, about


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 of arrays with their names, types and shapes, in hex."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        found.update(f'{name} {array.dtype} {array.shape}\n'.encode())
        found.update(array.tobytes())
    return found.hexdigest()


def refuse_pointer(path: pathlib.Path):
    """Refuses (UserError) a web page, or a pointer of git-lfs, in the place of a file."""
    with path.open('rb') as file:
        start = file.read(64).lstrip()
    if start.startswith((b'<', b'version https://git-lfs')):
        raise UserError(
            f'{path}: is a web page or a pointer of git-lfs, not the weights themselves. '
            'Fetch it again'
        )


def damaged(path: pathlib.Path, error: Exception) -> str:
    """The message for a file that could not be read."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    size = f'{path.stat().st_size:,} bytes'
    return f'{path}: cut short or damaged ({lines[0][:200]}); {size}. Fetch it again'


@contextlib.contextmanager
def _opened(path) -> Iterator[safetensors.safe_open]:
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f'{path}: no such file of weights')
    refuse_pointer(path)
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            yield file
    except safetensors.SafetensorError as error:
        raise UserError(damaged(path, error)) from error
    except (TypeError, AttributeError) as error:  # a type that NumPy does not know
        raise UserError(
            f'{path}: holds arrays of a type that NumPy cannot hold ({error})'
        ) from error
