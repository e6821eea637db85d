"""What a function computes, operation by operation, from its jaxpr: nothing is compiled or run."""

import math

import jax

from boneage_jax.models import cpu


def equations(function, *given):
    """`(equation, how often it runs)` of `function(*given)`, loops and calls entered; as other
    devices than CPUs compute it.
    """
    with cpu.counting():
        return list(_below(jax.make_jaxpr(lambda *given: function(*given))(*given).jaxpr, 1))


def _below(jaxpr, times):
    for equation in jaxpr.eqns:
        yield equation, times
        inner = times * (
            equation.params.get('length', 1) if equation.primitive.name == 'scan' else 1
        )
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
        ):
            if hasattr(value, 'eqns'):
                yield from _below(value, inner)


def products(function, *given):
    """Operations of the convolutions and matrix products, from their shapes; a multiplication and
    an addition are two.
    """
    total = 0
    for equation, times in equations(function, *given):
        shapes = [getattr(v.aval, 'shape', ()) for v in equation.invars]
        if equation.primitive.name == 'conv_general_dilated':
            kernel, places = shapes[1], equation.params['dimension_numbers'].rhs_spec
            total += (
                times
                * 2
                * math.prod(equation.outvars[0].aval.shape)
                * math.prod(kernel)
                // kernel[places[0]]
            )
        elif equation.primitive.name == 'dot_general':
            contracted = equation.params['dimension_numbers'][0][0]
            total += (
                times
                * 2
                * math.prod(equation.outvars[0].aval.shape)
                * math.prod(shapes[0][i] for i in contracted)
            )
    return total
