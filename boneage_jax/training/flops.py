"""What a compiled function costs, from XLA's own count, without compiling it."""

from collections.abc import Callable

import jax

from boneage_jax.models import cpu


def flops(function: Callable, *args) -> float | None:
    """Floating-point operations of one call of a jitted `function`, over all devices.

    A multiplication and an addition are two. `args` may be arrays or `jax.ShapeDtypeStruct`s. It
    traces and lowers (about a second for a ResNet-34 and its gradient). None where XLA cannot tell.
    """
    if jax.default_backend() == 'cpu':
        # Traced anew: what a CPU computes in another way would count otherwise.
        wrapped = function.__wrapped__
        function = jax.jit(lambda *args: wrapped(*args))
    with cpu.counting():
        costs = function.lower(*args).cost_analysis()
    return costs.get('flops') if costs else None


def format_flops(count: float) -> str:
    """12345678901.0 -> '12.3 GFLOP'."""
    for unit in ('', 'k', 'M', 'G', 'T'):
        if count < 1000 or unit == 'T':
            return f'{count:.3g} {unit}FLOP'
        count /= 1000
