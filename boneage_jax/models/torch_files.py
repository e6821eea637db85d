"""PyTorch's files of weights (.pth, .pt, .bin), read without PyTorch; nothing in them is run.

Two formats: since PyTorch 1.6 an uncompressed zip of a pickle and a file for each storage; before
that, five pickles one after the other, and the storages behind them.
"""

import math
import mmap
import pathlib
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from boneage_jax.models import tensor_pickle
from boneage_jax.models.tensor_pickle import DamagedError, RefusedError, Storage, Tensor
from boneage_jax.runtime import tensors
from tfds_rsna.errors import UserError
from tfds_rsna.io import zips

BUNDLES = ('state_dict', 'model', 'model_state_dict')  # where a training script has the weights
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old format
_PROTOCOL = 1001  # the second
_REPEATS = 4  # how often tensors may repeat a storage's values, as tied weights do


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """`{name: array}` of a state_dict, or of a training script's bundle with one (BUNDLES).

    Floating values become float32; others keep their type.

    Raises:
        UserError: the file holds more than tensors (it names what), is cut short, damaged, or has
            no state_dict.
    """
    try:
        with path.open('rb') as opened, _mapped(opened) as data:
            if data[:4] == b'PK\x03\x04':
                with zips.open_whole(opened) as archive:
                    return _read_zip(path, archive)
            return _read_old(path, data)
    except RefusedError as error:
        raise UserError(
            f'{path}: holds more than arrays, which could run code: {error}. Refused, and nothing '
            'was run. Save the state_dict() alone, where you trust the file'
        ) from error
    except UserError:
        raise
    except zips.DAMAGED as error:  # DamagedError is a ValueError
        raise UserError(tensors.damaged(path, error)) from error


def _mapped(opened):
    try:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # an empty file
        raise DamagedError(str(error)) from error


def _read_zip(path, archive):
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.count('/') == 1 and name.endswith('/data.pkl')]
    if len(pickles) != 1:
        raise DamagedError(f'a zip with {len(pickles)} data.pkl, expected one')
    folder = pickles[0].removesuffix('data.pkl')
    order = '<'
    if f'{folder}byteorder' in entries:
        order = '>' if _stored(archive, entries, f'{folder}byteorder') == b'big' else '<'
    content, _ = tensor_pickle.load(_stored(archive, entries, pickles[0]))

    def values(storage):
        return _stored(archive, entries, f'{folder}data/{storage.key}'), order

    return _arrays(path, _state(path, content), values)


def _stored(archive, entries, name):
    """The bytes of an entry, which is as large in the file: no bomb."""
    entry = entries.get(name)
    if entry is None:
        raise DamagedError(f'no {ascii(name)[:100]} in it')
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise DamagedError(
            f'{ascii(name)[:100]} is compressed or encrypted, which PyTorch never is'
        )
    return archive.read(entry)


def _read_old(path, data):
    magic, place = tensor_pickle.load(data)
    if magic != _MAGIC:
        raise DamagedError('neither of the formats of PyTorch')
    version, place = tensor_pickle.load(data, place)
    about, place = tensor_pickle.load(data, place)
    if version != _PROTOCOL or not isinstance(about, dict):
        # Not shown: the text of a nest of tuples may have no end.
        raise DamagedError(f'another format than {_PROTOCOL}')
    order = '<' if about.get('little_endian', True) else '>'
    content, place = tensor_pickle.load(data, place)
    state = _state(path, content)
    keys, place = tensor_pickle.load(data, place)
    sizes = _item_sizes(content)
    found = {}
    for key in keys if isinstance(keys, list) else ():
        if key not in sizes:
            raise DamagedError('a storage that no tensor of it has: its types are not known')
        count = int.from_bytes(data[place : place + 8], 'little')
        end = place + 8 + count * sizes[key]
        if end > len(data):
            raise DamagedError(f'storage {ascii(key)[:80]} ends behind the end of the file')
        found[key] = (place + 8, end)
        place = end

    def values(storage):
        if storage.key not in found:
            raise DamagedError(f'no storage {ascii(storage.key)[:80]} in it')
        start, end = found[storage.key]
        return data[start:end], order

    return _arrays(path, state, values)


def _item_sizes(content):
    """`{key: bytes a value}` of the storages of all tensors anywhere in `content`."""
    sizes = {}
    seen = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            value = value.storage
        if isinstance(value, Storage):
            size = _numpy_type(value.dtype).itemsize
            if sizes.setdefault(value.key, size) != size:
                raise DamagedError(f'storage {ascii(value.key)[:80]} has two types')
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
    return sizes


def _state(path, content):
    """The dict of tensors in what the pickle holds."""
    for key in BUNDLES:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    named = content if isinstance(content, dict) else {}
    for name, value in named.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            named = {}
            break
    if not named:
        raise UserError(
            f'{path}: expected a state_dict, {{name: tensor}}, found a {type(content).__name__} '
            'of something else'
        )
    return named


def _arrays(
    path: pathlib.Path,
    state: Mapping[str, Tensor],
    values: Callable[[Storage], tuple[bytes, str]],
) -> dict[str, np.ndarray]:
    """The tensors as arrays; `values(storage)` gives its bytes, and '<' or '>' for their order."""
    distinct = {tensor.storage for tensor in state.values()}
    size = sum(each.count * _numpy_type(each.dtype).itemsize for each in distinct)
    if size > path.stat().st_size:
        raise DamagedError(f'its storages have {size:,} bytes, more than the file')
    total = sum(math.prod(tensor.shape) for tensor in state.values())
    if total > _REPEATS * sum(each.count for each in distinct):
        raise DamagedError(f'its tensors repeat their values more than {_REPEATS} times')
    storages = {}
    arrays = {}
    for name, tensor in state.items():
        storage = tensor.storage
        if storage not in storages:
            storages[storage] = _decoded(storage, *values(storage))
        flat = storages[storage]
        steps = [stride * flat.itemsize for stride in tensor.strides]
        if not math.prod(tensor.shape):
            raise DamagedError(f'{ascii(name)[:80]} has no values')
        view = np.lib.stride_tricks.as_strided(
            flat[tensor.offset :], tensor.shape, steps, writeable=False
        )
        arrays[name] = np.array(view, np.float32 if view.dtype.kind == 'f' else None, order='C')
    return arrays


def _decoded(storage, data, order):
    """A storage's values, 1-D; bfloat16 as float32, which it is the upper half of."""
    dtype = _numpy_type(storage.dtype).newbyteorder(order)
    if len(data) != storage.count * dtype.itemsize:
        raise DamagedError(
            f'storage {ascii(storage.key)[:80]} has {len(data)} bytes, expected {storage.count} '
            f'values of {dtype.itemsize}'
        )
    flat = np.frombuffer(data, dtype).astype(dtype.newbyteorder('='))
    if storage.dtype == 'bfloat16':
        return (flat.astype(np.uint32) << 16).view(np.float32)
    return flat


def _numpy_type(name):
    return np.dtype(np.uint16) if name == 'bfloat16' else np.dtype(name)
