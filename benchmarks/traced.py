"""What a function computes, operation by operation, from its jaxpr: nothing is compiled or run."""

import jax

from boneage_jax.accelerators import operations
from boneage_jax.models import cpu


def equations(function, *given):
    """`(equation, how often it runs)` of `function(*given)`, loops and calls entered; as other
    devices than CPUs compute it.
    """
    return list(operations.equations(_jaxpr(function, given)))


def products(function, *given):
    """Operations of the convolutions and matrix products, from their shapes; a multiplication and
    an addition are two.
    """
    return sum(operations.products(_jaxpr(function, given)).values())


def _jaxpr(function, given):
    with cpu.counting():
        return jax.make_jaxpr(lambda *given: function(*given))(*given).jaxpr
