"""The operations of convolutions and matrix products, from a traced function: nothing is compiled.

A multiplication and an addition are two. These are the operations that the mathematics asks for, on
all devices together: zeros between the pixels of a strided convolution's gradient are left out.
"""

import collections
import math
from collections.abc import Iterator

import jax


def equations(jaxpr) -> Iterator[tuple]:
    """`(equation, how often it runs)` of a jaxpr, loops of known length and calls entered."""
    yield from _below(jaxpr, 1)


def _below(jaxpr, times):
    for equation in jaxpr.eqns:
        yield equation, times
        is_scan = equation.primitive.name == 'scan'
        inner = times * (equation.params.get('length', 1) if is_scan else 1)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from _below(value, inner)


def _is_jaxpr(value):
    return hasattr(value, 'eqns')


def products(jaxpr) -> dict[str, int]:
    """{type of the operands: operations} of all convolutions and matrix products."""
    found = collections.Counter()
    for equation, times in equations(jaxpr):
        count = _operations(equation)
        if count:
            found[str(equation.invars[0].aval.dtype)] += times * count
    return dict(found)


def _operations(equation):
    name = equation.primitive.name
    if name not in ('conv_general_dilated', 'dot_general'):
        return 0
    left, right = (variable.aval.shape for variable in equation.invars[:2])
    result = math.prod(equation.outvars[0].aval.shape)
    numbers = equation.params['dimension_numbers']
    if name == 'dot_general':
        contracted = numbers[0][0]
        return 2 * result * math.prod(left[axis] for axis in contracted)
    outputs = right[numbers.rhs_spec[0]]
    zeros = math.prod(equation.params['lhs_dilation'])
    return 2 * result * math.prod(right) // outputs // zeros
