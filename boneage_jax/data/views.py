"""Test-time augmentation: the views of an image whose predictions are averaged with its own."""

import functools

import jax
import jax.numpy as jnp

from boneage_jax.data import augment


def of(image: jax.Array, *, flip: bool, turn: float) -> list[jax.Array]:
    """The views of images uint8 `[B, H, W, 1]` besides themselves, uint8 of the same shape.

    Args:
        image: what the network sees.
        flip: the mirror image is one of them (`flip_tta`), and the first.
        turn: degrees by which two more are turned, one to either side (`turn_tta`); 0 = none.
    """
    views = [image[:, :, ::-1]] if flip else []
    if turn:
        views += [turned(image, turn), turned(image, -turn)]
    return views


def count(*, flip: bool, turn: float) -> int:
    """How many times an image goes through the network."""
    return 1 + bool(flip) + 2 * bool(turn)


@functools.partial(jax.jit, static_argnames='degrees')
def turned(image: jax.Array, degrees: float) -> jax.Array:
    """Images uint8 `[B, H, W, 1]` turned counter-clockwise, black where nothing was; uint8."""
    angle = jnp.deg2rad(jnp.float32(degrees))
    rows = image.shape[0]
    cos = jnp.full((rows,), jnp.cos(angle))
    sin = jnp.full((rows,), jnp.sin(angle))
    matrix = ((cos, -sin), (sin, cos))
    unit = augment.warp({'image': image}, matrix, jnp.zeros((rows, 2)), 'zero')['image']
    return jnp.round(jnp.clip(unit, 0.0, 1.0) * 255).astype(jnp.uint8)
