"""The pickles inside PyTorch's files, read by an interpreter that knows tensors and nothing else.

A pickle is a program: `pickle.loads` calls whatever it names. This one has the instructions that a
`state_dict` needs (numbers, text, tuples, lists, dicts), and the few names of GLOBALS.
Any other instruction or name ends the reading; nothing is looked up, imported or called by name.
Memory is bounded by the file: nothing that a pickle claims is allocated before it is checked.
"""

import dataclasses
import struct
from collections.abc import Sequence

# torch's class of a storage -> NumPy's type of its values; bfloat16 is the upper half of a float32
STORAGES = {
    'FloatStorage': '<f4',
    'DoubleStorage': '<f8',
    'HalfStorage': '<f2',
    'BFloat16Storage': 'bfloat16',
    'LongStorage': '<i8',
    'IntStorage': '<i4',
    'ShortStorage': '<i2',
    'CharStorage': '|i1',
    'ByteStorage': '|u1',
    'BoolStorage': '|b1',
}
_TENSOR = 'torch._utils._rebuild_tensor'
_TENSOR_V2 = 'torch._utils._rebuild_tensor_v2'
_PARAMETER = 'torch._utils._rebuild_parameter'
_DICT = 'collections.OrderedDict'
GLOBALS = frozenset(
    [_TENSOR, _TENSOR_V2, _PARAMETER, _DICT, *(f'torch.{name}' for name in STORAGES)]
)
_LONGEST_NAME = 200  # bytes of a module's or a function's name
_MOST_SIDES = 32  # of a tensor


class RefusedError(ValueError):
    """The pickle asks for more than tensors; the message says for what."""


class DamagedError(ValueError):
    """The pickle is no whole one."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """Values of one type that tensors look at: `count` of them, stored in the file as `key`."""

    key: str
    dtype: str  # a value of STORAGES
    count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage: places from `offset` on, `strides` apart, all inside the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Global:
    """A name of GLOBALS that the pickle mentions."""

    name: str


class _Mark:
    """Where on the stack a tuple, list or dict begins."""


_MARK = _Mark()


def load(data: bytes, start: int = 0) -> tuple[object, int]:
    """The object that the pickle at `start` of `data` builds, and where the pickle ends.

    Args:
        data: bytes, or what is sliced and indexed as they are (`mmap`).
        start: of the pickle.

    Returns:
        Dicts, lists, tuples, text, numbers, None, `Tensor` and `Storage`.

    Raises:
        RefusedError: it names a function, or has an instruction, that no tensor needs.
        DamagedError: it is cut short, or its parts contradict each other.
    """
    reader = _Reader(data, start)
    try:
        while not reader.done:
            reader.step()
    except (RefusedError, DamagedError):
        raise
    except (IndexError, KeyError, TypeError, ValueError) as error:  # a stack without what it needs
        what = type(error).__name__
        raise DamagedError(f'its pickle is damaged at byte {reader.place} ({what})') from error
    return reader.stack[-1], reader.place


class _Reader:
    """One reading of a pickle."""

    def __init__(self, data, start):
        self.data = data
        self.place = start
        self.stack = []
        self.memo = {}
        self.done = False

    def step(self):
        """Carries out one instruction."""
        code = self.take(1)
        action = _ACTIONS.get(code)
        if action is None:
            raise RefusedError(f'the instruction {code!r} at byte {self.place - 1}')
        action(self)

    def take(self, count):
        """The next bytes."""
        end = self.place + count
        found = self.data[self.place : end]
        if len(found) < count:
            raise DamagedError(f'its pickle is cut short at byte {len(self.data)}')
        self.place = end
        return found

    def number(self, form):
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return value

    def line(self):
        """The text up to the next end of line: a module's or a function's name."""
        end = self.data.find(b'\n', self.place, self.place + _LONGEST_NAME)
        if end < 0:
            raise DamagedError(f'its pickle has no name at byte {self.place}')
        text = self.take(end - self.place).decode('utf-8', 'replace')
        self.take(1)
        return text

    def push(self, value):
        self.stack.append(value)

    def pop(self, kind=object):
        value = self.stack.pop()
        if not isinstance(value, kind) or value is _MARK:
            raise DamagedError(f'its pickle is damaged at byte {self.place}')
        return value

    def top(self, kind):
        value = self.pop(kind)
        self.stack.append(value)
        return value

    def since_mark(self):
        """What was put on the stack since the last mark; both leave it."""
        values = []
        while True:
            value = self.stack.pop()
            if value is _MARK:
                return values[::-1]
            values.append(value)

    # What instructions do

    def protocol(self):
        version = self.number('B')
        if version > 4:
            raise RefusedError(f"pickle's protocol {version}")

    def global_by_lines(self):
        self.push_global(self.line(), self.line())

    def global_by_stack(self):
        name = self.pop(str)
        self.push_global(self.pop(str), name)

    def instance(self):
        raise RefusedError(_shown(self.line(), self.line()))

    def push_global(self, module, name):
        if f'{module}.{name}' not in GLOBALS:
            raise RefusedError(_shown(module, name))
        self.push(_Global(f'{module}.{name}'))

    def call(self):
        arguments = self.pop(tuple)
        function = self.pop(_Global).name
        if function == _DICT:
            self.push(_ordered(arguments))
        elif function == _PARAMETER:
            tensor, *_ = arguments
            if not isinstance(tensor, Tensor):
                raise DamagedError('its pickle has a parameter without a tensor')
            self.push(tensor)
        elif function in (_TENSOR, _TENSOR_V2):
            self.push(_tensor(*arguments[:4]))
        else:
            raise RefusedError(f'a call of {function}')

    def set_state(self):
        """Drops attributes of an ordered dict: a state_dict has its `_metadata` there."""
        self.pop(dict)
        self.top(dict)

    def persistent(self):
        self.push(_storage(*self.pop(tuple)))

    def put(self, form):
        self.memo[self.number(form)] = self.stack[-1]

    def put_next(self):
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, form):
        self.push(self.memo[self.number(form)])

    def text(self, form, encoding='utf-8'):
        self.push(self.take(self.number(form)).decode(encoding))

    def long(self):
        self.push(int.from_bytes(self.take(self.number('B')), 'little', signed=True))

    def tuple_of(self, count):
        values = [self.pop() for _ in range(count)]
        self.push(tuple(values[::-1]))

    def append(self):
        value = self.pop()
        self.top(list).append(value)

    def extend(self):
        values = self.since_mark()
        self.top(list).extend(values)

    def set_item(self):
        value = self.pop()
        key = self.pop()
        self.update([key, value])

    def update(self, values):
        target = self.top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_key(key)] = value

    def stop(self):
        self.top(object)
        self.done = True


_ACTIONS = {
    b'\x80': _Reader.protocol,
    b'.': _Reader.stop,
    b'(': lambda reader: reader.push(_MARK),
    b'c': _Reader.global_by_lines,
    b'\x93': _Reader.global_by_stack,
    b'i': _Reader.instance,
    b'R': _Reader.call,
    b'b': _Reader.set_state,
    b'Q': _Reader.persistent,
    b'q': lambda reader: reader.put('B'),
    b'r': lambda reader: reader.put('<I'),
    b'\x94': _Reader.put_next,
    b'\x95': lambda reader: reader.take(8),  # the length of what follows: no need of it
    b'h': lambda reader: reader.get('B'),
    b'j': lambda reader: reader.get('<I'),
    b'N': lambda reader: reader.push(None),
    b'\x88': lambda reader: reader.push(True),
    b'\x89': lambda reader: reader.push(False),
    b'K': lambda reader: reader.push(reader.number('B')),
    b'M': lambda reader: reader.push(reader.number('<H')),
    b'J': lambda reader: reader.push(reader.number('<i')),
    b'G': lambda reader: reader.push(reader.number('>d')),
    b'\x8a': _Reader.long,
    b'X': lambda reader: reader.text('<I'),
    b'\x8c': lambda reader: reader.text('B'),
    b'U': lambda reader: reader.text('B', 'latin-1'),  # of Python 2
    b'T': lambda reader: reader.text('<I', 'latin-1'),
    b')': lambda reader: reader.push(()),
    b'\x85': lambda reader: reader.tuple_of(1),
    b'\x86': lambda reader: reader.tuple_of(2),
    b'\x87': lambda reader: reader.tuple_of(3),
    b't': lambda reader: reader.push(tuple(reader.since_mark())),
    b']': lambda reader: reader.push([]),
    b'a': _Reader.append,
    b'e': _Reader.extend,
    b'}': lambda reader: reader.push({}),
    b's': _Reader.set_item,
    b'u': lambda reader: reader.update(reader.since_mark()),
}


def _shown(module, name):
    """A refused name, without what a terminal could take for more than text."""
    return ascii(f'{module}.{name}')[1:-1][:_LONGEST_NAME]


def _key(key):
    """A key of a dict; others than text and whole numbers could nest without end."""
    if type(key) not in (str, int):
        raise RefusedError(f'a dict with a key of type {type(key).__name__}')
    return key


def _ordered(arguments):
    """A dict of OrderedDict's arguments: none, or the pairs that Python 2 wrote."""
    found = {}
    pairs = arguments[0] if arguments else ()
    if not isinstance(pairs, (list, tuple)):
        raise DamagedError('its pickle has an OrderedDict of something else than pairs')
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise DamagedError('its pickle has an OrderedDict of something else than pairs')
        found[_key(pair[0])] = pair[1]
    return found


def _storage(kind, storage_class, key, location, count, view=None):
    """The `Storage` of a persistent id ('storage', class, key, location, count[, view])."""
    del location
    if kind != 'storage' or not isinstance(storage_class, _Global):
        raise DamagedError('its pickle refers to something else than a storage')
    name = storage_class.name.removeprefix('torch.')
    if name not in STORAGES or not isinstance(key, str) or not _is_count(count):
        raise DamagedError('its pickle has a storage without type, name or size')
    if view is not None:
        raise RefusedError('a view of a storage, as PyTorch wrote them before 0.4')
    return Storage(key, STORAGES[name], count)


def _tensor(storage, offset, shape, strides):
    """A `Tensor` all of whose places are in its storage."""
    if not isinstance(storage, Storage) or not _is_count(offset):
        raise DamagedError('its pickle has a tensor without a storage')
    shape = _counts(shape)
    strides = _counts(strides)
    if len(shape) != len(strides):
        raise DamagedError('its pickle has a tensor with a shape and no strides for it')
    values = 1
    last = offset
    for side, stride in zip(shape, strides):
        values *= side
        last += (side - 1) * stride
    if values > storage.count or (values and last >= storage.count):
        raise DamagedError(
            f'its pickle has a tensor of shape {str(shape)[:80]} outside of its storage '
            f'{ascii(storage.key)[:80]} of {storage.count} values'
        )
    return Tensor(storage, offset, shape, strides)


def _counts(sides: Sequence) -> tuple[int, ...]:
    if not isinstance(sides, (tuple, list)) or len(sides) > _MOST_SIDES:
        raise DamagedError('its pickle has a tensor without a shape')
    if not all(map(_is_count, sides)):
        raise DamagedError('its pickle has a tensor with a side below zero')
    return tuple(sides)


def _is_count(value):
    return type(value) is int and 0 <= value < 1 << 48
