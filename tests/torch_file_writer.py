"""PyTorch's files written byte by byte, without PyTorch, whole ones and hostile ones."""

import struct
import zipfile

MAGIC = b'\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19'  # as a pickle has the number


def text(value):
    data = value.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def number(value):
    if -(2**31) <= value < 2**31:
        return b'J' + struct.pack('<i', value)
    data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8a' + bytes([len(data)]) + data


def named(module, name):
    return f'c{module}\n{name}\n'.encode()


def group(*items):
    """A tuple."""
    return b'(' + b''.join(items) + b't'


def dictionary(items, ordered=False):
    start = named('collections', 'OrderedDict') + b')R' if ordered else b'}'
    return start + b'(' + b''.join(text(key) + value for key, value in items.items()) + b'u'


def storage(kind, key, count):
    place = group(text('storage'), named('torch', kind), text(key), text('cpu'), number(count))
    return place + b'Q'


def tensor(kind, key, count, shape, strides=None, offset=0):
    """A view of storage `key` of `count` values; contiguous without `strides`."""
    if strides is None:
        strides = []
        step = 1
        for side in reversed(shape):
            strides.insert(0, step)
            step *= side
    arguments = group(
        storage(kind, key, count),
        number(offset),
        group(*map(number, shape)),
        group(*map(number, strides)),
        b'\x89',
        named('collections', 'OrderedDict') + b')R',
    )
    return named('torch._utils', '_rebuild_tensor_v2') + arguments + b'R'


def pickled(body):
    return b'\x80\x02' + body + b'.'


def write_zip(path, body, storages, *, compress=False, byteorder='little'):
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, 'w', kind) as file:
        file.writestr('archive/data.pkl', pickled(body))
        file.writestr('archive/byteorder', byteorder)
        for key, data in storages.items():
            file.writestr(f'archive/data/{key}', data)
        file.writestr('archive/version', '3\n')
    return path


def write_old(path, body, storages, counts=None):
    """`storages` are {key: (bytes a value, bytes)}."""
    about = dictionary({'protocol_version': number(1001), 'little_endian': b'\x88'})
    parts = [pickled(MAGIC), pickled(number(1001)), pickled(about), pickled(body)]
    parts.append(pickled(b'](' + b''.join(map(text, storages)) + b'e'))
    for key, (size, data) in storages.items():
        count = (counts or {}).get(key, len(data) // size)
        parts += [struct.pack('<Q', count), data]
    path.write_bytes(b''.join(parts))
    return path
