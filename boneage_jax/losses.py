"""The losses of the papers, one function each; per-example values, so that padding can be masked out."""

import jax.numpy as jnp


def l1(prediction, target):
    """`[B]`, `[B]` -> `[B]`: absolute error (Iglovikov 2018, section 3.4; Bae 2018)."""
    return jnp.abs(prediction - target)


def l2(prediction, target):
    """`[B]`, `[B]` -> `[B]`: squared error (Ji 2019, equation 4)."""
    return jnp.square(prediction - target)
