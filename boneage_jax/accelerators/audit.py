"""What a compiled program does, read off its HLO: bytes, convolutions, types, copies, collectives.

Bytes are counted at the level at which a compiler schedules: a fusion reads its operands and writes
its result once, what happens inside stays on the chip. Caches are not modelled.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator

from boneage_jax.accelerators.hlo import Instruction, Module, Shape

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
LARGE = 2**20  # bytes from which a float32 array counts as a map that bfloat16 might serve
_FREE = {  # nothing is moved for these
    'parameter',
    'constant',
    'tuple',
    'get-tuple-element',
    'bitcast',
    'after-all',
    'partition-id',
    'replica-id',
    'opt-barrier',
    'add-dependency',
    'domain',
}
_SLICES = ('slice', 'dynamic-slice', 'gather')
_HOST = ('infeed', 'outfeed', 'send', 'recv')
_MOVES = {'copy', 'transpose', 'bitcast', 'reshape', 'parameter', 'tuple'}


@dataclasses.dataclass(frozen=True)
class Product:
    """Convolutions or matrix products of one kind: who computes them, in which type."""

    kind: str  # 'convolution' or 'product'; a TPU computes products as convolutions
    library: str  # 'cuDNN', 'cuBLAS', 'XLA'
    dtype: str  # of the operands


def moved_bytes(module: Module) -> int:
    """Bytes that a call reads from and writes to the device's memory."""
    return sum(size for _, size in movers(module))


def movers(module: Module) -> list[tuple[Instruction, int]]:
    """(instruction, bytes that it moves), with all turns of loops, the largest first."""
    found = []
    for name, instruction, times in module.executed():
        size = times * _moved(module, name, instruction)
        if size:
            found.append((instruction, size))
    return sorted(found, key=lambda pair: -pair[1])


def _moved(module, computation, instruction):
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith('-done') or opcode == 'async-update':
        return 0
    instructions = module.computations[computation]
    operands = [instructions[name].shapes for name in instruction.operands if name in instructions]
    results = _in_memory(instruction.shapes)
    if opcode.endswith('-start'):
        return _started(module, instruction, operands)
    if opcode in _SLICES:
        return 2 * results + sum(map(_in_memory, operands[1:]))
    if opcode == 'dynamic-update-slice':
        return 2 * _in_memory(operands[1])
    if opcode == 'fusion' and instruction.called:
        inner = module.computations.get(instruction.called[0], {})
        reads = sum(
            _read_by_fusion(inner, place, _in_memory(shapes))
            for place, shapes in enumerate(operands)
        )
        return reads + _written_by_fusion(inner, results)
    return results + sum(map(_in_memory, operands))


def _started(module, instruction, operands):
    """Bytes of what runs beside the program; its result is a tuple of results, operands, flags."""
    opcode = instruction.opcode
    shapes = instruction.shapes
    read = sum(map(_in_memory, operands))
    if opcode == 'copy-start':  # (result, operand, flags)
        return read + _in_memory(shapes[:1])
    if opcode == 'all-reduce-start':
        return read + _in_memory(shapes)
    if opcode.removesuffix('-start') in _SLICES:  # (operand, result, flags)
        return sum(shape.bytes for shape in shapes[1:2]) + _in_memory(shapes[1:2])
    roots = [module.root(called) for called in instruction.called]
    if opcode == 'async-start' and any(roots):
        return read + sum(_in_memory(root.shapes) for root in roots if root)
    count = len(instruction.operands)  # (operands, results, flags)
    return read + _in_memory(shapes[count : 2 * count])


def _in_memory(shapes):
    return sum(shape.stored_bytes for shape in shapes if not shape.space)


def _read_by_fusion(inner, place, size):
    """Bytes that a fusion reads of its operand `place`: of one that is only sliced, the slices."""
    name = _parameter(inner, place)
    users = [user for user in inner.values() if name in user.operands]
    if not users:
        return size
    read = 0
    for user in users:
        if user.opcode in _SLICES and user.operands[0] == name:
            read += sum(shape.bytes for shape in user.shapes)
        elif user.opcode == 'dynamic-update-slice' and user.operands[0] == name:
            continue  # written in place
        else:
            return size
    return min(read, size)


def _written_by_fusion(inner, size):
    """Bytes that a fusion writes: of an array that it updates in place, the update."""
    roots = [instruction for instruction in inner.values() if instruction.is_root]
    if len(roots) == 1 and roots[0].opcode == 'dynamic-update-slice':
        update = inner.get(roots[0].operands[1])
        if update:
            return min(size, _in_memory(update.shapes))
    return size


def _parameter(inner, place):
    for instruction in inner.values():
        if instruction.opcode == 'parameter' and instruction.operands == (str(place),):
            return instruction.name
    return None


def products(module: Module) -> dict[Product, int]:
    """How many convolutions and matrix products there are of each kind."""
    found = collections.Counter()
    for instruction, instructions in _parts(module):
        product = _product(instruction, instructions)
        if product:
            found[product] += 1
    return dict(found)


def _product(instruction, instructions):
    target = instruction.custom_target
    if instruction.opcode == 'convolution':
        kind, library = 'convolution', 'XLA'
    elif 'cudnn$conv' in target or (
        '__cudnn$' in instruction.attributes and instruction.opcode == 'fusion'
    ):
        kind, library = 'convolution', 'cuDNN'
    elif 'cublas' in target:
        kind, library = 'product', 'cuBLAS'
    elif instruction.opcode == 'dot':
        kind, library = 'product', 'XLA'
    else:
        return None
    types = []
    for name in instruction.operands[:2]:
        if name in instructions and instructions[name].shapes:
            types.append(instructions[name].shapes[0].dtype)
    return Product(kind, library, '*'.join(sorted(set(types))) or 'unknown')


def float32_maps(module: Module, at_least: int = LARGE) -> list[tuple[Instruction, Shape]]:
    """Float32 arrays of three and more axes that are written to memory, the largest first."""
    found = []
    for _, instruction, _ in module.executed():
        if instruction.opcode in _FREE or instruction.opcode.endswith('-done'):
            continue
        for shape in instruction.shapes:
            is_map = shape.dtype == 'f32' and len(shape.sides) >= 3 and not shape.space
            if is_map and shape.bytes >= at_least:
                found.append((instruction, shape))
    return sorted(found, key=lambda pair: -pair[1].bytes)


def copies(module: Module) -> list[tuple[Instruction, int]]:
    """(instruction, bytes) of copies and changes of layout alone, the largest first."""
    return [pair for pair in movers(module) if _is_copy(module, pair[0])]


def _is_copy(module, instruction):
    if instruction.opcode in ('copy', 'transpose'):
        return True
    if instruction.opcode != 'fusion' or not instruction.called:
        return False
    inner = module.computations.get(instruction.called[0], {})
    opcodes = {part.opcode for part in inner.values()}
    return bool(opcodes) and opcodes <= _MOVES and bool(opcodes & {'copy', 'transpose'})


def collectives(module: Module) -> list[tuple[str, int]]:
    """(kind, bytes of the result on one device) of every collective of a call."""
    found = []
    for instruction, times in module.everything():
        kind = instruction.opcode.removesuffix('-start')
        if kind not in COLLECTIVES:
            continue
        sizes = [shape.bytes for shape in instruction.shapes]
        if instruction.opcode.endswith('-start') and kind != 'all-reduce':
            # The tuple holds operands and results, of several arrays at once, and perhaps flags.
            count = len(instruction.operands)
            sizes = sizes[count : 2 * count]
        found += [(kind, sum(sizes))] * times
    return found


def wire_bytes(kind: str, size: int, count: int) -> float:
    """Bytes that each of `count` devices sends in a ring for a collective with a result of `size`
    bytes on a device.
    """
    share = (count - 1) / count
    factors = {
        'all-reduce': 2 * share,
        'all-gather': share,
        'reduce-scatter': count - 1,
        'all-to-all': share,
        'collective-permute': 1,
    }
    return size * factors[kind]


def estimated_cycles(module: Module) -> int:
    """The sum of the compiler's own estimates (TPUs; gathers have none), 0 where it has none."""
    return sum(times * instruction.cycles for _, instruction, times in module.executed())


def opcodes(module: Module) -> dict[str, int]:
    """How often each operation is in the program, those inside fusions too."""
    found = collections.Counter()
    for instructions in module.computations.values():
        found.update(instruction.opcode for instruction in instructions.values())
    return dict(found)


def forbidden(module: Module, dtype: str) -> list[str]:
    """What no program of a run may hold, a line each; none is good.

    Args:
        module: the program.
        dtype: that the run computes in, 'bfloat16' or 'float32'.
    """
    return list(_forbidden(module, dtype))


def _forbidden(module, dtype) -> Iterator[str]:
    found = opcodes(module)
    for opcode in _HOST:
        count = found.get(opcode, 0)
        if count:
            yield f'{count} x {opcode}: the program waits for the host'
    # GPUs have it as a scatter within a fusion.
    scattered = sum(
        part.opcode == 'select-and-scatter'
        or (part.opcode == 'scatter' and part.source.endswith('select_and_scatter'))
        for part, _ in _parts(module)
    )
    if scattered:
        yield f'{scattered} x select-and-scatter: the gradient of a pool, slow on every device'
    doubles = 0
    callbacks = 0
    for instruction, _ in _parts(module):
        doubles += any(shape.dtype in ('f64', 'c128') for shape in instruction.shapes)
        callbacks += bool(re.search('callback|Host', instruction.custom_target))
    if doubles:
        yield f'{doubles} x float64'
    if callbacks:
        yield f'{callbacks} x a call of Python'
    wide = sum(_is_wide_float32(part, found) for part, found in _parts(module))
    if dtype == 'bfloat16' and wide:
        yield f'{wide} x a convolution in float32 that nobody asked for'


def _parts(module):
    """(instruction, the instructions of its computation) of the whole module."""
    for instructions in module.computations.values():
        for instruction in instructions.values():
            yield instruction, instructions


def _is_wide_float32(instruction, instructions):
    """Whether it is a convolution in float32, wider than 1x1, whose precision is not asked for."""
    product = _product(instruction, instructions)
    if product is None or product.kind != 'convolution' or product.dtype != 'f32':
        return False
    size = re.search(r'window=\{size=([\dx]+)', instruction.attributes)
    is_wide = bool(size) and set(size[1].split('x')) != {'1'}
    return is_wide and 'highest' not in instruction.attributes
