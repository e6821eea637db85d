"""Test-time augmentation: the views of an image whose predictions are averaged with its own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections

from boneage_jax.data import augment


@dataclasses.dataclass(frozen=True)
class Views:
    """Which views of an image there are besides itself.

    Attributes:
        flip: the mirror image is one of them, and the first (`flip_tta`).
        turn: degrees by which two more are turned, one to either side (`turn_tta`); 0 = none.
    """

    flip: bool = False
    turn: float = 0.0

    @classmethod
    def of_config(cls, config: ml_collections.ConfigDict) -> 'Views':
        """Those of a run's evaluation."""
        return cls(config.flip_tta, config.turn_tta)

    @property
    def count(self) -> int:
        """How many times an image goes through the network."""
        return 1 + bool(self.flip) + 2 * bool(self.turn)

    def of(self, image: jax.Array) -> list[jax.Array]:
        """The views of images uint8 `[B, H, W, 1]`, uint8 of the same shape, without the images."""
        views = [image[:, :, ::-1]] if self.flip else []
        if self.turn:
            views += [turned(image, self.turn), turned(image, -self.turn)]
        return views


@functools.partial(jax.jit, static_argnames='degrees')
def turned(image: jax.Array, degrees: float) -> jax.Array:
    """Images uint8 `[B, H, W, 1]` turned counter-clockwise, black where nothing was; uint8."""
    # An angle that is no constant rounds single greys otherwise in one program than in another.
    angle = jnp.deg2rad(jnp.float32(degrees))
    rows = image.shape[0]
    cos = jnp.full((rows,), jnp.cos(angle))
    sin = jnp.full((rows,), jnp.sin(angle))
    matrix = ((cos, -sin), (sin, cos))
    unit = augment.warp({'image': image}, matrix, jnp.zeros((rows, 2)), 'zero')['image']
    return jnp.round(jnp.clip(unit, 0.0, 1.0) * 255).astype(jnp.uint8)
