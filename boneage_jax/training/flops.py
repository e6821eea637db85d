"""What a compiled function costs, from XLA's own count, without compiling it."""

import jax

from boneage_jax.models import cpu


def flops(function, *args):
    """Floating-point operations of one call of a jitted `function`, over all devices; None where
    XLA cannot tell.

    A multiplication and an addition are two. `args` may be arrays or `jax.ShapeDtypeStruct`s. It
    traces and lowers (about a second for a ResNet-34 and its gradient).
    """
    if (
        jax.default_backend() == 'cpu'
    ):  # traced anew: what a CPU computes otherwise would count otherwise
        function = jax.jit(lambda *args, wrapped=function.__wrapped__: wrapped(*args))
    with cpu.counting():
        costs = function.lower(*args).cost_analysis()
    return costs.get('flops') if costs else None


def format_flops(count):
    """12345678901.0 -> '12.3 GFLOP'."""
    for unit in ('', 'k', 'M', 'G', 'T'):
        if count < 1000 or unit == 'T':
            return f'{count:.3g} {unit}FLOP'
        count /= 1000
