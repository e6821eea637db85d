"""A jaxpr as nodes of an ONNX graph: the operations that our networks consist of, no others.

Shapes are fixed. What depends on constants alone is computed while converting, unless it would
grow; an operation that is not known is refused by its name.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.extend import core
from onnx import helper

from boneage_jax.inference.onnx_graph import Graph
from tfds_rsna.errors import UserError

_FOLDED = 4096  # numbers, up to which a constant result may be larger than its operands
_SAME_NAME = {
    'abs': 'Abs',
    'add': 'Add',
    'add_any': 'Add',
    'and': 'And',
    'ceil': 'Ceil',
    'copy': 'Identity',
    'copy_p': 'Identity',
    'cos': 'Cos',
    'div': 'Div',
    'eq': 'Equal',
    'erf': 'Erf',
    'exp': 'Exp',
    'floor': 'Floor',
    'ge': 'GreaterOrEqual',
    'gt': 'Greater',
    'le': 'LessOrEqual',
    'log': 'Log',
    'logistic': 'Sigmoid',
    'lt': 'Less',
    'max': 'Max',
    'min': 'Min',
    'mul': 'Mul',
    'neg': 'Neg',
    'not': 'Not',
    'or': 'Or',
    'pow': 'Pow',
    'sign': 'Sign',
    'sin': 'Sin',
    'sqrt': 'Sqrt',
    'stop_gradient': 'Identity',
    'sub': 'Sub',
    'tanh': 'Tanh',
}
_REDUCTIONS = {
    'reduce_max': 'ReduceMax',
    'reduce_min': 'ReduceMin',
    'reduce_prod': 'ReduceProd',
    'reduce_sum': 'ReduceSum',
}
_ELEMENTWISE = {
    'add',
    'add_any',
    'copy',
    'exp',
    'logistic',
    'max',
    'min',
    'mul',
    'neg',
    'sub',
    'tanh',
}
# Of constants these are computed by NumPy: XLA would compile each of them.
_BY_NUMPY = {
    'add': np.add,
    'max': np.maximum,
    'mul': np.multiply,
    'neg': np.negative,
    'rsqrt': lambda x: 1 / np.sqrt(x),
    'sub': np.subtract,
}
_RESHAPES = ('reshape', 'squeeze', 'expand_dims')
_CALLS = {
    'closed_call': 'call_jaxpr',
    'core_call': 'call_jaxpr',
    'custom_jvp_call': 'call_jaxpr',
    'custom_vjp_call': 'call_jaxpr',
    'custom_vjp_call_jaxpr': 'fun_jaxpr',
    'jit': 'jaxpr',
    'pjit': 'jaxpr',
    'remat': 'jaxpr',
    'checkpoint': 'jaxpr',
}


def convert(graph: Graph, closed: core.ClosedJaxpr, inputs: Sequence) -> list:
    """Adds the operations of a jaxpr to a graph; the results as names or, constant ones, arrays.

    Args:
        graph: gets the nodes.
        closed: of fixed shapes, traced with or without 64 bits.
        inputs: a name or an array for each of its arguments.

    Raises:
        UserError: it has an operation that is not converted; names it.
    """
    return _converted(graph, closed.jaxpr, closed.consts, inputs)


def _converted(graph, jaxpr, consts, inputs):
    known = {}
    for variable, value in zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True):
        known[variable] = value if isinstance(value, str) else np.asarray(value)

    def value(variable):
        if isinstance(variable, core.Literal):
            return np.asarray(variable.val, variable.aval.dtype)
        return known[variable]

    for equation in jaxpr.eqns:
        values = [value(each) for each in equation.invars]
        results = _results(graph, equation, values)
        for variable, result in zip(equation.outvars, results, strict=True):
            known[variable] = result
    return [value(each) for each in jaxpr.outvars]


def _results(graph, equation, values):
    name = equation.primitive.name
    if name in _CALLS:
        inner = equation.params[_CALLS[name]]
        if isinstance(inner, core.ClosedJaxpr):
            return _converted(graph, inner.jaxpr, inner.consts, values)
        return _converted(graph, inner, (), values)
    folded = _folded(equation, values)
    if folded is not None:
        return folded
    if name in _ELEMENTWISE:
        return [_each(graph, equation, _small(graph, equation, values))]
    if name in _SAME_NAME:
        return [graph.node(_SAME_NAME[name], _small(graph, equation, values))]
    if name in _REDUCTIONS:
        axes = np.array(equation.params['axes'], np.int64)
        return [graph.node(_REDUCTIONS[name], [values[0], axes], keepdims=0)]
    if name not in _RULES:
        raise UserError(
            f'the operation {name!r} of this network is not converted to ONNX; export it with '
            '--format=stablehlo, which takes any network'
        )
    return [_RULES[name](graph, equation, *values)]


def _folded(equation, values):
    """The results as arrays; None where an operand is not constant, or they would grow."""
    if any(isinstance(value, str) for value in values):
        return None
    if equation.primitive.name in ('broadcast_in_dim', 'transpose', 'iota'):
        return None  # `_RULES` leave constants constant as far as they do not grow
    before = sum(value.size for value in values)
    after = sum(variable.aval.size for variable in equation.outvars)
    if after > max(before, _FOLDED):
        return None
    name = equation.primitive.name
    if name in _BY_NUMPY:
        return [np.asarray(_BY_NUMPY[name](*values))]
    if name in _RESHAPES:
        return [np.reshape(values[0], equation.outvars[0].aval.shape)]
    wide = any(variable.aval.dtype.itemsize == 8 for variable in equation.outvars)
    wide = wide or any(value.dtype.itemsize == 8 for value in values)
    with jax.enable_x64(wide):
        found = equation.primitive.bind(*map(jax.numpy.asarray, values), **equation.params)
    if not equation.primitive.multiple_results:
        found = [found]
    return [np.asarray(each) for each in found]


def _small(graph, equation, values):
    shapes = [np.shape(variable.aval) for variable in equation.invars]
    return graph.unexpanded(values, shapes, equation.outvars[0].aval.shape)


def _each(graph, equation, values):
    """An operation on each number alone, as runtimes join it to a convolution where they can."""
    name = equation.primitive.name
    if name == 'sub' and not isinstance(values[1], str):
        name = 'add'
        values = [values[0], -values[1]]
    if name in ('max', 'min') and equation.outvars[0].aval.dtype == np.int64:
        # onnxruntime 1.31.1 compares 32 of the 64 bits in Max and Min.
        larger = graph.node('Greater', values)
        return graph.node('Where', [larger, *(values if name == 'max' else values[::-1])])
    is_rectifier = name == 'max' and not isinstance(values[1], str) and not values[1].any()
    if is_rectifier and values[1].dtype == np.float32:
        return graph.elementwise('Relu', values[:1])
    return graph.elementwise(_SAME_NAME[name], values)


def _shape(equation):
    return np.array(equation.outvars[0].aval.shape, np.int64)


def _cast(graph, equation, x):
    dtype = np.dtype(equation.params['new_dtype'])
    return graph.node('Cast', [x], to=helper.np_dtype_to_tensor_dtype(dtype))


def _reshape(graph, equation, x):
    return graph.node('Reshape', [x, _shape(equation)])


def _broadcast(graph, equation, x):
    wanted = tuple(equation.params['shape'])
    shape = np.ones(len(wanted), np.int64)
    shape[list(equation.params['broadcast_dimensions'])] = equation.invars[0].aval.shape
    if tuple(shape) != equation.invars[0].aval.shape:
        x = np.reshape(x, shape) if not isinstance(x, str) else graph.node('Reshape', [x, shape])
    if tuple(shape) == wanted:
        return x
    return graph.expand(x, shape, wanted)


def _iota(graph, equation):
    shape = equation.params['shape']
    dimension = equation.params['dimension']
    line = np.arange(shape[dimension]).astype(equation.params['dtype'])
    if len(shape) == 1:
        return line
    placed = np.ones(len(shape), np.int64)
    placed[dimension] = shape[dimension]
    return graph.node('Expand', [line.reshape(placed), _shape(equation)])


def _transpose(graph, equation, x):
    return graph.transpose(x, equation.params['permutation'])


def _concatenate(graph, equation, *parts):
    return graph.node('Concat', parts, axis=equation.params['dimension'])


def _select(graph, equation, which, *cases):
    if len(cases) != 2 or equation.invars[0].aval.dtype != np.bool_:
        raise UserError('select_n of more than two cases is not converted to ONNX')
    which, *cases = _small(graph, equation, [which, *cases])
    return graph.node('Where', [which, cases[1], cases[0]])


def _slice(graph, equation, x):
    starts = np.array(equation.params['start_indices'], np.int64)
    ends = np.array(equation.params['limit_indices'], np.int64)
    steps = np.array(equation.params['strides'] or np.ones_like(starts), np.int64)
    return graph.node('Slice', [x, starts, ends, np.arange(len(starts)), steps])


def _reverse(graph, equation, x):
    axes = np.array(equation.params['dimensions'], np.int64)
    last = np.full(len(axes), np.iinfo(np.int64).min)
    return graph.node('Slice', [x, np.full(len(axes), -1), last, axes, np.full(len(axes), -1)])


def _pad(graph, equation, x, fill):
    low, high, inner = zip(*equation.params['padding_config'])
    if any(inner) or min(*low, *high) < 0:
        raise UserError('pad between pixels, or by less than nothing, is not converted to ONNX')
    return graph.node('Pad', [x, np.array([*low, *high], np.int64), fill])


def _convolution(graph, equation, x, kernel):
    params = equation.params
    numbers = params['dimension_numbers']
    if set(params['lhs_dilation']) != {1} or params['batch_group_count'] != 1:
        raise UserError('a transposed convolution is not converted to ONNX')
    found = graph.node(
        'Conv',
        [graph.transpose(x, numbers.lhs_spec), graph.transpose(kernel, numbers.rhs_spec)],
        strides=list(params['window_strides']),
        dilations=list(params['rhs_dilation']),
        pads=_pads(params['padding']),
        group=params['feature_group_count'],
    )
    return graph.transpose(found, np.argsort(numbers.out_spec).tolist())


def _pads(padding):
    """((before, after), ...) in ONNX's order."""
    before, after = zip(*padding)
    return [*before, *after]


def _pool(operation, scaled, graph, equation, x):
    params = equation.params
    window = params['window_dimensions']
    rank = len(window)
    spatial = [axis for axis in range(rank) if window[axis] != 1]
    spatial = spatial or [1, 2]
    dilated = {*params['base_dilation'], *params['window_dilation']} != {1}
    if dilated or rank != 4 or len(spatial) > 2:
        raise UserError(f'this kind of {equation.primitive.name} is not converted to ONNX')
    spatial = sorted({*spatial, *(axis for axis in (1, 2) if len(spatial) < 2)})[:2]
    turn = [axis for axis in range(rank) if axis not in spatial] + spatial
    options = {'count_include_pad': 1} if scaled else {}
    found = graph.node(
        operation,
        [graph.transpose(x, turn)],
        kernel_shape=[window[axis] for axis in spatial],
        strides=[params['window_strides'][axis] for axis in spatial],
        pads=_pads([params['padding'][axis] for axis in spatial]),
        **options,
    )
    if scaled:
        found = graph.node('Mul', [found, np.float32(np.prod(window))])
    return graph.transpose(found, np.argsort(turn).tolist())


def _max_pool(graph, equation, x):
    return _pool('MaxPool', False, graph, equation, x)


def _sum_pool(graph, equation, x):
    return _pool('AveragePool', True, graph, equation, x)


def _product(graph, equation, x, y):
    contracted, batch = equation.params['dimension_numbers']
    ranks = [len(variable.aval.shape) for variable in equation.invars]
    if ranks == [2, 2] and not any(batch):
        if contracted[0][0] == 0:
            x = graph.transpose(x, [1, 0])
        if contracted[1][0] == 1:
            y = graph.transpose(y, [1, 0])
        return graph.node('MatMul', [x, y])
    return graph.node('Einsum', [x, y], equation=_einsum(contracted, batch, ranks))


def _einsum(contracted, batch, ranks):
    """The formula of a dot_general, as einsum writes it."""
    letters = iter('abcdefghijklmnopqrstuvwxyz')
    names = [[''] * rank for rank in ranks]
    shared = []
    for pairs, kept in ((batch, True), (contracted, False)):
        for left, right in zip(*pairs):
            names[0][left] = names[1][right] = next(letters)
            if kept:
                shared.append(names[0][left])
    free = []
    for operand in names:
        for place, letter in enumerate(operand):
            if not letter:
                operand[place] = next(letters)
                free.append(operand[place])
    left, right = (''.join(operand) for operand in names)
    return f'{left},{right}->{"".join(shared + free)}'


def _integer_power(graph, equation, x):
    power = np.asarray(equation.params['y'], equation.invars[0].aval.dtype)
    return graph.node('Pow', [x, power])


def _square(graph, equation, x):
    return graph.elementwise('Mul', [x, x])


def _rsqrt(graph, equation, x):
    return graph.node('Reciprocal', [graph.node('Sqrt', [x])])


def _remainder(graph, equation, x, y):
    return graph.node('Mod', [x, y], fmod=1)


def _expm1(graph, equation, x):
    return graph.node('Sub', [graph.node('Exp', [x]), np.float32(1)])


def _log1p(graph, equation, x):
    return graph.node('Log', [graph.node('Add', [x, np.float32(1)])])


def _erfc(graph, equation, x):
    return graph.node('Sub', [np.float32(1), graph.node('Erf', [x])])


def _not_equal(graph, equation, x, y):
    return graph.node('Not', [graph.node('Equal', [x, y])])


def _clamp(graph, equation, low, x, high):
    if equation.outvars[0].aval.dtype == np.int64:  # as in _each
        x = graph.node('Where', [graph.node('Greater', [x, low]), x, low])
        return graph.node('Where', [graph.node('Less', [x, high]), x, high])
    return graph.node('Min', [graph.node('Max', [x, low]), high])


def _gather(graph, equation, x, indices):
    """`jax.numpy.take_along_axis` of [1, N] along 1, as turning one image has it."""
    shape = np.array(equation.outvars[0].aval.shape, np.int64)
    one_row = equation.invars[0].aval.shape[:-1] == (1,)
    if not one_row or equation.params['dimension_numbers'].collapsed_slice_dims != (1,):
        raise UserError(
            'a gather of this network is not converted to ONNX; export it with --format=stablehlo, '
            'which takes any network'
        )
    return graph.node('Gather', [x, graph.node('Reshape', [indices, shape[1:]])], axis=1)


def _round(graph, equation, x):
    if equation.params['rounding_method'] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise UserError('halves are rounded away from zero in this network, as ONNX cannot')
    return graph.node('Round', [x])


def _argmax(graph, equation, x):
    found = graph.node('ArgMax', [x], axis=equation.params['axes'][0], keepdims=0)
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(equation.params['index_dtype']))
    return graph.node('Cast', [found], to=dtype)


_RULES: dict[str, Callable] = {
    'argmax': _argmax,
    'broadcast_in_dim': _broadcast,
    'clamp': _clamp,
    'concatenate': _concatenate,
    'conv_general_dilated': _convolution,
    'convert_element_type': _cast,
    'dot_general': _product,
    'erfc': _erfc,
    'expand_dims': _reshape,
    'expm1': _expm1,
    'gather': _gather,
    'integer_pow': _integer_power,
    'iota': _iota,
    'log1p': _log1p,
    'ne': _not_equal,
    'pad': _pad,
    'reduce_window_max': _max_pool,
    'reduce_window_sum': _sum_pool,
    'rem': _remainder,
    'reshape': _reshape,
    'rev': _reverse,
    'round': _round,
    'rsqrt': _rsqrt,
    'select_n': _select,
    'slice': _slice,
    'square': _square,
    'squeeze': _reshape,
    'transpose': _transpose,
}
