"""The arrays of an HDF5 file, read in a process of its own.

    python boneage_jax/models/hdf5_reader.py FILE PATTERN SECONDS BYTES > arrays.npz

A damaged file can keep the HDF5 library busy without end, in C, where no signal stops it, or have
it ask for any amount of memory. `keras_files.read` starts this file as a program, with limits; it
imports nothing of this package. Where it fails, it writes why, and its exit status tells what that
is: REFUSED or DAMAGED.
"""

import io
import pathlib
import re
import sys

import numpy as np

# exit status
REFUSED = 3
DAMAGED = 4


class RefusedError(Exception):
    """The file holds something else than plain arrays."""


def arrays(path: pathlib.Path, pattern: re.Pattern) -> dict[str, np.ndarray]:
    """`{'LAYER/LEAF': float32 array}` of the groups whose attribute `name` is in full `pattern`.

    Leaves are '0' and '1'. No link to elsewhere is followed, and no array has filters: each is as
    large in the file as in memory.

    Raises:
        RefusedError: an array is missing or no plain one.
        Exception: whatever h5py raises for a damaged file.
    """
    import h5py  # optional dependency

    found = {}

    def visit(name, item):
        layer = item.attrs.get('name', '')
        if not isinstance(layer, str) or not isinstance(item, h5py.Group):
            return
        if pattern.fullmatch(layer):
            for leaf in ('0', '1'):
                found[f'{layer}/{leaf}'] = _array(path, item, f'{name}/{leaf}', leaf)

    with h5py.File(path, 'r') as file:
        file.visititems(visit)
    return found


def _array(path, group, name, leaf):
    link = group.get(leaf, getlink=True)
    data = None
    if type(link).__name__ == 'HardLink':
        data = group[leaf]
    plain = data is not None and data.dtype == np.float32 and data.chunks is None
    if not plain or data.external or data.is_virtual:
        raise RefusedError(f'{name} is no plain float32 array of this file')
    if data.size * 4 > path.stat().st_size:
        raise RefusedError(f'{name} {data.shape} is larger than the file: cut short or damaged')
    return np.asarray(data[()], np.float32)


def _limit(seconds, size):
    """Limits this process to `seconds` of a processor, and `size` bytes beyond what it has."""
    try:
        import resource
    except ImportError:  # Windows: there the time that `keras_files` waits is the limit
        return
    limits = [(resource.RLIMIT_CPU, seconds)]
    if sys.platform == 'linux':
        pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
        limits.append((resource.RLIMIT_AS, pages * resource.getpagesize() + size))
    for kind, most in limits:
        _, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(kind, (most, hard))


def main(file: str, pattern: str, seconds: str, size: str) -> int:
    """Writes the arrays of `file` to the standard output, or why there are none."""
    import h5py  # noqa: F401, before the limit: what it takes itself does not count

    path = pathlib.Path(file)
    _limit(int(seconds), int(size))
    try:
        made = io.BytesIO()
        np.savez(made, **arrays(path, re.compile(pattern)))
        answer = made.getvalue()
        status = 0
    except RefusedError as error:
        answer = str(error).encode()
        status = REFUSED
    except MemoryError:
        answer = f'it takes more than {int(size) / 2**20:,.0f} MiB of memory to read'.encode()
        status = DAMAGED
    except Exception as error:  # h5py raises whatever HDF5 meets in a damaged file
        lines = str(error).strip().splitlines() or ['no message']
        answer = f'{type(error).__name__}: {lines[0]}'.encode()
        status = DAMAGED
    sys.stdout.buffer.write(answer)
    return status


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
