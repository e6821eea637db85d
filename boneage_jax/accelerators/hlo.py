"""The text of a compiled HLO module, read into computations and instructions.

Shapes are those of one device. On TPUs a layout names its tiles, as in `{1,0:T(8,128)S(1)}`: what
is stored is padded to whole tiles, and S(1) is the memory on the chip.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

WIDTHS = {  # bytes of an element
    'pred': 1,
    's4': 0.5,
    'u4': 0.5,
    's8': 1,
    'u8': 1,
    'f8e4m3fn': 1,
    'f8e5m2': 1,
    's16': 2,
    'u16': 2,
    'f16': 2,
    'bf16': 2,
    's32': 4,
    'u32': 4,
    'f32': 4,
    's64': 8,
    'u64': 8,
    'f64': 8,
    'c64': 8,
    'c128': 16,
}
_SHAPE = re.compile(r'\b([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,<=]*)\](?:\{([^{}]*)\})?')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$')
_START = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = ')
_OPCODE = re.compile(r'\s*([\w\-]+)\(')
_CALLED = re.compile(r'\b(?:calls|to_apply|body|branch_computations|called_computations)=')
_NAME = re.compile(r'%?([\w.\-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array. `order` is its layout, the fastest axis first; `space` 0 is the device's memory."""

    dtype: str
    sides: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = 0

    @property
    def bytes(self) -> int:
        """What its elements take."""
        return math.ceil(math.prod(self.sides) * WIDTHS.get(self.dtype, 0))

    @property
    def stored_bytes(self) -> int:
        """What it takes in memory, padded to whole tiles."""
        if not self.tile or len(self.order) != len(self.sides):
            return self.bytes
        sides = list(self.sides)
        for axis, side in zip(self.order, reversed(self.tile)):
            sides[axis] = -(-sides[axis] // side) * side
        return math.ceil(math.prod(sides) * WIDTHS.get(self.dtype, 0))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: of the instruction.
        opcode: such as 'fusion'.
        shapes: of its result; several for a tuple.
        operands: names of instructions of the same computation.
        attributes: the text behind the operands.
        is_root: whether it is its computation's result.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls; of a loop the body."""
        names = []
        for found in _CALLED.finditer(self.attributes):
            rest = self.attributes[found.end() :]
            group = rest[1 : rest.index('}')] if rest.startswith('{') else rest.split(',', 1)[0]
            names += [_NAME.match(part.strip())[1] for part in group.split(',') if part.strip()]
        return tuple(names)

    @property
    def trips(self) -> int:
        """How often the body of a loop runs; 1 where the compiler does not say."""
        found = _TRIPS.search(self.attributes)
        return int(found[1]) if found else 1

    @property
    def source(self) -> str:
        """What it was traced from, as JAX names it; '' where nothing says so."""
        found = _OP_NAME.search(self.attributes)
        return found[1] if found else ''

    @property
    def custom_target(self) -> str:
        """What a custom call calls; '' for other instructions."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ''

    @property
    def cycles(self) -> int:
        """The compiler's own estimate, where it gives one (TPUs)."""
        found = _CYCLES.search(self.attributes)
        return int(found[1]) if found else 0


class Module:
    """Computations by name, each a dict of instructions by name, and the entry's name."""

    def __init__(self, computations: dict[str, dict[str, Instruction]], entry: str):
        self.computations = computations
        self.entry = entry

    def root(self, name: str) -> Instruction | None:
        """The result of a computation."""
        for instruction in self.computations.get(name, {}).values():
            if instruction.is_root:
                return instruction
        return None

    def executed(self, name: str | None = None, times: int = 1) -> Iterator[tuple]:
        """`(computation, instruction, times)` of what a call of the program runs, as the scheduler
        sees it: bodies of loops as often as they turn, one branch of a choice, fusions as one.
        """
        name = self.entry if name is None else name
        for instruction in self.computations.get(name, {}).values():
            if instruction.opcode == 'while':
                for body in instruction.called:
                    yield from self.executed(body, times * instruction.trips)
            elif instruction.opcode in ('call', 'conditional'):
                for branch in instruction.called[-1:]:
                    yield from self.executed(branch, times)
            else:
                yield name, instruction, times

    def everything(self) -> Iterator[tuple[Instruction, int]]:
        """`(instruction, times)` of what is executed and, within fusions, of their parts."""
        for _, instruction, times in self.executed():
            yield instruction, times
            if instruction.opcode == 'fusion' or instruction.opcode.startswith('async-start'):
                for called in instruction.called:
                    yield from self._inside(called, times)

    def _inside(self, name, times):
        for instruction in self.computations.get(name, {}).values():
            yield instruction, times
            if instruction.opcode in ('fusion', 'call'):
                for called in instruction.called:
                    yield from self._inside(called, times)


def parse(text: str) -> Module:
    """The module of `compiled.as_text()`.

    Lines outside of every computation make one of their own, the entry where there is no other.
    """
    computations = {}
    entry = ''
    current = ''
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = header[2]
            computations[current] = {}
            if header[1]:
                entry = current
        elif line.startswith('}'):
            current = ''
        else:
            instruction = _instruction(line)
            if instruction:
                computations.setdefault(current, {})[instruction.name] = instruction
    return Module(computations, entry)


def shapes(text: str) -> tuple[Shape, ...]:
    """All arrays in the text of a shape, of a tuple in order."""
    found = []
    for dtype, sides, layout in _SHAPE.findall(text):
        if dtype not in WIDTHS:
            continue
        order, _, tiles = layout.partition(':')
        tile = re.match(r'T\(([\d,]+)\)', tiles)
        space = re.search(r'S\((\d+)\)', tiles)
        found.append(
            Shape(
                dtype,
                _numbers(sides.replace('<=', '')),
                _numbers(order),
                _numbers(tile[1]) if tile else (),
                int(space[1]) if space else 0,
            )
        )
    return tuple(found)


def _numbers(text):
    return tuple(int(part) for part in text.split(',') if part)


def _instruction(line):
    start = _START.match(line)
    if not start:
        return None
    rest = line[start.end() :]
    end = _closing(rest) if rest.startswith('(') else rest.find(' ')
    opcode = _OPCODE.match(rest, end)
    if not opcode:
        return None
    close = opcode.end() - 1 + _closing(rest[opcode.end() - 1 :])
    return Instruction(
        name=start[2],
        opcode=opcode[1],
        shapes=shapes(rest[:end]),
        operands=_operands(rest[opcode.end() : close - 1]),
        attributes=rest[close:],
        is_root=bool(start[1]),
    )


def _closing(text):
    """Where the parenthesis that `text` begins with is closed, the place behind it."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == '(') - (letter == ')')
        if not depth:
            return place + 1
    return len(text)


def _operands(text):
    """Names of operands, whether or not their shapes stand before them."""
    text = re.sub(r'/\*.*?\*/', '', text)
    if '%' in text:
        return tuple(re.findall(r'%([\w.\-]+)', text))
    return tuple(part.strip().split(' ')[-1] for part in text.split(',') if part.strip())
