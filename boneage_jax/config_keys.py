"""Dotted keys of a nested configuration, and values as they are typed: no knob is named here."""

import ast
import re
from collections.abc import Iterable, Mapping

import ml_collections

from boneage_jax.errors import ConfigError

MAPS = ('init_map',)  # keys whose value is a dict, not a block of keys
_KEY = re.compile(r'\s*[\w.]+\s*=\s*')
_NAME = re.compile(r'[\w.-]+')  # of a preset
_CLOSED_BY = {'(': ')', '[': ']', '{': '}', '"': '"', "'": "'"}


def find_key(config, key: str) -> str:
    """The dotted key that `key`, perhaps its last part alone, means.

    Raises ConfigError where none or several are meant.
    """
    known = paths(config)
    if key in known:
        return key
    found = [path for path in known if path.endswith('.' + key)]
    if not found:
        raise ConfigError(f'unknown key {key!r}; known: {", ".join(known)}')
    depth = min(path.count('.') for path in found)
    shallowest = [path for path in found if path.count('.') == depth]
    if len(shallowest) > 1:
        raise ConfigError(f'key {key!r} is ambiguous; write one of: {", ".join(shallowest)}')
    return shallowest[0]


def differences(a, b, ignore: Iterable[str] = ()) -> list[str]:
    """`key: a -> b` for each dotted key at which two configs differ, but for those in `ignore`."""
    flat_a = flat(a)
    flat_b = flat(b)
    lines = []
    for key in sorted({*flat_a, *flat_b} - set(ignore)):
        left = repr(flat_a[key]) if key in flat_a else 'absent'
        right = repr(flat_b[key]) if key in flat_b else 'absent'
        if key not in flat_a or key not in flat_b or not same(flat_a[key], flat_b[key]):
            lines.append(f'{key}: {left} -> {right}')
    return lines


def flat(config) -> dict:
    """`{dotted key: value}` of a nested config."""
    return {path: get(config, path) for path in paths(config)}


def same(a, b) -> bool:
    """Equality of values, a tuple being the list that JSON makes of it."""
    return tuples(a) == tuples(b)


def tuples(value):
    """JSON's lists as the tuples that they were."""
    if isinstance(value, dict):
        return {key: tuples(inner) for key, inner in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value


def get(config, path: str):
    """The value of a dotted key; a plain dict where the key is one of MAPS."""
    node = config
    for part in path.split('.'):
        node = node[part]
    return node.to_dict() if isinstance(node, ml_collections.ConfigDict) else node


def paths(config, prefix: str = '') -> list[str]:
    """The dotted keys of a nested configuration, in its order."""
    found = []
    for key, value in config.items():
        path = prefix + key
        if isinstance(value, dict | ml_collections.ConfigDict) and path not in MAPS:
            found += paths(value, path + '.')
        else:
            found.append(path)
    return found


def parse(arg: str | None) -> tuple[list[str], str | None, list[tuple[str, str]]]:
    """(names of presets, name of the row or None, [(key, text)]) of what follows the colon.

    A comma ends a value, unless the value is in quotes or begins with a bracket. Behind a comma
    must come a key or a name; a text that is neither goes on with the value before it: the comma is
    part of a path, as in `images=/data/Clinic, ward 2`.

    Raises:
        ConfigError: two rows, or a quote or a bracket that is not closed.
    """
    names = []
    row = None
    pairs = []
    for token in _tokens(arg or ''):
        key, equals, value = token.partition('=')
        if not equals:
            names.append(key)
        elif key != 'row':
            pairs.append((key, value))
        elif row is None:
            row = value
        else:
            raise ConfigError(f'row={row} and row={value}: a run is one row of the sweep')
    return names, row, pairs


def _tokens(arg):
    """The parts of what follows the colon: names, and `key=value` without quotes."""
    tokens = []
    start = 0
    goes_on = False  # whether a value may go on behind the next comma
    while start < len(arg):
        key = _KEY.match(arg, start)
        end = _end_of_value(arg, key.end()) if key else _comma(arg, start)
        text = arg[start:end]
        quoted = key and arg[key.end() : key.end() + 1] in ('"', "'")
        if quoted:
            text = arg[start : key.end()] + arg[key.end() + 1 : end].rstrip()[:-1]
        if not key and goes_on and text.strip() and not _NAME.fullmatch(text.strip()):
            tokens[-1] += ',' + text.rstrip()
        elif text.strip():
            tokens.append(text.strip())
            goes_on = bool(key) and arg[key.end() : key.end() + 1] not in _CLOSED_BY
        start = end + 1
    return tokens


def _end_of_value(arg, start):
    """Where the value that begins at `start` ends: at a comma outside its quotes or brackets."""
    opening = arg[start : start + 1]
    if opening in ('"', "'"):
        closing = arg.find(opening, start + 1)
        if closing < 0 or arg[closing + 1 : _comma(arg, closing)].strip():
            raise ConfigError(f'{arg[start:]}: a value in quotes ends with a quote and a comma')
        return _comma(arg, closing)
    if opening not in _CLOSED_BY:
        return _comma(arg, start)
    depth = 0
    for position in range(start, len(arg)):
        depth += (arg[position] in '([{') - (arg[position] in ')]}')
        if depth == 0:
            return _comma(arg, position)
    raise ConfigError(
        f'{arg[start:]}: the bracket is not closed; a path that begins with one needs quotes'
    )


def _comma(arg, start):
    found = arg.find(',', start)
    return len(arg) if found < 0 else found


def _split(arg):
    """Splits at commas outside brackets, so that `size=(96,96)` is one token."""
    tokens = []
    depth = 0
    token = ''
    for char in arg:
        depth += (char in '([{') - (char in ')]}')
        if char == ',' and depth == 0:
            tokens.append(token)
            token = ''
        else:
            token += char
    return [text.strip() for text in (*tokens, token) if text.strip()]


def convert(path: str, value, current, literal: bool):
    """`value` as the type of `current`; where it is not `literal`, it is text as typed.

    Raises ConfigError, naming `path`, where it is none of that type.
    """
    kind = type(current)
    if not literal and kind is not str:
        value = _read(path, value, current)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    elif kind is tuple and isinstance(value, int | str):
        value = (value,)
    elif kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f'{path}={value!r}: expected {kind.__name__}, like {current!r}')
    return value


def _read(path, text, current):
    """What is typed for a key, as Python's literals have it; words of a tuple need no quotes."""
    words = {'true': 'True', 'false': 'False'}
    try:
        return ast.literal_eval(words.get(text.strip().lower(), text))
    except (ValueError, SyntaxError):
        if isinstance(current, tuple):  # stages=(mask,contrast) and frozen=backbone
            return tuple(_split(text.strip().strip('()[]')))
        kind = type(current).__name__
        raise ConfigError(f'{path}={text}: expected {kind}, like {current!r}') from None


def convert_map(path: str, value) -> dict[str, str]:
    """`{part: part}` from a dict, or from text: `{a:b,c:d}`, quoted or not; `(a,c)` is a:a, c:c.

    Raises ConfigError, naming `path`, where it is no such map.
    """
    if isinstance(value, str):
        pairs = []
        for token in _split(value.strip().strip('{}()[]')):
            target, colon, source = token.partition(':')
            pairs.append((target, source if colon else target))
    elif isinstance(value, Mapping | ml_collections.ConfigDict):
        pairs = list(value.items())
    else:
        raise ConfigError(f'{path}={value!r}: expected a dict, like {{"backbone": "backbone"}}')
    found = {}
    for target, source in pairs:
        names = [str(name).strip().strip('\'"').replace('.', '/') for name in (target, source)]
        if not all(names):
            raise ConfigError(f'{path}={value!r}: expected names of parts, as backbone or a:b')
        found[names[0]] = names[1]
    return found


def is_size(sides) -> bool:
    """Whether `sides` are two whole numbers of pixels that an image can have."""
    return len(sides) == 2 and all(type(side) is int and side >= 8 for side in sides)


def is_range(text: str) -> bool:
    """Whether `text` is empty or FIRST:LAST, steps from 1."""
    found = re.fullmatch(r'(\d+):(\d+)', text)
    return not text or (bool(found) and 1 <= int(found[1]) <= int(found[2]))
